"""Questions that cannot be answered."""


class AnalysisError(ValueError):
    """A text, layer, head or log that cannot be used; the message names value, rule and mend."""
