"""Ray itself, imported when it is needed."""

import warnings

from vecidx.errors import VecidxError

NAMESPACE = "vecidx"         # of all our named actors


def need_ray():
    """The module ray, connected to a cluster."""
    try:
        import ray
    except ImportError as err:
        raise ImportError('vecidx.ray needs Ray: pip install "vecidx[ray]"') from err
    if not ray.is_initialized():
        raise VecidxError("vecidx.ray: no cluster; call ray.init() for one on this machine, or "
                          "ray.init(address=...) for yours, first")
    return ray


def cause_of(error):
    """What a task or an actor raised, out of Ray's wrapping."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def one_line(error):
    """An exception in a few words, for a message about several."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:300]


def was_restarted():
    """In an actor: is this not its first process?"""
    import ray
    with warnings.catch_warnings():          # Ray's own call uses what Ray deprecates
        warnings.simplefilter("ignore")
        return ray.get_runtime_context().was_current_actor_reconstructed
