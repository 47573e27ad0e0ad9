"""Errors of training little of a model."""


class PeftError(ValueError):
    """What is to be trained, and is not there or does not fit."""
