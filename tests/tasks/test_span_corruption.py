"""Spans taken out of a text: which, what the encoder reads and the decoder writes, and a training on them."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.data.fakes import ListSource
from tests.tiny import randomized
from tests.training.toy import DIVISIONS, assert_same_training, run_steps, toy_step
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data import prepare_rows
from tfllm.data.pipeline import evaluation_batches, training_batches
from tfllm.evaluation.evaluator import Evaluator
from tfllm.models.encoder_decoder import EncoderDecoder
from tfllm.tasks.errors import TaskError
from tfllm.tasks.span_corruption import SpanCorruption
from tfllm.tasks.spans import SpanRate, corrupted, spans_of
from tfllm.tokenizers import ByteTokenizer, SentencePieceTokenizer

T5 = SpanRate(0.15, 3.0)
EOS, PAD = 1, 0


def as_t5_has_it(ids, taken, sentinels):
    """Each run of tokens of one kind becomes the next sentinel, in turn for either text (Raffel et al. 2020)."""

    def replaced(runs):
        text, number = [], iter(sentinels)
        for is_replaced, run in runs:
            text += [next(number)] if is_replaced else [i for i, _ in run]
        return [*text, EOS]

    pairs = list(zip(ids, taken, strict=True))
    runs = [(kind, list(run)) for kind, run in itertools.groupby(pairs, lambda pair: pair[1])]
    return replaced(runs), replaced([(not kind, run) for kind, run in runs])


def drawn(length, rate, count, width=None):
    lengths = tf.fill([count], length)
    return spans_of(lengths, tf.range(count), rate, width or length).numpy()[:, :length]


@pytest.mark.parametrize(
    ("length", "rate"), [(2, T5), (3, T5), (20, T5), (21, SpanRate(0.5, 1.0)), (4000, T5)]
)
def test_both_texts_are_those_of_t5(length, rate):
    width, count = length + 3, 8
    noise, spans = rate.counts(length)
    taken = spans_of(tf.fill([count], length), tf.range(count), rate, width)
    ids = np.random.default_rng(0).integers(1000, 9999, [count, width]).astype(np.int32)
    sentinels = list(range(9000, 9000 - spans - 1, -1))
    widths = rate.widths(width)
    results = corrupted(
        tf.constant(ids),
        tf.fill([count], length),
        taken,
        sentinels=sentinels,
        eos_id=EOS,
        pad_id=PAD,
        widths=widths,
    )
    for row in range(count):
        mask = taken[row].numpy()
        assert mask.sum() == noise and not mask[0] and not mask[length:].any()
        assert (np.diff(np.pad(mask.astype(int), 1)) == 1).sum() == spans
        expected = as_t5_has_it(ids[row, :length].tolist(), mask[:length].tolist(), sentinels)
        for (text, sizes), wanted, most in zip(results, expected, widths, strict=True):
            assert text.shape[1] == most and sizes[row] == len(wanted) <= most
            assert text[row].numpy().tolist() == wanted + [PAD] * (most - len(wanted))


def test_every_way_is_equally_likely():
    rate = SpanRate(0.43, 1.5)
    assert rate.counts(7) == (3, 2)
    count = 12_000
    seen = Counter(map(tuple, drawn(7, rate, count).astype(int).tolist()))
    ways = [mask for mask in itertools.product([0, 1], repeat=7) if not mask[0] and sum(mask) == 3]
    ways = [mask for mask in ways if (np.diff(np.pad(mask, 1)) == 1).sum() == 2]
    assert set(seen) == set(ways) and len(ways) == 12
    expected = count / len(ways)
    assert sum((seen[way] - expected) ** 2 / expected for way in ways) < 31.3, "chi-squared of 11, p = 0.001"


def test_a_short_text_is_not_always_taken_at_its_end():
    places = Counter(drawn(8, T5, 2000).argmax(axis=1).tolist())
    assert set(places) == set(range(1, 8)) and min(places.values()) > 200


@pytest.mark.parametrize("length", [0, 1])
def test_where_nothing_can_be_taken_out_nothing_is_learned(length):
    assert T5.counts(length) == (0, 0)
    taken = spans_of(tf.constant([length, 9]), tf.constant([1, 2]), T5, 9)
    assert not taken[0].numpy().any() and taken[1].numpy().sum() == 1
    (read, size), (_, written) = corrupted(
        tf.constant([[7] * 9] * 2),
        tf.constant([length, 9]),
        taken,
        sentinels=[50, 49],
        eos_id=EOS,
        pad_id=PAD,
        widths=T5.widths(9),
    )
    assert read[0].numpy().tolist() == [7] * length + [EOS] + [PAD] * (read.shape[1] - length - 1)
    assert size[0] == length + 1 and written[0] == 0 and written[1] > 0


@pytest.mark.parametrize("rate", [T5, SpanRate(0.5, 1.0), SpanRate(0.9, 20.0), SpanRate(0.01, 3.0)])
def test_rows_are_as_long_as_the_encoder_reads(rate):
    for read in (8, 48, 512):
        length = rate.text_length(read)
        assert rate.widths(length)[0] <= read < rate.widths(length + 1)[0]
    assert T5.text_length(512) == 568 and T5.widths(568) == (512, 114 + 1), "as T5, and a sentinel at the end"


TEXTS = [" ".join(f"word{(i * k) % 7} and{k}," for k in range(1 + 3 * (i % 9))) for i in range(40)]
SENTINELS = tuple(f"<extra_id_{i}>" for i in range(8))


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, vocab_size=320, extra_special_tokens=SENTINELS)


@pytest.fixture(scope="module")
def task(tokenizer):
    return SpanCorruption(tokenizer=tokenizer)


def rows_of(task, tokenizer, folder, packing=True, seq_len=24):
    maker = task.examples_of(tokenizer, seq_len=seq_len, packing=packing)
    return prepare_rows(
        source=ListSource(TEXTS),
        tokenizer=tokenizer,
        seq_len=seq_len,
        packing=packing,
        maker=maker,
        cache_dir=folder,
    )


@pytest.fixture(scope="module")
def store(task, tokenizer, tmp_path_factory):
    return rows_of(task, tokenizer, tmp_path_factory.mktemp("rows"))


def test_rows_are_running_text(store, tokenizer):
    rows = store.read(range(store.num_rows))
    ids = rows["token_ids"][rows["segment_ids"] > 0].tolist()
    whole = [i for text in TEXTS for i in (*tokenizer.encode(text), tokenizer.eos_id)]
    assert ids == whole and (rows["segment_ids"][:-1] == 1).all()


def test_without_packing_each_document_begins_a_row(task, tokenizer, tmp_path):
    store = rows_of(task, tokenizer, tmp_path, packing=False)
    rows = store.read(range(store.num_rows))
    length = T5.text_length(24)
    parts = [ids[i : i + length] for ids in map(tokenizer.encode, TEXTS) for i in range(0, len(ids), length)]
    for row, marks, part in zip(rows["token_ids"], rows["segment_ids"], parts, strict=True):
        assert row[marks > 0].tolist() == part


def model_of(tokenizer, dropout=0.25):
    sizes = {
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "max_seq_len": 32,
    }
    return randomized(EncoderDecoder(vocab_size=tokenizer.vocab_size, dropout=dropout, **sizes))


def batches(store, task, start=0, stop=3):
    return training_batches(
        store,
        global_batch_size=8,
        seed=1,
        start_step=start,
        num_steps=stop,
        transform=task.features,
        aligned=task.aligned,
    )


def steps(task, store, tokenizer, **arguments):
    sgd = {"optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1, "clip_norm": 0.1}
    step = toy_step(task=task, make=lambda **made: model_of(tokenizer, made["dropout"]), **sgd, **arguments)
    return run_steps(step, 3, batches(store, task))


@pytest.fixture(scope="module")
def whole(task, store, tokenizer):
    return steps(task, store, tokenizer)


def test_the_loss_is_that_of_what_is_written(task, store, tokenizer, whole):
    features = next(iter(batches(store, task)))
    assert features["decoder_token_ids"].shape[0] == 8 and "token_ids" not in features
    np.testing.assert_array_equal(features["decoder_token_ids"][:, 1:], features["targets"][:, :-1])
    logits = model_of(tokenizer)(features, training=True)["logits"].numpy().astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    real = features["loss_weights"].numpy() > 0
    losses = -np.take_along_axis(logs, features["targets"].numpy()[..., None], -1)[..., 0]
    assert whole[0][0, 0] == pytest.approx(losses[real].sum(), rel=1e-5) and whole[0][0, 1] == real.sum() > 20


@pytest.mark.slow
def test_replicas_and_microbatches_equal_one_device(task, store, tokenizer, whole):
    assert_same_training(whole, steps(task, store, tokenizer, **DIVISIONS["2 x 2"]))


def test_spans_follow_from_the_place_in_the_sequence_of_training(task, store):
    whole, rest = (list(batches(store, task, start, 6)) for start in (0, 4))
    for one, other in zip(whole[4:], rest, strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], name)
    epoch = -(-store.num_rows // 8)
    rows = {}
    for batch in batches(store, task, 0, 2 * epoch):
        for row, text in zip(batch["row_ids"].numpy(), batch["encoder_token_ids"].numpy(), strict=True):
            rows.setdefault(int(row), []).append(text.tolist())
    again = [texts for texts in rows.values() if len(texts) > 1]
    assert sum(texts[0] != texts[1] for texts in again) > 0.7 * len(again), "another epoch, other spans"


def test_metrics_do_not_depend_on_the_batch_size(task, store, tokenizer):
    model = model_of(tokenizer, 0.0)

    def metrics(size):
        rows = evaluation_batches(store, batch_size=size, transform=task.features, aligned=task.aligned)
        return Evaluator(model=model, task=task, batches=lambda: rows, jit_compile=False).evaluate()

    whole = metrics(64)
    assert metrics(5) == pytest.approx(whole, rel=1e-5) and 0 <= whole["token_accuracy"] < 0.5


def test_what_does_not_fit_is_refused(tokenizer, task):
    with pytest.raises(TaskError, match=r"needs a tokenizer with sentinels .* and this one has none"):
        SpanCorruption(tokenizer=ByteTokenizer())
    with pytest.raises(TaskError, match=r"seq_len=256 has up to 14 spans, which need 15 sentinels, .* has 8"):
        task.examples_of(tokenizer, seq_len=256, packing=True)
    with pytest.raises(TaskError, match="seq_len=2 leaves no room for a text of two tokens"):
        task.examples_of(tokenizer, seq_len=2, packing=True)


@pytest.mark.slow
def test_from_yaml_to_a_model_that_fills_gaps(tmp_path, monkeypatch, capfd):
    """Trained, evaluated and generated from by the command line."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(TEXTS * 3))
    (tmp_path / "spans.yaml").write_text(
        """
name: spans
task: {type: span_corruption, mean_span_length: 2}
tokenizer: {type: sentencepiece, vocab_size: 400}
model: {type: encoder_decoder, num_encoder_layers: 1, num_decoder_layers: 1, hidden_dim: 32, num_heads: 2, positions: relative}
data: {train: {type: text_files, path: text.txt, split_on: "\\n\\n"}, seq_len: 32, num_workers: 1}
optimizer: {learning_rate: 0.01, schedule: constant}
training: {steps: 40, global_batch_size: 8, jit_compile: false, log_every: 10, best_metric: token_accuracy}
generation: {prompts: ["word1 <gap> and2,"], max_new_tokens: 8}
"""
    )
    assert main(["train", "spans.yaml"]) == 0, capfd.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "runs/spans/metrics.jsonl").read_text().splitlines()]
    said = [line for line in lines if line["split"] == "validation"]
    assert said[-1]["loss"] < 0.8 * said[0]["loss"] and said[-1]["token_accuracy"] > said[0]["token_accuracy"]
    assert list((tmp_path / "runs/spans/samples").iterdir())
    lm = tfllm.load("runs/spans", jit_compile=False)
    assert lm.encode("word1")[-1] == lm.tokenizer.eos_id and lm.tokenizer.prefix_ids == ()
    assert isinstance(lm.generate("word1 and2,", max_new_tokens=4), str)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model=decoder"], "model.type=decoder is not trained by task.type=span_corruption, which needs an"),
        (["task.corruption_rate=1.0"], "task.corruption_rate"),
        (["task.mean_span_length=0.5"], "task.mean_span_length"),
        (["generation.max_new_tokens=48"], "generation.max_new_tokens=48 leaves no room"),
    ],
)
def test_what_cannot_be_is_told_at_once(changes, words):
    mapping = {
        "name": "m",
        "task": "span_corruption",
        "model": {"type": "encoder_decoder"},
        "data": {"train": "python_docs", "seq_len": 48},
        "generation": {"max_new_tokens": 16},
    }
    config_from_mapping(mapping)
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(mapping, changes)
