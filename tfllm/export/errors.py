"""Models that cannot be exported."""


class ExportError(RuntimeError):
    """An export that failed or would not serve; the message says why and what to do."""
