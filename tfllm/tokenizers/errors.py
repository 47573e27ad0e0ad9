"""What goes wrong with tokenizers."""


class TokenizerError(ValueError):
    """A tokenizer could not be made, read or used as asked; the message names value, rule and mend."""


class NoTokenizerError(TokenizerError):
    """There is none; what needs no text works without."""
