"""tfllm: train, tune, understand and serve language models with TensorFlow and Keras."""

from tfllm.version import __version__

__all__ = ["__version__"]
