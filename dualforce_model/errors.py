"""The three kinds of error that are not a bug of ours. The command line turns each into an exit code.

Every concrete error derives from one of these and says what was found, what was expected and what to change.
"""


class InputError(ValueError):
    """The caller's fault: a configuration, a file, a name. Nothing was changed."""


class BusyError(RuntimeError):
    """Another living process holds what is needed; the message names it."""


class InfrastructureError(RuntimeError):
    """Disk, network, a server or a child process gave way; the same command later goes on where it stopped."""
