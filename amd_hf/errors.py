"""Errors that end a run for a reason its user can mend."""


class RunStopped(RuntimeError):
    """A run that must not go on: too many unreadable videos, or a loss that is not finite."""
