"""The exceptions that are vecidx's own.

Everything else is Python's: ValueError and TypeError for arguments, KeyError
for an id that is not there, OSError with its errno for the disk, MemoryError,
KeyboardInterrupt.
"""


class VecidxError(RuntimeError):
    """An index is not in a state that allows the call, or an invariant is broken."""


class IndexFormatError(VecidxError, ValueError):
    """A file is not a vecidx index, is damaged, or was written by a newer version."""
