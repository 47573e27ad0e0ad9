import inspect
import json
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import randomized
from tfllm.models.decoder import Decoder
from tfllm.tasks.causal_lm import CausalLM

# Every argument of the constructor, none at its default.
ODD = {
    "vocab_size": 19,
    "num_layers": 3,
    "hidden_dim": 12,
    "num_heads": 4,
    "max_seq_len": 16,
    "num_kv_heads": 2,
    "head_dim": 6,
    "intermediate_dim": 20,
    "norm": "layer_norm",
    "norm_epsilon": 1e-2,
    "norm_unit_offset": True,
    "branch_norms": True,
    "parallel_branches": True,
    "positions": "learned",
    "rotary_dim": 4,
    "rope_theta": 500.0,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "rope_local_theta": 30.0,
    "sliding_window": 4,
    "sliding_layers": [0, 2],
    "activation": "geglu",
    "use_bias": True,
    "qkv_bias": True,
    "attention_output_bias": True,
    "feed_forward_bias": True,
    "qk_norm": True,
    "attention_scale": 0.3,
    "attention_soft_cap": 2.0,
    "logit_soft_cap": 3.0,
    "scale_embeddings": True,
    "tie_embeddings": False,
    "dropout": 0.3,
    "attention_block_size": 5,
    "remat": "block",
    "initializer_range": 0.3,
    "name": "odd_decoder",
}
CLASSIFIES = {
    **ODD,
    **{"head": "sequence_classification", "pooling": "mean", "num_classes": 2, "class_names": ["a", "b"]},
    "multi_label": True,
}
KINDS = {
    "llama": {"positions": "rotary", "norm": "rms_norm", "activation": "swiglu", "num_kv_heads": 2},
    "gpt2": {
        "positions": "learned",
        "norm": "layer_norm",
        "activation": "gelu_tanh",
        "use_bias": True,
        "tie_embeddings": True,
    },
    "untied": {"positions": "none", "tie_embeddings": False, "activation": "relu"},
}
PLAIN = tuple(KINDS)
KINDS["gemma"] = {
    "num_kv_heads": 2,
    "activation": "geglu",
    "norm_unit_offset": True,
    "branch_norms": True,
    "qk_norm": True,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "rope_local_theta": 30.0,
    "sliding_window": 3,
    "sliding_layers": [0],
    "attention_scale": 0.4,
    "attention_soft_cap": 2.0,
    "logit_soft_cap": 3.0,
    "scale_embeddings": True,
}
KINDS["neox"] = {
    "norm": "layer_norm",
    "use_bias": True,
    "activation": "gelu",
    "parallel_branches": True,
    "rotary_dim": 2,
    "sliding_window": 4,
}
SMALL = {"vocab_size": 19, "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 32}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return randomized(Decoder(**SMALL, **KINDS[request.param]))


@pytest.fixture(scope="module", params=PLAIN)
def plain_model(request):
    return randomized(Decoder(**SMALL, **KINDS[request.param]))


def tokens(rows, length, seed=0):
    return tf.constant(np.random.default_rng(seed).integers(1, 19, [rows, length]), tf.int32)


# Serialization


def test_odd_differs_from_every_default():
    parameters = inspect.signature(Decoder.__init__).parameters
    names = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert sorted(names) == sorted(CLASSIFIES)
    for name in names:
        assert parameters[name].default != CLASSIFIES[name]


@pytest.mark.parametrize("given", [ODD, CLASSIFIES], ids=["goes on", "classifies"])
def test_get_config_holds_every_argument(given):
    model = Decoder(**given, dtype="mixed_bfloat16", trainable=False)
    config = model.get_config()
    assert {name: config[name] for name in given} == given
    again = Decoder.from_config(
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(config))
    )
    assert again.get_config() == config
    assert again.dtype_policy.name == "mixed_bfloat16"
    assert not again.trainable
    assert [(v.path, v.shape) for v in _built(again).variables] == [
        (v.path, v.shape) for v in _built(model).variables
    ]


def _built(model):
    model.build()
    return model


@pytest.mark.parametrize(
    "arguments",
    [ODD, {**ODD, "positions": "rotary"}, {**ODD, "tie_embeddings": True}],
    ids=["odd", "rotary", "tied"],
)
def test_a_keras_file_gives_the_same_outputs(arguments, tmp_path):
    model = randomized(Decoder(**arguments))
    features = {"token_ids": tokens(2, 9), "row_seeds": tf.constant([3, 4])}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for training in (False, True):
        ours, theirs = (m(features, training=training) for m in (model, again))
        for name in ("hidden_states", "logits"):
            np.testing.assert_array_equal(ours[name], theirs[name])
    # Dropout was on, so that its rate is part of what was compared.
    assert np.abs(model(features)["logits"] - ours["logits"]).max() > 0.1


def test_a_keras_file_of_an_earlier_version_is_told_as_such(tmp_path):
    model = randomized(Decoder(**SMALL))
    model.save(tmp_path / "new.keras")
    with zipfile.ZipFile(tmp_path / "new.keras") as new, zipfile.ZipFile(tmp_path / "old.keras", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":  # what was written before the trunk
                content = json.dumps({**json.loads(content), "build_config": {"shapes_dict": {}}}).encode()
            old.writestr(name, content)
    with pytest.raises(
        ValueError, match="holds the parts of Decoder as an earlier version of tfllm had them"
    ):
        keras.saving.load_model(tmp_path / "old.keras")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_theta", 50.0),
        ("rope_scaling", {"type": "linear", "factor": 9.0}),
        ("rope_local_theta", 3.0),
        ("rotary_dim", 6),
        ("sliding_window", 2),
        ("sliding_layers", [1]),
        ("attention_scale", 2.0),
        ("attention_soft_cap", 0.3),
        ("logit_soft_cap", 0.5),
        ("scale_embeddings", False),
        ("norm_epsilon", 0.5),
        ("dropout", 0.7),
    ],
)
def test_outputs_depend_on_what_has_no_variable(name, value):
    arguments = {**ODD, "positions": "rotary"}
    features = {"token_ids": tokens(2, 9), "row_seeds": tf.constant([3, 4])}
    one, other = (randomized(Decoder(**a)) for a in (arguments, {**arguments, name: value}))
    difference = one(features, training=True)["logits"] - other(features, training=True)["logits"]
    assert np.abs(difference).max() > 1e-3


def test_variable_paths_are_the_public_format():
    model = _built(Decoder(**{**ODD, "num_layers": 1, "name": "decoder"}))
    linear = ("bias", "kernel")
    expected = {
        "decoder/token_embedding/embeddings",
        "decoder/position_embedding/embeddings",
        *(
            f"decoder/block_00/{norm}/{w}"
            for norm in (
                "attention_norm",
                "attention_output_norm",
                "feed_forward_norm",
                "feed_forward_output_norm",
            )
            for w in ("scale", "bias")
        ),
        *(f"decoder/block_00/attention/{p}/{w}" for p in ("query", "key", "value", "output") for w in linear),
        *(f"decoder/block_00/attention/{norm}/scale" for norm in ("query_norm", "key_norm")),
        *(f"decoder/block_00/feed_forward/{p}/{w}" for p in ("gate", "up", "down") for w in linear),
        "decoder/final_norm/scale",
        "decoder/final_norm/bias",
        *(f"decoder/output_projection/{w}" for w in ("kernel",)),
    }
    assert {v.path for v in model.variables} == expected
    # The same when the first call builds it, in a graph.
    other = Decoder(**{**ODD, "num_layers": 1, "name": "decoder"})
    tf.function(lambda ids: other({"token_ids": ids})["logits"], autograph=False)(tokens(1, 3))
    assert [v.path for v in other.variables] == [v.path for v in model.variables]


def test_block_numbers_have_two_digits():
    model = Decoder(**{**SMALL, "num_layers": 11, "name": "decoder"})
    assert [block.name for block in model.blocks][-2:] == ["block_09", "block_10"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"positions": "sinus"}, "positions='sinus' is not known"),
        ({"num_heads": 5}, "num_heads=5 must divide"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Decoder(**{**SMALL, **arguments})


# Outputs


def test_outputs_keep_the_contract(model):
    outputs = model({"token_ids": tokens(2, 5)})
    assert set(outputs) == {"hidden_states", "logits"}
    assert outputs["hidden_states"].shape == (2, 5, 16)
    assert outputs["logits"].shape == (2, 5, 19)
    np.testing.assert_array_equal(model.logits(outputs["hidden_states"]), outputs["logits"])


def test_logits_are_float32_under_bfloat16():
    outputs = Decoder(**SMALL, dtype="mixed_bfloat16")({"token_ids": tokens(1, 4)})
    assert (outputs["hidden_states"].dtype, outputs["logits"].dtype) == (tf.bfloat16, tf.float32)


def test_a_token_does_not_see_the_future(model):
    ids = tokens(1, 8).numpy()
    before = model({"token_ids": tf.constant(ids)})["logits"]
    ids[0, 5] = (ids[0, 5] + 1) % 19
    after = model({"token_ids": tf.constant(ids)})["logits"]
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert np.abs(before[:, 5:] - after[:, 5:]).max(axis=-1).min() > 1e-4


def test_order_matters_only_with_positions(model):
    ids = tokens(1, 6).numpy()
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    difference = np.abs(
        model({"token_ids": tf.constant(ids)})["logits"]
        - model({"token_ids": tf.constant(swapped)})["logits"]
    )
    # A single layer without positions sees a set; a stack of causal layers can tell the order after all.
    assert difference[:, -1].max() > 1e-4
    if model.num_layers == 1:
        assert model.position_kind != "none"


@pytest.mark.parametrize("wanted", [True, ["block_01"]])
def test_attention_scores_on_request(model, wanted):
    mask = tf.constant([[True] * 7, [False] * 2 + [True] * 5])
    features = {"token_ids": tokens(2, 7), "padding_mask": mask}
    plain, outputs = model(features), model(features, attention_scores=wanted)
    # Not to the last bit: without capture the scores are never made as one tensor, so sums round otherwise;
    # hence the bound that this file has for everything computed in two ways.
    real = mask.numpy()
    np.testing.assert_allclose(outputs["logits"][real], plain["logits"][real], atol=1e-5)
    assert "attention_scores" not in plain
    scores = outputs["attention_scores"]
    assert list(scores) == (["block_00", "block_01"] if wanted is True else wanted)
    for each in scores.values():
        assert each.shape == (2, 4, 7, 7)
        np.testing.assert_allclose(tf.reduce_sum(each, -1), 1.0, atol=1e-6)
        real = each.numpy()[1, :, 2:]
        assert np.abs(real[:, :, :2]).max() == 0, "padding is seen by nobody"
        assert np.abs(np.triu(real[:, :, 2:], 1)).max() == 0, "the future is not seen"


def test_attention_scores_are_those_of_query_and_key(plain_model):
    model = plain_model
    features = {"token_ids": tokens(2, 7)}
    scores = model(features, attention_scores=["block_00"])["attention_scores"]["block_00"].numpy()
    x = model.token_embedding(features["token_ids"])
    added = model.stack.positions.added(tf.range(7)[None])
    x = x if added is None else x + added
    block = model.blocks[0]
    x = block.attention_norm(x)

    def heads(projection, count):
        y = projection(x).numpy().reshape(2, 7, count, 4)
        if model.get_config()["positions"] != "rotary":
            return y
        turn = np.exp(1j * np.arange(7)[:, None, None] * 10_000.0 ** (-np.arange(2) / 2))
        pairs = (y[..., :2] + 1j * y[..., 2:]) * turn
        return np.concatenate([pairs.real, pairs.imag], -1)

    query = heads(block.attention.query, 4)
    key = np.repeat(heads(block.attention.key, model.num_kv_heads), 4 // model.num_kv_heads, axis=2)
    logits = np.einsum("btnh,bsnh->bnts", query, key) / 2.0
    logits = np.where(np.tril(np.ones([7, 7], bool)), logits, -np.inf)
    expected = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(scores, expected / expected.sum(-1, keepdims=True), atol=1e-5)


def test_unknown_blocks_are_refused(model):
    with pytest.raises(ValueError, match=r"block_99.*block_00, block_01"):
        model({"token_ids": tokens(1, 3)}, attention_scores=["block_00", "block_99"])


# Padding and packing


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(model, side):
    ids = tokens(2, 6)
    alone = model({"token_ids": ids})["logits"]
    widths = [[0, 0], [3, 0] if side == "left" else [0, 3]]
    features = {
        "token_ids": tf.pad(ids, widths, constant_values=7),
        "padding_mask": tf.pad(tf.ones_like(ids, tf.bool), widths),
    }
    padded = model(features)["logits"]
    padded = padded[:, 3:] if side == "left" else padded[:, :6]
    np.testing.assert_allclose(padded, alone, atol=1e-5)


LENGTHS = (3, 6, 2)  # of the documents in one packed row, then 2 of padding


def packed_and_separate():
    documents = [tokens(1, n + 1, seed=n) for n in LENGTHS]
    segments = np.repeat([1, 2, 3, 0], [*LENGTHS, 2])[None].astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in (*LENGTHS, 2)])[None].astype(np.int32)
    pad = tf.zeros([1, 2], tf.int32)
    packed = {
        "token_ids": tf.concat([*(d[:, :-1] for d in documents), pad], 1),
        "targets": tf.concat([*(d[:, 1:] for d in documents), pad], 1),
        "segment_ids": tf.constant(segments),
        "positions": tf.constant(positions),
        "loss_weights": tf.cast(segments > 0, tf.float32),
    }
    separate = [
        {"token_ids": d[:, :-1], "targets": d[:, 1:], "loss_weights": tf.ones([1, n])}
        for d, n in zip(documents, LENGTHS, strict=True)
    ]
    return packed, separate


def loss_and_gradients(model, batches):
    task = CausalLM()
    with tf.GradientTape() as tape:
        losses = [task.loss(model, b, model(b))["loss"] for b in batches]
        loss = tf.add_n(losses) / tf.add_n([task.weights(b)["loss"] for b in batches])
    return loss, tape.gradient(loss, [v.value for v in model.trainable_variables])


def test_packed_equals_unpacked(model):
    packed, separate = packed_and_separate()
    hidden = tf.concat([model(b)["hidden_states"] for b in separate], 1)
    np.testing.assert_allclose(model(packed)["hidden_states"][:, : sum(LENGTHS)], hidden, atol=1e-5)
    loss, gradients = loss_and_gradients(model, [packed])
    expected_loss, expected = loss_and_gradients(model, separate)
    np.testing.assert_allclose(loss, expected_loss, atol=1e-5)
    for variable, ours, theirs in zip(model.trainable_variables, gradients, expected, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs), atol=1e-5, err_msg=variable.path
        )


def test_packing_needs_segments_and_counts_positions_in_each(model):
    packed, _ = packed_and_separate()
    whole = model(packed)["hidden_states"]
    without = {
        left_out: model({name: x for name, x in packed.items() if name != left_out})["hidden_states"]
        for left_out in ("segment_ids", "positions")
    }
    assert np.abs(whole - without["segment_ids"])[:, LENGTHS[0] : sum(LENGTHS)].max() > 1e-3
    real = packed["padding_mask"].numpy() if "padding_mask" in packed else slice(None)
    np.testing.assert_allclose(whole.numpy()[real], without["positions"].numpy()[real], atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_cached_equals_uncached(model, jit_compile):
    lengths, prompt, total = [5, 2], 5, 9
    ids = tokens(2, total)
    padding = tf.sequence_mask([prompt - n for n in lengths], prompt)
    mask = tf.concat([~padding, tf.ones([2, total - prompt], tf.bool)], 1)
    uncached = model({"token_ids": ids, "padding_mask": mask})["logits"]
    prefill = tf.function(model.prefill, jit_compile=jit_compile, autograph=False)
    step = tf.function(model.decode_step, jit_compile=jit_compile, autograph=False)
    hidden, cache = prefill(ids[:, :prompt], mask[:, :prompt], total)
    np.testing.assert_allclose(model.logits(hidden)[:, 0], uncached[:, prompt - 1], atol=1e-5)
    for slot in range(prompt, total):
        positions = tf.constant(lengths)[:, None] + slot - prompt
        visible = mask & (tf.range(total) <= slot)[None]
        hidden, cache = step(ids[:, slot : slot + 1], positions, tf.constant(slot), visible, cache)
        np.testing.assert_allclose(model.logits(hidden)[:, 0], uncached[:, slot], atol=1e-5)


# Dropout


def test_dropout_is_keyed_by_row_and_layer():
    model = randomized(Decoder(**SMALL, dropout=0.5))
    features = {"token_ids": tokens(4, 6), "row_seeds": tf.constant([1, 2, 3, 4])}
    whole = model(features, training=True)["logits"]
    halves = [model({k: v[i : i + 2] for k, v in features.items()}, training=True)["logits"] for i in (0, 2)]
    np.testing.assert_allclose(tf.concat(halves, 0), whole, atol=1e-5)
    other = model({**features, "row_seeds": tf.constant([1, 2, 3, 5])}, training=True)["logits"]
    difference = np.abs(whole - other).max(axis=(1, 2))
    assert (difference[:3] < 1e-5).all()
    assert difference[3] > 0.1
    layers = [d for b in model.blocks for d in (b.attention_dropout, b.feed_forward_dropout)]
    masks = {layer(tf.ones([1, 6, 16]), tf.constant([9])).numpy().tobytes() for layer in layers}
    assert len({layer.path for layer in layers}) == len(masks) == len(layers)
    np.testing.assert_array_equal(
        model(features)["logits"], model({"token_ids": features["token_ids"]})["logits"]
    )


def test_residual_outputs_start_smaller():
    model = Decoder(**{**SMALL, "num_layers": 8, "hidden_dim": 64}, initializer_range=0.4)
    model.build()
    block = model.blocks[3]
    for layer in (block.attention._output, block.feed_forward.down):
        assert np.std(layer.kernel) == pytest.approx(0.1, rel=0.1)
    for layer in (block.attention.query, block.feed_forward.up):
        assert np.std(layer.kernel) == pytest.approx(0.4, rel=0.1)


# Attention in blocks


def test_blocks_change_neither_loss_nor_gradients(model):
    packed, _ = packed_and_separate()
    loss, gradients = loss_and_gradients(model, [packed])
    blocked = Decoder(**{**model.get_config(), "attention_block_size": 4})
    blocked.build()
    blocked.set_weights(model.get_weights())
    blocked_loss, blocked_gradients = loss_and_gradients(blocked, [packed])
    np.testing.assert_allclose(blocked_loss, loss, atol=1e-6)
    for variable, ours, theirs in zip(model.trainable_variables, blocked_gradients, gradients, strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(ours), tf.convert_to_tensor(theirs), atol=1e-6, err_msg=variable.path
        )


def test_blocks_leave_the_cached_call_alone(model):
    blocked = Decoder(**{**model.get_config(), "attention_block_size": 4})
    blocked.build()
    blocked.set_weights(model.get_weights())
    ids, mask = tokens(2, 7), tf.constant([[True] * 7, [False] * 3 + [True] * 4])
    ours, theirs = (m.prefill(ids, mask, 9) for m in (blocked, model))
    np.testing.assert_array_equal(ours[0], theirs[0])
    slot_mask = tf.concat([mask, tf.constant([[True, False]] * 2)], axis=1)
    step = (ids[:, :1], tf.constant([[7], [4]]), tf.constant(7), slot_mask)
    np.testing.assert_array_equal(
        blocked.decode_step(*step, ours[1])[0], model.decode_step(*step, theirs[1])[0]
    )
    np.testing.assert_allclose(
        blocked({"token_ids": ids})["logits"], model({"token_ids": ids})["logits"], atol=1e-5
    )
