"""Other libraries' words over :class:`vecidx.Index`.

``vecidx.compat.hnswlib`` and ``vecidx.compat.faiss`` have the classes, methods,
arguments and exceptions of those packages, as far as docs/migrate/compat.md says.  Use
one in a program's own code by changing its import::

    from vecidx.compat import hnswlib

and, for a library that says ``import hnswlib`` itself, before that is imported::

    import vecidx.compat
    vecidx.compat.install("hnswlib")
"""

import importlib
import sys

NAMES = ("faiss", "hnswlib")


def install(name):
    """Let ``import name`` give vecidx's module, in this process from now on.

    Parameters
    ----------
    name : {"hnswlib", "faiss"}

    Returns
    -------
    module
        The one that ``import name`` gives.

    Raises
    ------
    RuntimeError
        The other library's module is imported already: what holds it would keep
        it, and two kinds of index would meet.  Install first.
    """
    ours = _module(name)
    there = sys.modules.get(name)
    if there is not None and there is not ours:
        raise RuntimeError(f"{name} is imported already, from {getattr(there, '__file__', '?')}; "
                           f'call vecidx.compat.install("{name}") before anything imports it')
    sys.modules[name] = ours
    return ours


def uninstall(name):
    """Take :func:`install` back; who has imported the module keeps it."""
    if sys.modules.get(name) is _module(name):
        del sys.modules[name]


def _module(name):
    if name not in NAMES:
        raise ValueError(f"name: expected {' or '.join(map(repr, NAMES))}, got {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
