"""tfllm: train, tune, understand and serve language models with TensorFlow and Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfllm.version import __version__

if TYPE_CHECKING:
    from tfllm.language_model import LanguageModel
    from tfllm.language_model.load import load

__all__ = ["LanguageModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import; the command line and the configs do without it.
    if name == "LanguageModel":
        from tfllm.language_model import LanguageModel

        return LanguageModel
    if name == "load":
        from tfllm.language_model.load import load

        return load
    raise AttributeError(f"module 'tfllm' has no attribute {name!r}")
