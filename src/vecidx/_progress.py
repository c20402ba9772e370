"""What ``progress=`` means: nothing, a tqdm bar, or a callable that gets (done, total)."""

import numpy as np


def check_progress(progress):
    if not callable(progress) and not isinstance(progress, (bool, np.bool_)):
        raise TypeError(f"progress: expected True, False or a callable, "
                        f"got {type(progress).__name__}")


def begin(progress, total):
    """(callable or None, function to call at the end) for the progress argument."""
    if callable(progress):
        return progress, nothing
    if not progress:
        return None, nothing
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None, nothing
    bar = tqdm(total=total, unit="row", unit_scale=True)

    def report(done, _total):
        bar.update(done - bar.n)

    def close():
        bar.close()

    return report, close


def report_end(report, n):
    try:
        report(n, n)
    except BaseException as exc:         # the same words as the core's for an earlier stop
        exc.rows_added = n
        exc.add_note(f"vecidx: the first {n} of this call's {n} rows are in the index, which "
                     "stays valid")
        raise


def nothing():
    pass
