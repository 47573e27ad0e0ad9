"""Requests that cannot be generated."""


class GenerationError(ValueError):
    """A prompt or a setting that cannot be used; the message names value, rule and mend."""
