"""The keys of peft: in the layers of models built from them."""

import functools
import json

import numpy as np
import pytest

from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.peft.targets import projections

MODEL = {"num_layers": 2, "hidden_dim": 8, "num_heads": 2}


@functools.cache
def _made(text):
    sections = mapping("unused", model=MODEL, **json.loads(text))
    model = experiment.make_model(config_from_mapping(sections, for_training=False), 259)
    return model, {path: each.beside for path, each in projections(model).items() if each.beside is not None}


def made(sections):
    return _made(json.dumps(sections))


def _each(holds):
    def shows(made):
        _, beside = made
        assert beside and all(holds(layer) for layer in beside.values())

    return shows


def _adds_little(made):
    model, beside = made
    trained = {id(variable) for variable in model.trainable_variables}
    assert beside and trained == {id(v) for layer in beside.values() for v in (layer.a, layer.b)}


def _beside_all_in_blocks(made):
    assert len(made[1]) == 2 * 7


def _beside_queries(made):
    assert sorted(made[1]) == [f"decoder/block_0{n}/attention/query" for n in range(2)]


def _norm_is_trained(made):
    assert any(v.path == "decoder/final_norm/scale" for v in made[0].trainable_variables)


def _drops(made):
    _, beside = made
    layer = beside["decoder/block_00/attention/query"]
    ones, seeds = np.ones([1, 40, 8], np.float32), np.zeros([1], np.int32)
    assert 0.2 < (layer.dropout(ones, seeds).numpy() == 0).mean() < 0.4


def lora(**keys):
    return {"peft": {"type": "lora", **keys}}


CASES = {
    "peft": Case(_adds_little, lora(), {}),
    "peft:lora": Case(_beside_all_in_blocks, lora(), {}),
    "peft:lora.rank": Case(_each(lambda layer: layer.a.shape[1] == 3), lora(rank=3), lora()),
    "peft:lora.alpha": Case(_each(lambda layer: layer.scale == 0.5), lora(alpha=4), lora()),
    "peft:lora.dropout": Case(_drops, lora(dropout=0.3), lora()),
    "peft:lora.targets": Case(_beside_queries, lora(targets=["query"]), lora()),
    "peft:lora.scaling": Case(
        _each(lambda layer: layer.scale == 8.0), lora(rank=4, scaling="rslora"), lora(rank=4)
    ),
    "peft:lora.train": Case(_norm_is_trained, lora(train=["*final_norm*"]), lora()),
}


@pytest.mark.parametrize("key", CASES)
def test_what_is_trained_is_what_the_keys_say(key):
    hold(CASES[key], made)
