"""Checkpoints that cannot be read: one clear message each, and never a model."""

import json
import struct

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.convert.golden import config_of, tensors_of, write_checkpoint
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.convert.huggingface import save_model

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def config(name="llama", *without, **changes):
    mapping = {**config_of(name), **changes}
    return {key: value for key, value in mapping.items() if key not in without}


def rope(**changes):
    return config(rope_scaling={**config_of("llama")["rope_scaling"], **changes})


# What stands in config.json, and what is said about it.
CONFIGS = {
    "an unknown type": (config(model_type="mamba"), "model_type='mamba' is not known; known are "),
    "no type": (config("llama", "model_type"), "model_type=None is not known"),
    "a list": ([1, 2], "must hold a mapping, not list"),
    "a missing width": (config("llama", "hidden_size"), "hidden_size is missing"),
    "a width in words": (config(hidden_size="wide"), "hidden_size='wide' must be a whole number"),
    "a negative width": (config(hidden_size=-4), "hidden_size=-4 must be at least 1"),
    "an absurd width": (config(hidden_size=10**12), "must be at least 1 and below"),
    "a truth for a number": (config(num_hidden_layers=True), "num_hidden_layers=True must be a whole number"),
    "uneven groups": (config(num_key_value_heads=3), "4 attention heads must be divisible by 3"),
    "uneven heads": (config("mistral", "head_dim", hidden_size=26), "a width of 26 must be divisible by 4"),
    "an activation": (config(hidden_act="relu2"), "hidden_act='relu2' is not implemented in tfllm; silu, "),
    "a way to stretch": (
        rope(rope_type="dynamic"),
        "rope_type='dynamic' is not implemented in tfllm; default, ",
    ),
    "a key about it": (
        rope(beta=2.0),
        "beta=2.0 is not implemented in tfllm; it is not a key of rope_type llama3",
    ),
    "a factor below one": (rope(factor=0.5), "factor=0.5 is not implemented"),
    "bounds out of order": (rope(high_freq_factor=0.5), "must be greater than low_freq_factor=1.0"),
    "part of a head": (config(partial_rotary_factor=0.5), "this family turns whole heads"),
    "an odd part": (config("gpt_neox", rotary_pct=0.4), "it must give an even part of a head's 8 entries"),
    "kinds of layers": (
        config("qwen2", layer_types=["full_attention", "linear_attention", "full_attention"]),
        "layer_types='linear_attention' is not implemented",
    ),
    "too few kinds": (config("qwen2", layer_types=["full_attention"]), "it must name 3 layers"),
    "scores by layer": (config("gpt2", scale_attn_by_inverse_layer_idx=True), "only False is"),
    "both directions": (config("gemma2", use_bidirectional_attention=True), "only False is"),
    "quantized": (config(quantization_config={"bits": 4}), "save the checkpoint unquantized"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_cannot_be_used(name, tmp_path):
    mapping, words = CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(mapping))
    with pytest.raises(ConvertError) as caught:
        read_checkpoint(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_no_folder_no_config_no_json(tmp_path):
    with pytest.raises(ConvertError, match=r"holds no config\.json; give the folder of a checkpoint"):
        read_checkpoint(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ConvertError, match="is not a JSON file"):
        read_checkpoint(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConvertError, match="is not a JSON file"):
        read_checkpoint(tmp_path)


def header(folder, change):
    """Rewrites the header of the weights."""
    data = (folder / WEIGHTS).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    change(entries)
    text = json.dumps(entries).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def cut(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def huge_header(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**63) + data[8:])


def garbage(folder):
    (folder / WEIGHTS).write_bytes(b"\x00" * 5)


def negative_shape(folder):
    def change(entries):
        entries["model.norm.weight"]["shape"] = [-24]

    header(folder, change)


def overlapping(folder):
    def change(entries):
        entries["model.norm.weight"]["data_offsets"] = [0, 96]

    header(folder, change)


def retyped(folder):
    save_file({k: v.astype(np.int8) for k, v in tensors_of("llama").items()}, folder / WEIGHTS)


def without(folder):
    tensors = tensors_of("llama")
    for name in list(tensors)[3:20]:
        del tensors[name]
    save_file(tensors, folder / WEIGHTS)


def left_over(folder):
    more = {"model.layers.0.adapter.weight": np.zeros([2, 2], np.float32)}
    save_file({**tensors_of("llama"), **more}, folder / WEIGHTS)


def misshaped(folder):
    tensors = tensors_of("llama")
    tensors["model.layers.1.mlp.up_proj.weight"] = np.zeros([40, 25], np.float32)
    save_file(tensors, folder / WEIGHTS)


def wider_config(folder):
    (folder / "config.json").write_text(json.dumps(config(intermediate_size=2**30)))


def pickled(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def nothing(folder):
    (folder / WEIGHTS).unlink()


def sharded(folder, weight_map=None, names=("a.safetensors", "b.safetensors")):
    """Two files and an index; `weight_map` changes where the index says that tensors lie."""
    tensors = tensors_of("llama")
    (folder / WEIGHTS).unlink()
    halves = list(tensors)[::2], list(tensors)[1::2]
    where = {}
    for file, half in zip(names, halves, strict=True):
        save_file({name: tensors[name] for name in half}, folder / file)
        where.update(dict.fromkeys(half, file))
    (folder / INDEX).write_text(json.dumps({"weight_map": {**where, **(weight_map or {})}}))


def shard_missing(folder):
    sharded(folder)
    (folder / "b.safetensors").unlink()


def shard_elsewhere(folder):
    sharded(folder, {"model.norm.weight": "../b.safetensors"})


def shard_absolute(folder):
    sharded(folder, {"model.norm.weight": str(folder / "a.safetensors")})


def index_that_lies(folder):
    sharded(folder, {"model.embed_tokens.weight": "b.safetensors"})


def index_of_nothing(folder):
    sharded(folder)
    (folder / INDEX).write_text('{"weight_map": []}')


def twice(folder):
    sharded(folder)
    save_file(tensors_of("llama"), folder / "b.safetensors")


WEIGHT_FILES = {
    cut: "is truncated or corrupt .*; download it again",
    huge_header: "is truncated or corrupt",
    garbage: "is truncated or corrupt",
    negative_shape: "is truncated or corrupt",
    overlapping: "is truncated or corrupt",
    retyped: "is of type I8; F32, F16, BF16, F64 are read",
    without: r"missing: model\..*, and 9 more",
    left_over: r"not known: model\.layers\.0\.adapter\.weight",
    misshaped: r"up_proj\.weight has \[40, 25\] and should have \[40, 24\]",
    wider_config: "a width of 24 and a feed-forward of 1073741824, more numbers than the files hold",
    pickled: "is a Python pickle, which runs code when it is read, and is not opened",
    nothing: "holds neither model.safetensors nor",
    shard_missing: r"b\.safetensors is missing; download the whole checkpoint",
    shard_elsewhere: "which is not the name of a safetensors file beside it",
    shard_absolute: "which is not the name of a safetensors file beside it",
    index_that_lies: "into b.safetensors, which does not hold it",
    index_of_nothing: "is not an index of safetensors files",
    twice: "stands in a.safetensors and in b.safetensors",
}


@pytest.mark.parametrize("damage", WEIGHT_FILES, ids=lambda damage: damage.__name__)
def test_weights_that_cannot_be_read(damage, tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", "llama")
    damage(folder)
    with pytest.raises(ConvertError, match=WEIGHT_FILES[damage]) as caught:
        load_model(read_checkpoint(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_failure_leaves_nothing_behind(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", "llama")
    good = load_model(read_checkpoint(folder))
    retyped(folder)
    for _ in range(2):
        with pytest.raises(ConvertError, match="is of type I8"):
            load_model(read_checkpoint(folder))
    again = load_model(read_checkpoint(write_checkpoint(tmp_path / "again", "llama")))
    for one, other in zip(good.variables, again.variables, strict=True):
        np.testing.assert_array_equal(one, other)
    with keras.StatelessScope():
        pass  # would initialize what a failed load had left over


def test_several_files_are_read_as_one(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", "llama")
    whole = load_model(read_checkpoint(folder))
    sharded(folder)
    for one, other in zip(whole.variables, load_model(read_checkpoint(folder)).variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_names_may_leave_the_prefix_out_and_buffers_are_no_weights(tmp_path):
    tensors = {name.removeprefix("transformer."): value for name, value in tensors_of("gpt2").items()}
    tensors["h.0.attn.bias"] = np.ones([1, 1, 128, 128], np.float32)
    tensors["lm_head.weight"] = tensors["wte.weight"].copy()
    bare = write_checkpoint(tmp_path / "bare", "gpt2", tensors=tensors)
    usual = write_checkpoint(tmp_path / "usual", "gpt2")
    models = [load_model(read_checkpoint(folder)) for folder in (bare, usual)]
    for one, other in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_was_not_understood_is_said(tmp_path):
    mapping = config("gpt2", attn_pdrop=0.1, sparse_heads=4, use_cache=True, other=None, more=False)
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", "gpt2", config=mapping))
    assert checkpoint.notes == (
        "attn_pdrop=0.1 concerns training; set model.dropout where you want it",
        "sparse_heads=4 is not known and was left aside",
    )


def test_types_that_are_not_known(tmp_path):
    checkpoint = read_checkpoint(write_checkpoint(tmp_path / "c", "gpt2"))
    with pytest.raises(ConvertError, match="dtype='int8' is not known; use float32, bfloat16, float16"):
        load_model(checkpoint, dtype="int8")
    model = load_model(checkpoint)
    with pytest.raises(ConvertError, match="dtype='int8' is not known"):
        save_model(tmp_path / "out", model, checkpoint.arguments, dtype="int8")
    with pytest.raises(ConvertError, match="is not empty"):
        save_model(tmp_path / "c", model, checkpoint.arguments)
    with pytest.raises(ConvertError, match="model_type='mamba' is not known"):
        save_model(tmp_path / "out", model, checkpoint.arguments, model_type="mamba")
    with pytest.raises(ConvertError, match=r"model\.\w+=.* cannot be said in a checkpoint of type qwen3"):
        save_model(tmp_path / "out", model, checkpoint.arguments, model_type="qwen3")
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_model_of_our_own_finds_its_family(tmp_path):
    from tfllm.models.decoder import Decoder

    arguments = {"vocab_size": 19, "num_layers": 2, "hidden_dim": 16, "num_heads": 4, "max_seq_len": 32}
    for changes, family in (
        ({}, "llama"),
        ({"sliding_window": 4}, "mistral"),
        ({"qkv_bias": True}, "qwen2"),
        (
            {"norm": "layer_norm", "positions": "learned", "activation": "gelu_tanh", "use_bias": True},
            "gpt2",
        ),
    ):
        model = Decoder(**arguments, **changes)
        model.build()
        save_model(tmp_path / family, model, {**arguments, **changes})
        checkpoint = read_checkpoint(tmp_path / family)
        assert checkpoint.family.model_type == family
        for one, other in zip(model.variables, load_model(checkpoint).variables, strict=True):
            np.testing.assert_array_equal(one, other)
    odd = {**arguments, "norm": "layer_norm", "activation": "relu", "positions": "none"}
    model = Decoder(**odd)
    model.build()
    with pytest.raises(ConvertError, match=r"no family of checkpoints can say this model:\n  - model\."):
        save_model(tmp_path / "odd", model, odd)
