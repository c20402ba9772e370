"""What goes wrong only where an index is in several places."""

from vecidx.errors import VecidxError


class ShardUnavailable(VecidxError):
    """No replica of a shard answered.

    Attributes
    ----------
    missing_shards : tuple of int
    reasons : dict of int to str
        What each replica of a missing shard said.
    """

    def __init__(self, message, reasons=None):
        super().__init__(message)
        self.reasons = dict(reasons or {})

    @property
    def missing_shards(self):
        return tuple(sorted(self.reasons))

    def __reduce__(self):
        return type(self), (self.args[0], self.reasons)


class ReplicaNotReady(VecidxError):
    """A replica cannot answer now; another may.  Callers of search never see it."""
