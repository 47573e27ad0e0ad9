import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.tiny import randomized
from tfllm.layers.pooling import mean_pool
from tfllm.models.encoder import Encoder

# Every argument of the constructor, none at its default.
ODD = {
    "vocab_size": 19,
    "num_layers": 3,
    "hidden_dim": 12,
    "num_heads": 4,
    "max_seq_len": 16,
    "head_dim": 5,
    "intermediate_dim": 20,
    "num_kv_heads": 2,
    "positions": "rotary",
    "rotary_dim": 4,
    "rope_theta": 500.0,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "rope_local_theta": 30.0,
    "relative_num_buckets": 6,
    "relative_max_distance": 9,
    "sliding_window": 4,
    "sliding_layers": [0, 2],
    "num_token_types": 3,
    "position_offset": 2,
    "norm_placement": "pre",
    "norm_epsilon": 1e-2,
    "activation": "relu",
    "pooler": "relu",
    "pooling": "mean",
    "head": "sequence_classification",
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "multi_label": True,
    "head_activation": "gelu_tanh",
    "tie_embeddings": False,
    "next_sentence_head": True,
    "dropout": 0.3,
    "attention_block_size": 5,
    "remat": "block",
    "initializer_range": 0.3,
    "name": "odd_encoder",
}
SMALL = {"vocab_size": 19, "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 32}
KINDS = {
    "bert": {"pooler": "tanh", "head": "masked_lm", "next_sentence_head": True},
    "untied": {"head": "masked_lm", "tie_embeddings": False, "num_token_types": 0, "position_offset": 2},
    "sentences": {"pooler": "relu", "head": "sequence_classification", "num_classes": 3},
    "tokens": {"head": "token_classification", "num_classes": 4, "norm_placement": "pre"},
    "span": {"head": "span", "activation": "gelu_tanh", "attention_block_size": 3},
    "modern": {
        "head": "masked_lm",
        "norm_placement": "pre",
        "num_kv_heads": 2,
        "positions": "rotary",
        "rope_theta": 100.0,
        "rope_local_theta": 20.0,
        "sliding_window": 4,
        "sliding_layers": [1],
        "activation": "geglu",
        "head_activation": "gelu",
    },
}


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return randomized(Encoder(**SMALL, **KINDS[request.param]))


def tokens(rows, length, seed=0):
    return tf.constant(np.random.default_rng(seed).integers(1, 19, [rows, length]), tf.int32)


def features(model, rows, length):
    drawn = {"token_ids": tokens(rows, length)}
    if model.token_type_embedding is not None:
        drawn["token_type_ids"] = tokens(rows, length, seed=1) % 2
    return drawn


def test_odd_differs_from_every_default():
    parameters = inspect.signature(Encoder.__init__).parameters
    names = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert sorted(names) == sorted(ODD)
    for name in names:
        assert parameters[name].default != ODD[name]


def test_an_odd_model_is_itself_after_reload(tmp_path):
    model = randomized(Encoder(**ODD))
    assert {**model.get_config(), **ODD} == model.get_config()
    given = {"token_ids": tokens(2, 7), "token_type_ids": tokens(2, 7) % 3}
    path = tmp_path / "model.keras"
    model.save(path)
    again = keras.models.load_model(path)
    for one, other in zip(model(given).values(), again(given).values(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "rope_theta", 50.0),
        ({}, "rope_scaling", {"type": "linear", "factor": 9.0}),
        ({}, "rope_local_theta", 3.0),
        ({}, "rotary_dim", 2),
        ({}, "sliding_window", 2),
        ({}, "sliding_layers", [1]),
        ({}, "norm_epsilon", 0.5),
        ({}, "dropout", 0.7),
        ({}, "positions", "none"),
        ({}, "positions", "sinusoidal"),
        ({"positions": "relative", "attention_block_size": None}, "relative_max_distance", 4),
    ],
)
def test_outputs_depend_on_what_has_no_variable(changes, name, value):
    given = {"token_ids": tokens(2, 9), "token_type_ids": tokens(2, 9) % 3, "row_seeds": tf.constant([3, 4])}
    one, other = (randomized(Encoder(**{**ODD, **changes, **more})) for more in ({}, {name: value}))
    difference = one(given, training=True)["logits"] - other(given, training=True)["logits"]
    assert np.abs(difference).max() > 1e-3


@pytest.mark.parametrize("block_size", [None, 3])
def test_windows_in_blocks_or_not_are_the_table_of_scores(block_size):
    model = randomized(Encoder(**SMALL, **{**KINDS["modern"], "attention_block_size": block_size}))
    given = {**features(model, 2, 11), "padding_mask": tf.sequence_mask([11, 6], 11)}
    lean, seen = model(given), model(given, attention_scores=True)
    real = given["padding_mask"].numpy()
    np.testing.assert_allclose(lean["logits"].numpy()[real], seen["logits"].numpy()[real], atol=1e-5)
    places = np.arange(11)
    far = np.abs(places[:, None] - places) >= 4
    scores = seen["attention_scores"]
    assert not scores["block_01"].numpy()[0][:, far].any() and scores["block_00"].numpy()[0][:, far].all()


def test_outputs_and_paths(model):
    outputs = model(features(model, 2, 7), attention_scores=["block_01"])
    expected = {
        "masked_lm": (2, 7, 19),
        "sequence_classification": (2, 3),
        "token_classification": (2, 7, 4),
        "span": (2, 7, 2),
    }
    assert outputs["hidden_states"].shape == (2, 7, 16)
    assert outputs["logits"].shape == expected[model.head]
    assert outputs["logits"].dtype == tf.float32
    assert ("pooled" in outputs) == (model.pooler is not None)
    assert ("next_sentence_logits" in outputs) == (model.next_sentence is not None)
    assert outputs["attention_scores"].keys() == {"block_01"}
    np.testing.assert_allclose(tf.reduce_sum(outputs["attention_scores"]["block_01"], -1), 1.0, atol=1e-6)
    states = outputs["pooled" if model.head == "sequence_classification" else "hidden_states"]
    np.testing.assert_array_equal(model.logits(states), outputs["logits"])
    paths = {variable.path for variable in model.variables}
    assert "encoder/block_01/attention/query/kernel" in paths
    assert "encoder/embedding_norm/scale" in paths
    if model.head == "masked_lm":
        assert {"encoder/masked_lm_head/transform/kernel", "encoder/masked_lm_head/bias"} <= paths


def test_scores_asked_for_change_nothing(model):
    given = {**features(model, 2, 7), "padding_mask": tf.sequence_mask([7, 4], 7)}
    plain, asked = model(given), model(given, attention_scores=True)
    real = given["padding_mask"].numpy()
    # The scores are computed as one tensor or not at all, which rounds differently.
    np.testing.assert_allclose(
        plain["hidden_states"].numpy()[real], asked["hidden_states"].numpy()[real], atol=1e-5
    )
    assert asked["attention_scores"]["block_00"].shape == (2, 4, 7, 7)
    assert not asked["attention_scores"]["block_00"][1, :, :, 4:].numpy().any()
    with pytest.raises(ValueError, match="attention_scores='block_7' is not a block"):
        model(given, attention_scores=["block_7"])


@pytest.mark.parametrize("jit_compile", [None, pytest.param(True, marks=pytest.mark.slow)])
def test_padding_changes_nothing(model, jit_compile):
    run = model if jit_compile is None else tf.function(model, jit_compile=True, autograph=False)
    given = features(model, 1, 6)
    alone = model(given)
    for before, after in ((0, 3), (2, 0), (2, 3)):
        padded = {name: tf.pad(x, [[0, 0], [before, after]], constant_values=1) for name, x in given.items()}
        mask = tf.pad(tf.ones([1, 6], tf.bool), [[0, 0], [before, after]])
        beside = run({**padded, "padding_mask": mask})
        for name, value in alone.items():
            other = beside[name]
            other = other[:, before : before + 6] if len(other.shape) == 3 else other
            np.testing.assert_allclose(other, value, atol=1e-5, err_msg=name)


def test_rows_do_not_see_each_other(model):
    given = features(model, 3, 6)
    together = model(given)
    for row in range(3):
        alone = model({name: x[row : row + 1] for name, x in given.items()})
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][row : row + 1], value, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("jit_compile", [None, True])
def test_packed_rows_are_separate_rows(jit_compile):
    model = randomized(Encoder(**SMALL, **KINDS["bert"]))
    run = model if jit_compile is None else tf.function(model, jit_compile=True, autograph=False)
    given = features(model, 1, 15)
    segments = tf.constant([[1] * 4 + [2] * 6 + [7] + [0] * 4], tf.int32)
    packed = run({**given, "segment_ids": segments, "padding_mask": segments > 0})
    for start, end in ((0, 4), (4, 10), (10, 11)):
        alone = model({name: x[:, start:end] for name, x in given.items()})
        for name in ("hidden_states", "logits"):
            np.testing.assert_allclose(packed[name][:, start:end], alone[name], atol=1e-5)
    apart = model({**given, "segment_ids": segments, "positions": tf.range(15)[None]})
    assert np.abs(apart["hidden_states"][:, 4:10] - packed["hidden_states"][:, 4:10]).max() > 0.1


def test_both_directions_and_token_types_matter():
    model = randomized(Encoder(**SMALL, **KINDS["bert"]))
    ids = tokens(1, 6)
    plain = model({"token_ids": ids})
    np.testing.assert_array_equal(
        plain["logits"], model({"token_ids": ids, "token_type_ids": tf.zeros_like(ids)})["logits"]
    )
    typed = model({"token_ids": ids, "token_type_ids": tf.ones_like(ids)})
    assert np.abs(typed["hidden_states"] - plain["hidden_states"]).max() > 0.1
    other = tf.concat([ids[:, :-1], ids[:, -1:] % 18 + 1], 1)
    assert (
        np.abs(model({"token_ids": other})["hidden_states"][:, 0] - plain["hidden_states"][:, 0]).max() > 0.01
    )


def test_every_weight_gets_a_gradient(model):
    with tf.GradientTape() as tape:
        outputs = model(features(model, 2, 8), training=True)
        loss = tf.add_n(
            [tf.reduce_sum(tf.sin(3.0 * x)) for name, x in outputs.items() if name != "hidden_states"]
        )
    for variable, gradient in zip(model.variables, tape.gradient(loss, model.variables), strict=True):
        assert gradient is not None, variable.path
        if not variable.path.endswith("key/bias"):  # a softmax does not see what is added to all scores
            assert np.abs(tf.convert_to_tensor(gradient)).max() > 1e-4, variable.path


@pytest.mark.parametrize("remat", ["attention", "block"])
def test_what_is_computed_again_is_the_same(remat):
    given = {**features(Encoder(**SMALL), 2, 7), "row_seeds": tf.constant([3, 4])}
    results = []
    for kind in ("none", remat):
        model = randomized(Encoder(**SMALL, **KINDS["bert"], remat=kind, dropout=0.3))
        with tf.GradientTape() as tape:
            outputs = model(given, training=True)
            loss = tf.reduce_sum(tf.sin(outputs["logits"])) + tf.reduce_sum(outputs["next_sentence_logits"])
        results.append([loss, *tape.gradient(loss, model.variables)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_dropout_belongs_to_the_row():
    model = randomized(Encoder(**SMALL, **KINDS["sentences"], dropout=0.4))
    given = features(model, 3, 6)
    seeds = tf.constant([5, 6, 5])
    dropped = model({**given, "row_seeds": seeds}, training=True)["logits"]
    assert np.abs(dropped - model(given, training=True)["logits"]).max() > 0.01
    np.testing.assert_array_equal(model(given)["logits"], model({**given, "row_seeds": seeds})["logits"])
    row = model({name: x[1:2] for name, x in {**given, "row_seeds": seeds}.items()}, training=True)["logits"]
    np.testing.assert_allclose(row, dropped[1:2], atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    model = randomized(Encoder(**SMALL, **KINDS["bert"], dtype=policy))
    exact = randomized(Encoder(**SMALL, **KINDS["bert"]))
    given = {**features(model, 2, 7), "padding_mask": tf.sequence_mask([7, 4], 7)}
    outputs, expected = model(given), exact(given)
    kind = policy.removeprefix("mixed_")
    assert outputs["hidden_states"].dtype == outputs["pooled"].dtype == kind
    assert outputs["logits"].dtype == outputs["next_sentence_logits"].dtype == tf.float32
    assert {variable.dtype for variable in model.variables} == {"float32"}
    error = np.abs(outputs["logits"] - expected["logits"])[given["padding_mask"].numpy()]
    # 8 bits and 11 bits, and some ten roundings on the way.
    assert np.median(error) < (0.05 if kind == "bfloat16" else 0.007) * expected["logits"].numpy().std()


def test_one_graph_takes_rows_of_any_length():
    model = randomized(Encoder(**SMALL, **KINDS["bert"]))
    spec = tf.TensorSpec([None, None], tf.int32)
    run = tf.function(
        lambda ids, segments: model({"token_ids": ids, "segment_ids": segments}),
        input_signature=[spec, spec],
        autograph=False,
    )
    for length in (1, 5, 12):
        ids, segments = tokens(2, length), tf.sort(tokens(2, length) // 7, axis=1)
        expected = model({"token_ids": ids, "segment_ids": segments})
        for name, value in run(ids, segments).items():
            np.testing.assert_allclose(value, expected[name], atol=1e-5)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "lm"}, "head='lm' is not known; use none, masked_lm, "),
        ({"pooler": "gelu"}, "pooler='gelu' is not known"),
        ({"remat": "all"}, "remat='all' is not known"),
        ({"norm_placement": "both"}, "norm_placement='both' is not known"),
        ({"num_heads": 3}, "num_heads=3 must divide hidden_dim=16"),
        ({"head": "token_classification"}, "needs num_classes"),
        (
            {"head": "sequence_classification", "num_classes": 1, "multi_label": True},
            "num_classes of 2 or more",
        ),
        ({"num_classes": 3}, "num_classes=3 needs head='sequence_classification' or"),
        ({"pooling": "max"}, "pooling='max' is not known; use first, mean, last"),
        ({"next_sentence_head": True}, "next_sentence_head=True reads the pooler"),
        (
            {"head": "masked_lm", "activation": "geglu"},
            "activation='geglu' has a gate, which the masked_lm head has not; give head_activation",
        ),
        (
            {"head": "token_classification", "num_classes": 2, "class_names": ["a"]},
            "class_names has 1 names, and num_classes=2",
        ),
    ],
)
def test_settings_that_do_not_go_together(changes, words):
    with pytest.raises(ValueError, match=words):
        Encoder(**{**SMALL, **changes})


def test_what_a_model_cannot_take():
    model = Encoder(**SMALL, num_token_types=0)
    with pytest.raises(ValueError, match="a row of 33 tokens is longer than max_seq_len=32"):
        model({"token_ids": tokens(1, 33)})
    with pytest.raises(ValueError, match="num_token_types=0 tells no tokens apart"):
        model({"token_ids": tokens(1, 3), "token_type_ids": tokens(1, 3)})
    with pytest.raises(ValueError, match="head='none' has no logits"):
        model.logits(tf.zeros([1, 3, 16]))


def test_the_mean_is_over_real_tokens():
    states = np.random.default_rng(0).normal(size=[3, 4, 5]).astype(np.float32)
    states[0, 3] = np.nan
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]], bool)
    expected = [states[0, :2].mean(0), states[1, 1:].mean(0), np.zeros(5)]
    np.testing.assert_allclose(mean_pool(tf.constant(states), tf.constant(mask)), expected, atol=1e-6)
    np.testing.assert_allclose(mean_pool(tf.constant(states[1:])), states[1:].mean(1), atol=1e-6)
    half = mean_pool(tf.constant(states[1:], tf.bfloat16), tf.constant(mask[1:]))
    assert half.dtype == tf.bfloat16
