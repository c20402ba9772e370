from collections.abc import Callable, Set
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

class Filter:
    def __init__(
        self, allowed: Filter | ArrayLike | range | bytes | bytearray | memoryview | Set[int]
    ) -> None: ...
    def mask(self, ids: ArrayLike) -> NDArray[np.bool_]: ...
    def __contains__(self, id: int) -> bool: ...
    def __and__(self, other: Filter) -> Self: ...
    def __or__(self, other: Filter) -> Self: ...
    def __invert__(self) -> Self: ...

_Choose = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
FilterLike = (
    Filter | ArrayLike | range | bytes | bytearray | memoryview | Set[int] | _Choose
)
