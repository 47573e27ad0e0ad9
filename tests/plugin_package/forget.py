"""Putting the registries back to what they are without plug-ins, as in a fresh process."""

import contextlib
import sys

from tfllm.config.data import SOURCES
from tfllm.config.model import MODELS
from tfllm.config.optimizer import OPTIMIZERS, SCHEDULES
from tfllm.config.sections import DISTRIBUTIONS, TOKENIZERS
from tfllm.config.task import TASKS

REGISTRIES = (SOURCES, MODELS, OPTIMIZERS, SCHEDULES, DISTRIBUTIONS, TASKS, TOKENIZERS)
TYPES = "tests.plugin_package.types"


def forget():
    """Forgets the types of every module that is no part of tfllm, and the plug-in itself."""
    for registry in REGISTRIES:
        for name in registry.names():
            if not registry.get(name).__module__.startswith("tfllm."):
                del registry._classes[name]
    for name in ("types", "source", "rule", "model"):
        sys.modules.pop(f"tests.plugin_package.{name}", None)


@contextlib.contextmanager
def forgotten():
    """The same before and behind."""
    forget()
    try:
        yield
    finally:
        forget()
