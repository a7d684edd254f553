"""Errors that end a run for a reason its user can mend."""


class RunStopped(RuntimeError):
    """A run that must not go on: too many unreadable videos, a loss that is not finite, a full disk, a signal.

    Args:
        message (`str`): what happened and what to do.
        exit_code (`int`, defaults to 2): what a program that ends so returns to the shell.
    """

    def __init__(self, message: str, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
