"""The keys that start a model from another: `model.source` and its like, pretrained models, models of KerasHub."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import ConfigError, config_from_mapping
from tfllm.config.build import to_mapping
from tfllm.experiment.model_source import expand, start_from_source
from tfllm.language_model import LanguageModel
from tfllm.tokenizers.byte import ByteTokenizer

SMALL = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "initializer_range": 0.5}
ENCODER = {"type": "encoder", **SMALL, "head": "masked_lm", "tie_embeddings": False}
T5 = {
    **{"type": "encoder_decoder", "num_encoder_layers": 1, "num_decoder_layers": 1, "hidden_dim": 8},
    **{"num_heads": 2, "initializer_range": 0.5, "tie_embeddings": False},
}
UNTIED = {"type": "decoder", **SMALL, "tie_embeddings": False}


class Started:
    """A model at the start of a training, and the one it starts from."""

    def __init__(self, section, there):
        self.section, self.there, self.error = section, there, ""
        more = {"task": "masked_lm"} if section.get("pooling") else {}
        settings = mapping("unused", model=section, seed=9, **more)
        try:
            self.config = expand(config_from_mapping(settings, for_training=False))
        except ConfigError as error:
            self.error = str(error)
            return
        self.model = experiment.make_model(self.config, 259)
        if self.config.model.source is not None:
            start_from_source(self.config, self.model, notify=lambda words: None)
        self.weights = {v.path: v.numpy() for v in self.model.variables}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Saves a model of a section -> its folder and its weights by path."""

    @functools.cache
    def save(name):
        section = {"decoder": UNTIED, "encoder": ENCODER, "encoder_decoder": T5}[name]
        config = config_from_mapping(mapping("unused", model=section), for_training=False)
        model = experiment.make_model(config, 259)
        folder = tmp_path_factory.mktemp(name) / "run"
        LanguageModel(model, ByteTokenizer(), config).save(folder)
        return str(folder), {v.path: v.numpy() for v in model.variables}

    return save


HEADS = ("output_projection/", "masked_lm_head/")


def _same(started):
    assert all(np.array_equal(value, started.there[path]) for path, value in started.weights.items())


def _new_head_only(started):
    assert not started.error
    for path, value in started.weights.items():
        same = np.array_equal(value, started.there[path])
        redrawn = path.endswith("kernel") and any(head in path for head in HEADS)
        assert same == (not redrawn), path


def of_source(kind, section):
    def source(**keys):
        return {**section, "source": f"{{{kind}}}", **keys}

    return {
        f"model:{kind}.source": Case(_same, source(), section),
        f"model:{kind}.new_head": Case(_new_head_only, source(new_head=True), source()),
    }


PRETRAINED = {"type": "pretrained", "source": "{decoder}"}


def _more_tokens(started):
    table = started.weights["decoder/token_embedding/embeddings"]
    before = started.there["decoder/token_embedding/embeddings"]
    assert table.shape == (270, 8)
    np.testing.assert_array_equal(table[:259], before)
    np.testing.assert_allclose(table[259:], np.tile(before.mean(0), [11, 1]), atol=1e-6)


def _longer(started):
    assert started.model.max_seq_len == 40


def _drops(started):
    assert started.config.model.dropout == 0.5
    ids = {"token_ids": tf.ones([2, 6], tf.int32), "row_seeds": tf.constant([1, 2])}
    dropped, kept = (started.model(ids, training=on)["hidden_states"].numpy() for on in (True, False))
    assert np.abs(dropped - kept).max() > 1e-3


def _pools(started):
    assert not started.error and started.model.pooling == "mean"


CASES = {
    **of_source("decoder", UNTIED),
    **of_source("encoder", ENCODER),
    **of_source("encoder_decoder", T5),
    "model:pretrained": Case(_same, PRETRAINED, UNTIED),
    "model:pretrained.source": Case(_same, PRETRAINED, UNTIED),
    "model:pretrained.new_head": Case(_new_head_only, {**PRETRAINED, "new_head": True}, PRETRAINED),
    "model:pretrained.vocab_size": Case(_more_tokens, {**PRETRAINED, "vocab_size": 270}, PRETRAINED),
    "model:pretrained.max_seq_len": Case(_longer, {**PRETRAINED, "max_seq_len": 40}, PRETRAINED),
    "model:pretrained.pooling": Case(
        _pools,
        {"type": "pretrained", "source": "{encoder}", "pooling": "mean"},
        {"type": "pretrained", "source": "{encoder}", "pooling": "first"},
    ),
    "model:pretrained.dropout": Case(_drops, {**PRETRAINED, "dropout": 0.5}, PRETRAINED),
}


@pytest.mark.parametrize("key", CASES)
def test_a_model_starts_from_another(key, saved):
    kind = next(
        k for k in ("encoder_decoder", "encoder", "decoder") if k in key or k in str(CASES[key].values)
    )

    def made(section):
        folder, there = saved(kind)
        section = {k: folder if v == f"{{{kind}}}" else v for k, v in section.items()}
        return Started(section, there)

    hold(CASES[key], made)


@pytest.mark.slow
def test_a_training_begins_with_the_weights_of_its_source(runs):
    """The first evaluation of the one is the last of the other."""
    base = runs({})
    tuned = runs({"model.source": str(base.folder), "training.steps": 2}, stop_at=1)
    assert tuned.statuses == [143, 0], tuned.words
    losses = base.lines("validation")[-1]["loss"], tuned.lines("validation")[0]["loss"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert tuned.lines("validation")[-1]["loss"] < losses[0]
    assert to_mapping(tuned.lm.config)["model"]["source"] == str(base.folder)
