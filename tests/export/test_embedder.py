"""Sentence encoders as SavedModels: what the graph says of texts is what `lm.embed` says."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.export.test_hub_encoder import TEXTS, small_encoder, wordpiece
from tfllm.commands.export import export_run
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.convert.sentence_modules import Dense, SentenceModules
from tfllm.export.embedder import export_embedder
from tfllm.export.errors import ExportError


def language_model(modules=None):
    config = config_from_mapping(
        {
            "name": "m",
            "task": "masked_lm",
            "model": {
                "type": "encoder",
                "num_layers": 2,
                "hidden_dim": 16,
                "num_heads": 2,
                "max_seq_len": 16,
            },
            "data": {"seq_len": 16},
        },
        for_training=False,
    )
    model = small_encoder(head="masked_lm")
    return tfllm.LanguageModel(model, wordpiece(), config, sentence_modules=modules)


MODULES = {
    "none": None,
    "mean": SentenceModules(("mean",), (None,)),
    "first, as it is": SentenceModules(("cls",)),
    "last, short": SentenceModules(("lasttoken",), (None,), max_seq_length=5),
    "with a prompt": SentenceModules(("mean",), (None,), prompts={"query": "new, "}, default_prompt="query"),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_export_says_what_embed_says(name, tmp_path):
    lm = language_model(MODULES[name])
    lm.save(tmp_path / "run")
    exported = export_run(tmp_path / "run")
    served = tf.saved_model.load(str(exported)).signatures["serving_default"]
    answers = served(text=tf.constant(TEXTS))
    np.testing.assert_allclose(answers["vector"], lm.embed(TEXTS), atol=2e-6)
    assert np.abs(answers["vector"][0] - answers["vector"][1]).max() > 0.01
    cut = answers["tokens_dropped"].numpy()
    assert (cut > 0).tolist() == [name == "last, short", False, name == "last, short", False]
    assert served(text=tf.constant([], tf.string))["vector"].shape == (0, 16)


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        (SentenceModules(("mean", "max"), (None,)), "pooling mean, max is not exported"),
        (SentenceModules(("max",), (None,)), "pooling max is not exported"),
        (
            SentenceModules(("mean",), (Dense(np.eye(16, dtype=np.float32), None, "Tanh"),)),
            "layers behind the pooling",
        ),
        (SentenceModules(("mean",), do_lower_case=True), "with do_lower_case"),
        (
            SentenceModules(("mean",), include_prompt=False, prompts={"q": "new"}, default_prompt="q"),
            "prompts that are not pooled",
        ),
    ],
)
def test_what_no_graph_says_is_refused_by_name(modules, words, tmp_path):
    language_model(modules).save(tmp_path / "run")
    with pytest.raises(ExportError, match=words):
        export_run(tmp_path / "run")
    assert not (tmp_path / "run/export").exists()


def test_a_pooling_that_is_none_is_refused(tmp_path):
    lm = language_model()
    with pytest.raises(ExportError, match="pooling='max' is not known; use first, mean, last"):
        export_embedder(lm.model, lm.tokenizer, tmp_path, pooling="max")


def test_what_a_contrastive_training_learns_is_exported_at_its_end(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"word {i % 7} and {i},word {i % 7} or {i}" for i in range(60)]
    (tmp_path / "pairs.csv").write_text("anchor,positive\n" + "\n".join(lines))
    mapping = {
        "name": "pairs",
        "task": {"type": "contrastive", "pooling": "last"},
        "tokenizer": {"type": "byte_bpe", "vocab_size": 280},
        "model": {"type": "encoder", "num_layers": 1, "hidden_dim": 16, "num_heads": 2},
        "data": {
            "train": {"type": "csv", "path": "pairs.csv"},
            "validation_fraction": 0.3,
            "seq_len": 24,
            "num_workers": 1,
        },
        "training": {"steps": 2, "global_batch_size": 8, "jit_compile": False},
        "export": {"at_end": True},
    }
    (tmp_path / "pairs.yaml").write_text(json.dumps(mapping))
    assert main(["train", "pairs.yaml"]) == 0
    [exported] = (tmp_path / "runs/pairs/export").iterdir()
    texts = ["word 3 and 5", "word " * 30, ""]
    answers = tf.saved_model.load(str(exported)).signatures["serving_default"](text=tf.constant(texts))
    lm = tfllm.load("runs/pairs", jit_compile=False)
    np.testing.assert_allclose(answers["vector"], lm.embed(texts), atol=2e-6)
    assert answers["tokens_dropped"].numpy()[1] > 0
    with pytest.raises(ConfigError, match=r"export.at_end=true is for models that generate"):
        config_from_mapping({**mapping, "task": "masked_lm", "data": {"train": "python_docs"}})
