"""Packages that only some modules need."""

import importlib


def need(module, *, extra, user):
    """Import a module of another package, or say which pip command brings it.

    Parameters
    ----------
    module : str
        As one would import it.
    extra : str
        vecidx's extra that names the package.
    user : str
        Who needs it, for the message.
    """
    try:
        return importlib.import_module(module)
    except ImportError as err:
        if err.name is not None and err.name.split(".")[0] != module.split(".")[0]:
            raise                        # it is there, and lacks something of its own
        raise ImportError(f'{user} needs {module.split(".")[0]}: pip install "vecidx[{extra}]"',
                          name=err.name) from err
