from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from typing_extensions import Buffer

from vecidx._background import Background
from vecidx._storage import SupportsRead, SupportsWrite
from vecidx._tune import Recall
from vecidx.filters import FilterLike

class Index:
    def __init__(
        self,
        dim: int,
        metric: Literal["l2", "ip", "cosine", "hamming", "jaccard"] = "l2",
        *,
        dtype: DTypeLike | Literal["bfloat16", "bits"] | None = None,
        M: int = 16,
        ef_construction: int = 200,
        quantization: Literal["auto", "sq8", "sq4"] | None = "auto",
        seed: int = 0,
        num_threads: int | None = None,
        capacity: int = 0,
        ids: Literal["int", "str"] = "int",
    ) -> None: ...
    def add(
        self,
        vectors: ArrayLike,
        ids: ArrayLike | None = None,
        *,
        on_conflict: Literal["replace", "error", "skip"] = "replace",
        num_threads: int | None = None,
        progress: bool | Callable[[int, int], object] = False,
    ) -> NDArray[np.int64]: ...
    def delete(
        self,
        ids: ArrayLike,
        *,
        missing: Literal["error", "ignore"] = "error",
        num_threads: int | None = None,
    ) -> int: ...
    @overload
    def compact(
        self, *, background: Literal[False] = False, num_threads: int | None = None
    ) -> None: ...
    @overload
    def compact(
        self, *, background: Literal[True], num_threads: int | None = None
    ) -> Background: ...
    @property
    def auto_compact(self) -> float | None: ...
    @auto_compact.setter
    def auto_compact(self, share: float | None) -> None: ...
    def reserve(self, n: int) -> None: ...
    def merge(
        self,
        other: Index,
        *,
        on_conflict: Literal["replace", "error", "skip"] = "replace",
        num_threads: int | None = None,
        progress: bool | Callable[[int, int], object] = False,
    ) -> None: ...
    def search(
        self,
        queries: ArrayLike | None = None,
        k: int = 10,
        *,
        ef: int | None = None,
        recall: float | None = None,
        filter: FilterLike | Sequence[FilterLike | None] | None = None,
        max_distance: float | None = None,
        ids: ArrayLike | None = None,
        diverse: float | None = None,
        exact: bool = False,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]: ...
    def range_search(
        self,
        queries: ArrayLike,
        radius: float,
        *,
        ef: int | None = None,
        filter: FilterLike | Sequence[FilterLike | None] | None = None,
        exact: bool = False,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]: ...
    def iterate(
        self,
        query: ArrayLike,
        batch: int = 10,
        *,
        ef: int | None = None,
        filter: FilterLike | None = None,
        exact: bool = False,
        num_threads: int | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]: ...
    def tune(
        self,
        queries: ArrayLike | None = None,
        k: int | Sequence[int] = 10,
        *,
        num_threads: int | None = None,
    ) -> dict[int, dict[str, Any]]: ...
    @property
    def tuned(self) -> dict[int, dict[str, Any]]: ...
    def recall(
        self,
        queries: ArrayLike,
        k: int = 10,
        ef: int | None = None,
        *,
        filter: FilterLike | None = None,
        num_threads: int | None = None,
    ) -> Recall: ...
    def knn_graph(
        self,
        k: int = 10,
        *,
        ef: int | None = None,
        recall: float | None = None,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]: ...
    def get(self, ids: ArrayLike) -> NDArray[np.float32 | np.float16 | np.int8 | np.uint8]: ...
    def __contains__(self, id: int) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def ids(self) -> NDArray[np.int64]: ...
    def stats(self) -> dict[str, int | list[int]]: ...
    def memory(self) -> dict[str, int]: ...
    def _repr_html_(self) -> str: ...
    def plot_recall(self, k: int | Sequence[int] | None = None, *, ax: Any = None) -> Any: ...
    def check(self, *, repair: bool = False) -> dict[str, int]: ...
    def save(
        self, path: str | bytes | PathLike[str] | SupportsWrite, *, compact: bool = False
    ) -> None: ...
    def to_bytes(self) -> bytes: ...
    def warm(self) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: object, error: object, trace: object) -> None: ...
    def __copy__(self) -> Index: ...
    def __deepcopy__(self, memo: dict[int, object]) -> Index: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> Literal["l2", "ip", "cosine", "hamming", "jaccard"]: ...
    @property
    def M(self) -> int: ...
    @property
    def ef_construction(self) -> int: ...
    @property
    def quantization(self) -> Literal["auto", "sq8", "sq4"] | None: ...
    @property
    def seed(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any] | Literal["bfloat16", "bits"]: ...

def load(
    path: str | bytes | PathLike[str] | SupportsRead,
    *,
    mmap: bool | Literal["vectors"] = False,
    verify: bool = False,
    num_threads: int | None = None,
) -> Index: ...
def from_bytes(
    data: Buffer, *, verify: bool = False, num_threads: int | None = None
) -> Index: ...
