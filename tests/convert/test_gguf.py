"""GGUF files, written here by the package's own writer as llama.cpp's converter would."""

import gguf
import numpy as np
import pytest
import tensorflow as tf

from tests.convert.golden import config_of, load_golden, tensors_of, write_checkpoint
from tests.convert.goldens.cases import CASES, batch
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.convert.weight_table import variables_by_path

ARCHITECTURES = {
    "llama_tied_linear": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name, gemma):
    stem, kind = name.rsplit(".", 1)
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, number, part = stem.split(".", 3)
    norms = {"post_attention_layernorm": "ffn_norm"}
    if gemma:
        norms = {
            "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        }
    return f"blk.{number}.{ {**NAMES, **norms}[part] }.{kind}"


def interleaved(array, heads):
    """What llama.cpp's converter does to the rows of queries and keys of llama."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)


def write(path, name, *, quantize=None, change=lambda tensors: None, **metadata):
    config, architecture = config_of(name), ARCHITECTURES[name]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    if "head_dim" in config:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_rope_dimension_count(config["head_dim"])
    if "rope_scaling" in config:
        writer.add_rope_scaling_type(gguf.RopeScalingType(config["rope_scaling"]["rope_type"]))
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
    for key, value in metadata.items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[type(value)]
        add(f"{architecture}.{key}", value)
    gemma = architecture.startswith("gemma")
    tensors = dict(tensors_of(name))
    change(tensors)
    for theirs, array in tensors.items():
        if architecture == "llama" and (".q_proj." in theirs or ".k_proj." in theirs):
            heads = config["num_attention_heads" if ".q_proj." in theirs else "num_key_value_heads"]
            array = interleaved(array, heads)
        if gemma and theirs.endswith("norm.weight"):
            array = array + 1.0
        kind = gguf.GGMLQuantizationType.F32
        if quantize is not None and array.ndim == 2:
            kind = quantize
            array = gguf.quants.quantize(array, kind)
        writer.add_tensor(gguf_name(theirs, gemma), array, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits_of(model):
    tokens, mask = batch()
    features = {"token_ids": tf.constant(tokens, tf.int32), "padding_mask": tf.constant(mask, tf.bool)}
    return model(features)["logits"].numpy()[mask.astype(bool)]


def test_a_llama_computes_what_its_golden_says(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "m.gguf", "llama_tied_linear"))
    assert checkpoint.arguments["tie_embeddings"]
    assert not checkpoint.notes
    load_model(checkpoint)  # once does not use it up
    np.testing.assert_allclose(
        logits_of(load_model(checkpoint)), load_golden("llama_tied_linear")["logits"], atol=2e-5
    )


def test_a_qwen3_computes_what_its_golden_says(tmp_path):
    checkpoint = read_checkpoint(write(tmp_path / "m.gguf", "qwen3"))
    np.testing.assert_allclose(logits_of(load_model(checkpoint)), load_golden("qwen3")["logits"], atol=2e-5)


@pytest.mark.parametrize(
    ("name", "metadata", "says"),
    [
        ("qwen2", {}, {"use_sliding_window": False}),
        (
            "gemma2",
            {"attention.sliding_window": 5, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.5},
            {"query_pre_attn_scalar": 10},
        ),
        (
            "gemma3",
            {"attention.sliding_window": 5, "rope.freq_base_swa": 50.0},
            {"query_pre_attn_scalar": 10, "sliding_window_pattern": 6},
        ),
    ],
)
def test_the_others_compute_what_the_same_checkpoint_in_a_folder_does(name, metadata, says, tmp_path):
    config = {**config_of(name), **says}
    folder = write_checkpoint(tmp_path / "folder", name, config=config)
    expected = read_checkpoint(folder)
    checkpoint = read_checkpoint(write(tmp_path / "m.gguf", name, **metadata))
    assert checkpoint.arguments == {
        **expected.arguments,
        "norm_epsilon": pytest.approx(expected.arguments["norm_epsilon"]),
    }
    np.testing.assert_allclose(logits_of(load_model(checkpoint)), logits_of(load_model(expected)), atol=2e-5)


@pytest.mark.parametrize("kind", ["Q8_0", "Q5_1", "Q4_0", "Q4_1"])
def test_quantized_weights_are_those_of_the_package(kind, tmp_path, monkeypatch):
    kind = gguf.GGMLQuantizationType[kind]

    def widen(tensors):
        rng = np.random.default_rng(0)
        for name, array in tensors.items():
            rows = {24: 32, 40: 64, 12: 32}.get(array.shape[0], array.shape[0])
            columns = [{24: 32, 40: 64, 12: 32}.get(size, size) for size in array.shape[1:]]
            tensors[name] = rng.normal(size=[rows, *columns]).astype(np.float32)
        for number in range(3):  # heads of width 8, two of them for keys and values
            for part in ("k_proj", "v_proj"):
                tensors[f"model.layers.{number}.self_attn.{part}.weight"] = rng.normal(size=[16, 32]).astype(
                    np.float32
                )

    monkeypatch.setitem(CASES["llama_tied_linear"][1], "hidden_size", 32)
    monkeypatch.setitem(CASES["llama_tied_linear"][1], "intermediate_size", 64)
    kept = {}

    def widen_and_keep(tensors):
        widen(tensors)
        kept.update(tensors)

    path = write(tmp_path / "m.gguf", "llama_tied_linear", quantize=kind, change=widen_and_keep)
    model = load_model(read_checkpoint(path))
    variables = variables_by_path(model)
    up = kept["model.layers.1.mlp.up_proj.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(up, kind), kind)
    np.testing.assert_array_equal(variables["block_01/feed_forward/up/kernel"].numpy().T, expected)
    assert 0 < np.abs(expected - up).max() < 0.5
    query = kept["model.layers.1.self_attn.q_proj.weight"]
    ours = variables["block_01/attention/query/kernel"].numpy().T
    assert np.abs(ours - query).max() < 0.5, "rows of a head are in the other order"


def test_files_that_cannot_be_read(tmp_path):
    path = write(tmp_path / "m.gguf", "llama_tied_linear")
    data = path.read_bytes()
    bad = tmp_path / "bad.gguf"
    for content in (b"", b"GGUF", b"not a model at all" * 10, data[: len(data) // 2], data[:40], data[:-200]):
        bad.write_bytes(content)
        with pytest.raises(ConvertError, match=r"bad\.gguf is not a whole GGUF file .*; download it again"):
            load_model(read_checkpoint(bad))
    huge = data[:8] + (2**60).to_bytes(8, "little") + data[16:]
    bad.write_bytes(huge)
    with pytest.raises(ConvertError, match=r"bad\.gguf is not a whole GGUF file"):
        read_checkpoint(bad)
    with pytest.raises(ConvertError, match=r"does not exist; give the path of a \.gguf file"):
        read_checkpoint(tmp_path / "none.gguf")


def test_an_unknown_architecture_and_a_strange_tensor_are_named(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConvertError, match=r"general\.architecture='mamba' is not known; known are gemma2, "):
        read_checkpoint(tmp_path / "m.gguf")


def test_metadata_that_nobody_reads_is_said(tmp_path):
    path = write(tmp_path / "m.gguf", "llama_tied_linear", **{"expert_count": 8})
    assert read_checkpoint(path).notes == ("llama.expert_count=8 is not known and was left aside",)


def test_a_list_with_a_number_for_each_layer_is_said_or_refused(tmp_path):
    path = write(tmp_path / "m.gguf", "llama_tied_linear", **{"attention.pattern": [1, 0, 1]})
    assert read_checkpoint(path).notes == (
        "llama.attention.pattern=[1, 0, 1] is not known and was left aside",
    )
    path = write(tmp_path / "n.gguf", "llama_tied_linear", **{"attention.sliding_window": [5, 6, 5]})
    notes = read_checkpoint(path).notes
    assert notes == ("sliding_window=[5, 6, 5] is not known and was left aside",)
    path = write(tmp_path / "o.gguf", "qwen2", **{"attention.sliding_window": [5, 6, 5]})
    with pytest.raises(ConvertError, match=r"sliding_window=\[5, 6, 5\] must be a whole number"):
        read_checkpoint(path)
