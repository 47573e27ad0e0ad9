"""What is wrong with a checkpoint."""


class ConvertError(ValueError):
    """A checkpoint cannot be read or written; the message names the file, what is wrong and what to do."""
