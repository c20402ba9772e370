"""The thread pool of the core, as threadpoolctl lists and limits it.

threadpoolctl is no dependency: where it is not installed, nothing happens here.
It finds a library by its file name and the names it exports, so the names are
those of index_api.c.
"""

_registered = False


def register_pool():
    """Make ``threadpool_info()`` and ``threadpool_limits()`` know the pool."""
    global _registered
    if _registered:              # by the package, before it was reloaded
        return
    try:
        from threadpoolctl import LibController, register
    except ImportError:          # not there, or older than 3.2
        return
    import ctypes

    from vecidx import __version__

    class VecidxController(LibController):
        user_api = internal_api = "vecidx"
        filename_prefixes = ("_core.",)
        check_symbols = ("vecidx_get_num_threads", "vecidx_set_num_threads",
                         "vecidx_get_simd_level")

        def get_num_threads(self):
            return self.dynlib.vecidx_get_num_threads()

        def set_num_threads(self, num_threads):
            self.dynlib.vecidx_set_num_threads(num_threads)

        def get_version(self):
            return __version__

        def set_additional_attributes(self):
            # Asked before check_symbols are, of every library named alike: SciPy has one.
            simd_level = getattr(self.dynlib, "vecidx_get_simd_level", None)
            if simd_level is not None:
                simd_level.restype = ctypes.c_char_p
                self.simd_level = simd_level().decode()

    register(VecidxController)
    _registered = True
