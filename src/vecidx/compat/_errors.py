"""The exception of the facades."""


class CompatError(RuntimeError, ValueError):
    """What another library says by RuntimeError, and vecidx by ValueError."""
