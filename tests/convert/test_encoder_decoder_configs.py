"""What published encoder-decoders say in config.json, and what cannot be said."""

import json

import numpy as np
import pytest

from tests.convert.golden import config_of, tensors_of, write_checkpoint
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.convert.huggingface import save_model
from tfllm.convert.summary import summary
from tfllm.layers.positions.sinusoidal import sinusoidal_table
from tfllm.models.encoder_decoder import EncoderDecoder

_T5 = {
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "use_cache": True,
    "vocab_size": 32128,
}
_BART = {
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "add_final_layer_norm": False,
    "attention_dropout": 0.0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "dropout": 0.1,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "id2label": {"0": "LABEL_0"},
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "normalize_before": False,
    "use_cache": True,
}
# As the files stand on the hub, but for task_specific_params and labels, which are cut short.
PUBLISHED = {
    "t5-small": {
        **_T5,
        "architectures": ["T5ForConditionalGeneration"],
        "task_specific_params": {"summarization": {"num_beams": 4, "prefix": "summarize: "}},
    },
    "flan-t5-base": {
        **_T5,
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 768,
        "dense_act_fn": "gelu_new",
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "num_decoder_layers": 12,
        "num_heads": 12,
        "num_layers": 12,
        "relative_attention_max_distance": 128,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.23.1",
    },
    "bart-large-cnn": {
        **_BART,
        "architectures": ["BartForConditionalGeneration"],
        "bos_token_id": 0,
        "d_model": 1024,
        "decoder_attention_heads": 16,
        "decoder_ffn_dim": 4096,
        "decoder_layers": 12,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "encoder_attention_heads": 16,
        "encoder_ffn_dim": 4096,
        "encoder_layers": 12,
        "eos_token_id": 2,
        "force_bos_token_to_be_generated": True,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "gradient_checkpointing": False,
        "length_penalty": 2.0,
        "max_length": 142,
        "max_position_embeddings": 1024,
        "min_length": 56,
        "model_type": "bart",
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "num_hidden_layers": 12,
        "output_past": True,
        "pad_token_id": 1,
        "prefix": " ",
        "scale_embedding": False,
        "vocab_size": 50264,
    },
    "opus-mt-en-fr": {
        **_BART,
        "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-fr",
        "activation_function": "swish",
        "add_bias_logits": False,
        "architectures": ["MarianMTModel"],
        "bad_words_ids": [[59513]],
        "bos_token_id": 0,
        "d_model": 512,
        "decoder_attention_heads": 8,
        "decoder_ffn_dim": 2048,
        "decoder_layers": 6,
        "decoder_start_token_id": 59513,
        "decoder_vocab_size": 59514,
        "encoder_attention_heads": 8,
        "encoder_ffn_dim": 2048,
        "encoder_layers": 6,
        "eos_token_id": 0,
        "extra_pos_embeddings": 59514,
        "forced_eos_token_id": 0,
        "max_length": 512,
        "max_position_embeddings": 512,
        "model_type": "marian",
        "normalize_embedding": False,
        "num_beams": 4,
        "num_hidden_layers": 6,
        "pad_token_id": 59513,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": True,
        "static_position_embeddings": True,
        "vocab_size": 59514,
    },
}
EXPECTED = {
    "t5-small": {
        "scale_logits": True,
        "activation": "relu",
        "num_decoder_layers": 6,
        "relative_max_distance": 128,
    },
    "flan-t5-base": {"scale_logits": False, "tie_embeddings": False, "activation": "geglu", "head_dim": 64},
    "bart-large-cnn": {"vocab_size": 50264, "decoder_start_id": 2, "position_offset": 2, "max_seq_len": 1024},
    "opus-mt-en-fr": {"activation": "silu", "decoder_start_id": 59513, "scale_embeddings": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_understood(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    checkpoint = read_checkpoint(tmp_path)
    assert len(checkpoint.notes) == 1
    assert "=0.1 concerns training" in checkpoint.notes[0]
    for argument, value in EXPECTED[name].items():
        assert checkpoint.arguments[argument] == value, argument


def config(name, **changes):
    return {**config_of(name), **changes}


REFUSED = {
    "an activation": (
        config("t5", feed_forward_proj="gated-relu"),
        "feed_forward_proj='gated-relu' is not impl",
    ),
    "another gate": (
        config("t5", dense_act_fn="gelu"),
        "dense_act_fn='gelu' is not implemented in tfllm; feed_",
    ),
    "no gate": (config("t5_gated_untied", is_gated_act=False), "goes with True"),
    "a scale": (
        config("mt5", model_type="t5", scale_decoder_outputs=True),
        "with tie_word_embeddings=False only",
    ),
    "few buckets": (
        config("t5", relative_attention_num_buckets=3),
        "relative_num_buckets=3 must be at least 4",
    ),
    "near distances": (
        config("t5", relative_attention_max_distance=4),
        "relative_max_distance=4 must be greater",
    ),
    "other layers": (config("t5", num_hidden_layers=5), "num_hidden_layers=5 is not implemented"),
    "a start": (
        config("t5", decoder_start_token_id=61),
        "the decoder starts with token 61, which a vocabulary of 61",
    ),
    "uneven heads": (config("bart", decoder_attention_heads=5), "a width of 24 must be divisible by 5"),
    "norms before": (config("bart", normalize_before=True), "normalize_before=True is not implemented"),
    "final norms": (
        config("bart", add_final_layer_norm=True),
        "add_final_layer_norm=True is not implemented",
    ),
    "no norm": (config("bart", normalize_embedding=False), "normalize_embedding=False is not implemented"),
    "fixed places": (
        config("bart", static_position_embeddings=True),
        "static_position_embeddings=True is not",
    ),
    "other places": (config("bart", extra_pos_embeddings=1), "extra_pos_embeddings=1 is not implemented"),
    "untied BART": (
        config("bart", tie_word_embeddings=False),
        "tie_word_embeddings=False is not implemented",
    ),
    "learned places": (
        config("marian", static_position_embeddings=False),
        "static_position_embeddings=False is",
    ),
    "two sizes": (config("marian", decoder_vocab_size=50), "embeddings are shared, so only 61 is"),
    "untied Marian": (
        config("marian", tie_word_embeddings=False),
        "where embeddings are shared, only True is",
    ),
    "an odd width": (
        config("marian", d_model=27, encoder_attention_heads=3, decoder_attention_heads=3),
        "a width of 27 must be even",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_implemented_is_refused_by_name(name, tmp_path):
    mapping, words = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(mapping))
    with pytest.raises(ConvertError) as caught:
        read_checkpoint(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)


def assert_same_model(folder, tensors, name):
    """The model in a folder that holds these tensors is that of the case."""
    changed = load_model(read_checkpoint(write_checkpoint(folder / "changed", name, tensors=tensors)))
    usual = load_model(read_checkpoint(write_checkpoint(folder / "usual", name)))
    for one, other in zip(changed.variables, usual.variables, strict=True):
        np.testing.assert_array_equal(one, other)


T5_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")


def test_copies_of_the_embedding_may_stand_beside_it(tmp_path):
    tensors = tensors_of("t5")
    unused = {
        "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.ones([8, 3], np.float32)
    }
    copies = {name: tensors["shared.weight"].copy() for name in T5_COPIES}
    assert_same_model(tmp_path, {**tensors, **copies, **unused}, "t5")


@pytest.mark.parametrize("name", T5_COPIES)
def test_or_in_its_place(name, tmp_path):
    tensors = tensors_of("t5")
    tensors[name] = tensors.pop("shared.weight")
    assert_same_model(tmp_path, tensors, "t5")


@pytest.mark.parametrize("name", T5_COPIES)
def test_but_not_differ_from_it(name, tmp_path):
    tensors = tensors_of("t5")
    tensors[name] = tensors["shared.weight"] + 1e-6
    folder = write_checkpoint(tmp_path / "c", "t5", tensors=tensors)
    with pytest.raises(ConvertError, match=f"not known: {name}"):
        load_model(read_checkpoint(folder))


def test_what_transformers_5_leaves_open_the_file_decides(tmp_path):
    """It writes `tie_word_embeddings: true` for models that are not tied."""
    written = config("t5_gated_untied", tie_word_embeddings=True, scale_decoder_outputs=False)
    untied = tensors_of("t5_gated_untied")
    tied = {name: value for name, value in untied.items() if name != "lm_head.weight"}
    copied = {**tied, "lm_head.weight": tied["shared.weight"]}
    for number, (tensors, expected) in enumerate(((untied, False), (tied, True), (copied, True))):
        folder = tmp_path / str(number)
        write_checkpoint(folder, "t5_gated_untied", config=written, tensors=tensors)
        checkpoint = read_checkpoint(folder)
        assert checkpoint.arguments["tie_embeddings"] is expected
        model = load_model(checkpoint)
        save_model(folder / "back", model, checkpoint.arguments, model_type="t5")
        assert read_checkpoint(folder / "back").arguments == checkpoint.arguments


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_computed_positions_are_known_only_if_they_are_ours(dtype, tmp_path):
    table = sinusoidal_table(96, 28).astype(dtype)
    names = [f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")]
    assert_same_model(tmp_path, {**tensors_of("marian"), **dict.fromkeys(names, table)}, "marian")
    table = table.copy()
    table[5, 3] += 0.01
    folder = write_checkpoint(tmp_path / "c", "marian", tensors={**tensors_of("marian"), names[1]: table})
    with pytest.raises(ConvertError, match=f"not known: {names[1]}"):
        load_model(read_checkpoint(folder))


def test_a_bare_bart_has_no_bias_and_no_prefix(tmp_path):
    tensors = tensors_of("bart")
    bare = {name.removeprefix("model."): x for name, x in tensors.items() if name != "final_logits_bias"}
    copies = {f"{stack}.embed_tokens.weight": bare["shared.weight"] for stack in ("encoder", "decoder")}
    bare["encoder.version"] = np.ones([1], np.float32)
    same_but_for_bias = {**tensors, "final_logits_bias": np.zeros([1, 61], np.float32)}
    models = [
        load_model(read_checkpoint(write_checkpoint(tmp_path / str(number), "bart", tensors=each)))
        for number, each in enumerate(({**bare, **copies}, same_but_for_bias))
    ]
    for one, other in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_heads_that_are_not_read_are_named(tmp_path):
    head = {"classification_head.dense.weight": np.zeros([24, 24], np.float32)}
    folder = write_checkpoint(tmp_path / "c", "bart", tensors={**tensors_of("bart"), **head})
    with pytest.raises(ConvertError, match=r"not known: classification_head\.dense\.weight"):
        load_model(read_checkpoint(folder))
    tensors = {name: x for name, x in tensors_of("t5").items() if not name.startswith("decoder.")}
    folder = write_checkpoint(tmp_path / "d", "t5", tensors=tensors)
    with pytest.raises(ConvertError, match=r"missing: decoder\.block\.0\."):
        load_model(read_checkpoint(folder))


def test_a_kind_is_not_written_as_another(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", "bart"))
    model = load_model(checkpoint)
    with pytest.raises(ConvertError, match="model_type='llama'"):
        save_model(tmp_path / "out", model, checkpoint.arguments, model_type="llama")
    save_model(tmp_path / "out", model, checkpoint.arguments)
    assert read_checkpoint(tmp_path / "out").family.model_type == "bart"


@pytest.mark.parametrize("name", ["t5", "bart", "marian_two_vocabularies"])
def test_the_summary_counts_every_parameter(name, tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", name))
    sections = dict(summary(checkpoint))
    counts = [int(text.split()[0].replace(",", "")) for _, text in sections["PARAMETERS"]]
    assert counts[-1] == sum(counts[:-1]) == sum(x.size for x in tensors_of(name).values())
    assert any(part.startswith("decoder/blocks/cross_attention") for part, _ in sections["PARAMETERS"])
    assert "of cache" in sections["MEMORY"][0][1]


@pytest.mark.parametrize(
    "changes",
    [
        {"positions": "rotary"},
        {"num_kv_heads": 1},
        {"positions": "relative", "num_kv_heads": 1},
        {"sliding_window": 3},
        {"sliding_window": 3, "positions": "sinusoidal"},
        {"rotary_dim": 2, "positions": "rotary"},
    ],
    ids=str,
)
def test_what_a_family_cannot_say_is_refused_by_name(changes, tmp_path):
    """A file that leaves it out would load as another model, in silence."""
    sizes = {
        "vocab_size": 30,
        "num_encoder_layers": 1,
        "num_decoder_layers": 1,
        "hidden_dim": 16,
        "num_heads": 4,
    }
    bart = {"norm_placement": "post", "embedding_norm": True, "final_norm": False}
    bart |= {"position_offset": 2, "logits_bias": True}
    plain = {**sizes, **bart, "max_seq_len": 16}
    model = EncoderDecoder(**plain)
    model.build()
    save_model(tmp_path / "plain", model, plain)
    model = EncoderDecoder(**{**plain, **changes})
    model.build()
    with pytest.raises(ConvertError, match="no family of checkpoints can say this model"):
        save_model(tmp_path / "c", model, {**plain, **changes})
    assert not (tmp_path / "c" / "model.safetensors").exists()
