"""Work that goes on in a thread of its own while its caller goes on too."""

import logging
import numbers
import threading

import numpy as np

_logger = logging.getLogger("vecidx")


class Background:
    """A call that runs in the background.

    It goes on whether or not anyone waits for it.
    """

    __slots__ = ("_error", "_thread")

    def __init__(self, name, call):
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(call,), name=f"vecidx {name}",
                                        daemon=True)
        self._thread.start()

    def _run(self, call):
        try:
            call()
        except BaseException as exc:     # told to who waits
            self._error = exc

    @property
    def done(self):
        """Has it ended, well or not?"""
        return not self._thread.is_alive()

    def wait(self, timeout=None):
        """Wait for the end, at most so many seconds.

        Returns
        -------
        bool
            Whether it has ended.

        Raises
        ------
        BaseException
            What the call raised.
        """
        self._thread.join(timeout)
        if not self.done:
            return False
        if self._error is not None:
            raise self._error
        return True

    def __repr__(self):
        state = "running" if not self.done else "done" if self._error is None else "failed"
        return f"<{self._thread.name}: {state}>"


class AutoCompact:
    """Compacts an index in the background when much of it is dead."""

    __slots__ = ("_running", "share")

    LEAST = 1000      # dead places; below, nothing worth a thread is to be won

    def __init__(self, share):
        if (isinstance(share, (bool, np.bool_)) or not isinstance(share, numbers.Real)
                or not 0 < share < 1):
            raise ValueError("auto_compact: expected a share, above 0 and below 1, or None, "
                             f"got {share!r}")
        self.share = float(share)
        self._running = None

    def look(self, core, threads):
        """Start, if it is time and none is running."""
        dead = core.dead()
        if dead < self.LEAST or dead <= self.share * (dead + core.count()):
            return
        if self._running is None or self._running.done:
            self._running = Background("compact", lambda: _compact(core, threads))


def _compact(core, threads):
    try:
        core.compact(threads)
    except Exception as exc:
        _logger.warning("auto_compact: %s", exc)
