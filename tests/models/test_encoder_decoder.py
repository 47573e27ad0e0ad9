import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.marks import mostly_slow
from tests.tiny import randomized
from tfllm.generation.errors import GenerationError
from tfllm.generation.generate import Generator
from tfllm.models.encoder_decoder import EncoderDecoder

# Every argument of the constructor, none at its default.
ODD = {
    "vocab_size": 19,
    "num_encoder_layers": 1,
    "num_decoder_layers": 2,
    "hidden_dim": 12,
    "num_heads": 2,
    "max_seq_len": 16,
    "source_vocab_size": 17,
    "decoder_num_heads": 3,
    "num_kv_heads": 1,
    "head_dim": 5,
    "intermediate_dim": 20,
    "decoder_intermediate_dim": 28,
    "decoder_start_id": 3,
    "norm": "rms_norm",
    "norm_placement": "post",
    "norm_epsilon": 1e-2,
    "embedding_norm": True,
    "final_norm": False,
    "positions": "rotary",
    "position_offset": 2,
    "relative_num_buckets": 6,
    "relative_max_distance": 9,
    "rotary_dim": 4,
    "rope_theta": 500.0,
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "sliding_window": 4,
    "sliding_layers": [0],
    "activation": "geglu",
    "use_bias": False,
    "attention_scale": 0.3,
    "scale_embeddings": True,
    "tie_embeddings": False,
    "scale_logits": True,
    "logits_bias": True,
    "dropout": 0.3,
    "attention_block_size": 3,
    "remat": "block",
    "initializer_range": 0.3,
    "name": "odd",
}
# Relative positions go without blocks.
RELATIVE = {"positions": "relative", "attention_block_size": None}
SMALL = {
    "vocab_size": 19,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "hidden_dim": 16,
    "num_heads": 4,
    "max_seq_len": 32,
}
KINDS = {
    "t5": {
        "max_seq_len": None,
        "positions": "relative",
        "relative_num_buckets": 6,
        "relative_max_distance": 5,
        "norm": "rms_norm",
        "activation": "geglu",
        "use_bias": False,
        "attention_scale": 1.0,
        "scale_logits": True,
    },
    "bart": {
        "norm_placement": "post",
        "embedding_norm": True,
        "final_norm": False,
        "position_offset": 2,
        "logits_bias": True,
    },
    "marian": {
        "positions": "sinusoidal",
        "norm_placement": "post",
        "final_norm": False,
        "activation": "silu",
        "scale_embeddings": True,
        "source_vocab_size": 19,
        "tie_embeddings": False,
    },
    "rotary": {
        "positions": "rotary",
        "num_kv_heads": 2,
        "rope_theta": 100.0,
        "sliding_window": 3,
        "sliding_layers": [1],
        "norm": "rms_norm",
        "activation": "swiglu",
        "use_bias": False,
        "remat": "attention",
    },
}
SOURCES = [[3, 4, 5, 6, 7, 8, 9], [9], [1, 2, 3]]
NEW = 12


@pytest.fixture(scope="module", params=KINDS)
def model(request):
    return randomized(EncoderDecoder(**{**SMALL, **KINDS[request.param]}))


@pytest.fixture(
    scope="module",
    params=mostly_slow(KINDS, ["rotary"]),
)
def generating(request):
    return randomized(EncoderDecoder(**{**SMALL, **KINDS[request.param]}))


def tokens(rows, length, seed=0):
    return tf.constant(np.random.default_rng(seed).integers(1, 17, [rows, length]), tf.int32)


def features(rows=2, source=7, target=5):
    return {"encoder_token_ids": tokens(rows, source), "decoder_token_ids": tokens(rows, target, seed=1)}


def test_odd_differs_from_every_default():
    parameters = inspect.signature(EncoderDecoder.__init__).parameters
    names = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert sorted(names) == sorted(ODD)
    for name in names:
        assert parameters[name].default != ODD[name]


@pytest.mark.parametrize(
    "changes", [{}, {"positions": "learned"}, RELATIVE], ids=["odd", "learned", "relative"]
)
def test_a_keras_file_gives_the_same_outputs(changes, tmp_path):
    model = randomized(EncoderDecoder(**{**ODD, **changes}))
    assert {name: model.get_config()[name] for name in ODD} == {**ODD, **changes}
    given = {**features(), "row_seeds": tf.constant([3, 4])}
    expected = model(given, training=True)["logits"]
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert [v.path for v in again.variables] == [v.path for v in model.variables]
    np.testing.assert_array_equal(again(given, training=True)["logits"], expected)
    assert not np.array_equal(model(given)["logits"], expected)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "rope_theta", 50.0),
        ({}, "rope_scaling", {"type": "linear", "factor": 9.0}),
        ({}, "rotary_dim", 2),
        ({}, "sliding_window", 2),
        ({}, "sliding_layers", [1]),
        ({}, "attention_scale", 2.0),
        ({}, "scale_embeddings", False),
        ({}, "scale_logits", False),
        ({}, "norm_epsilon", 0.5),
        ({}, "dropout", 0.7),
        ({}, "positions", "sinusoidal"),
        (RELATIVE, "relative_max_distance", 4),
    ],
)
def test_outputs_depend_on_what_has_no_variable(changes, name, value):
    given = {**features(target=7), "row_seeds": tf.constant([3, 4])}
    one, other = (randomized(EncoderDecoder(**{**ODD, **changes, **more})) for more in ({}, {name: value}))
    difference = one(given, training=True)["logits"] - other(given, training=True)["logits"]
    assert np.abs(difference).max() > 1e-3


def test_packed_rows_are_pairs_apart(model):
    """Each target reads the source of its own number only."""
    sources, targets = [[3, 4, 5], [6, 7, 8, 9]], [[0, 2, 5, 7], [0, 4]]
    pack = {"encoder": sources, "decoder": targets}
    given = {
        f"{side}_token_ids": tf.constant([[token for row in rows for token in row]])
        for side, rows in pack.items()
    }
    for side, rows in pack.items():
        numbers = [i for i, row in enumerate(rows, 1) for _ in row]
        given[f"{side}_segment_ids"] = tf.constant([numbers])
    packed = model(given)["logits"]
    start = 0
    for source, target in zip(sources, targets, strict=True):
        alone = {"encoder_token_ids": tf.constant([source]), "decoder_token_ids": tf.constant([target])}
        np.testing.assert_allclose(packed[:, start : start + len(target)], model(alone)["logits"], atol=2e-5)
        start += len(target)
    with pytest.raises(ValueError, match="encoder_segment_ids and decoder_segment_ids belong together"):
        model({name: x for name, x in given.items() if name != "encoder_segment_ids"})


def test_padding_changes_nothing(model):
    """At either end of sources and targets, and whatever stands there."""
    given = features()
    plain = model(given)
    for left, right in ((0, 3), (4, 0)):
        padded = {}
        for side, far in (("encoder", 5), ("decoder", 2)):
            ids, widths = given[f"{side}_token_ids"], [[0, 0], [left, right]]
            padded[f"{side}_token_ids"] = tf.pad(ids, widths, constant_values=far)
            padded[f"{side}_padding_mask"] = tf.pad(tf.ones_like(ids, tf.bool), widths)
        outputs = model(padded)
        for name, length in (("logits", 5), ("hidden_states", 5), ("encoder_hidden_states", 7)):
            np.testing.assert_allclose(outputs[name][:, left : left + length], plain[name], atol=2e-5)


def test_a_target_sees_no_later_token_and_all_of_the_source(model):
    given = features()
    logits = model(given)["logits"].numpy()
    changed = {**given, "decoder_token_ids": tf.concat([given["decoder_token_ids"][:, :-1], [[2], [2]]], 1)}
    np.testing.assert_array_equal(model(changed)["logits"][:, :-1], logits[:, :-1])
    assert not np.allclose(model(changed)["logits"][:, -1], logits[:, -1])
    last = tf.concat([given["encoder_token_ids"][:, :-1], [[18], [18]]], 1)
    assert np.all(np.any(model({**given, "encoder_token_ids": last})["logits"] != logits, axis=-1))


def test_gradients_reach_every_trained_weight(model):
    given = features(source=12, target=12)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.nn.log_softmax(model(given)["logits"])[..., 3])
    grads = tape.gradient(loss, model.trainable_variables)
    for variable, grad in zip(model.trainable_variables, grads, strict=True):
        if not variable.path.endswith("key/bias"):  # which the softmax does not see
            assert np.abs(tf.convert_to_tensor(grad)).max() > 1e-6, variable.path
    assert [v.path for v in model.non_trainable_variables] == (
        [model.logits_bias.path] if model.logits_bias is not None else []
    )


@pytest.mark.parametrize("kind", mostly_slow(KINDS, ["bart", "rotary"]))
def test_remat_changes_no_gradient(kind):
    given = {**features(), "row_seeds": tf.constant([3, 4])}
    results = []
    for remat in ("none", "attention", "block"):
        model = randomized(EncoderDecoder(**{**SMALL, **KINDS[kind], "dropout": 0.2, "remat": remat}))
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(given, training=True)["logits"]))
        grads = tape.gradient(loss, model.trainable_variables)
        results.append([loss, *map(tf.convert_to_tensor, grads)])
    for other in results[1:]:
        for one, again in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, again, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
def test_grouped_rotary_windowed_and_recomputed_it_learns_to_copy():
    model = EncoderDecoder(**{**SMALL, **KINDS["rotary"], "dropout": 0.1, "hidden_dim": 32})
    model.build()
    optimizer = keras.optimizers.Adam(1e-2)
    source = tokens(16, 6)
    given = {
        "encoder_token_ids": source,
        "decoder_token_ids": tf.concat([tf.zeros([16, 1], tf.int32), source[:, :-1]], 1),
        "row_seeds": tf.range(16),
    }

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = model(given, training=True)["logits"]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(source, logits))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    losses = [float(step()) for _ in range(60)]
    assert losses[0] > 2.5 and losses[-1] < 0.5


def test_attention_scores(model):
    given = {**features(), "encoder_padding_mask": tf.sequence_mask([7, 3])}
    outputs = model(given, attention_scores=True)
    sides = {"encoder": (7, 2), "decoder": (5, 2)}
    assert {name: x.shape for name, x in outputs["attention_scores"].items()} == {
        f"{side}/block_{i:02d}": (2, 4, length, length)
        for side, (length, n) in sides.items()
        for i in range(n)
    }
    crossed = outputs["cross_attention_scores"]
    assert crossed.keys() == {"decoder/block_00", "decoder/block_01"}
    for scores in crossed.values():
        assert scores.shape == (2, 4, 5, 7)
        np.testing.assert_allclose(np.sum(scores, -1), 1.0, atol=1e-5)
        np.testing.assert_array_equal(scores[1, :, :, 3:], 0.0)
    np.testing.assert_allclose(outputs["logits"], model(given)["logits"], atol=1e-5)
    one = model(given, attention_scores=["decoder/block_01"])
    assert list(one["attention_scores"]) == list(one["cross_attention_scores"]) == ["decoder/block_01"]
    with pytest.raises(
        ValueError, match="attention_scores='block_00' is not a block; there are encoder/block_00"
    ):
        model(given, attention_scores=["block_00"])


def test_greedy_answers_are_the_argmax_of_the_uncached_model(generating):
    model = generating
    generator = Generator(model, stop_ids=[], pad_id=0, jit_compile=False)
    rows = generator(SOURCES, max_new_tokens=NEW, temperature=0.0)
    for source, row in zip(SOURCES, rows, strict=True):
        given = {"encoder_token_ids": [source], "decoder_token_ids": [[model.decoder_start_id, *row]]}
        logits = model({name: tf.constant(x) for name, x in given.items()})["logits"]
        assert np.argmax(logits[0], -1)[:-1].tolist() == row
        assert len(row) == NEW
    settings = {"max_new_tokens": NEW, "temperature": 1.5, "top_k": 9, "repetition_penalty": 1.2}
    together = generator(SOURCES, seed=[7, 8, 9], **settings)
    alone = [
        generator([source], seed=seed, **settings)[0] for source, seed in zip(SOURCES, [7, 8, 9], strict=True)
    ]
    assert together == alone
    assert len(set(map(tuple, together))) == 3


def test_the_penalty_is_for_what_was_said_and_not_for_the_source():
    model = randomized(EncoderDecoder(**SMALL))
    generator = Generator(model, stop_ids=[], pad_id=0, jit_compile=False)
    source = list(range(1, 19))
    free = generator([source], max_new_tokens=1, temperature=0.0)
    assert generator([source], max_new_tokens=1, temperature=0.0, repetition_penalty=50.0) == free


def test_what_does_not_fit():
    model = randomized(EncoderDecoder(**SMALL))
    generator = Generator(model, stop_ids=[], pad_id=0, jit_compile=False)
    assert len(generator([[1] * 32], max_new_tokens=31, temperature=0.0)[0]) == 31
    with pytest.raises(GenerationError, match="exceeds the context of 32; write max_new_tokens=31 or less"):
        generator([[1, 2]], max_new_tokens=32)
    with pytest.raises(GenerationError, match="shorten the prompt"):
        generator([[1] * 33], max_new_tokens=1)
    assert EncoderDecoder(**{**SMALL, **KINDS["t5"]}).room_after(10**6) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"positions": "none"}, "positions='none' is not known; use learned, sinusoidal, rotary, relative"),
        ({"max_seq_len": None}, "positions='learned' needs max_seq_len"),
        ({"remat": "all"}, "remat='all' is not known; use none, attention, block"),
        ({"num_kv_heads": 3}, "num_heads=4 must be divisible by num_kv_heads=3"),
        (
            {"positions": "relative", "attention_block_size": 4},
            "attention_block_size=4 keeps no table of scores",
        ),
        ({"norm_placement": "mid"}, "norm_placement='mid' is not known; use pre or post"),
        ({"num_heads": 3}, "3 heads must divide hidden_dim=16, or give head_dim"),
        ({"positions": "relative", "relative_num_buckets": 3}, "relative_num_buckets=3 must be at least 4"),
        (
            {"positions": "relative", "relative_max_distance": 16},
            "relative_max_distance=16 must be greater than 16",
        ),
        ({"positions": "sinusoidal", "hidden_dim": 15, "num_heads": 3}, "hidden_dim=15 must be even"),
    ],
)
def test_arguments_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        EncoderDecoder(**{**SMALL, **changes})


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "float16"])
def test_half_types(dtype):
    for changes in KINDS.values():
        outputs = EncoderDecoder(**{**SMALL, **changes}, dtype=dtype)(features())
        assert outputs["logits"].dtype == tf.float32
        assert outputs["hidden_states"].dtype == dtype.removeprefix("mixed_")


def test_half_types_generate():
    model = EncoderDecoder(**{**SMALL, **KINDS["t5"]}, dtype="bfloat16")
    model.build()
    generator = Generator(model, stop_ids=[], pad_id=0, jit_compile=False)
    assert len(generator(SOURCES, max_new_tokens=3)[0]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_xla_computes_the_same(kind):
    sizes = {**SMALL, **KINDS[kind], "num_encoder_layers": 1, "num_decoder_layers": 1}
    if "sliding_layers" in sizes:
        sizes["sliding_layers"] = [0]
    model, given = randomized(EncoderDecoder(**sizes)), features()

    def step(given):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(given, training=True)["logits"]))
        return loss, tape.gradient(loss, model.trainable_variables)

    compiled, plain = (tf.function(step, jit_compile=jit, autograph=False)(given) for jit in (True, False))
    for one, other in zip(tf.nest.flatten(compiled), tf.nest.flatten(plain), strict=True):
        np.testing.assert_allclose(
            tf.convert_to_tensor(one), tf.convert_to_tensor(other), atol=2e-5, rtol=1e-4
        )
    generators = [Generator(model, stop_ids=[], pad_id=0, jit_compile=jit) for jit in (True, False)]
    one, other = (generate(SOURCES, max_new_tokens=NEW, temperature=0.0) for generate in generators)
    assert one == other
