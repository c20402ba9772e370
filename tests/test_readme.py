"""The Python examples of README.md run, in order, as one program."""

import re

import pytest

from helpers import ROOT, run_python

README = ROOT / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(not README.exists(), reason="no README.md beside these tests")
def test_the_python_examples_run(tmp_path):
    blocks = BLOCK.findall(README.read_text(encoding="utf-8"))
    assert blocks, "README.md has no ```python block"
    # A block of a console session (>>>) is for reading; doctest would check it.
    code = "\n".join(block for block in blocks if not block.lstrip().startswith(">>>"))
    status, _, err = run_python(f"import os; os.chdir({str(tmp_path)!r})\n" + code)
    assert status == 0, err


def test_the_example_of_the_package_docstring():
    import doctest

    import vecidx

    result = doctest.testmod(vecidx)
    assert result.attempted > 0 and result.failed == 0
