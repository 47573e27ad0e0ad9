"""tfllm: train, tune, understand and serve language models with TensorFlow and Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfllm.version import __version__

if TYPE_CHECKING:
    from tfllm.language_model import LanguageModel, load

__all__ = ["LanguageModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    # TensorFlow takes seconds to import; the command line and the configs do without it.
    if name in ("LanguageModel", "load"):
        from tfllm import language_model

        return getattr(language_model, name)
    raise AttributeError(f"module 'tfllm' has no attribute {name!r}")
