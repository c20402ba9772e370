"""Types of files and bytes; all but inspect is for use inside the package only."""

from os import PathLike
from typing import Any, Literal, Protocol

from typing_extensions import Buffer

from vecidx._core import CoreIndex

class SupportsWrite(Protocol):
    def write(self, data: memoryview, /) -> object: ...

class SupportsRead(Protocol):
    def read(self) -> bytes: ...

def save(core: CoreIndex, target: str | bytes | PathLike[str] | SupportsWrite) -> None: ...
def load(
    source: str | bytes | PathLike[str] | SupportsRead,
    mmap: bool | Literal["vectors"],
    verify: bool,
    threads: int,
) -> CoreIndex: ...
def load_bytes(data: Buffer, verify: bool, threads: int) -> CoreIndex: ...
def inspect(path: str | bytes | PathLike[str]) -> dict[str, Any]: ...
