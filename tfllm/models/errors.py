"""Models that cannot be built or loaded."""


class ModelError(RuntimeError):
    """A model that is not there, or not what was asked for; the message says why and what to do."""
