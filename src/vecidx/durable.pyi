from os import PathLike
from types import TracebackType
from typing import Literal, Self

from numpy.typing import DTypeLike

from vecidx.index import Index

class DurableIndex(Index):
    def checkpoint(self) -> None: ...
    def close(self, checkpoint: bool = True) -> None: ...
    @property
    def path(self) -> str: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

def open(
    path: str | bytes | PathLike[str],
    dim: int | None = None,
    metric: Literal["l2", "ip", "cosine", "hamming", "jaccard"] | None = None,
    *,
    sync: Literal["always", "interval", "none"] = "always",
    interval: float | None = None,
    num_threads: int | None = None,
    auto_checkpoint: bool = True,
    dtype: DTypeLike | Literal["bfloat16", "bits"] | None = None,
    M: int = 16,
    ef_construction: int = 200,
    quantization: Literal["auto", "sq8", "sq4"] | None = "auto",
    seed: int = 0,
    capacity: int = 0,
) -> DurableIndex: ...
