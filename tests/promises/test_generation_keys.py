"""The keys of generation: in what a trained model says by them."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.promises.case import Case, hold
from tests.promises.runs import mapping
from tfllm import experiment
from tfllm.config import config_from_mapping
from tfllm.language_model import LanguageModel
from tfllm.tokenizers.byte import ByteTokenizer

PROMPTS = ["ban", "kon len", "d"]
LONG = {"max_new_tokens": 8, "temperature": 1.5, "top_p": 1.0}
GREEDY = {**LONG, "temperature": 0.0}


class Said:
    """What a model says with a `generation` section: token ids, a row a prompt."""

    def __init__(self, lm, section):
        config = config_from_mapping(
            {**mapping("unused"), "model": lm.section, "generation": section}, for_training=False
        )
        self.lm = LanguageModel(lm.model, lm.tokenizer, config, jit_compile=False)
        self.section = section
        generator, said = self.lm.generator, []
        self.lm.generator = lambda ids, **settings: said.append(generator(ids, **settings)) or said[-1]
        self.texts = self.lm.generate(PROMPTS)
        self.ids = [list(map(int, row)) for row in said[0]]

    def greedy(self):
        """The likeliest tokens one by one, from whole rows without a cache."""
        found = []
        for prompt in PROMPTS:
            row = self.lm.encode(prompt)
            start = len(row)
            while len(row) < start + self.section["max_new_tokens"]:
                logits = self.lm.model({"token_ids": tf.constant([row])})["logits"][0, -1].numpy()
                row.append(int(np.argmax(logits)))
            found.append(row[start:])
        return found


class Speaker:
    """A model that ends no text by itself, and one token of its own."""

    def __init__(self):
        self.tokenizer = ByteTokenizer(extra_special_tokens=["<|user|>"])
        self.section = {
            **{"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "initializer_range": 0.4},
            **{"max_seq_len": 32, "vocab_size": 260, "tie_embeddings": False},
        }
        config = config_from_mapping({**mapping("unused"), "model": self.section}, for_training=False)
        self.model = experiment.make_model(config, 260)
        output = self.model.output_projection.kernel
        output.assign(np.where(np.arange(260) >= 256, 0.0, output.numpy()))  # far from the likeliest


@pytest.fixture(scope="module")
def made():
    speaker, said = Speaker(), {}

    def say(section):
        text = json.dumps(section)
        if text not in said:
            said[text] = Said(speaker, section)
        return said[text]

    return say


def _greedy(said):
    assert said.ids == said.greedy()


def _two_tokens(said):
    assert [len(ids) for ids in said.ids] == [2, 2, 2]


def _nothing_twice(said):
    for prompt, ids in zip(PROMPTS, said.ids, strict=True):
        row = [*said.lm.encode(prompt), *ids]
        assert ids and len(set(row[-len(ids) :])) == len(ids)
        assert not set(ids) & set(said.lm.encode(prompt))


def keyed(key, value, shows, beside):
    return Case(shows, {**beside, key: value}, {k: v for k, v in beside.items() if k != key})


KEYED = {
    "generation.max_new_tokens": Case(_two_tokens, {**GREEDY, "max_new_tokens": 2}, GREEDY),
    "generation.temperature": keyed("temperature", 0.0, _greedy, LONG),
    "generation.top_k": keyed("top_k", 1, _greedy, LONG),
    "generation.top_p": keyed("top_p", 1e-6, _greedy, {"max_new_tokens": 8, "temperature": 1.5}),
    "generation.repetition_penalty": keyed("repetition_penalty", 1e9, _nothing_twice, GREEDY),
}


@pytest.mark.parametrize("key", KEYED)
def test_what_is_said_is_by_the_key(key, made):
    hold(KEYED[key], made)


def _ends_before_the_user(said):
    assert said.ids == [[], [], []]


BY_ITSELF = {
    "generation.seed": Case(lambda pair: _differ(*pair), {**LONG, "seed": 7}, LONG),
    "generation.stop_tokens": Case(_ends_before_the_user, {**GREEDY, "stop_tokens": ["<|user|>"]}, GREEDY),
}


def _differ(one, other):
    assert one.ids != other.ids


def test_another_seed_is_another_text(made):
    hold(BY_ITSELF["generation.seed"], lambda section: (made(section), made(LONG)))
    assert Said(Speaker(), {**LONG, "seed": 7}).ids == made({**LONG, "seed": 7}).ids


def test_a_stop_token_ends_the_text():
    """The model takes every turn for the user's."""
    speaker = Speaker()

    class OnlyUser(type(speaker.model)):
        def logits(self, hidden_states):
            return super().logits(hidden_states) + tf.one_hot(259, 260) * 99.0

    speaker.model.__class__ = OnlyUser
    hold(BY_ITSELF["generation.stop_tokens"], lambda section: Said(speaker, section))


CASES = {**KEYED, **BY_ITSELF}
