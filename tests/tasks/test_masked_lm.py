"""Masked language modelling: the loss of what was hidden, however rows are divided, packed or gone on with."""

import json

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.data.fakes import ListSource
from tests.marks import mostly_slow
from tests.tiny import randomized, weights
from tests.training.toy import DIVISIONS, assert_same_training, run_steps, toy_step
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data import prepare_rows
from tfllm.data.pipeline import evaluation_batches, training_batches
from tfllm.evaluation.evaluator import Evaluator
from tfllm.experiment import make_model
from tfllm.experiment.model_source import expand, start_from_source
from tfllm.language_model import LanguageModel
from tfllm.models.encoder import Encoder
from tfllm.tasks.errors import TaskError
from tfllm.tasks.masked_lm import MaskedLM
from tfllm.tokenizers import ByteBPETokenizer, ByteTokenizer

T = 32
TEXTS = [" ".join(f"word{(i * k) % 7} and{k}," for k in range(1 + 3 * (i % 9))) for i in range(40)]


@pytest.fixture(scope="module")
def tokenizer():
    return ByteBPETokenizer.train(TEXTS, vocab_size=300, other_roles={"mask_token": "<|mask|>"})


def encoder(tokenizer, dropout=0.25, **arguments):
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "max_seq_len": T, "head": "masked_lm"}
    return randomized(Encoder(vocab_size=tokenizer.vocab_size, dropout=dropout, **sizes, **arguments))


def rows_of(tokenizer, folder, packing=True):
    maker = MaskedLM(tokenizer=tokenizer).examples_of(tokenizer, seq_len=T, packing=packing)
    return prepare_rows(
        source=ListSource(TEXTS),
        tokenizer=tokenizer,
        seq_len=T,
        packing=packing,
        maker=maker,
        cache_dir=folder,
    )


@pytest.fixture(scope="module")
def store(tokenizer, tmp_path_factory):
    return rows_of(tokenizer, tmp_path_factory.mktemp("rows"))


def batches(store, task, start=0, stop=3, **settings):
    return training_batches(
        store,
        global_batch_size=8,
        seed=1,
        start_step=start,
        num_steps=stop,
        transform=task.features,
        aligned=task.aligned,
        **settings,
    )


def test_rows_hold_every_token_once_framed_as_the_tokenizer_frames(store, tokenizer):
    rows = store.read(range(store.num_rows))
    texts = []
    for ids, segments, words in zip(rows["token_ids"], rows["segment_ids"], rows["words"], strict=True):
        for segment in range(1, segments.max() + 1):
            own = ids[segments == segment].tolist()
            assert own[: len(tokenizer.prefix_ids)] == list(tokenizer.prefix_ids)
            texts.append(tokenizer.decode(own))
            marks = words[segments == segment]
            assert marks[0] == 0 and marks[1] == 1 and set(np.diff(marks[1:])) <= {0, 1}
    assert sorted("".join(texts)) == sorted("".join(TEXTS))
    assert rows["segment_ids"].max() > 2, "several to a row"
    assert store.num_bytes == sum(len(text.encode()) for text in TEXTS)


@pytest.fixture(scope="module")
def task(tokenizer):
    return MaskedLM(tokenizer=tokenizer, whole_words=True)


SGD = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1}


def steps(task, store, tokenizer, **arguments):
    step = toy_step(
        task=task, make=lambda **made: encoder(tokenizer, made["dropout"]), clip_norm=0.1, **SGD, **arguments
    )
    return run_steps(step, 3, batches(store, task))


@pytest.fixture(scope="module")
def whole(task, store, tokenizer):
    return steps(task, store, tokenizer)


def test_only_what_was_hidden_is_learned(task, store, tokenizer, whole):
    """The loss over the places that are projected is that over all of them, with weights."""
    features = next(iter(batches(store, task)))
    model = encoder(tokenizer)
    logits = model(features, training=True)["logits"].numpy().astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = weight = 0.0
    for row in range(8):
        real = features["masked_weights"][row].numpy() > 0
        places = features["masked_positions"][row].numpy()[real]
        targets = features["masked_targets"][row].numpy()[real]
        loss -= logs[row, places, targets].sum()
        weight += real.sum()
    assert whole[0][0, 0] == pytest.approx(loss, rel=1e-5) and whole[0][0, 1] == weight > 10
    counts = features["masked_weights"].numpy().sum(axis=1)
    assert counts.max() > counts.min(), "uneven weights, so that a mean of means would show"


@pytest.mark.parametrize("division", mostly_slow(DIVISIONS, ["2 x 2"]))
def test_replicas_and_microbatches_equal_one_device(task, store, tokenizer, whole, division):
    assert_same_training(whole, steps(task, store, tokenizer, **DIVISIONS[division]))


def test_a_run_that_goes_on_sees_the_masks_it_would_have_seen(task, store):
    whole, rest = (list(batches(store, task, start, 6)) for start in (0, 4))
    for one, other in zip(whole[4:], rest, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)


def test_packed_segments_are_as_they_are_alone(tokenizer, store):
    """Outputs and losses of a row's segments, of which each sees itself only."""
    model = encoder(tokenizer, 0.0)
    row = store.read([0])
    together = model({name: tf.constant(row[name]) for name in ("token_ids", "segment_ids")})[
        "logits"
    ].numpy()[0]
    for segment in range(1, row["segment_ids"].max() + 1):
        own = row["segment_ids"][0] == segment
        alone = model({"token_ids": tf.constant(row["token_ids"][:, own])})["logits"][0]
        np.testing.assert_allclose(together[own], alone, atol=1e-5)


@pytest.mark.parametrize("packing", mostly_slow([True, False], [False]))
def test_metrics_do_not_depend_on_the_batch_size(task, tokenizer, tmp_path, packing):
    store = rows_of(tokenizer, tmp_path, packing)
    model = encoder(tokenizer, 0.0)

    def metrics(size):
        rows = evaluation_batches(
            store, batch_size=size, transform=task.features, aligned=task.aligned, buckets=[16, T]
        )
        return Evaluator(model=model, task=task, batches=lambda: rows, jit_compile=False).evaluate()

    whole = metrics(64)
    assert metrics(5) == pytest.approx(whole, rel=1e-5) and metrics(5) == metrics(5)
    assert 0 <= whole["masked_accuracy"] < 0.5 and whole["masked_tokens"] > 30
    assert whole["perplexity"] == pytest.approx(np.exp(whole["loss"]))


def test_a_tokenizer_without_a_mask_token_is_refused():
    with pytest.raises(TaskError, match="needs a tokenizer with a mask token, and this one has none"):
        MaskedLM(tokenizer=ByteTokenizer())


@pytest.mark.slow
def test_from_yaml_to_an_encoder_that_has_learned(tmp_path, monkeypatch, capfd):
    """Trained, gone on with, evaluated and loaded by the command line; a tokenizer with a mask token comes with it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.csv").write_text("text\n" + "\n".join(f'"{text}"' for text in TEXTS * 3) + "\n")
    (tmp_path / "masked.yaml").write_text(
        """
name: masked
task: {type: masked_lm, mask_rate: 0.2}
tokenizer: {type: byte_bpe, vocab_size: 300}
model: {type: encoder, num_layers: 1, hidden_dim: 32, num_heads: 2}
data: {train: {type: csv, path: text.csv}, seq_len: 32, num_workers: 1}
optimizer: {learning_rate: 0.02, schedule: constant}
training: {steps: 40, global_batch_size: 8, jit_compile: false, log_every: 10, best_metric: masked_accuracy}
"""
    )
    assert main(["train", "masked.yaml", "training.steps=20"]) == 0, capfd.readouterr().err
    assert main(["train", "masked.yaml"]) == 0, capfd.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "runs/masked/metrics.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["split"] == "validation"]
    assert (
        said[-1]["loss"] < 0.8 * said[0]["loss"] and said[-1]["masked_accuracy"] > said[0]["masked_accuracy"]
    )
    capfd.readouterr()
    assert main(["evaluate", "runs/masked"]) == 0
    evaluated = json.loads(capfd.readouterr().out)
    assert evaluated["loss"] == pytest.approx(said[-1]["loss"], rel=1e-6) and evaluated["own_rows"] is True
    lm = tfllm.load("runs/masked", jit_compile=False)
    assert lm.model.head == "masked_lm" and lm.tokenizer.roles["mask_token"] == "<|mask|>"
    assert lm.embed(["word1 and1,"]).shape == (1, 32)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["model=decoder"],
            r"model.type=decoder is not trained by task.type=masked_lm, which needs an encoder",
        ),
        (
            ["model.head=span"],
            r"model.head=span is not trained by task.type=masked_lm, which needs masked_lm",
        ),
        (
            ["task.mask_split=[0.5, 0.1]"],
            r"task.mask_split=\[0.5, 0.1\] must be three shares that add up to 1",
        ),
        (["task.mask_rate=0"], r"task.mask_rate"),
        (
            ["generation.prompts=[hello]"],
            "generation.prompts.*is for models that generate, and an encoder does not",
        ),
        (["export.at_end=true"], "export.at_end=true is for models that generate"),
        (
            ["task=causal_lm"],
            r"model.type=encoder is not trained by task.type=causal_lm, which needs a decoder",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_told_at_once(changes, words):
    mapping = {
        "name": "m",
        "task": "masked_lm",
        "model": {"type": "encoder", "num_layers": 1},
        "data": {"train": "python_docs", "seq_len": 48},
    }
    config_from_mapping(mapping)
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(mapping, changes)


def test_an_encoder_of_another_task_gets_the_head(tmp_path, tokenizer):
    """The trunk is the source's; the head that it lacks is drawn."""
    sizes = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "max_seq_len": T}
    there = randomized(Encoder(vocab_size=tokenizer.vocab_size, pooler="tanh", **sizes))
    section = {"type": "encoder", "pooler": "tanh", **sizes}
    data = {"train": "python_docs", "seq_len": T}
    saved = config_from_mapping({"name": "s", "model": section, "data": data}, for_training=False)
    LanguageModel(there, tokenizer, saved).save(tmp_path / "source")
    model = {"type": "pretrained", "source": str(tmp_path / "source")}
    config = expand(config_from_mapping({"name": "m", "task": "masked_lm", "model": model, "data": data}))
    assert (config.model.head, config.model.new_head) == ("masked_lm", True)
    mine = make_model(config, tokenizer.vocab_size, training=True)
    start_from_source(config, mine, notify=lambda words: None)
    theirs = weights(there)
    for path, value in weights(mine).items():
        if "masked_lm_head" not in path:
            np.testing.assert_array_equal(value, theirs[path], path)
    assert any("masked_lm_head" in path for path in weights(mine))
