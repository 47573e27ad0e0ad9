import subprocess
import sys
import types

import numpy as np
import pytest

import tfllm
from tests.convert.golden import write_checkpoint
from tests.test_language_model import write_tokenizer
from tfllm.analysis import AnalysisError, AttentionMaps, attention_maps


@pytest.fixture(scope="module")
def lm(tiny_run):
    return tfllm.load(tiny_run, jit_compile=False)


def maps_of(scores, **settings):
    scores = np.asarray(scores, np.float32)
    tokens = scores.shape[-1]
    defaults = {
        "layers": tuple(f"block_{i:02d}" for i in range(len(scores))),
        "labels": tuple("abcdefgh"[:tokens]),
        "token_ids": np.arange(tokens, dtype=np.int32),
    }
    return AttentionMaps(scores=scores, **{**defaults, **settings})


def test_the_scores_are_the_models_own_with_a_label_for_each_token(lm):
    maps = attention_maps(lm, "a b\né")
    assert maps.labels == ("<|bos|>", "a", "␣", "b", "⏎", "\\xC3", "\\xA9")
    assert maps.token_ids.tolist() == lm.encode("a b\né")
    assert maps.layers == ("block_00", "block_01")
    assert (maps.scores.dtype, maps.scores.shape) == (np.float32, (2, 2, 7, 7))
    outputs = lm.model({"token_ids": maps.token_ids[None]}, attention_scores=True)["attention_scores"]
    np.testing.assert_array_equal(maps.head("block_01", 1), outputs["block_01"][0, 1])
    np.testing.assert_allclose(maps.scores.sum(axis=-1), 1.0, rtol=1e-5)
    assert not maps.scores[..., np.triu(np.ones([7, 7], bool), k=1)].any()


def test_a_layer_goes_by_name_or_by_number_also_when_few_were_captured(lm):
    whole, last = attention_maps(lm, "abc"), attention_maps(lm, "abc", layers=-1)
    assert last.layers == ("block_01",)
    for layer in ("block_01", 1, -1):
        np.testing.assert_allclose(last.head(layer, -1), whole.head(layer, 1), atol=1e-6)
    assert attention_maps(lm, "abc", layers=[1, "block_00", -1]).layers == ("block_01", "block_00")
    with pytest.raises(AnalysisError, match="layer 0 is not among the captured ones, block_01"):
        last.head(0, 0)


@pytest.mark.parametrize("layer", ["block_02", 2, -3, 1.0])
def test_a_layer_that_is_not_there_is_named_with_those_that_are(lm, layer):
    with pytest.raises(
        AnalysisError, match=r"layer .* is not there; the text is read by block_00 to block_01"
    ):
        attention_maps(lm, "abc", layers=[layer])


@pytest.mark.parametrize("head", [2, -3])
def test_a_head_that_is_not_there_is_named_with_those_that_are(lm, head):
    with pytest.raises(AnalysisError, match=f"head {head} is not there; a layer has heads 0 to 1"):
        attention_maps(lm, "abc").head(0, head)


def test_texts_that_cannot_be_read_are_refused(lm):
    with pytest.raises(AnalysisError, match="no tokens"):
        attention_maps(lm, "")
    assert len(attention_maps(lm, "a" * 63).labels) == 64
    with pytest.raises(AnalysisError, match=r"65 tokens.*holds 64; shorten"):
        attention_maps(lm, "a" * 64)
    with pytest.raises(AnalysisError, match="names no layer"):
        attention_maps(lm, "abc", layers=[])


@pytest.mark.parametrize("name", ["bert", "t5", "bart"])
def test_encoders_and_encoder_decoders_show_how_they_read(name, tmp_path):
    folder = write_checkpoint(tmp_path / name, name)
    write_tokenizer(folder)
    lm = tfllm.load(folder, jit_compile=False, notify=lambda note: None)
    text = "abc dea"
    maps = attention_maps(lm, text)
    side = "" if name == "bert" else "encoder/"
    read = [layer for layer in lm.model.block_names if layer.startswith(side)]
    assert maps.layers == tuple(read)
    assert maps.token_ids.tolist() == lm.encode(text)
    assert (maps.labels[0], maps.labels[-1]) == ("[CLS]", "[SEP]")
    np.testing.assert_allclose(maps.scores.sum(axis=-1), 1.0, rtol=1e-5)
    assert maps.scores[0, 0, 0, -1] > 0  # it sees what comes later
    outputs = lm.model(lm.features(text), attention_scores=True)["attention_scores"]
    for layer in read:
        np.testing.assert_allclose(maps.head(layer, 1), outputs[layer][0, 1], atol=1e-6)
    assert attention_maps(lm, text, layers=-1).layers == (read[-1],)
    if side:
        with pytest.raises(
            AnalysisError, match="'decoder/block_00' is not there; the text is read by encoder/"
        ):
            attention_maps(lm, text, layers="decoder/block_00")


def test_a_model_that_gives_no_scores_is_refused():
    lm = types.SimpleNamespace(model=object())
    with pytest.raises(AnalysisError, match="object gives no attention scores"):
        attention_maps(lm, "abc")


def test_summaries_of_heads_that_look_back_at_themselves_and_everywhere():
    itself, before, everywhere = np.eye(4), np.eye(4, k=-1), np.full([4, 4], 0.25)
    before[0, 0] = 1.0
    maps = maps_of([[itself, before, everywhere]])
    np.testing.assert_allclose(maps.entropy(), [[0.0, 0.0, np.log(4)]], rtol=1e-6)
    # Queries 0 … 3 see keys at mean distances 6/4, 4/4, 4/4, 6/4.
    np.testing.assert_allclose(maps.mean_distance(), [[0.0, 0.75, 1.25]], rtol=1e-6)
    assert not np.signbit(maps.entropy()).any()


def test_parts_that_do_not_belong_together_are_refused():
    with pytest.raises(AnalysisError, match="must be"):
        maps_of(np.zeros([1, 2, 3, 3]), labels=("a", "b"))
    with pytest.raises(AnalysisError, match="must be"):
        maps_of(np.zeros([1, 2, 3, 3]), layers=("block_00", "block_01"))


def test_it_needs_numpy_only():
    heavy = "{'tensorflow', 'keras', 'matplotlib'}"
    code = f"import sys, tfllm.analysis; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
