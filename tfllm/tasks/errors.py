"""Errors of tasks."""


class TaskError(ValueError):
    """A task that cannot be done as asked."""
