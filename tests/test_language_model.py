"""`tfllm.load` on everything it takes, chats, and saving in both formats."""

import json
import shutil

import keras
import numpy as np
import pytest

import tfllm
from tests.convert.golden import tensors_of, write_checkpoint
from tests.tiny import tiny_lm, weights, write_tokenizer
from tfllm.config import ConfigError
from tfllm.convert.errors import ConvertError
from tfllm.convert.hub import local_path
from tfllm.export.errors import ExportError
from tfllm.export.saved_model import export_saved_model
from tfllm.generation.errors import GenerationError
from tfllm.language_model.convert import convert
from tfllm.models.errors import ModelError
from tfllm.tokenizers import TokenizerError


@pytest.fixture(scope="module")
def lm():
    return tiny_lm(vocab_size=320)


@pytest.fixture(scope="module")
def folders(lm, tmp_path_factory):
    where = tmp_path_factory.mktemp("models")
    lm.save(where / "ours")
    lm.save(where / "theirs", to="huggingface")
    return where


def assert_same(one, other):
    assert weights(one.model).keys() == weights(other.model).keys()
    for path, value in weights(one.model).items():
        np.testing.assert_array_equal(value, weights(other.model)[path], path)
    assert one.tokenizer.fingerprint == other.tokenizer.fingerprint
    assert one.tokenizer.chat_template == other.tokenizer.chat_template
    assert one.config.generation == other.config.generation
    prompts = ["the quick", "fox"]
    assert one.generate(prompts) == other.generate(prompts)
    assert one.generate(prompts, chat=True) == other.generate(prompts, chat=True)


@pytest.mark.parametrize("name", ["ours", "theirs"])
def test_what_is_saved_is_loaded_and_says_the_same(lm, folders, name):
    assert_same(lm, tfllm.load(folders / name, jit_compile=False))


def test_converting_there_and_back_keeps_every_bit(lm, folders, tmp_path):
    convert(folders / "theirs", tmp_path / "ours", to="tfllm")
    convert(tmp_path / "ours", tmp_path / "theirs", to="huggingface")
    assert_same(lm, tfllm.load(tmp_path / "theirs", jit_compile=False))
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        one, other = (json.loads((root / "theirs" / name).read_text()) for root in (folders, tmp_path))
        assert one == other, name
    one, other = ((root / "theirs" / "model.safetensors").read_bytes() for root in (folders, tmp_path))
    assert one == other


def test_half_types_are_written_and_kept(folders, tmp_path):
    convert(folders / "ours", tmp_path / "half", to="huggingface", dtype="bfloat16")
    convert(tmp_path / "half", tmp_path / "again", to="huggingface")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["torch_dtype"] == "bfloat16"
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("half", "again"))
    assert one == other
    loaded = tfllm.load(tmp_path / "half", dtype="bfloat16", jit_compile=False)
    assert {variable.dtype for variable in loaded.model.variables} == {"bfloat16"}
    assert isinstance(loaded.generate("the quick"), str)


def test_a_chat_is_put_into_the_template(lm):
    special = lm.tokenizer.special_tokens
    ids = lm.encode_chat("the fox")
    assert ids == [special["<|user|>"], *lm.tokenizer.encode("the fox"), special["<|end|>"]]
    assert ids == lm.encode_chat([{"role": "user", "content": "the fox"}])
    assert lm.generate([{"role": "user", "content": "dog"}], chat=True) == lm.generate("dog", chat=True)
    assert lm.generate(["dog"], chat=True) == [lm.generate("dog", chat=True)]


def test_no_token_is_chosen_that_the_tokenizer_lacks(lm):
    assert lm.model.vocab_size > lm.tokenizer.vocab_size
    rows = lm.generator([[3, 4]] * 40, max_new_tokens=16, temperature=50.0, top_p=1.0, seed=range(40))
    chosen = {token for row in rows for token in row}
    assert len(chosen) > 100
    assert max(chosen) < lm.tokenizer.vocab_size


def test_generation_settings_come_from_the_checkpoint(lm, folders, tmp_path):
    folder = tmp_path / "theirs"
    shutil.copytree(folders / "theirs", folder)
    path = folder / "generation_config.json"
    settings = {"do_sample": True, "temperature": 0.6, "max_new_tokens": 5}
    settings["eos_token_id"] = [lm.tokenizer.eos_id, lm.tokenizer.special_tokens["<|user|>"]]
    path.write_text(json.dumps(settings))
    generation = tfllm.load(folder).config.generation
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.6, 50, 1.0)
    assert generation.max_new_tokens == 5
    assert generation.stop_tokens == ("<|user|>",)  # the tokenizer's own end ends texts anyway
    path.write_text(json.dumps({**settings, "num_beams": 4, "forced_bos_token_id": None, "use_cache": True}))
    notes = []
    tfllm.load(folder, notify=notes.append)
    assert notes == [
        "generation_config.json: num_beams=4 concerns generation and is not implemented; it was left aside"
    ]
    path.unlink()
    assert tfllm.load(folder).config.generation.temperature == 0.0
    path.write_text("{")
    with pytest.raises(ConvertError, match=r"generation_config\.json is not a JSON file"):
        tfllm.load(folder)


@pytest.mark.parametrize(
    "name", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("t5", "bart"))]
)
def test_encoders_and_encoder_decoders(name, tmp_path):
    folder = write_checkpoint(tmp_path / "there", name)
    write_tokenizer(folder)
    loaded = tfllm.load(folder, jit_compile=False, notify=lambda note: None)
    loaded.save(tmp_path / "ours")
    loaded.save(tmp_path / "back", to="huggingface")
    for again in (tmp_path / "ours", tmp_path / "back"):
        other = tfllm.load(again, jit_compile=False, notify=lambda note: None)
        for path, value in weights(loaded.model).items():
            np.testing.assert_array_equal(value, weights(other.model)[path], path)
        if name == "bert":
            vectors = other.embed(["ab", "abcabcabc"])
            np.testing.assert_allclose(vectors, loaded.embed(["ab", "abcabcabc"]), atol=1e-6)
            np.testing.assert_allclose(vectors[1], other.embed("abcabcabc"), atol=1e-6)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
            with pytest.raises(GenerationError, match="an encoder does not generate"):
                other.generate("ab")
            with pytest.raises(ExportError, match="an encoder does not generate"):
                export_saved_model(other.model, other.tokenizer, tmp_path, generation=other.config.generation)
        else:
            with pytest.raises(ExportError, match="an encoder-decoder cannot be exported yet"):
                export_saved_model(other.model, other.tokenizer, tmp_path, generation=other.config.generation)
            assert other.generate(["ab"], max_new_tokens=4) == loaded.generate(["ab"], max_new_tokens=4)


def test_what_cannot_be_loaded_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"holds neither config\.yaml, as runs do, nor config\.json"):
        tfllm.load(tmp_path)
    with pytest.raises(ConfigError, match=r"nowhere does not exist; give the folder of a run"):
        tfllm.load(tmp_path / "nowhere")
    with pytest.raises(ConvertError, match=r"dtype='int8' is not known; use float32, bfloat16, float16"):
        tfllm.load(tmp_path, dtype="int8")
    with pytest.raises(ConvertError, match=r"does not exist; give the path of a \.gguf file"):
        tfllm.load(tmp_path / "model.gguf")
    lm = tfllm.load(write_checkpoint(tmp_path / "there", "llama"), jit_compile=False)  # ids need no tokenizer
    with pytest.raises(TokenizerError, match="has no tokenizer, which reading and writing text needs"):
        lm.generate("text")


def test_settings_and_formats_that_are_not_known(lm, tmp_path):
    with pytest.raises(ConvertError, match="'onnx' is not a format; write tfllm, huggingface or peft"):
        lm.save(tmp_path / "x", to="onnx")
    with pytest.raises(ConvertError, match="load the model with that dtype"):
        lm.save(tmp_path / "x", dtype="bfloat16")
    with pytest.raises(GenerationError, match="beams is not a setting of generate"):
        lm.generate("x", beams=4)
    with pytest.raises(GenerationError, match="pooling='max' is not known"):
        lm.embed("x", pooling="max")
    with pytest.raises(GenerationError, match="needs a model with a pooler"):
        lm.embed("x", pooling="pooler")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    with pytest.raises(ConvertError, match="is not empty; give a folder that does not exist yet"):
        convert(tmp_path / "nowhere", tmp_path / "full", to="tfllm")


def test_handles(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for handle in ("hf://org/name", "hf://org/name@v1.0", "hf://org/name/sub/model.gguf"):
        with pytest.raises(
            ConvertError, match="without a network, copy the folder of the model here"
        ) as caught:
            local_path(handle)
        assert str(caught.value).startswith(f"{handle} cannot be downloaded")
    for handle in ("hf://name", "hf://", "hf://a/b/../c", "hf:///etc/passwd"):
        with pytest.raises(ConvertError, match="is not a handle; write hf://org/name"):
            local_path(handle)
    with pytest.raises(ConvertError, match="is not a handle that tfllm knows"):
        local_path("s3://bucket/model")
    assert local_path(tmp_path) == tmp_path


def test_a_downloaded_folder_is_read(folders, monkeypatch):
    asked = []

    def snapshot_download(repository, *, revision, allow_patterns):
        asked.append((repository, revision))
        assert not any("bin" in pattern or "pt" in pattern for pattern in allow_patterns)
        return str(folders / "theirs")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    loaded = tfllm.load("hf://org/name@main", jit_compile=False)
    assert asked == [("org/name", "main")]  # once
    assert loaded.config.model.source == "hf://org/name@main"
    assert loaded.config.name == "name"


def test_every_argument_of_a_model_is_a_key_of_its_config():
    import dataclasses
    import inspect

    from tfllm.config.model import MODELS
    from tfllm.experiment.origins.checkpoint import MODEL_TYPES

    of_training = {"name", "remat", "attention_block_size"}
    for model, kind in MODEL_TYPES.items():
        parameters = inspect.signature(model.__init__).parameters.values()
        arguments = {p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY} - of_training
        keys = {field.name for field in dataclasses.fields(MODELS.get(kind))}
        assert arguments == keys - {"type", "size", "source", "new_head"}, kind


def test_tensors_of_the_goldens_are_what_is_loaded(tmp_path):
    folder = write_checkpoint(tmp_path / "there", "gpt2")
    write_tokenizer(folder)
    loaded = tfllm.load(folder, jit_compile=False, notify=lambda note: None)
    np.testing.assert_array_equal(
        weights(loaded.model)["decoder/token_embedding/embeddings"],
        tensors_of("gpt2")["transformer.wte.weight"],
    )
    assert isinstance(loaded.model, keras.Model)


def test_a_preset_of_keras_hub(tmp_path):
    import keras_nlp

    characters = [chr(code) for code in range(33, 127)]
    names = ["<|endoftext|>", *characters, "Ġ", "th", "the"]
    theirs = keras_nlp.models.GPT2Tokenizer(
        vocabulary={name: index for index, name in enumerate(names)}, merges=["t h", "th e"]
    )
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = keras_nlp.models.GPT2Backbone(vocabulary_size=len(names), max_sequence_length=32, **sizes)
    theirs.save_to_preset(str(tmp_path / "preset"))
    backbone.save_to_preset(str(tmp_path / "preset"))
    loaded = tfllm.load(f"keras_nlp://{tmp_path / 'preset'}", jit_compile=False)
    text = "the other"
    assert loaded.tokenizer.encode(text) == np.asarray(theirs(text)).tolist()
    ids = np.array([loaded.encode(text)])
    expected = backbone.token_embedding(
        backbone({"token_ids": ids, "padding_mask": np.ones_like(ids)}), reverse=True
    )
    np.testing.assert_allclose(loaded.model({"token_ids": ids})["logits"], expected, atol=1e-5)
    answer = loaded.generate(text, max_new_tokens=3)
    loaded.save(tmp_path / "ours")
    assert tfllm.load(tmp_path / "ours", jit_compile=False).generate(text, max_new_tokens=3) == answer
    with pytest.raises(ConvertError, match="a model of KerasHub cannot be written"):
        loaded.save(tmp_path / "theirs", to="huggingface")
    with pytest.raises(ModelError, match="nowhere' cannot be loaded"):
        tfllm.load(f"keras_nlp://{tmp_path / 'nowhere'}")
