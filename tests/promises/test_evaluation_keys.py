"""The keys of evaluation: what is told of text that was held out."""

import functools
import json
import types

import pytest

from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tests.tasks.test_seq2seq import write_pairs
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.language_model.language_model import LanguageModel
from tfllm.tokenizers.byte import ByteTokenizer

SIZES = {"num_encoder_layers": 1, "num_decoder_layers": 1, "hidden_dim": 8, "num_heads": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Saves a model that has learned nothing, and tests it as a training does at its end."""
    folder = tmp_path_factory.mktemp("texts")
    write_pairs(folder, 40)
    train = {"type": "csv", "path": str(folder / "pairs.tsv"), "columns": {"source": "en", "target": "fr"}}

    @functools.cache
    def tested(text):
        sections = {
            "task": "seq2seq",
            "model": {"type": "encoder_decoder", **SIZES},
            "data": {"train": train, "test_fraction": 0.4, "seq_len": 64},
            "generation": {"max_new_tokens": 2},
            "training": {"jit_compile": False, "global_batch_size": 8},
        }
        config = config_from_mapping(mapping("unused", **sections, evaluation=json.loads(text)))
        tokenizer = ByteTokenizer()
        model = experiment.make_model(config, tokenizer.vocab_size)
        run = tmp_path_factory.mktemp("run")
        LanguageModel(model, tokenizer, config).save(run)
        experiment.final_test(run, notify=lambda line: None)
        measured = experiment.measure(config, model, tokenizer, "test")
        found = json.loads((run / "test.json").read_text())
        return types.SimpleNamespace(found=found, predictions=measured.evaluation.predictions)

    return lambda values: tested(json.dumps(values))


def _two_metrics(tested):
    assert set(tested.found) == {"step", "split", "chosen_by", "loss", "chrf", "signatures"}


def _few_examples(tested):
    assert len(tested.predictions) == 3


def _intervals(tested):
    assert "intervals" in tested.found
    least, most = tested.found["intervals"]["chrf"]
    assert least <= tested.found["chrf"] <= most


CASES = {
    "evaluation.metrics": Case(_two_metrics, {"metrics": ["chrf"]}, {}),
    "evaluation.max_examples": Case(_few_examples, {"max_examples": 3}, {}),
    "evaluation.bootstrap_samples": Case(_intervals, {"bootstrap_samples": 40}, {}),
}


@pytest.mark.parametrize("key", CASES)
def test_what_is_told_is_what_the_keys_say(key, made):
    hold(CASES[key], made)
