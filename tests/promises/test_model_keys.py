"""The keys of decoders, encoders and encoder-decoders: in the numbers of models built, trained, saved and loaded."""

import functools
import json
import math

import numpy as np
import pytest
import tensorflow as tf

from tests.promises.built_model import LENGTH, Built, built, first_scores, same_weights
from tests.promises.case import Case, hold
from tfllm.config.build import to_mapping
from tfllm.layers.attention import AttentionContext

WIDE = {"initializer_range": 0.5, "num_layers": 2, "hidden_dim": 12, "num_heads": 2}
GPT = {
    **{"type": "decoder", "vocab_size": 300, "num_layers": 3, "hidden_dim": 12, "num_heads": 3},
    **{
        "max_seq_len": 24,
        "norm": "layer_norm",
        "norm_epsilon": 0.5,
        "positions": "learned",
        "activation": "gelu",
    },
    **{"use_bias": True, "tie_embeddings": False, "dropout": 0.5, "initializer_range": 0.5},
}
GEMMA = {
    **{"type": "decoder", **WIDE, "num_kv_heads": 1, "head_dim": 8, "intermediate_dim": 20},
    **{"norm_unit_offset": True, "branch_norms": True, "rope_theta": 100.0, "qk_norm": True},
    **{"rope_scaling": {"type": "linear", "factor": 3.0}, "attention_scale": 0.7, "attention_soft_cap": 0.5},
    **{"sliding_window": 3, "sliding_layers": [1], "logit_soft_cap": 0.5, "scale_embeddings": True},
}
NEOX = {
    **{"type": "decoder", **WIDE, "parallel_branches": True, "rotary_dim": 4, "qkv_bias": True},
    **{
        "attention_output_bias": True,
        "feed_forward_bias": True,
        "sliding_window": 4,
        "rope_local_theta": 5.0,
    },
}
SIZED = {"type": "decoder", "size": "gpt2-small", "num_layers": 1, "hidden_dim": 8, "num_heads": 2}
LLAMA3 = {"type": "llama3", "factor": 8.0, "original_max_seq_len": 30}
FACTORS = {"type": "factors", "factors": [1.0, 2.0, 4.0, 8.0]}
YARN = {"type": "yarn", "factor": 8.0, "original_max_seq_len": 30}


def has_variable(ending):
    def shows(model):
        assert any(path.endswith(ending) for path in model.paths)

    return shows


def has_shape(ending, **sizes):
    """The variable's sizes along `rows` and `columns`."""

    def shows(model):
        shape = dict(zip(("rows", "columns"), model.of(ending).shape, strict=True))
        assert {name: shape[name] for name in sizes} == sizes

    return shows


def has_blocks(stack, count):
    def shows(model):
        names = {path.split("block_")[1][:2] for path in model.by_path if f"{stack}/block_" in path}
        assert len(names) == count

    return shows


def has_heads(block, count):
    def shows(model):
        assert model.scores(block).shape[1] == count

    return shows


def comes_out(name, shape):
    def shows(model):
        assert model.numbers.get(name, np.zeros([])).shape == shape

    return shows


def attends_by_the_formula(model):
    """Of the config with the key, whatever model it is."""

    def shows(made):
        expected = first_scores(Built(made.model, model))
        np.testing.assert_allclose(made.scores("block_00"), expected, atol=2e-5)

    return shows


def formula(key, group):
    section = built(group).section
    return Case(attends_by_the_formula(section), group, {k: v for k, v in group.items() if k != key})


def _centred(model):
    """A LayerNorm's output has no mean; here its offset is still zero or has been taken off."""
    x = model.numbers["hidden_states"]
    bias = [v for p, v in model.by_path.items() if p.endswith("final_norm/bias")]
    x = (x - (bias[0] if bias else 0.0)) / model.of("final_norm/scale")
    np.testing.assert_allclose(x.mean(-1), 0.0, atol=1e-4)


def _epsilon(model):
    """var / (var + 0.5) of the variance is left."""
    block = model.model.blocks[0].attention_norm
    x = np.random.default_rng(0).normal(size=[1, 4, 12]).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 0.5)
    got = (block(x) - model.of("block_00/attention_norm/bias")) / model.of("block_00/attention_norm/scale")
    np.testing.assert_allclose(got, expected, atol=1e-5)


def _positions(model):
    """Where all tokens are alike, only learned positions tell them apart."""
    same = model.model({"token_ids": tf.ones([1, 5], tf.int32)})["hidden_states"].numpy()
    assert np.abs(same - same[:, :1]).max() > 1e-3


def _gelu(model):
    feed = model.model.blocks[0].feed_forward
    x = np.random.default_rng(0).normal(size=[1, 4, 12]).astype(np.float32)
    up = x @ model.of("block_00/feed_forward/up/kernel") + model.of("block_00/feed_forward/up/bias")
    up = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
    down = up @ model.of("block_00/feed_forward/down/kernel") + model.of("block_00/feed_forward/down/bias")
    np.testing.assert_allclose(feed(x), down, atol=1e-4)


def _drops(model):
    features = {**model.features, "row_seeds": tf.constant([1, 2])}
    dropped = model.model(features, training=True)["hidden_states"].numpy()
    assert np.abs(dropped - model.numbers["hidden_states"]).max() > 1e-3


def _spread(model):
    assert model.of("token_embedding/embeddings").std() == pytest.approx(0.5, rel=0.15)


def _unit_offset(model):
    x = np.random.default_rng(0).normal(size=[1, 4, 12]).astype(np.float32)
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * (1 + model.of("final_norm/scale"))
    np.testing.assert_allclose(model.model.stack.final_norm(x), expected, atol=1e-5)


def _window(model):
    far = np.tril(np.ones([LENGTH, LENGTH]), -3).astype(bool)
    assert model.scores("block_01")[..., far].max() == 0.0


def _one_layer_slides(model):
    far = np.tril(np.ones([LENGTH, LENGTH]), -3).astype(bool)
    assert model.scores("block_00")[..., far].max() > 0.0
    _window(model)


def _logit_cap(model):
    plain = np.einsum("btd,vd->btv", model.numbers["hidden_states"], model.of("token_embedding/embeddings"))
    assert np.abs(plain).max() > 0.6
    np.testing.assert_allclose(model.numbers["logits"], 0.5 * np.tanh(plain / 0.5), atol=1e-4)


def _parallel(model):
    """What a block adds is what attention adds, and what the feed-forward says of the block's own input."""
    block = model.model.blocks[0]
    x = tf.constant(np.random.default_rng(0).normal(size=[1, 1, 12]), tf.float32)
    mask, none = tf.ones([1, 1, 1], tf.bool), (tf.ones([1, 1, 1, 1]), tf.zeros([1, 1, 1, 1]))
    context = AttentionContext(mask, none)
    attended = block.attention(block.attention_norm(x), context=context)[0]
    fed = block.feed_forward(block.feed_forward_norm(x))
    np.testing.assert_allclose(block(x, context=context)[0], x + attended + fed, atol=1e-4)


def without(group, key):
    return {k: v for k, v in group.items() if k != key}


def cases(kind, group, **shows):
    return {f"model:{kind}.{key}": Case(show, group, without(group, key)) for key, show in shows.items()}


DECODERS = {
    **cases(
        "decoder",
        GPT,
        vocab_size=comes_out("logits", (2, LENGTH, 300)),
        hidden_dim=comes_out("hidden_states", (2, LENGTH, 12)),
        num_heads=has_heads("block_00", 3),
        num_layers=has_blocks("decoder", 3),
        max_seq_len=has_shape("position_embedding/embeddings", rows=24),
        norm=_centred,
        norm_epsilon=_epsilon,
        positions=_positions,
        activation=_gelu,
        use_bias=has_variable("block_00/attention/query/bias"),
        tie_embeddings=has_shape("output_projection/kernel", rows=12, columns=300),
        dropout=_drops,
        initializer_range=_spread,
    ),
    **cases(
        "decoder",
        GEMMA,
        num_kv_heads=has_shape("block_00/attention/key/kernel", columns=8),
        head_dim=has_shape("block_00/attention/query/kernel", columns=16),
        intermediate_dim=has_shape("block_00/feed_forward/up/kernel", columns=20),
        norm_unit_offset=_unit_offset,
        branch_norms=has_variable("block_00/attention_output_norm/scale"),
        logit_soft_cap=_logit_cap,
    ),
    **{
        f"model:decoder.{key}": formula(key, GEMMA)
        for key in (*("rope_theta", "rope_scaling", "qk_norm", "attention_scale", "attention_soft_cap"),)
    },
    "model:decoder.sliding_window": Case(
        _window, GEMMA, {k: v for k, v in GEMMA.items() if not k.startswith("sliding")}
    ),
    "model:decoder.sliding_layers": Case(_one_layer_slides, GEMMA, without(GEMMA, "sliding_layers")),
    **cases(
        "decoder",
        NEOX,
        parallel_branches=_parallel,
        qkv_bias=has_variable("block_00/attention/query/bias"),
        attention_output_bias=has_variable("block_00/attention/output/bias"),
        feed_forward_bias=has_variable("block_00/feed_forward/up/bias"),
    ),
    "model:decoder.rotary_dim": formula("rotary_dim", NEOX),
    "model:decoder.rope_local_theta": formula("rope_local_theta", NEOX),
    "model:decoder.size": Case(
        has_shape("position_embedding/embeddings", rows=1024), SIZED, without(SIZED, "size")
    ),
}


def _scaled(name, scaling, key, value):
    group = {"type": "decoder", **WIDE, "rope_theta": 50.0, "head_dim": 8}
    with_it = {**group, "rope_scaling": {**scaling, key: value}}
    other = scaling if key in scaling else {**scaling}
    return Case(
        attends_by_the_formula(built(with_it).section),
        with_it,
        {**group, "rope_scaling": {**other, "type": name}},
    )


SCALINGS = {
    "rope_scaling:linear.factor": _scaled("linear", {"type": "linear", "factor": 1.0}, "factor", 3.0),
    **{
        f"rope_scaling:{scaling['type']}.{key}": _scaled(scaling["type"], scaling, key, value)
        for scaling, values in (
            (
                LLAMA3,
                {"factor": 2.0, "original_max_seq_len": 60, "low_freq_factor": 2.0, "high_freq_factor": 9.0},
            ),
            (
                YARN,
                {
                    **{"factor": 2.0, "original_max_seq_len": 60, "beta_fast": 1.2, "beta_slow": 0.3},
                    **{"attention_factor": 1.5, "truncate": False},
                },
            ),
        )
        for key, value in values.items()
    },
    **{
        f"rope_scaling:{kind}": Case(
            attends_by_the_formula(built({**GEMMA, "rope_scaling": scaling}).section),
            {**GEMMA, "rope_scaling": scaling},
            {**GEMMA, "rope_scaling": None},
        )
        for kind, scaling in (
            ("linear", {"type": "linear", "factor": 3.0}),
            ("llama3", LLAMA3),
            ("yarn", YARN),
            ("factors", FACTORS),
        )
    },
    "rope_scaling:factors.factors": Case(
        attends_by_the_formula(built({**GEMMA, "rope_scaling": FACTORS}).section),
        {**GEMMA, "rope_scaling": FACTORS},
        {**GEMMA, "rope_scaling": {"type": "factors", "factors": [1.0] * 4}},
    ),
}

BERT = {
    **{
        "type": "encoder",
        "vocab_size": 300,
        "num_layers": 2,
        "hidden_dim": 12,
        "num_heads": 3,
        "head_dim": 6,
    },
    **{"intermediate_dim": 20, "max_seq_len": 24, "num_token_types": 3, "position_offset": 2},
    **{
        "norm_placement": "pre",
        "norm_epsilon": 0.5,
        "activation": "relu",
        "pooler": "tanh",
        "head": "masked_lm",
    },
    **{"head_activation": "silu", "tie_embeddings": False, "next_sentence_head": True, "dropout": 0.5},
    "initializer_range": 0.5,
}
CLASSIFIER = {
    **{"type": "encoder", "hidden_dim": 12, "num_heads": 2, "num_layers": 1, "pooler": "tanh"},
    **{"head": "sequence_classification", "num_classes": 3, "class_names": ["a", "b", "c"]},
}
READER = {
    **{"type": "decoder", **WIDE, "head": "sequence_classification", "pooling": "mean"},
    **{"num_classes": 3, "class_names": ["a", "b", "c"]},
}
T5 = {
    **{"type": "encoder_decoder", "vocab_size": 300, "source_vocab_size": 280, "num_encoder_layers": 1},
    **{"num_decoder_layers": 2, "hidden_dim": 12, "num_heads": 3, "decoder_num_heads": 2, "head_dim": 5},
    **{"intermediate_dim": 20, "decoder_intermediate_dim": 28, "max_seq_len": 24, "decoder_start_id": 7},
    **{"norm": "rms_norm", "norm_epsilon": 0.5, "positions": "relative", "relative_num_buckets": 4},
    **{"relative_max_distance": 5, "activation": "relu", "use_bias": False, "attention_scale": 0.7},
    **{"scale_embeddings": True, "tie_embeddings": False, "scale_logits": True, "logits_bias": True},
    **{"dropout": 0.5, "initializer_range": 0.5},
}
BART = {
    **{"type": "encoder_decoder", "hidden_dim": 12, "num_heads": 2, "num_encoder_layers": 1},
    **{"num_decoder_layers": 1, "norm_placement": "post", "embedding_norm": True, "final_norm": False},
    **{"positions": "learned", "position_offset": 2, "initializer_range": 0.5},
}

ROTARY = {
    **{"hidden_dim": 12, "num_heads": 2, "num_kv_heads": 1, "positions": "rotary", "rotary_dim": 4},
    **{"rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 3.0}, "sliding_window": 3},
    **{"sliding_layers": [1], "initializer_range": 0.5},
}
MODERN = {"type": "encoder", "num_layers": 2, "rope_local_theta": 9.0, **ROTARY}
TURNED = {"type": "encoder_decoder", "num_encoder_layers": 2, "num_decoder_layers": 2, **ROTARY}
NEAR = {
    **{"type": "encoder", "num_layers": 1, "hidden_dim": 12, "num_heads": 2, "positions": "relative"},
    **{"relative_num_buckets": 8, "relative_max_distance": 5, "initializer_range": 0.5},
}


def changes(key, group, other=None):
    """With the same weights, other numbers come out than with the key's default, or another value."""
    other = without(group, key) if other is None else {**group, key: other}

    def shows(made):
        plain = same_weights(other, made.by_path)
        assert any(
            x.shape != plain.numbers[name].shape or np.abs(x - plain.numbers[name]).max() > 1e-4
            for name, x in made.numbers.items()
            if name in plain.numbers
        )

    return Case(shows, group, other)


def _start(model):
    first, _ = model.model.decoder_prompt(tf.zeros([1, 3], tf.int32), tf.ones([1, 3], tf.bool))
    assert first.numpy().tolist() == [[7]]


def _named_classes(model):
    assert model.model.class_names == ("a", "b", "c")


def _any_number(model):
    assert model.model.multi_label


ENCODERS = {
    **cases(
        "encoder",
        BERT,
        vocab_size=comes_out("logits", (2, LENGTH, 300)),
        num_layers=has_blocks("encoder", 2),
        hidden_dim=comes_out("hidden_states", (2, LENGTH, 12)),
        num_heads=has_heads("block_00", 3),
        head_dim=has_shape("block_00/attention/query/kernel", columns=18),
        intermediate_dim=has_shape("block_00/feed_forward/up/kernel", columns=20),
        max_seq_len=has_shape("position_embedding/embeddings", rows=24 + 2),
        num_token_types=has_shape("token_type_embedding/embeddings", rows=3),
        position_offset=has_shape("position_embedding/embeddings", rows=24 + 2),
        head=comes_out("logits", (2, LENGTH, 300)),
        tie_embeddings=has_variable("masked_lm_head/kernel"),
        next_sentence_head=comes_out("next_sentence_logits", (2, 2)),
        dropout=_drops,
        initializer_range=_spread,
    ),
    **cases("encoder", CLASSIFIER, class_names=_named_classes),
    "model:encoder.multi_label": Case(_any_number, {**CLASSIFIER, "multi_label": True}, CLASSIFIER),
    "model:encoder.num_classes": Case(
        comes_out("logits", (2, 3)), CLASSIFIER, {**CLASSIFIER, "num_classes": 2, "class_names": ["a", "b"]}
    ),
    **cases("decoder", READER, class_names=_named_classes),
    "model:decoder.head": Case(comes_out("logits", (2, 3)), READER, {"type": "decoder", **WIDE}),
    "model:decoder.multi_label": Case(_any_number, {**READER, "multi_label": True}, READER),
    "model:decoder.num_classes": Case(
        comes_out("logits", (2, 3)), READER, {**READER, "num_classes": 2, "class_names": ["a", "b"]}
    ),
    "model:decoder.pooling": changes("pooling", READER),
    "model:encoder.pooling": changes("pooling", {**BERT, "pooling": "mean"}),
    "model:encoder.pooler": Case(
        comes_out("pooled", (2, 12)), BERT, without(without(BERT, "pooler"), "next_sentence_head")
    ),
    **{
        f"model:encoder.{key}": changes(key, BERT)
        for key in ("norm_placement", "norm_epsilon", "activation", "head_activation")
    },
    **cases(
        "encoder_decoder",
        T5,
        vocab_size=comes_out("logits", (2, LENGTH, 300)),
        source_vocab_size=has_shape("source_embedding/embeddings", rows=280),
        num_encoder_layers=has_blocks("encoder", 1),
        num_decoder_layers=has_blocks("decoder", 2),
        hidden_dim=comes_out("hidden_states", (2, LENGTH, 12)),
        num_heads=has_heads("encoder/block_00", 3),
        decoder_num_heads=has_heads("decoder/block_00", 2),
        head_dim=has_shape("encoder/block_00/attention/query/kernel", columns=15),
        intermediate_dim=has_shape("encoder/block_00/feed_forward/up/kernel", columns=20),
        decoder_intermediate_dim=has_shape("decoder/block_00/feed_forward/up/kernel", columns=28),
        decoder_start_id=_start,
        tie_embeddings=has_variable("output_projection/kernel"),
        logits_bias=has_variable("logits_bias"),
        dropout=_drops,
        initializer_range=_spread,
    ),
    **{
        f"model:encoder_decoder.{key}": changes(key, T5)
        for key in (
            *("norm", "norm_epsilon", "relative_max_distance", "activation"),
            *("attention_scale", "scale_embeddings", "scale_logits"),
        )
    },
    "model:encoder_decoder.relative_num_buckets": changes("relative_num_buckets", T5, 8),
    "model:decoder.scale_embeddings": changes("scale_embeddings", GEMMA),
    **{f"model:encoder_decoder.{key}": changes(key, BART) for key in ("norm_placement", "embedding_norm")},
    # Where blocks end in a norm, as BART's do, one more changes nothing.
    "model:encoder_decoder.final_norm": changes("final_norm", {**BART, "norm_placement": "pre"}),
}


def _no_bias(model):
    assert not any("/query/bias" in path for path in model.paths)


def _relative(model):
    assert any("relative" in path for path in model.paths)


def _limit(model):
    assert model.model.room_after(3) == 23


ENCODERS |= {
    "model:encoder_decoder.use_bias": Case(_no_bias, T5, without(T5, "use_bias")),
    "model:encoder_decoder.positions": Case(_relative, T5, without(T5, "positions")),
    "model:encoder.positions": Case(_relative, NEAR, without(NEAR, "positions")),
    "model:encoder.relative_num_buckets": changes("relative_num_buckets", NEAR, 4),
    "model:encoder.relative_max_distance": changes("relative_max_distance", NEAR),
    "model:encoder.rope_local_theta": changes("rope_local_theta", MODERN),
    **{
        f"model:{group['type']}.{key}": changes(key, group, other)
        for group in (MODERN, TURNED)
        for key, other in (
            *(("rotary_dim", None), ("rope_theta", None), ("rope_scaling", None)),
            *(("sliding_window", 2), ("sliding_layers", None)),
        )
    },
    "model:encoder.num_kv_heads": Case(
        has_shape("block_00/attention/key/kernel", columns=6), MODERN, without(MODERN, "num_kv_heads")
    ),
    "model:encoder_decoder.num_kv_heads": Case(
        has_shape("decoder/block_00/cross_attention/key/kernel", columns=6),
        TURNED,
        without(TURNED, "num_kv_heads"),
    ),
    "model:encoder_decoder.max_seq_len": Case(_limit, T5, without(T5, "max_seq_len")),
    "model:encoder_decoder.position_offset": Case(
        has_shape("decoder/position_embedding/embeddings", rows=16 + 2),
        BART,
        without(BART, "position_offset"),
    ),
    "model:encoder": Case(has_variable("embedding_norm/scale"), {"type": "encoder"}, {"type": "decoder"}),
    "model:encoder_decoder": Case(has_blocks("encoder", 4), {"type": "encoder_decoder"}, {"type": "decoder"}),
}
CASES = {**DECODERS, **SCALINGS, **ENCODERS}

_built = functools.cache(lambda text: built(json.loads(text)))


def made(section):
    return _built(json.dumps(section))


@pytest.mark.parametrize("key", CASES)
def test_the_model_is_what_its_keys_say(key):
    hold(CASES[key], made)


@pytest.mark.slow
@pytest.mark.parametrize("group", [GPT, GEMMA, NEOX], ids=["GPT", "Gemma", "NeoX"])
def test_a_model_trained_stopped_and_loaded_is_still_that(group, runs):
    run = runs({"model": group}, stop_at=3)
    assert run.statuses == [143, 0], run.words
    assert run.lines("validation")[-1]["loss"] < run.lines("validation")[0]["loss"]
    trained = Built(run.lm.model, to_mapping(run.lm.config.model))
    for case in DECODERS.values():
        if case.values is group:
            case.shows(trained)


@pytest.mark.parametrize("group", [BERT, CLASSIFIER, T5, BART], ids=["BERT", "classifier", "T5", "BART"])
def test_a_model_saved_and_loaded_is_still_that(group, tmp_path):
    import tfllm
    from tests.promises.runs import mapping
    from tfllm.config import config_from_mapping
    from tfllm.language_model import LanguageModel
    from tfllm.tokenizers.byte import ByteTokenizer

    config = config_from_mapping(mapping("unused", model=group), for_training=False)
    model = made(group)
    LanguageModel(model.model, ByteTokenizer(), config).save(tmp_path / "run")
    lm = tfllm.load(tmp_path / "run", jit_compile=False)
    again = Built(lm.model, to_mapping(lm.config.model))
    for name, numbers in model.numbers.items():
        np.testing.assert_allclose(again.numbers[name], numbers, atol=1e-6, err_msg=name)
    if group["type"] == "encoder":
        assert lm.embed(["ban", "kon"]).shape == (2, 12)
    else:
        assert isinstance(lm.generate("ban", temperature=0.0), str)
