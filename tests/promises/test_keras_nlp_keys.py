"""The keys of models of KerasHub, in the models built from them."""

import json

import numpy as np
import pytest

from tests.commands.test_keras_nlp_run import GPT2, LLAMA
from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import ConfigError, config_from_mapping
from tfllm.experiment.model_source import start_from_source
from tfllm.language_model import LanguageModel
from tfllm.tokenizers.byte import ByteTokenizer

TYPE = {"type": "keras_nlp"}
BACKBONE = {**TYPE, "backbone": "LlamaBackbone", "arguments": LLAMA}
PRESET = {**TYPE, "preset": "{folder}/preset"}
SOURCE = {**BACKBONE, "source": "{folder}/run"}


class Built:
    def __init__(self, section, there):
        self.there, self.model, self.error = there, None, ""
        try:
            config = _config(section)
        except ConfigError as error:
            self.error = str(error)
            return
        self.model = experiment.make_model(config, 259)
        if config.model.source is not None:
            start_from_source(config, self.model, notify=lambda words: None)
        self.weights = [v.numpy() for v in self.model.variables]


def _config(section):
    settings = mapping("unused", model=section, seed=3)
    settings["data"]["packing"] = False
    return config_from_mapping(settings, for_training=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras_nlp")
    config = _config(BACKBONE)
    model = experiment.make_model(config, 259)
    for variable in model.variables:  # not what another model begins with
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    there = [v.numpy() for v in model.variables]
    model.backbone.save_to_preset(str(folder / "preset"))
    LanguageModel(model, ByteTokenizer(), config).save(folder / "run")
    built = {}

    def build(section):
        text = json.dumps(section).replace("{folder}", str(folder))
        if text not in built:
            built[text] = Built(json.loads(text), there)
        return built[text]

    return build


def _those_weights(built):
    assert len(built.weights) == len(built.there)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(built.weights, built.there, strict=True))


def _is_gpt2(built):
    assert type(built.model.backbone).__name__ == "GPT2Backbone"


def _arguments(built):
    assert built.model.num_layers == 3


def _vocab_size(built):
    assert built.model.vocab_size == 300


def _max_seq_len(built):
    assert built.model.max_seq_len == 24


CASES = {
    "model:keras_nlp": Case(lambda built: _is_keras_nlp(built), BACKBONE, {"type": "decoder"}),
    "model:keras_nlp.preset": Case(_those_weights, PRESET, BACKBONE),
    "model:keras_nlp.backbone": Case(
        _is_gpt2, {**TYPE, "backbone": "GPT2Backbone", "arguments": GPT2}, BACKBONE
    ),
    "model:keras_nlp.arguments": Case(
        _arguments, {**BACKBONE, "arguments": {**LLAMA, "num_layers": 3}}, BACKBONE
    ),
    "model:keras_nlp.source": Case(_those_weights, SOURCE, BACKBONE),
    "model:keras_nlp.vocab_size": Case(_vocab_size, {**BACKBONE, "vocab_size": 300}, BACKBONE),
    "model:keras_nlp.max_seq_len": Case(_max_seq_len, {**BACKBONE, "max_seq_len": 24}, BACKBONE),
}


def _is_keras_nlp(built):
    assert type(built.model).__name__ == "KerasNlpModel"


@pytest.mark.parametrize("key", CASES)
def test_the_model_is_what_its_keys_say(key, made):
    hold(CASES[key], made)
