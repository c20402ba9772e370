"""Fixtures: seeds, the repository's sample, the large sets where they are.

With VECIDX_STRICT=1 a skip because a package is missing is an error.
"""

import os
from pathlib import Path

import numpy as np
import pytest

import vecidx
from helpers import FAST, NOT_FAST, SAMPLE
from vecidx.demo import Sample

try:
    from hypothesis import settings
except ImportError:                      # test_index_properties.py skips itself then
    pass
else:
    settings.register_profile("vecidx", deadline=None, derandomize=True, print_blob=False)
    settings.load_profile("vecidx")


def _strict(report):
    """Make an error of a skip that importorskip made; other skips stay what they are."""
    if os.environ.get("VECIDX_STRICT") == "1" and report.outcome == "skipped":
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if "could not import" in why:
            report.outcome = "failed"
            report.longrepr = f"VECIDX_STRICT=1: {why.removeprefix('Skipped: ')}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _strict((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _strict((yield))


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in FAST and item.originalname not in NOT_FAST and not (
                {"sample", "sample_index"} & set(item.fixturenames)):
            item.add_marker("fast")


def pytest_configure(config):
    """Suites of others have tests that are coroutines, without marks."""
    config.addinivalue_line("markers", "fast: of the fast tier (FAST in helpers.py)")
    if config.pluginmanager.hasplugin("asyncio"):
        config.option.asyncio_mode = "auto"


@pytest.fixture
def rng(request):
    """A generator of its own for every test, the same in every run."""
    seed = sum(request.node.name.encode()) + int(os.environ.get("VECIDX_TEST_SEED", "0"))
    return np.random.default_rng(seed)


@pytest.fixture(scope="session")
def sample():
    """The repository's sample: rows, queries, texts."""
    data = Sample(SAMPLE)
    data.rows.flags.writeable = False
    data.queries.flags.writeable = False
    return data


@pytest.fixture(scope="session")
def sample_index(sample):
    """A cosine index over all of the sample.  Tests must not change it."""
    index = vecidx.Index(sample.rows.shape[1], metric="cosine")
    index.add(sample.rows)
    return index


@pytest.fixture(scope="session")
def small_index():
    """300 rows of 16 values, l2, ids 0 to 299.  Tests must not change it."""
    index = vecidx.Index(16)
    index.add(np.random.default_rng(7).standard_normal((300, 16), dtype=np.float32))
    return index


@pytest.fixture(scope="session")
def large_sets():
    """Paths of the HDF5 files in the folder that VECIDX_DATA names."""
    folder = os.environ.get("VECIDX_DATA")
    if not folder:
        pytest.skip("VECIDX_DATA names no folder of large HDF5 sets")
    pytest.importorskip("h5py")
    paths = sorted(Path(folder).glob("*.hdf5"))
    assert paths, f"VECIDX_DATA={folder} holds no .hdf5 file"
    return paths
