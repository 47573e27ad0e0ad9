"""The Python face: a language model with its tokenizer and config, loaded, asked and saved."""

from tfllm.language_model.language_model import LanguageModel

__all__ = ["LanguageModel"]
