from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vecidx.errors import VecidxError
from vecidx.filters import FilterLike

class ShardUnavailable(VecidxError):
    reasons: dict[int, str]
    @property
    def missing_shards(self) -> tuple[int, ...]: ...

class Shard:
    file: str
    rows: int
    bytes: int
    sha256: str

class Manifest:
    url: str
    fingerprint: str
    dim: int
    metric: str
    parameters: dict[str, Any]
    shards: tuple[Shard, ...]
    @property
    def rows(self) -> int: ...

class Found(tuple[NDArray[np.int64], NDArray[np.float32]]):
    missing_shards: tuple[int, ...]
    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def distances(self) -> NDArray[np.float32]: ...

class FoundInRange(tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]):
    missing_shards: tuple[int, ...]
    @property
    def lims(self) -> NDArray[np.int64]: ...
    @property
    def ids(self) -> NDArray[np.int64]: ...
    @property
    def distances(self) -> NDArray[np.float32]: ...

class ShardedIndex:
    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        timeout: float = 10.0,
        hedge: float = 0.25,
        partial: Literal["raise", "allow"] = "raise",
        **options: Any,
    ) -> Found: ...
    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        *,
        timeout: float = 10.0,
        hedge: float = 0.25,
        partial: Literal["raise", "allow"] = "raise",
        **options: Any,
    ) -> FoundInRange: ...
    def iterate(
        self,
        query: ArrayLike,
        batch: int = 10,
        *,
        ef: int | None = None,
        filter: FilterLike | None = None,
        exact: bool = False,
        timeout: float = 10.0,
        hedge: float = 0.25,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]: ...
    async def asearch(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        timeout: float = 10.0,
        hedge: float = 0.25,
        partial: Literal["raise", "allow"] = "raise",
        **options: Any,
    ) -> Found: ...
    def add(
        self,
        vectors: ArrayLike,
        ids: ArrayLike,
        *,
        on_conflict: Literal["replace", "error", "skip"] = "replace",
        timeout: float = 60.0,
    ) -> NDArray[np.int64]: ...
    def delete(
        self,
        ids: ArrayLike,
        *,
        missing: Literal["error", "ignore"] = "error",
        timeout: float = 60.0,
    ) -> int: ...
    def get(self, ids: ArrayLike, *, timeout: float = 10.0) -> NDArray[Any]: ...
    def scale(self, replicas: int, *, timeout: float = 600.0) -> None: ...
    def swap(
        self, manifest: Manifest | str | PathLike[str], *, timeout: float = 600.0
    ) -> None: ...
    def status(self, *, timeout: float = 2.0) -> dict[str, Any]: ...
    def close(self) -> None: ...
    def __len__(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, error: object, trace: object) -> None: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> str: ...

def build(
    source: str | PathLike[str] | Sequence[str | PathLike[str]] | Any,
    out: str | PathLike[str],
    shards: int,
    *,
    column: str | None = None,
    id_column: str | None = None,
    metric: str = "l2",
    dim: int | None = None,
    tune: bool | int | Sequence[int] = False,
    num_cpus: int = 1,
    progress: bool | Callable[[int, int], object] = False,
    **parameters: Any,
) -> Manifest: ...
def rebalance(
    manifest: Manifest | str | PathLike[str],
    out: str | PathLike[str],
    shards: int,
    *,
    tune: bool | int | Sequence[int] = False,
    num_cpus: int = 1,
    progress: bool | Callable[[int, int], object] = False,
) -> Manifest: ...
def read_manifest(url: str | PathLike[str]) -> Manifest: ...
def serve(
    manifest: Manifest | str | PathLike[str],
    *,
    replicas: int = 1,
    num_cpus: float = 1,
    local_cache: str | None = None,
    mmap: Literal[True, "vectors"] = True,
    updates: str | PathLike[str] | None = None,
    name: str | None = None,
    detached: bool = False,
    timeout: float = 600.0,
) -> ShardedIndex: ...
def connect(name: str) -> ShardedIndex: ...
