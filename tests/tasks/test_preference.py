"""Preferences: each loss is its paper's, whatever the batch is divided into, and pairs are what the records say."""

import json
import math

import numpy as np
import pytest
import tensorflow as tf

import tfllm
from tests.tasks.rows import evaluated, rows_of
from tests.tasks.test_chat import made, turns
from tests.tiny import randomized, tiny_lm
from tests.training.toy import DIVISIONS, assert_same_training, trained_on_rows
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.data.errors import DataError
from tfllm.data.pipeline import evaluation_batches
from tfllm.data.record import Record
from tfllm.data.sources.jsonl import JsonlSource
from tfllm.models.decoder import Decoder
from tfllm.tasks.preference import Preference, segment_keys
from tfllm.tasks.vocabulary_loss import token_log_probs

LOSSES = ("dpo", "ipo", "simpo", "orpo")


@pytest.fixture(scope="module")
def tokenizer():
    return made("chatml")


def records(count=7):
    rng = np.random.default_rng(0)
    words = ["red", "cat", "it", "is", "think", "what"]
    for _ in range(count):
        prompt, chosen, rejected = (" ".join(rng.choice(words, rng.integers(1, 6))) for _ in range(3))
        yield {
            "prompt": prompt,
            "chosen": chosen + " i",
            "rejected": rejected,
            "weight": float(rng.integers(1, 4)),
        }


@pytest.fixture(scope="module")
def store(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records()))
    source = JsonlSource(path=str(folder / "pairs.jsonl"))
    return {
        packing: rows_of(
            Preference(tokenizer=tokenizer),
            tokenizer,
            folder / str(packing),
            source,
            seq_len=48,
            packing=packing,
        )
        for packing in (True, False)
    }


def model_of(tokenizer, dropout=0.0):
    sizes = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2, "max_seq_len": 800}
    return randomized(Decoder(vocab_size=tokenizer.vocab_size, dropout=dropout, **sizes))


def referred(task, store, spread=1.0):
    """Gives the task a reference for each segment of the rows that is drawn from its key."""
    keys = np.concatenate(
        [
            segment_keys(b).numpy()[b["example_ids"].numpy() >= 0]
            for b in evaluation_batches(store, batch_size=4)
        ]
    )
    values = np.array([-20.0 + spread * ((key % 1000) / 500 - 1) for key in keys], np.float32)
    task.set_reference(keys, values)
    return dict(zip(keys.tolist(), values.tolist(), strict=True))


@pytest.mark.parametrize("rows", ["known", "unknown"])
@pytest.mark.parametrize("chunk_tokens", [None, 1, 5, 24])
def test_log_probs_are_those_of_all_logits_and_so_are_their_gradients(chunk_tokens, rows):
    rng = np.random.default_rng(0)
    states = tf.constant(rng.normal(size=[3, 8, 6]), tf.float32)
    kernel = tf.Variable(rng.normal(size=[6, 11]), dtype=tf.float32)
    targets = tf.constant(rng.integers(0, 11, [3, 8]), tf.int32)
    upstream = tf.constant(rng.normal(size=[3, 8]), tf.float32)

    def project(x):
        return tf.matmul(x, tf.broadcast_to(kernel, [tf.shape(x)[0], 6, 11]))

    def taken(of, states, targets):
        with tf.GradientTape() as tape:
            tape.watch(states)
            values = of(states, targets)
            total = tf.reduce_sum(values * upstream)
        return [values, *tape.gradient(total, [states, kernel])]

    def ours(states, targets):
        return token_log_probs(project, states, targets, chunk_tokens=chunk_tokens)

    def theirs(states, targets):
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(targets, project(states))

    size = 3 if rows == "known" else None
    specs = [tf.TensorSpec([size, 8, 6], tf.float32), tf.TensorSpec([size, 8], tf.int32)]
    call = tf.function(lambda *given: taken(ours, *given), input_signature=specs)
    for one, other in zip(call(states, targets), taken(theirs, states, targets), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def expected(kind, beta, pair, reference, *, smoothing=0.0, margin=1.0):
    """As the papers have it, and TRL of ipo; the pair is (sums, tokens) of both answers."""
    (c, r), (nc, nr) = pair
    rc, rr = reference
    if kind == "dpo":
        h = beta * ((c - rc) - (r - rr))
        return -(1 - smoothing) * math.log(sigmoid(h)) - smoothing * math.log(sigmoid(-h))
    if kind == "ipo":
        return ((c - rc) / nc - (r - rr) / nr - 1 / (2 * beta)) ** 2
    if kind == "simpo":
        return -math.log(sigmoid(beta * (c / nc - r / nr) - margin))
    odds = [math.log(math.exp(m) / (1 - math.exp(m))) for m in (c / nc, r / nr)]
    return -math.log(sigmoid(odds[0] - odds[1]))


@pytest.mark.parametrize("kind", LOSSES)
def test_each_loss_is_that_of_its_paper(kind, tokenizer, store):
    task = Preference(tokenizer=tokenizer, loss=kind, beta=0.3, label_smoothing=0.1 if kind == "dpo" else 0.0)
    known = referred(task, store[True])
    model = model_of(tokenizer)
    said = evaluated(task, model, store[True])
    total, weights, nll, tokens = 0.0, 0.0, 0.0, 0.0
    given = list(records())
    for each in said.predictions:
        sums, counts = each.values["log_prob"].astype(float), each.values["tokens"].astype(float)
        weight = given[each.number]["weight"]
        smoothing = 0.1 if kind == "dpo" else 0.0
        total += weight * expected(kind, 0.3, (sums, counts), each.values["reference"], smoothing=smoothing)
        weights += weight
        nll, tokens = nll - weight * sums[0], tokens + weight * counts[0]
    loss = total / weights if kind != "orpo" else nll / tokens + 0.3 * total / weights
    assert said.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    assert len(said.predictions) == 7 and len(known) == 14


@pytest.mark.parametrize("kind", LOSSES)
def test_packed_pairs_count_as_they_do_alone(kind, tokenizer, store):
    found = []
    for packing in (True, False):
        task = Preference(tokenizer=tokenizer, loss=kind)
        referred(task, store[packing])
        found.append(evaluated(task, model_of(tokenizer), store[packing]).metrics)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert value == pytest.approx(found[1][name], rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize(
    "division",
    ["4 microbatches", *(pytest.param(d, marks=pytest.mark.slow) for d in ("2 replicas", "2 x 2"))],
)
def test_divided_with_dropout_it_trains_as_one_batch(kind, division, tokenizer, store):
    def taken(**arguments):
        task = Preference(tokenizer=tokenizer, loss=kind)
        referred(task, store[False])
        return trained_on_rows(
            task, store[False], lambda dropout: model_of(tokenizer, dropout), learning_rate=0.05, **arguments
        )

    assert_same_training(taken(**DIVISIONS[division]), taken(), rtol=1e-5, atol=1e-5)


def test_the_answer_is_found_by_its_ids_and_both_read_the_same_prompt(tokenizer):
    maker = Preference(tokenizer=tokenizer).examples_of(tokenizer, seq_len=100, packing=True)
    record = Record(
        {"prompt": "what is red?", "chosen": "red", "rejected": "assistant is it <|im_end|>"}, "", ""
    )
    [example] = maker.examples([record], [0])
    first = example.sizes[0]
    learned = example.arrays["learned"].astype(bool)
    texts = [
        tokenizer.decode(example.arrays["targets"][part][learned[part]], skip_special_tokens=False)
        for part in (slice(0, first), slice(first, None))
    ]
    assert texts == ["red<|im_end|>", "assistant is it <|im_end|><|im_end|>"]


BAD = [
    ({"chosen": "a"}, "no column 'rejected'; the columns are 'chosen'"),
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected say the same"),
    ({"prompt": "q", "chosen": "", "rejected": "a"}, "the assistant says nothing"),
    ({"chosen": turns("q"), "rejected": turns("q", "a")}, "chosen ends with the user's message"),
]


@pytest.mark.parametrize(("fields", "words"), BAD)
def test_what_is_no_pair_is_told(fields, words, tokenizer):
    maker = Preference(tokenizer=tokenizer).examples_of(tokenizer, seq_len=100, packing=True)
    with pytest.raises(DataError, match=words):
        list(maker.examples([Record(fields, "pairs.jsonl:1")], [0]))


YAML = """
name: preferred
task: {{type: preference, loss: dpo}}
model: {{type: pretrained, source: {base}}}
data: {{train: {{type: jsonl, path: "{folder}/pairs.jsonl"}}, validation_fraction: 0.2, seq_len: 32, num_workers: 1}}
optimizer: {{type: adamw, learning_rate: 0.01, weight_decay: 0.0, schedule: constant}}
training: {{steps: 8, global_batch_size: 4, jit_compile: false, log_every: 1, evaluate_every: 4}}
generation: {{max_new_tokens: 4, temperature: 0.0}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preferred")
    tiny_lm().save(folder / "base")
    lines = [
        {"prompt": f"the fox {n}", "chosen": "the quick brown fox", "rejected": "lazy dog the lazy dog"}
        for n in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    (folder / "config.yaml").write_text(YAML.format(base=folder / "base", folder=folder))
    return folder


def logged(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(folder):
    assert main(["train", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]) == 0
    return folder / "run"


def test_a_run_begins_at_the_logarithm_of_two_and_learns(run):
    entries = logged(run)
    first = next(entry for entry in entries if entry["split"] == "train")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    [*_, last] = [entry for entry in entries if entry["split"] == "validation"]
    assert last["reward_accuracy"] == 1.0 and last["loss"] < 0.6
    assert (run / "reference.npz").exists()
    assert main(["evaluate", str(run)]) == 0


@pytest.mark.slow
def test_a_run_that_stopped_goes_on_with_the_reference_of_its_start(folder, run):
    command = ["train", str(folder / "config.yaml"), "--run-dir", str(folder / "stopped")]
    assert main([*command, "training.steps=4"]) == 0 and main(command) == 0
    whole = [e["loss"] for e in logged(run) if e["split"] == "train"]
    assert [e["loss"] for e in logged(folder / "stopped") if e["split"] == "train"] == whole
    one, other = (tfllm.load(each, jit_compile=False).model for each in (run, folder / "stopped"))
    for a, b in zip(one.variables, other.variables, strict=True):
        assert (a.numpy() == b.numpy()).all(), a.path


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"loss": "kto"}, "task.loss=kto"),
        (
            {"loss": "ipo", "label_smoothing": 0.1},
            "task.label_smoothing=0.1 is of task.loss=dpo, and this is ipo",
        ),
        ({"loss": "dpo", "margin": 2.0}, "task.margin=2.0 is of task.loss=simpo, and this is dpo"),
    ],
)
def test_keys_of_other_losses_are_refused(keys, words):
    mapping = {
        "name": "x",
        "task": {"type": "preference", **keys},
        "model": {"type": "pretrained", "source": "a"},
    }
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(mapping, for_training=False)
