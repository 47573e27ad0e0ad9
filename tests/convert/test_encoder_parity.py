"""What each family of encoders computes, beside what transformers computed from the same weights."""

import json

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file

from tests.convert.golden import (
    PEERS,
    computed_by_transformers,
    config_of,
    load_golden,
    tensors_of,
    write_checkpoint,
)
from tests.convert.goldens.cases import direction
from tests.convert.goldens.encoder_cases import ENCODER_CASES, UNREAD, encoder_batch, targets
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.huggingface import save_model
from tfllm.convert.summary import summary
from tfllm.convert.weight_table import variables_by_path


@pytest.fixture(scope="module", params=ENCODER_CASES)
def case(request, tmp_path_factory):
    """The name, the golden, the checkpoint, and the model read from it."""
    folder = write_checkpoint(tmp_path_factory.mktemp(request.param) / "there", request.param)
    checkpoint = read_checkpoint(folder)
    return request.param, load_golden(request.param), checkpoint, load_model(checkpoint)


def features(name, *, positions=False):
    batch = encoder_batch(name)
    given = {
        "token_ids": batch["tokens"],
        "token_type_ids": batch.get("types"),
        "padding_mask": batch["mask"] > 0,
    }
    if positions:
        given["positions"] = batch["positions"]
    kinds = {"padding_mask": tf.bool}
    return {
        key: tf.constant(value, kinds.get(key, tf.int32)) for key, value in given.items() if value is not None
    }


def expected_outputs(golden):
    return {key.removeprefix("output_"): value for key, value in golden.items() if key.startswith("output_")}


def loss_of(outputs, mask):
    """As `encoder_goldens.py` has it."""
    total = 0.0
    for key, value in outputs.items():
        weights = tf.constant(mask if len(value.shape) == 3 else np.ones(len(value)), tf.float32)
        if key.endswith("logits"):
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets(tuple(value.shape)), value)
            total += tf.reduce_sum(losses * weights) / tf.reduce_sum(weights)
        elif "logits" not in outputs:
            along = tf.constant(direction(key, tuple(value.shape)), tf.float32)
            total += tf.reduce_sum(tf.reduce_sum(value * along, -1) * weights) / tf.reduce_sum(weights)
    return total


def assert_same_outputs(outputs, expected, mask, tolerance=2e-5):
    for key, value in expected.items():
        mine = np.asarray(outputs[key])
        if value.ndim == 3:
            mine, value = mine[mask > 0], value[mask > 0]
        assert np.abs(value).max() > 0.3
        np.testing.assert_allclose(mine, value, atol=tolerance, err_msg=key)


def test_outputs_loss_and_gradients_are_those_of_transformers(case):
    name, golden, checkpoint, model = case
    mask, expected = encoder_batch(name)["mask"], expected_outputs(golden)
    with tf.GradientTape() as tape:
        outputs = model(features(name))
        loss = loss_of({key: outputs[key] for key in expected}, mask)
    heads = {"logits", "next_sentence_logits"}
    assert heads & outputs.keys() == heads & expected.keys()
    assert_same_outputs(outputs, expected, mask)
    np.testing.assert_allclose(loss, golden["loss"], atol=1e-5)

    paths = variables_by_path(model)
    grads = dict(zip(paths, tape.gradient(loss, list(paths.values())), strict=True))
    wanted = dict(zip(golden["names"], golden["gradients"], strict=True))
    for row in checkpoint.family.rows(checkpoint.arguments):
        if row.written_only:
            continue
        whole = row.layout.join([tf.convert_to_tensor(grads[path]).numpy() for path in row.ours])
        path = row.theirs if row.theirs in wanted else row.theirs.removeprefix(checkpoint.family.prefix)
        norm, product = wanted.pop(path)
        assert abs(np.linalg.norm(whole) - norm) < 1e-5 * max(1.0, norm), row
        assert abs(np.sum(whole * direction(path, whole.shape)) - product) < 2e-5 * max(1.0, norm), row
    assert not wanted


def test_positions_may_be_given(case):
    name, golden, _, model = case
    outputs = model(features(name, positions=True))
    assert_same_outputs(outputs, expected_outputs(golden), encoder_batch(name)["mask"])


@pytest.mark.parametrize("name", ["bert_pretraining_untied", "distilbert_sentences"])
def test_a_compiled_graph_computes_the_same(name, tmp_path):
    model = load_model(read_checkpoint(write_checkpoint(tmp_path / "c", name)))
    outputs = tf.function(model, jit_compile=True, autograph=False)(features(name))
    assert_same_outputs(outputs, expected_outputs(load_golden(name)), encoder_batch(name)["mask"])


def test_a_round_trip_keeps_every_bit_and_what_the_config_says(case, tmp_path):
    name, _, checkpoint, model = case
    save_model(tmp_path / "back", model, checkpoint.arguments, model_type=checkpoint.family.model_type)
    again = read_checkpoint(tmp_path / "back")
    assert again.arguments == checkpoint.arguments
    assert not again.notes
    written, original = load_file(tmp_path / "back" / "model.safetensors"), tensors_of(name)
    assert written.keys() == original.keys()
    unread = UNREAD if config_of(name).get("tie_word_embeddings") is False else ()
    for path, array in original.items():
        assert array.dtype == written[path].dtype
        if path in unread:
            path_read = path.replace(".bias", ".decoder.bias")
            np.testing.assert_array_equal(written[path], written[path_read])
        else:
            np.testing.assert_array_equal(written[path], array)
    for one, other in zip(model.variables, load_model(again).variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_family_is_found(case, tmp_path):
    _, _, checkpoint, model = case
    save_model(tmp_path / "back", model, checkpoint.arguments)
    family = read_checkpoint(tmp_path / "back").family
    # XLM-RoBERTa says nothing that RoBERTa does not.
    assert family.model_type == checkpoint.family.model_type.removeprefix("xlm-")


@pytest.mark.skipif(PEERS is None, reason="TFLLM_PEERS names no interpreter with transformers")
def test_transformers_opens_what_is_written_and_computes_alike(case, tmp_path):
    name, golden, checkpoint, model = case
    # A decoder's classifier is found behind the last token that is no padding; LanguageModel.save says which that is.
    padding = {key: config_of(name)[key] for key in ("pad_token_id",) if key in config_of(name)}
    family = checkpoint.family.model_type
    save_model(tmp_path / "back", model, checkpoint.arguments, model_type=family, more=padding)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["architectures"] == [
        ENCODER_CASES[name][1]
    ]
    computed = computed_by_transformers(tmp_path / "back", name)
    assert not computed.pop("unfitting")
    assert computed.keys() == expected_outputs(golden).keys()
    for key, value in expected_outputs(golden).items():
        np.testing.assert_allclose(computed[key], value, atol=1e-6, err_msg=key)


def test_the_config_that_transformers_5_writes_says_the_same(case):
    name, golden, checkpoint, _ = case
    folder = checkpoint.path.with_name("written_by_5")
    write_checkpoint(folder, name, config=json.loads(str(golden["config"])))
    again = read_checkpoint(folder)
    assert again.arguments == checkpoint.arguments
    assert all("concerns training" in note for note in again.notes), again.notes


def test_half_types_compute_nearly_the_same(case):
    name, golden, checkpoint, _ = case
    mask, expected = encoder_batch(name)["mask"] > 0, golden["output_hidden_states"]
    for dtype, tolerance in (("bfloat16", 0.05), ("float16", 0.01)):
        model = load_model(checkpoint, dtype=dtype)
        assert {variable.dtype for variable in model.variables} == {dtype}
        states = tf.cast(model(features(name))["hidden_states"], tf.float32).numpy()
        assert np.median(np.abs(states - expected)[mask]) < tolerance * expected[mask].std()


def test_the_summary_counts_every_parameter(case):
    _, _, checkpoint, model = case
    sections = dict(summary(checkpoint))
    assert dict(sections["PARAMETERS"])["total"].strip() == f"{model.count_params():,}"
    assert "cache" not in str(sections["MEMORY"])
