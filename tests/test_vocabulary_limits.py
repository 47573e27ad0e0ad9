"""A tokenizer with more tokens than its model has rows, as Gemma 3 1B is published: through load, generate and export."""

import json

import pytest
import tensorflow as tf

import tfllm
from tests.tiny import tiny_lm
from tfllm.config import ConfigError
from tfllm.experiment import make_model
from tfllm.export.errors import ExportError
from tfllm.export.saved_model import export_saved_model
from tfllm.generation.errors import GenerationError
from tfllm.tokenizers import read_tokenizer
from tfllm.tokenizers.tokenizer import TOKENIZER_FILE

PROMPTS = ["the quick brown", "lazy"]


@pytest.fixture(scope="module")
def lm():
    """290 tokens, of which the model has 288; padding and a turn's end are among the others."""
    made = tiny_lm(vocab_size=288)
    assert made.tokenizer.vocab_size == 290 and made.tokenizer.special_tokens["<|end|>"] == 289
    return made


def answers(lm):
    return lm.generate(PROMPTS, max_new_tokens=6, temperature=0.0)


def with_token(lm, folder, **token):
    """The tokenizer with one more token, read from a file as others write it."""
    lm.tokenizer.save(folder)
    content = json.loads((folder / TOKENIZER_FILE).read_text())
    content["added_tokens"].append(
        {"id": 290, "lstrip": False, "rstrip": False, "normalized": False, **token}
    )
    (folder / TOKENIZER_FILE).write_text(json.dumps(content))
    return read_tokenizer(folder)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_only_tokens_that_the_model_has_are_chosen(lm, jit_compile):
    lm = tfllm.LanguageModel(lm.model, lm.tokenizer, lm.config, jit_compile=jit_compile)
    ids = lm.generator([[1, 2, 3], [4]], max_new_tokens=20, temperature=1.0, top_p=1.0, seed=0)
    assert max(max(row) for row in ids) < 288
    plain = tfllm.LanguageModel(lm.model, lm.tokenizer, lm.config, jit_compile=False)
    assert answers(lm) == answers(plain)


def test_padding_beyond_the_model_changes_nothing(lm, tmp_path):
    tokenizer = with_token(lm, tmp_path, content="[PAD]", special=True)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**tokenizer.roles, "pad_token": "[PAD]"}))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.pad_id == 290
    other = tfllm.LanguageModel(lm.model, tokenizer, lm.config, jit_compile=False)
    assert answers(other) == answers(lm)


def test_a_prompt_with_a_token_that_the_model_has_not_is_refused_by_name(lm):
    with pytest.raises(
        GenerationError, match=r"prompt 2 holds the token '<\|end\|>' with id 289; the model has 288"
    ):
        lm.generator([[1], [2, 289]], max_new_tokens=4)
    with pytest.raises(GenerationError, match=r"holds the token '<\|user\|>' with id 288"):
        lm.generate("hello", chat=True)


@pytest.mark.slow
def test_what_is_saved_is_loaded_and_exported_and_converted(lm, tmp_path):
    expected = answers(lm)
    lm.save(tmp_path / "saved")
    again = tfllm.load(tmp_path / "saved", jit_compile=False)
    assert answers(again) == expected
    again.save(tmp_path / "huggingface", to="huggingface")
    there = tfllm.load(tmp_path / "huggingface", jit_compile=False, notify=lambda line: None)
    assert (there.model.vocab_size, there.tokenizer.vocab_size) == (288, 290)
    assert answers(there) == expected
    there.save(tmp_path / "again")
    assert answers(tfllm.load(tmp_path / "again", jit_compile=False)) == expected
    folder = export_saved_model(
        again.model, again.tokenizer, tmp_path / "export", generation=again.config.generation
    )
    served = tf.saved_model.load(str(folder))
    settings = {
        "max_new_tokens": [6, 6],
        "temperature": [0.0, 0.0],
        "top_k": [0, 0],
        "top_p": [1.0, 1.0],
        "repetition_penalty": [1.0, 1.0],
        "seed": [0, 0],
    }
    found = served.signatures["generate"](
        prompt=tf.constant(PROMPTS), **{name: tf.constant(value) for name, value in settings.items()}
    )
    assert [text.decode() for text in found["text"].numpy()] == expected


def test_words_that_a_prompt_may_make_are_refused_when_exporting(lm, tmp_path):
    tokenizer = with_token(lm, tmp_path / "tokenizer", content="covid", special=False)
    with pytest.raises(ExportError, match="token 'covid' has the id 290, and the model only 288"):
        export_saved_model(lm.model, tokenizer, tmp_path / "export", generation=lm.config.generation)


def test_a_model_is_not_trained_without_rows_for_all_tokens(lm):
    with pytest.raises(ConfigError, match="is less than the 290 tokens"):
        make_model(lm.config, 290, training=True)
