# The process: its kernels and threads, and what tests look at.  Included by _core.pyx.

# ---- process-wide settings ---------------------------------------------------

def simd_init(word):
    """Choose the kernels: None or "" for the best, or a level's name as a cap."""
    cdef bytes encoded = (word or "").encode("utf-8", "replace")
    cdef const char *want = encoded
    cdef vx_error err
    if vx_simd_init(want, &err) != VX_OK:
        text = (<bytes>err.text).decode("utf-8", "replace")
        raise ValueError(f"VECIDX_SIMD={word!r}: {text}")


def simd_level():
    return vx_simd_level().decode("ascii")


def simd_available():
    """Names of the levels this CPU can run, best last."""
    cdef list names = []
    cdef const char *name = vx_simd_available(0)
    while name != NULL:
        names.append(name.decode("ascii"))
        name = vx_simd_available(len(names))
    return names


def cpu_features():
    cdef dict features = {}
    cdef int present = 0
    cdef const char *name = vx_cpu_feature(0, &present)
    while name != NULL:
        features[name.decode("ascii")] = present != 0
        name = vx_cpu_feature(len(features), &present)
    return features


def set_num_threads(unsigned n):
    vx_set_num_threads(n)


def get_num_threads():
    return vx_get_num_threads()


# ---- for tests only ----------------------------------------------------------

def test_pairs(str level, int metric, const float[:, ::1] a not None,
               const float[:, ::1] b not None, float[::1] out not None, int dtype=0):
    """out[i] = distance of a[i] and b[i], stored as dtype, at a named level."""
    cdef bytes encoded = level.encode("ascii")
    cdef vx_error err
    if vx_test_pairs(encoded, <vx_metric>metric, <vx_dtype>dtype, &a[0, 0], &b[0, 0],
                     a.shape[0], a.shape[1], &out[0], &err) != VX_OK:
        raise_status(&err)


def test_many(str level, int metric, const float[::1] a not None,
              const float[:, ::1] b not None, float[::1] out not None, int dtype=0,
              bint by_row=False):
    """out[i] = distance of a and b[i], through the slot-list kernel; a as float32 or a row."""
    cdef bytes encoded = level.encode("ascii")
    cdef vx_error err
    if vx_test_many(encoded, <vx_metric>metric, <vx_dtype>dtype, by_row, &a[0], &b[0, 0],
                    b.shape[0], b.shape[1], &out[0], &err) != VX_OK:
        raise_status(&err)


def test_bits(str level, int metric, const uint8_t[:, ::1] a not None,
              const uint8_t[:, ::1] b not None, size_t dim, float[::1] out not None, bint many):
    """The same of packed bits: of pairs, or of a[0] and all of b."""
    cdef bytes encoded = level.encode("ascii")
    cdef vx_error err
    cdef vx_status status
    if many:
        status = vx_test_many(encoded, <vx_metric>metric, VX_BITS, True, &a[0, 0], &b[0, 0],
                              b.shape[0], dim, &out[0], &err)
    else:
        status = vx_test_pairs(encoded, <vx_metric>metric, VX_BITS, &a[0, 0], &b[0, 0],
                               b.shape[0], dim, &out[0], &err)
    if status != VX_OK:
        raise_status(&err)


def test_work():
    """What was read since the last call, by name; None where the build does not count."""
    cdef uint64_t counts[6]
    if not vx_test_work(counts):
        return None
    return dict(zip(("hops", "links", "vectors", "codes", "ranks", "lines"), counts))


def test_fail_alloc(uint64_t nth):
    """Let the nth allocation from now fail, once; 0: none."""
    vx_test_fail_alloc(nth)


simd_init(os.environ.get("VECIDX_SIMD"))
