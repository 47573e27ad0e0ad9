"""Losses and gradients of tasks, beside what transformers and sentence-transformers computed.

With `TFLLM_PEERS=~/peers/bin/python`, an interpreter that has them, the goldens are made anew by it.
"""

import functools
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file

from tests.convert.goldens.cases import direction, weight
from tests.tasks.goldens.cases import BERT, HIDDEN, NOT_SAID, pretraining_batch, vectors
from tests.training.toy import run_steps, toy_step
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.weight_table import variables_by_path
from tfllm.tasks.contrastive import ANCHOR, NEGATIVE, POSITIVE, Contrastive
from tfllm.tasks.masked_lm import MaskedLM
from tfllm.training.train_step import metrics_by_name

FOLDER = Path(__file__).parent / "goldens"


@functools.cache
def golden(name):
    folder = FOLDER
    if peers := os.environ.get("TFLLM_PEERS"):
        folder = Path(tempfile.mkdtemp(prefix="goldens"))
        command = [Path(peers).expanduser(), FOLDER / "make.py", "--to", folder]
        subprocess.run(command, check=True, capture_output=True)
    with np.load(folder / f"{name}.npz") as file:
        return dict(file)


class Tokens:
    mask_id, vocab_size, special_ids = 3, BERT["vocab_size"], frozenset()


def features_of():
    batch = pretraining_batch()
    positions = np.zeros([2, max(HIDDEN)], np.int32)
    targets, weights = np.zeros_like(positions), np.zeros(positions.shape, np.float32)
    for row, labels in enumerate(batch["labels"]):
        places = np.flatnonzero(labels != NOT_SAID)
        positions[row, : len(places)], weights[row, : len(places)] = places, 1.0
        targets[row, : len(places)] = labels[places]
    return {
        "token_ids": batch["tokens"].astype(np.int32),
        "token_type_ids": batch["types"].astype(np.int32),
        "segment_ids": np.ones(batch["tokens"].shape, np.int32),
        "masked_positions": positions,
        "masked_targets": targets,
        "masked_weights": weights,
        "next_sentence_labels": batch["follows"][:, None].astype(np.int32),
        "row_seeds": np.arange(2, dtype=np.int32),
    }


@pytest.mark.parametrize("num_microbatches", [1, 2])
def test_masked_lm_with_next_sentence_is_that_of_transformers(num_microbatches, tmp_path):
    """Two means: one microbatch has 1 of 41 hidden tokens, and half of the pairs."""
    found = golden("pretraining")
    shapes = json.loads(str(found["shapes"]))
    config = {"model_type": "bert", "architectures": ["BertForPreTraining"], **BERT}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = {path: weight(path, tuple(shape), unit_offset=False) for path, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path)
    model = load_model(checkpoint)
    before = {path: variable.numpy() for path, variable in variables_by_path(model).items()}
    step = toy_step(
        model,
        task=MaskedLM(tokenizer=Tokens(), next_sentence=True),
        num_microbatches=num_microbatches,
        learning_rate=1.0,
        weight_decay=0.0,
        clip_norm=None,
    )
    metrics, _ = run_steps(step, 1, tf.data.Dataset.from_tensors(features_of()))
    named = metrics_by_name(metrics, step.terms)
    [loss] = named["loss_sum"] / named["weight_sum"]
    assert loss == pytest.approx(float(found["loss"]), abs=1e-5)
    grads = {path: before[path] - v.numpy() for path, v in variables_by_path(model).items()}
    expected = dict(zip(shapes, found["gradients"], strict=True))
    for row in checkpoint.family.rows(checkpoint.arguments):
        if row.theirs not in expected:
            continue
        whole = row.layout.join([grads[path] for path in row.ours])
        norm, product = expected.pop(row.theirs)
        assert np.linalg.norm(whole) == pytest.approx(norm, abs=1e-5 * max(1.0, norm)), row
        along = np.sum(whole * direction(row.theirs, whole.shape))
        assert along == pytest.approx(product, abs=2e-5 * max(1.0, norm)), row
    assert not expected


@pytest.mark.parametrize("kind", ["anchors", "negatives", "both"])
def test_contrastive_is_the_ranking_loss_of_sentence_transformers(kind):
    found, roles = golden("ranking"), [ANCHOR, POSITIVE, NEGATIVE]
    given = vectors()[: len(found[f"{kind}_gradients"])]
    directions = "both" if kind == "both" else "anchor_to_positive"
    task = Contrastive(tokenizer=None, temperature=0.05, directions=directions, negatives=len(given) - 2)
    variable = tf.Variable(np.moveaxis(given, 0, 1))  # [N, S, D]: what belongs together is a row
    shape = variable.shape[:2]
    features = {
        "roles": tf.constant(np.broadcast_to(roles[: len(given)], shape), tf.int32),
        "text_keys": tf.reshape(tf.range(np.prod(shape), dtype=tf.int32), shape),
    }
    with tf.GradientTape() as tape:
        made = {"vectors": tf.math.l2_normalize(variable, axis=-1)}
        loss = task.loss_of_vectors(made, features)["loss"] / task.weights(features)["loss"]
    assert float(loss) == pytest.approx(float(found[f"{kind}_loss"]), abs=1e-5)
    gradients = np.moveaxis(tf.convert_to_tensor(tape.gradient(loss, variable)).numpy(), 1, 0)
    np.testing.assert_allclose(gradients, found[f"{kind}_gradients"], atol=1e-5)
