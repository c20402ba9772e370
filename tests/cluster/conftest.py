"""Several Ray nodes on this machine, which can reach nothing else.

    python tools/only_loopback.py python -m pytest tests/cluster         (make test-ray)

Outside such a namespace these tests skip: Ray's processes do not keep to 127.0.0.1.
"""

import os

import numpy as np
import pytest

import vecidx

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: only under VECIDX_LONG=1 (make test-ray)")


def pytest_collection_modifyitems(config, items):
    """Without VECIDX_LONG=1, a share of the tests."""
    if os.environ.get("VECIDX_LONG") == "1":
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def nodes():
    from cluster_helpers import Nodes
    made = Nodes()
    yield made
    made.shutdown()


@pytest.fixture(scope="session")
def rows():
    return np.random.default_rng(1).standard_normal((3000, 16), dtype=np.float32)


@pytest.fixture(scope="session")
def queries():
    return np.random.default_rng(2).standard_normal((50, 16), dtype=np.float32)


@pytest.fixture(scope="session")
def one_index(rows):
    """All rows in one index."""
    index = vecidx.Index(16)
    index.add(rows)
    return index


@pytest.fixture(scope="session")
def built(nodes, rows, tmp_path_factory):
    """The rows in two shards.  Tests must not change it."""
    import vecidx.ray
    folder = tmp_path_factory.mktemp("built")
    np.save(folder / "rows.npy", rows)
    return vecidx.ray.build(folder / "rows.npy", folder / "shards", 2)


@pytest.fixture(scope="session")
def service(built):
    """Two shards, two replicas each, one on each worker node.  Tests must not harm it."""
    import vecidx.ray
    with vecidx.ray.serve(built, replicas=2) as index:
        yield index
