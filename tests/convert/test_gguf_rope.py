"""The factors of rotary frequencies in GGUF files, as llama.cpp's converter writes them for Llama 3.1 and later."""

import math

import gguf
import numpy as np
import pytest

from scripts.checks.small_gguf import gguf_bytes, gguf_metadata, gguf_tensors
from tests.convert.golden import config_of, tensors_of, write_checkpoint
from tests.convert.test_gguf import gguf_name, interleaved, logits_of
from tfllm.convert.checkpoint import load_model, read_checkpoint
from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_rope import rope_section_of
from tfllm.convert.huggingface import save_model
from tfllm.layers.positions.rotary_scaling import scaled_frequencies

THETA = 500_000.0


def llama_cpp_factors(head_dim, theta, *, factor=8.0, low=1.0, high=4.0, original=8192):
    """`generate_extra_tensors` of llama.cpp's `convert_hf_to_gguf.py`, written anew."""
    factors = []
    for pair in range(head_dim // 2):
        wavelength = 2 * math.pi * theta ** (2 * pair / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.float32(factors)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_factors_of_llama_3_are_said_in_its_own_words(factor, tmp_path):
    factors = llama_cpp_factors(64, THETA, factor=factor)
    section = rope_section_of(tmp_path, factors, {}, THETA)
    assert section == {
        "rope_type": "llama3",
        "factor": factor,
        "original_max_position_embeddings": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }


def test_other_factors_stay_a_list(tmp_path):
    factors = np.float32([1.0, 1.5, 2.0, 7.0])
    section = rope_section_of(tmp_path, factors, {"rope_type": "linear", "factor": 2.0}, THETA)
    assert section["rope_type"] == "longrope" and section["attention_factor"] == 1.0
    assert section["short_factor"] == section["long_factor"] == [2.0, 3.0, 4.0, 14.0]
    assert rope_section_of(tmp_path, np.ones(4, np.float32), {}, THETA) is None
    with pytest.raises(
        ConvertError, match=r"rope_freqs\.weight beside rope\.scaling\.type='yarn' is not implemented"
    ):
        rope_section_of(tmp_path, factors, {"rope_type": "yarn", "factor": 2.0}, THETA)
    for wrong in (
        np.float32([1.0, 0.0]),
        np.float32([1.0, -1.0]),
        np.float32([1.0, np.inf]),
        np.ones([2, 2]),
    ):
        with pytest.raises(ConvertError, match=r"rope_freqs\.weight must be a list of numbers above 0"):
            rope_section_of(tmp_path, wrong, {}, THETA)


def write(path, factors, **metadata):
    keys = {**gguf_metadata(), **metadata}
    path.write_bytes(gguf_bytes(keys, [*gguf_tensors(), ("rope_freqs.weight", np.float32(factors))]))
    return path


def test_a_model_turns_by_the_divided_frequencies(tmp_path):
    plain = tmp_path / "plain.gguf"
    plain.write_bytes(gguf_bytes(gguf_metadata(), gguf_tensors()))
    one = load_model(read_checkpoint(write(tmp_path / "one.gguf", [1.0, 1.0])))
    checkpoint = read_checkpoint(write(tmp_path / "other.gguf", [1.0, 3.0]))
    other = load_model(checkpoint)
    np.testing.assert_array_equal(logits_of(load_model(read_checkpoint(plain))), logits_of(one))
    assert np.abs(logits_of(one) - logits_of(other)).max() > 1e-4
    assert checkpoint.arguments["rope_scaling"] == {"type": "factors", "factors": [1.0, 3.0]}
    angles, magnitude = scaled_frequencies(4, 10_000.0, checkpoint.arguments["rope_scaling"])
    np.testing.assert_allclose(angles, [1.0, 0.01 / 3.0])
    assert magnitude == 1.0
    save_model(tmp_path / "folder", other, checkpoint.arguments)
    again = read_checkpoint(tmp_path / "folder")
    assert again.arguments["rope_scaling"] == checkpoint.arguments["rope_scaling"]
    np.testing.assert_array_equal(logits_of(load_model(again)), logits_of(other))


def test_a_llama_3_computes_what_its_golden_says(tmp_path):
    """The golden, of transformers with rope_type llama3, has a context of its own, so the factors stay a list."""
    config = config_of("llama")
    scaling = config["rope_scaling"]
    assert scaling["rope_type"] == "llama3"
    folder = write_checkpoint(tmp_path / "folder", "llama")
    expected = read_checkpoint(folder)
    heads, head_dim = config["num_attention_heads"], expected.arguments["head_dim"]
    factors = llama_cpp_factors(
        head_dim,
        expected.arguments["rope_theta"],
        factor=scaling["factor"],
        low=scaling["low_freq_factor"],
        high=scaling["high_freq_factor"],
        original=scaling["original_max_position_embeddings"],
    )
    assert len(set(factors.tolist())) > 1
    keys = {
        "general.architecture": "llama",
        "llama.block_count": config["num_hidden_layers"],
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.key_length": head_dim,
        "llama.attention.layer_norm_rms_epsilon": expected.arguments["norm_epsilon"],
        "llama.rope.freq_base": expected.arguments["rope_theta"],
    }
    held = [("rope_freqs.weight", factors)]
    for name, array in tensors_of("llama").items():
        if ".q_proj." in name or ".k_proj." in name:
            array = interleaved(array, heads if ".q_proj." in name else config["num_key_value_heads"])
        held.append((gguf_name(name, False), array))
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf_bytes(keys, held))
    np.testing.assert_allclose(
        logits_of(load_model(read_checkpoint(path))), logits_of(load_model(expected)), atol=1e-5
    )


def test_a_wrong_number_of_factors_and_lists_by_length_are_refused(tmp_path):
    with pytest.raises(ConvertError, match="3 factors of rotary frequencies must be one for each pair of 4"):
        read_checkpoint(write(tmp_path / "m.gguf", [1.0, 2.0, 3.0]))
    more = [("rope_factors_long.weight", np.ones(2, np.float32))]
    (tmp_path / "n.gguf").write_bytes(gguf_bytes(gguf_metadata(), [*gguf_tensors(), *more]))
    with pytest.raises(ConvertError, match=r"rope_factors_long\.weight is not implemented in tfllm"):
        read_checkpoint(tmp_path / "n.gguf")


def test_the_package_reads_what_the_cases_write(tmp_path):
    reader = gguf.GGUFReader(write(tmp_path / "m.gguf", [1.0, 2.0]))
    assert {tensor.name for tensor in reader.tensors} == {"rope_freqs.weight", *dict(gguf_tensors())}
