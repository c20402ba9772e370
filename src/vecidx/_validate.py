"""From what people pass to what the core takes: the only place arrays are coerced.

Each function returns a value of exactly the type the core wants, or raises
with what was wrong, what was expected, what came, and the way out.  Nothing is
guessed: an array that would lose meaning (a mask, an imaginary part, digits of
an id) is refused.
"""

import math
import numbers
import operator
import os

import numpy as np

FLOAT32 = np.dtype(np.float32)
INT64 = np.dtype(np.int64)

# How an index may store vectors: the arrays that are taken as they are.
NUMPY_DTYPES = {"float32": FLOAT32, "float16": np.dtype(np.float16), "bfloat16": FLOAT32,
                "int8": np.dtype(np.int8), "uint8": np.dtype(np.uint8),
                "bits": np.dtype(np.uint8)}           # packed
BIT_METRICS = ("hamming", "jaccard")
WHOLE_DTYPES = ("int8", "uint8")

MAX_DIM = 65_536
MAX_K = 2_147_483_646        # VX_MAX_ROWS: an index cannot hold more
MAX_THREADS = 4_096
INT64_MAX = 2**63 - 1
_BEYOND_INT64 = "is beyond int64 (ids are 0 to 2**63 - 1)"

# Rows are converted to float32 this many elements at a time, so that the
# check for overflow needs little memory beside the result.
_CHUNK_ELEMENTS = 1 << 20


def as_matrix(data, *, dim, name, dtype="float32"):
    """A C-ordered, aligned array (n, dim) of float32; a 1-D `data` becomes one row.

    float32 data in C order are taken without a copy, and so are those of `dtype`, the
    word for how an index stores vectors.  Of "bits": uint8 (n, bytes of dim bits).
    """
    array = _as_array(data, name)
    if dtype == "bits":
        return _as_bits(array, data, dim, name)
    if array.ndim == 1 and array.size == 0 and isinstance(data, (list, tuple)):
        array = array.reshape(0, dim)        # an empty list is no rows, whatever the dim
    if array.ndim == 0:
        raise ValueError(f"{name}: expected a vector or a matrix, got a single number")
    if array.ndim > 2:
        raise ValueError(
            f"{name}: expected 1 or 2 dimensions, got {array.ndim} (shape {array.shape}); "
            f"reshape to (n, {dim})")
    if array.shape[-1] != dim:
        raise ValueError(_wrong_dim(array.shape, dim, name))
    if array.ndim == 1:
        array = array.reshape(1, dim)
    if array.dtype == FLOAT32 or array.dtype == NUMPY_DTYPES[dtype]:    # native byte order only
        return np.require(array, None, ["C", "A"])
    return _convert(array, name, dtype)


def bytes_of(dim, dtype):
    """Columns of an array of vectors: of bits, bytes."""
    return (dim + 7) // 8 if dtype == "bits" else dim


def _as_bits(array, data, dim, name):
    """Packed bits, as they are: what else they could be is not guessed."""
    columns = bytes_of(dim, "bits")
    if array.size == 0 and isinstance(data, (list, tuple)) and array.ndim == 1:
        array = np.empty((0, columns), np.uint8)
    wanted = (f"packed bits, uint8 of shape (n, {columns}) for {dim} bits, as "
              "numpy.packbits(rows, axis=-1) makes them")
    if array.dtype != np.uint8:
        raise TypeError(f"{name}: expected {wanted}; got dtype {array.dtype}")
    if array.ndim not in (1, 2) or array.shape[-1] != columns:
        raise ValueError(f"{name}: expected {wanted}; got shape {array.shape}")
    return np.require(array.reshape(-1, columns), None, ["C", "A"])


def _wrong_dim(shape, dim, name):
    text = (f"{name}: expected {dim} columns (this index's dim), got {shape[-1]}"
            if len(shape) == 2 else
            f"{name}: expected {dim} values (this index's dim), got {shape[-1]}")
    if len(shape) == 2 and shape[0] == dim:
        text += "; rows are vectors: pass the transpose, array.T"
    return text


def _as_array(data, name):
    if isinstance(data, np.ma.MaskedArray):
        if np.ma.is_masked(data):
            raise TypeError(f"{name}: has masked values, which have no place in a vector; "
                            "fill or drop them first")
        data = data.data
    try:
        array = np.asarray(data)
    except (ValueError, TypeError, OverflowError) as err:
        if "inhomogeneous" in str(err):
            raise ValueError(f"{name}: rows differ in length; expected rows of one length") from err
        raise TypeError(f"{name}: NumPy cannot make an array of numbers of this "
                        f"{type(data).__name__}: {err}") from err
    if array.dtype.name == "bfloat16":       # of a package that teaches NumPy that type
        array = array.astype(FLOAT32)
    if array.dtype.kind not in "fiub":
        kind = {"O": "Python objects", "U": "strings", "S": "bytes", "c": "complex numbers",
                "M": "dates", "m": "time spans", "V": "records"}.get(array.dtype.kind, "others")
        raise TypeError(f"{name}: expected real numbers, got {kind} (dtype {array.dtype}); "
                        "convert to float32 first")
    return array


def _convert(array, name, dtype):
    """A float32 copy, or one of float16 where that is the `dtype`, so that nothing is rounded
    twice.  What it would make infinite, or a whole number, is refused with its row.
    """
    is_wider = array.dtype.kind == "f" and array.dtype.itemsize > 4
    target = np.dtype(np.float16) if dtype == "float16" and is_wider else FLOAT32
    limit = "float16's range (+-65504)" if target != FLOAT32 else "float32's range (+-3.4e38)"
    out = np.empty(array.shape, target)
    step = max(1, _CHUNK_ELEMENTS // max(1, array.shape[1]))
    for start in range(0, array.shape[0], step):
        part = array[start:start + step]
        with np.errstate(over="ignore", invalid="ignore"):
            out[start:start + step] = part
        if is_wider:
            made = out[start:start + step]
            _refuse_value(np.isinf(made) & np.isfinite(part), part, start, name,
                          f"beyond {limit}; scale the data")
            if dtype in WHOLE_DTYPES:
                _refuse_value((made == np.rint(made)) & (made != part), part, start, name,
                              f"which is no whole number, as dtype {dtype} wants; round the "
                              'data, or use dtype "float16"')
    return out


def _refuse_value(bad, part, start, name, why):
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"{name}: row {start + row} has {float(part[row, column])!r}, {why}")


def as_labels(ids, *, name="ids"):
    """A C-ordered int64 array (n,), and whether `ids` was a single number."""
    if isinstance(ids, np.ma.MaskedArray):
        if np.ma.is_masked(ids):
            raise TypeError(f"{name}: has masked values; drop them first")
        ids = ids.data
    try:
        array = np.asarray(ids)
    except (ValueError, TypeError, OverflowError) as err:
        raise TypeError(f"{name}: expected integers, got {type(ids).__name__}: {err}") from err
    if array.ndim > 1:
        raise ValueError(f"{name}: expected a number or a 1-D array, got shape {array.shape}")
    if array.dtype.kind == "f" and isinstance(ids, (list, tuple)):
        # NumPy turns a list with an int beyond int64 into floats, digits lost.
        for position, value in enumerate(ids):
            if isinstance(value, int) and not -INT64_MAX - 1 <= value <= INT64_MAX:
                raise ValueError(f"{name}[{position}]: {value} {_BEYOND_INT64}")
    is_scalar = array.ndim == 0
    array = array.reshape(-1)
    if array.size == 0 and array.dtype.kind == "f":      # np.asarray([]) is float64
        return np.empty(0, INT64), is_scalar
    return np.require(_to_int64(array, name), INT64, ["C", "A"]), is_scalar


def _to_int64(array, name):
    kind = array.dtype.kind
    if kind == "i":
        return array.astype(INT64, copy=False)
    if kind == "u":
        _refuse_first(array > np.uint64(INT64_MAX), array, name, _BEYOND_INT64)
        return array.astype(INT64)
    if kind == "f":
        with np.errstate(invalid="ignore"):
            _refuse_first(array != np.floor(array), array, name,
                          "is not an integer")               # NaN differs from itself
        # From 2**53 on (2**24 for float32) neighbours share one float, 2**53
        # itself with 2**53 + 1: the id that was meant can no longer be told.
        limit = min(2.0 ** (np.finfo(array.dtype).nmant + 1), 2.0 ** 63)
        _refuse_first(np.abs(array) >= limit, array, name,
                      f"is too large to be an exact integer as {array.dtype}; pass int64")
        return array.astype(INT64)
    if kind == "b":
        raise TypeError(f"{name}: expected integers, got booleans; for a mask, pass "
                        "numpy.flatnonzero(mask)")
    if kind == "O":
        for position, value in enumerate(array):
            if isinstance(value, bool) or not hasattr(value, "__index__"):
                raise TypeError(f"{name}[{position}]: expected an integer, got "
                                f"{type(value).__name__} {value!r}")
            if not -INT64_MAX - 1 <= operator.index(value) <= INT64_MAX:
                raise ValueError(f"{name}[{position}]: {value} {_BEYOND_INT64}")
        return array.astype(INT64)
    raise TypeError(f"{name}: expected integers, got dtype {array.dtype}; map your keys to "
                    "integers and keep the map")


def _refuse_first(bad, array, name, why):
    if bad.any():
        position = int(np.argmax(bad))
        raise ValueError(f"{name}[{position}]: {array[position]} {why}")


def as_label(value, *, name="id"):
    """One id as a Python int, or None where it is beyond int64 (no index has it)."""
    value = check_int(value, name=name, low=None, high=None)
    return value if -INT64_MAX - 1 <= value <= INT64_MAX else None


def check_int(value, *, name, low, high):
    """`value` as an int in [low, high]; None for a bound is no bound."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__} "
                        f"{value!r}") from None
    if (low is not None and number < low) or (high is not None and number > high):
        limits = f">= {low}" if high is None else f"{low} to {high}"
        raise ValueError(f"{name}: expected {limits}, got {number}")
    return number


def check_k(k):
    return check_int(k, name="k", low=1, high=MAX_K)


def check_ef(ef):
    """The pool size, 0 for the default."""
    return 0 if ef is None else check_int(ef, name="ef", low=1, high=MAX_K)


def check_distance(value, *, name):
    """`value` as a float, infinite for None."""
    if value is None and name == "max_distance":
        return math.inf
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__} {value!r}")
    if math.isnan(value):
        raise ValueError(f"{name}: expected a number, got NaN")
    return float(value)


def check_threads(num_threads, default=0):
    """Threads to use, 0 for the process default."""
    if num_threads is None:
        return default
    return check_int(num_threads, name="num_threads", low=1, high=MAX_THREADS)


def check_word(value, *, name, known, later=()):
    """`value`, one of the `known` words; words of `later` versions are named as such."""
    if isinstance(value, str) and value in known:
        return value
    expected = ", ".join(repr(word) for word in known)
    if isinstance(value, str) and value in later:
        raise ValueError(f"{name}: {value!r} is not in this version; expected {expected}")
    raise ValueError(f"{name}: expected {expected}, got {value!r}")


def check_flag(value, *, name):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")
    return bool(value)


def check_dtype(dtype, metric):
    """The name of the storage type, None for that of the metric."""
    if dtype is None:
        return "bits" if metric in BIT_METRICS else "float32"
    name = dtype
    if not isinstance(dtype, str):
        try:
            name = np.dtype(dtype).name
        except TypeError:
            pass                                  # check_word says what was expected
    name = check_word(name, name="dtype", known=tuple(NUMPY_DTYPES))
    if (name == "bits") != (metric in BIT_METRICS):
        raise ValueError(
            f'dtype: metric {metric!r} is of numbers, got "bits"; use metric "hamming" or "jaccard"'
            if name == "bits" else
            f"dtype: metric {metric!r} is of packed bits, got {name!r}; use dtype \"bits\" and "
            "numpy.packbits, or another metric")
    return name


def check_quantization(quantization, dtype):
    """The word for what the graph is walked on, or None."""
    if quantization is None:
        return None
    word = check_word(quantization, name="quantization", known=("auto", "sq8", "sq4"))
    if dtype != "bits":
        return word
    if word != "auto":
        raise ValueError(f"quantization: expected None or 'auto', as bits are as short as codes "
                         f"get, got {quantization!r}")
    return None


def as_path(path):
    """`path` as the bytes the C library opens."""
    try:
        encoded = os.fsencode(path)
    except TypeError:
        raise TypeError(f"path: expected str, bytes or os.PathLike, got "
                        f"{type(path).__name__}") from None
    if b"\0" in encoded:
        raise ValueError("path: has a NUL character, which no file name can have")
    return encoded


def check_share(value, *, name):
    """A number above 0 and at most 1."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
            value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__}")
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected above 0 and at most 1, got {value}")
    return float(value)
