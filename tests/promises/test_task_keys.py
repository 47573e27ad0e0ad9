"""The keys of tasks: what they make of rows."""

import functools
import json

import numpy as np
import pytest

from tests.promises.case import Case, hold
from tests.promises.runs import documents, mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.data.pipeline import training_batches


class Fed:
    """The rows of a config, and what its task makes of them for the model."""

    def __init__(self, config):
        prepared = experiment.prepare(config)
        self.tokenizer, store = prepared.tokenizer, prepared.train
        self.task = experiment.make_task(config, self.tokenizer)
        [batch] = training_batches(
            store, global_batch_size=64, seed=0, num_steps=1, transform=self.task.features
        )
        [plain] = training_batches(store, global_batch_size=64, seed=0, num_steps=1, transform=dict)
        self.features = {name: x.numpy() for name, x in batch.items()}
        self.rows = {name: x.numpy() for name, x in plain.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    (folder / "text.txt").write_text("\n\n".join(documents(60)))

    @functools.cache
    def feed(text):
        sections = json.loads(text)
        bpe = {"type": "byte_bpe", "vocab_size": 280}
        return Fed(config_from_mapping(mapping(folder / "text.txt", **{"tokenizer": bpe, **sections})))

    return lambda sections: feed(json.dumps(sections))


ENCODER = {"type": "encoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 2}


def masked(**keys):
    return {"task": {"type": "masked_lm", **keys}, "model": ENCODER}


def _hides(fed):
    assert "masked_positions" in fed.features and (fed.features["token_ids"] == fed.tokenizer.mask_id).any()


def _share(fed):
    share = fed.features["masked_weights"].sum() / (fed.rows["words"] > 0).sum()
    assert abs(share - 0.4) < 0.05, share


def _none_is_a_mask(fed):
    assert (fed.features["token_ids"] != fed.rows["token_ids"]).sum() > 50
    assert not (fed.features["token_ids"] == fed.tokenizer.mask_id).any()


def _whole(fed):
    number = fed.rows["segment_ids"] * 1000 + fed.rows["words"]
    broken = 0
    for row, (places, weights) in enumerate(
        zip(fed.features["masked_positions"], fed.features["masked_weights"], strict=True)
    ):
        hidden = np.zeros(number.shape[1], bool)
        hidden[places[weights > 0]] = True
        broken += len(set(number[row, hidden].tolist()) & set(number[row, ~hidden].tolist()))
    assert broken == 0


CASES = {
    "task:masked_lm": Case(_hides, masked(), {"task": "causal_lm"}),
    "task:masked_lm.mask_rate": Case(_share, masked(mask_rate=0.4), masked()),
    "task:masked_lm.mask_split": Case(_none_is_a_mask, masked(mask_split=[0.0, 1.0, 0.0]), masked()),
    "task:masked_lm.whole_words": Case(_whole, masked(whole_words=True), masked()),
}


@pytest.mark.parametrize("key", CASES)
def test_the_model_is_given_what_the_task_makes(key, made):
    hold(CASES[key], made)
