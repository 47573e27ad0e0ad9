"""The only wiring place: a config → text, model, task, optimizer, and the run of them all."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfllm.experiment.cost import flops_per_token as flops_per_token
    from tfllm.experiment.cost import memory_of as memory_of
    from tfllm.experiment.cost import step_shape as step_shape
    from tfllm.experiment.epochs import with_steps as with_steps
    from tfllm.experiment.labels import with_labels as with_labels
    from tfllm.experiment.measured import chosen_by as chosen_by
    from tfllm.experiment.measured import final_test as final_test
    from tfllm.experiment.measured import measure as measure
    from tfllm.experiment.model import make_model as make_model
    from tfllm.experiment.model_source import expand as expand
    from tfllm.experiment.model_source import start_from_source as start_from_source
    from tfllm.experiment.parts import make_evaluator as make_evaluator
    from tfllm.experiment.parts import make_generator as make_generator
    from tfllm.experiment.parts import make_optimizer_of as make_optimizer_of
    from tfllm.experiment.parts import make_task as make_task
    from tfllm.experiment.probe import dry_run as dry_run
    from tfllm.experiment.probe import replay as replay
    from tfllm.experiment.run import train as train
    from tfllm.experiment.source import held_out_documents as held_out_documents
    from tfllm.experiment.source import make_source as make_source
    from tfllm.experiment.stop_tokens import stop_ids as stop_ids
    from tfllm.experiment.text import Prepared as Prepared
    from tfllm.experiment.text import held_out_rows as held_out_rows
    from tfllm.experiment.text import prepare as prepare
    from tfllm.experiment.text_places import located as located
    from tfllm.experiment.tokenizer import make_tokenizer as make_tokenizer

# module: what it hands on. It is imported when one of these is asked for: most import TensorFlow.
_NAMES = {
    "cost": ("flops_per_token", "memory_of", "step_shape"),
    "epochs": ("with_steps",),
    "labels": ("with_labels",),
    "measured": ("chosen_by", "final_test", "measure"),
    "model": ("make_model",),
    "model_source": ("expand", "start_from_source"),
    "parts": ("make_evaluator", "make_generator", "make_optimizer_of", "make_task"),
    "probe": ("dry_run", "replay"),
    "run": ("train",),
    "source": ("held_out_documents", "make_source"),
    "stop_tokens": ("stop_ids",),
    "text": ("Prepared", "held_out_rows", "prepare"),
    "text_places": ("located",),
    "tokenizer": ("make_tokenizer",),
}
_PLACES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'tfllm.experiment' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tfllm.experiment.{_PLACES[name]}"), name)
