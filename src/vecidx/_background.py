"""Work that goes on in a thread of its own while its caller goes on too."""

import threading


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
