"""What each family computes, beside what transformers computed from the same weights."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tests.convert.golden import (
    CASES,
    PEERS,
    asked,
    continued_by_transformers,
    load_golden,
    tensors_of,
    training_batch,
    write_checkpoint,
)
from tests.convert.goldens.cases import NEW_TOKENS, direction
from tests.convert.goldens.encoder_cases import ENCODER_CASES
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.families import FAMILIES
from tfllm.convert.huggingface import save_model
from tfllm.convert.weight_table import variables_by_path
from tfllm.generation.generate import Generator

# Scores of these are not scaled and their weights are large: transformers' own logits in float32 are up to 2.7e-5 from
# those it computes in float64, ours up to 1.9e-5 from its float32.
ROUNDING = {"t5_gated_untied": 5e-5, "mt5": 5e-5}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """The name, the golden, the checkpoint, and the model read from it."""
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param) / "there", request.param)
    checkpoint = read_checkpoint(folder)
    return request.param, load_golden(request.param), checkpoint, load_model(checkpoint)


def tensors(name):
    features, said, weights, mask = training_batch(name)
    features = {key: tf.constant(x, tf.bool if x.dtype == bool else tf.int32) for key, x in features.items()}
    return features, tf.constant(said, tf.int32), tf.constant(weights, tf.float32), mask


def test_the_cases_cover_every_family():
    assert {case[0] for case in (*CASES.values(), *ENCODER_CASES.values())} == FAMILIES.keys()


def test_logits_loss_and_gradients_are_those_of_transformers(case):
    name, golden, checkpoint, model = case
    features, said, weights, mask = tensors(name)
    with tf.GradientTape() as tape:
        logits = model(features)["logits"]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(said, logits)
        loss = tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
    np.testing.assert_allclose(logits.numpy()[mask], golden["logits"], atol=ROUNDING.get(name, 2e-5))
    assert np.abs(golden["logits"]).max() > 0.5
    np.testing.assert_allclose(loss, golden["loss"], atol=1e-5)

    paths = variables_by_path(model)
    grads = dict(zip(paths, tape.gradient(loss, list(paths.values())), strict=True))
    expected = dict(zip(golden["names"], golden["gradients"], strict=True))
    for row in checkpoint.family.rows(checkpoint.arguments):
        if not paths[row.ours[0]].trainable:
            continue
        whole = row.layout.join([tf.convert_to_tensor(grads[path]).numpy() for path in row.ours])
        norm, product = expected.pop(row.theirs)
        assert abs(np.linalg.norm(whole) - norm) < 1e-5 * max(1.0, norm), row
        assert abs(np.sum(whole * direction(row.theirs, whole.shape)) - product) < 2e-5 * max(1.0, norm), row
    assert not expected


# Of each kind of block and cache one at once, all others and all of them under XLA with the slow tests.
QUICK = ("llama", "gpt2", "gemma3", "t5", "bart")
GREEDY = [
    pytest.param(name, jit, marks=[] if name in QUICK and not jit else pytest.mark.slow)
    for name in CASES
    for jit in (False, True)
]


def test_the_quick_cases_are_there():
    assert set(QUICK) <= CASES.keys()


@pytest.mark.parametrize(("case", "jit_compile"), GREEDY, indirect=["case"])
def test_greedy_continuations_are_those_of_transformers(case, jit_compile):
    name, golden, _, model = case
    generator = Generator(model, stop_ids=[], pad_id=0, jit_compile=jit_compile)
    new = generator(asked(name), max_new_tokens=NEW_TOKENS, temperature=0.0)
    np.testing.assert_array_equal(new, golden["generated"])
    assert np.count_nonzero(np.diff(new)) > 30  # not one token again and again


def test_a_round_trip_keeps_every_bit_and_what_the_config_says(case, tmp_path):
    name, _, checkpoint, model = case
    save_model(tmp_path / "back", model, checkpoint.arguments, model_type=checkpoint.family.model_type)
    again = read_checkpoint(tmp_path / "back")
    assert again.arguments == checkpoint.arguments
    assert not again.notes
    from safetensors.numpy import load_file

    written, original = load_file(tmp_path / "back" / "model.safetensors"), tensors_of(name)
    assert written.keys() == original.keys()
    for path, array in original.items():
        assert array.dtype == written[path].dtype
        np.testing.assert_array_equal(written[path], array)
    for one, other in zip(model.variables, load_model(again).variables, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(PEERS is None, reason="TFLLM_PEERS names no interpreter with transformers")
def test_transformers_opens_what_is_written_and_continues_alike(case, tmp_path):
    _, golden, checkpoint, model = case
    save_model(tmp_path / "back", model, checkpoint.arguments, model_type=checkpoint.family.model_type)
    answer = continued_by_transformers(tmp_path / "back")
    assert not answer["unfitting"]
    np.testing.assert_array_equal(answer["generated"], golden["generated"])


def test_the_config_that_transformers_5_writes_says_the_same(case):
    name, golden, checkpoint, _ = case
    folder = checkpoint.path.with_name("written_by_5")
    write_checkpoint(folder, name, config=json.loads(str(golden["config"])))
    again = read_checkpoint(folder)
    assert again.arguments == checkpoint.arguments
    assert all("concerns training" in note for note in again.notes), again.notes


def test_half_types_compute_nearly_the_same(case):
    name, golden, checkpoint, _ = case
    features, _, _, mask = tensors(name)
    for dtype, tolerance in (("bfloat16", 0.2), ("float16", 0.02)):
        model = load_model(checkpoint, dtype=dtype)
        assert {variable.dtype for variable in model.variables} == {dtype}
        logits = model(features)["logits"].numpy()[mask]
        difference = np.abs(logits - golden["logits"])
        assert np.median(difference) < tolerance * np.abs(golden["logits"]).std(), (
            dtype,
            np.median(difference),
        )
