"""The keys of peft: in the layers of models built from them."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.experiment.model import rank_allocator
from tfllm.language_model import LanguageModel
from tfllm.peft.targets import low_rank_layers, projections
from tfllm.tokenizers.byte import ByteTokenizer

SAVED = {"peft": {"type": "lora", "rank": 2, "alpha": 6, "targets": ["value"]}}
MODEL = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2}


@functools.cache
def _made(text):
    sections = mapping("unused", model=MODEL, **json.loads(text))
    config = config_from_mapping(sections, for_training=False)
    model = experiment.make_model(config, 259)
    return model, low_rank_layers(model), config


def made(sections):
    return _made(json.dumps(sections))


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A model of sections, started from a saved base, and from a saved adapter where they name one."""
    folder = tmp_path_factory.mktemp("adapter")
    config = config_from_mapping(mapping("unused", model=MODEL), for_training=False)
    LanguageModel(experiment.make_model(config, 259), ByteTokenizer(), config).save(folder / "base")
    tuned = mapping("unused", model={"type": "pretrained", "source": str(folder / "base")}, **SAVED)
    config = experiment.expand(config_from_mapping(tuned, for_training=False))
    model = experiment.make_model(config, 259)
    for layer in low_rank_layers(model).values():
        layer.b.assign(np.full(layer.b.shape, 0.25))
    LanguageModel(model, ByteTokenizer(), config).save(folder / "adapter", to="peft")

    def made(sections):
        peft = {
            key: value.format(adapter=folder / "adapter") if key == "source" else value
            for key, value in sections["peft"].items()
        }
        config = experiment.expand(config_from_mapping({**tuned, "peft": peft}, for_training=False))
        model = experiment.make_model(config, 259)
        experiment.start_from_source(config, model, notify=lambda line: None)
        return model, low_rank_layers(model)

    return made


def _goes_on(made):
    _, beside, *_ = made
    assert sorted(beside) == [f"decoder/block_0{n}/attention/value" for n in range(2)]
    assert all((layer.b.numpy() == 0.25).all() and layer.scale == 3.0 for layer in beside.values())


def _each(holds):
    def shows(made):
        _, beside, *_ = made
        assert beside and all(holds(layer) for layer in beside.values())

    return shows


def _adds_little(made):
    model, beside, *_ = made
    trained = {id(variable) for variable in model.trainable_variables}
    assert beside and trained == {id(v) for layer in beside.values() for v in (layer.a, layer.b)}


def _beside_all_in_blocks(made):
    assert len(made[1]) == 2 * 7


def _beside_queries(made):
    assert sorted(made[1]) == [f"decoder/block_0{n}/attention/query" for n in range(2)]


def _falls(made):
    assert made[1] and all(getattr(layer, "rank", 0) == 12 for layer in made[1].values())


def _behind_branches(made):
    parts = ("attention/output", "feed_forward/down")
    assert sorted(made[1]) == [f"decoder/block_0{n}/{part}" for n in range(2) for part in parts]


def _norm_is_trained(made):
    assert any(v.path == "decoder/final_norm/scale" for v in made[0].trainable_variables)


def _drops(made):
    _, beside, *_ = made
    layer = beside["decoder/block_00/attention/query"]
    ones, seeds = np.ones([1, 40, 16], np.float32), np.zeros([1], np.int32)
    assert 0.2 < (layer.dropout(ones, seeds).numpy() == 0).mean() < 0.4


def _of_patterns(shape):
    def shows(made):
        _, beside, *_ = made
        other = {path for path, layer in beside.items() if shape(layer)}
        assert other == {"decoder/block_00/attention/query", "decoder/block_01/attention/query"}

    return shows


def lora(**keys):
    return {"peft": {"type": "lora", **keys}}


def adalora(**keys):
    return {"peft": {"type": "adalora", **keys}}


def _allocates(holds):
    """What shares ranks out, for a training of 100 updates, is as asked for."""

    def shows(made):
        model, _, config = made
        steps = dataclasses.replace(config.training, steps=100)
        assert holds(rank_allocator(dataclasses.replace(config, training=steps), model))

    return shows


@functools.cache
def _stored(text):
    config = config_from_mapping(mapping("unused", model=MODEL, **json.loads(text)), for_training=False)
    model = experiment.make_model(config, 259, training=True)
    return {projection.kernel.dtype for projection in projections(model).values()}


def _in_bytes(made):
    assert _stored(json.dumps({"peft": to_mapping(made[2].peft)})) == {"int8"}


def adapters(**keys):
    return {"peft": {"type": "adapters", **keys}}


def freeze(**keys):
    return {"peft": {"type": "freeze", **{"patterns": ["*/value/*"], **keys}}}


def _frozen(held):
    def shows(made):
        model = made[0]
        frozen = {v.path.split("/", 1)[1] for v in model.variables if not v.trainable}
        assert {path for path in frozen if not path.endswith("/value/kernel")} == held(model)

    return shows


def _first_block(model):
    paths = (v.path.split("/", 1)[1] for v in model.variables)
    return {
        p for p in paths if p.startswith(("block_00", "token_embedding")) and not p.endswith("/value/kernel")
    }


CASES = {
    "peft:adalora": Case(_falls, adalora(), lora()),
    "peft:adalora.initial_rank": Case(
        _each(lambda layer: layer.e.shape == (9,)), adalora(initial_rank=9), adalora()
    ),
    "peft:adalora.target_rank": Case(
        _allocates(lambda ranks: ranks.last == 3 * 14), adalora(target_rank=3), adalora()
    ),
    "peft:adalora.alpha": Case(_each(lambda layer: layer.scale == 0.5), adalora(alpha=6), adalora()),
    "peft:adalora.dropout": Case(_drops, adalora(dropout=0.3), adalora()),
    "peft:adalora.targets": Case(_beside_queries, adalora(targets=["query"]), adalora()),
    "peft:adalora.fall_begin": Case(
        _allocates(lambda ranks: ranks.begin == 30), adalora(fall_begin=0.3), adalora()
    ),
    "peft:adalora.fall_end": Case(
        _allocates(lambda ranks: ranks.end == 90), adalora(fall_end=0.9), adalora()
    ),
    "peft:adalora.every": Case(_allocates(lambda ranks: ranks.every == 7), adalora(every=7), adalora()),
    "peft:adalora.beta_1": Case(
        _allocates(lambda ranks: ranks.betas == (0.5, 0.85)), adalora(beta_1=0.5), adalora()
    ),
    "peft:adalora.beta_2": Case(
        _allocates(lambda ranks: ranks.betas == (0.85, 0.5)), adalora(beta_2=0.5), adalora()
    ),
    "peft:adalora.orthogonality": Case(
        _allocates(lambda ranks: float(ranks.penalty()) == 0.0), adalora(orthogonality=0.0), adalora()
    ),
    "peft:adalora.base_dtype": Case(_in_bytes, adalora(base_dtype="int8"), adalora()),
    "peft:adalora.train": Case(_norm_is_trained, adalora(train=["*final_norm*"]), adalora()),
    "peft:adapters": Case(_behind_branches, adapters(), lora()),
    "peft:adapters.width": Case(_each(lambda layer: layer.width == 3), adapters(width=3), adapters()),
    "peft:adapters.activation": Case(
        _each(lambda layer: layer.activation == "relu"), adapters(activation="relu"), adapters()
    ),
    "peft:adapters.base_dtype": Case(_in_bytes, adapters(base_dtype="int8"), adapters()),
    "peft:adapters.train": Case(_norm_is_trained, adapters(train=["*final_norm*"]), adapters()),
    "peft:freeze": Case(_frozen(lambda model: set()), freeze(), lora()),
    "peft:freeze.first_layers": Case(_frozen(_first_block), freeze(first_layers=1), freeze()),
    "peft:freeze.patterns": Case(
        _frozen(lambda model: {"final_norm/scale"}), freeze(patterns=["*/value/*", "*final_norm*"]), freeze()
    ),
    "peft:freeze.train": Case(
        _norm_is_trained, freeze(patterns=["*"], train=["*final_norm*"]), freeze(patterns=["*/final_norm/*"])
    ),
    "peft": Case(_adds_little, lora(), {}),
    "peft:lora": Case(_beside_all_in_blocks, lora(), {}),
    "peft:lora.rank": Case(_each(lambda layer: layer.a.shape[1] == 3), lora(rank=3), lora()),
    "peft:lora.alpha": Case(_each(lambda layer: layer.scale == 0.5), lora(alpha=4), lora()),
    "peft:lora.dropout": Case(_drops, lora(dropout=0.3), lora()),
    "peft:lora.targets": Case(_beside_queries, lora(targets=["query"]), lora()),
    "peft:lora.scaling": Case(
        _each(lambda layer: layer.scale == 8.0), lora(rank=4, scaling="rslora"), lora(rank=4)
    ),
    "peft:lora.rank_pattern": Case(
        _of_patterns(lambda layer: layer.a.shape[1] == 2), lora(rank_pattern={"query": 2}), lora()
    ),
    "peft:lora.alpha_pattern": Case(
        _of_patterns(lambda layer: layer.scale == 0.5), lora(alpha_pattern={"*/query": 4}), lora()
    ),
    "peft:lora.base_dtype": Case(_in_bytes, lora(base_dtype="int8"), lora(base_dtype="bfloat16")),
    "peft:lora.train": Case(_norm_is_trained, lora(train=["*final_norm*"]), lora()),
}


# Those that ask for files.
OF_FILES = {"peft:lora.source": Case(_goes_on, lora(source="{adapter}"), lora())}
CASES |= OF_FILES


def test_it_goes_on_from_the_adapter_that_is_named(started):
    hold(OF_FILES["peft:lora.source"], started)


@pytest.mark.parametrize("key", sorted(CASES.keys() - OF_FILES.keys()))
def test_what_is_trained_is_what_the_keys_say(key):
    hold(CASES[key], made)
