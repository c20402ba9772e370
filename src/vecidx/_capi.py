"""Where the C headers are."""

import os


def get_include():
    """The folder of ``vecidx.h`` and ``vecidx_api.h``, for extensions written in C.

    See docs/C_API.md: nothing is to be linked with.
    """
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "csrc")
