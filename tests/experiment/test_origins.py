"""Where models come from: told apart in one place, opened once, and refused with one message."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest

import tfllm
from scripts.checks.small_gguf import gguf_bytes, gguf_metadata, gguf_tensors
from tests.tiny import tiny_lm, weights
from tfllm.commands.main import main
from tfllm.config import ConfigError, config_from_mapping
from tfllm.convert.errors import ConvertError
from tfllm.experiment import make_model, make_tokenizer
from tfllm.experiment.model_source import expand, start_from_source
from tfllm.experiment.origins import checkpoint
from tfllm.experiment.origins.checkpoint import CheckpointOrigin
from tfllm.experiment.origins.kept import opened
from tfllm.experiment.origins.origin import origin_of
from tfllm.experiment.origins.preset import PresetOrigin
from tfllm.experiment.origins.run import RunOrigin
from tfllm.language_model.convert import convert
from tfllm.models.errors import ModelError

HANDLE = "hf://org/name@main"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model as a run, as a folder of transformers and as a GGUF file, and a preset. Do not write to it."""
    where = tmp_path_factory.mktemp("places")
    lm = tiny_lm()
    lm.save(where / "run")
    lm.save(where / "folder", to="huggingface")
    (where / "model.gguf").write_bytes(gguf_bytes(gguf_metadata(), gguf_tensors()))
    write_preset(where / "preset")
    return where


def write_preset(folder, **settings):
    """A GPT-2 of KerasHub with a tokenizer."""
    import keras_nlp

    names = ["<|endoftext|>", *map(chr, range(33, 127)), "Ġ", "th", "the"]
    tokenizer = keras_nlp.models.GPT2Tokenizer(
        vocabulary={name: index for index, name in enumerate(names)}, merges=["t h", "th e"]
    )
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = keras_nlp.models.GPT2Backbone(
        vocabulary_size=len(names), max_sequence_length=32, **sizes, **settings
    )
    tokenizer.save_to_preset(str(folder))
    backbone.save_to_preset(str(folder))
    return folder


@pytest.fixture
def openings(monkeypatch, places):
    """How often what was opened: GGUF headers, headers of safetensors, tokenizers, handles."""
    counts = Counter()

    def counted(owner, name, what, instead=None):
        inner = instead or getattr(owner, name)

        def call(*arguments, **keywords):
            counts[what] += 1
            return inner(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    import huggingface_hub

    from tfllm.convert import gguf_parts, safetensors_files

    counted(gguf_parts, "GgufHeader", "gguf")
    counted(safetensors_files, "_header", "safetensors")
    counted(checkpoint, "read_tokenizer", "tokenizer")
    counted(checkpoint, "read_gguf_tokenizer", "tokenizer")
    counted(huggingface_hub, "snapshot_download", "handle", lambda *_, **__: str(places / "folder"))
    return counts


def loaded(source, tmp_path):
    del tmp_path
    tfllm.load(source, jit_compile=False)


def tuned(source, tmp_path):
    """What a training does of its source, from its config to its first step."""
    del tmp_path
    model = {"type": "pretrained", "source": str(source)}
    data = {"train": "python_docs", "seq_len": 16}
    config = expand(
        config_from_mapping({"name": "ft", "model": model, "data": data, "generation": {"max_new_tokens": 4}})
    )
    tokenizer = make_tokenizer(config, None)
    start_from_source(config, make_model(config, tokenizer.vocab_size, training=True))


def converted(source, tmp_path):
    convert(source, tmp_path / "there", to="huggingface")


@pytest.mark.parametrize("use", [loaded, tuned, converted])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("model.gguf", {"gguf": 1, "tokenizer": 1}),
        ("folder", {"safetensors": 1, "tokenizer": 1}),
        (HANDLE, {"handle": 1, "safetensors": 1, "tokenizer": 1}),
    ],
)
def test_what_is_opened_is_opened_once(use, source, expected, places, openings, tmp_path):
    if "://" not in source:  # a copy, which nothing has opened before
        copy = shutil.copytree if (places / source).is_dir() else shutil.copy
        source = copy(places / source, tmp_path / source)
    use(source, tmp_path)
    assert openings == expected


def test_what_is_kept_is_opened_again_where_it_has_changed_and_only_there(places, tmp_path):
    for name, changed in (
        ("folder", "folder/generation_config.json"),
        ("run", "run/tokenizer/tokenizer.json"),
    ):
        shutil.copytree(places / name, tmp_path / name)
        first = opened(tmp_path / name)
        assert opened(str(tmp_path / name)) is first
        path = tmp_path / changed
        path.write_text(path.read_text() + "\n")
        assert opened(tmp_path / name) is not first
    preset = opened(f"keras_nlp://{places / 'preset'}")
    assert opened(preset.source) is preset
    (tmp_path / "gguf").mkdir()
    part = shutil.copy(places / "model.gguf", tmp_path / "gguf" / "m.gguf")
    file = opened(part)
    (tmp_path / "gguf" / "beside.txt").write_text("of no concern to the file")
    assert opened(part) is file
    opened(places / "run")
    opened(places / "folder")
    assert opened(part) is not file  # two are kept


def test_what_is_loaded_shares_nothing_with_what_is_loaded_again(places):
    one, other = (tfllm.load(places / "folder", jit_compile=False) for _ in range(2))
    one.tokenizer.chat_template = "changed"
    assert other.tokenizer.chat_template != "changed"


def test_kinds_are_told_apart(places, openings):
    kinds = {
        places / "run": RunOrigin,
        places / "folder": CheckpointOrigin,
        places / "model.gguf": CheckpointOrigin,
        f"keras_nlp://{places / 'preset'}": PresetOrigin,
        "keras_nlp://gpt2_base_en": PresetOrigin,
        HANDLE: CheckpointOrigin,
    }
    for source, kind in kinds.items():
        origin = origin_of(source)
        assert (type(origin), origin.source) == (kind, str(source))
        assert (origin.run_folder is not None) == (kind is RunOrigin)
    assert openings == {"handle": 1}


def asked_to_load(source, tmp_path, capsys):
    tfllm.load(source)


def asked_to_convert(source, tmp_path, capsys):
    convert(source, tmp_path / "there", to="tfllm")


def asked_to_tune(source, tmp_path, capsys):
    tuned(source, tmp_path)


def asked_to_inspect(source, tmp_path, capsys):
    assert main(["inspect", str(source)]) in (1, 2)
    raise AssertionError(capsys.readouterr().err)


BAD = {
    "nowhere": (ConfigError, "nowhere does not exist; give the folder of a run"),
    "neither": (ConfigError, "neither holds neither config.yaml, as runs do, nor config.json"),
    "short.gguf": (ConvertError, "short.gguf is not a whole GGUF file"),
    "none.gguf": (ConvertError, "does not exist; give the path of a .gguf file"),
    "hurt": (ConfigError, "modle"),
    "listed": (ConvertError, "config.json must hold a mapping"),
    "keras_nlp://{}/nowhere": (ModelError, "nowhere' cannot be loaded"),
    "keras_nlp://{}/neither": (ModelError, "neither' holds no config.json"),
    "s3://bucket/model": (
        ConvertError,
        "is not a handle that tfllm knows; write hf://org/name, keras_nlp://",
    ),
    "~nobody_of_that_name/x": (ConvertError, "begins at a home folder that the system does not know"),
}


@pytest.fixture(scope="module")
def bad(places, tmp_path_factory):
    """A folder with what is bad."""
    where = tmp_path_factory.mktemp("bad")
    (where / "neither").mkdir()
    (where / "short.gguf").write_bytes((places / "model.gguf").read_bytes()[:500])
    shutil.copytree(places / "run", where / "hurt")
    (where / "hurt" / "config.yaml").write_text("name: x\nmodle: {}\n")
    (where / "listed").mkdir()
    (where / "listed" / "config.json").write_text("[]")
    return where


@pytest.mark.parametrize("asked", [asked_to_load, asked_to_convert, asked_to_tune, asked_to_inspect])
@pytest.mark.parametrize("source", BAD)
def test_what_is_bad_is_one_message_wherever_it_is_asked_for(source, asked, bad, tmp_path, capsys):
    error, words = BAD[source]
    whole = source.format(bad) if "://" in source or "~" in source else bad / source
    if asked is asked_to_inspect:
        if source == "nowhere":
            words = "nowhere"  # it may have been to be a config
        if source.startswith("~"):
            words = "begins at a home folder that the system does not know"
        error = AssertionError
    with pytest.raises(error) as caught:
        asked(whole, tmp_path, capsys)
    assert words in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_folder_with_a_tokenizer_alone_is_a_tokenizer(places, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(places / "folder" / name, tmp_path / name)
    tokenizer = {"type": "pretrained", "source": str(tmp_path)}
    config = config_from_mapping({"name": "x", "tokenizer": tokenizer, "data": {"train": "python_docs"}})
    assert make_tokenizer(config, None).fingerprint == origin_of(places / "folder").tokenizer.fingerprint


def test_a_preset_is_loaded_converted_and_inspected(places, tmp_path, capsys):
    source = f"keras_nlp://{places / 'preset'}"
    lm = tfllm.load(source, jit_compile=False)
    assert (lm.config.name, lm.config.model.max_seq_len, lm.config.data.packing) == ("preset", 32, False)
    for words, dtype in (([], "float32"), (["--dtype", "bfloat16"], "bfloat16")):
        folder = tmp_path / dtype
        assert main(["convert", source, str(folder), "--to", "tfllm", *words]) == 0
        again = tfllm.load(folder, dtype=dtype, jit_compile=False)
        assert {variable.dtype for variable in again.model.variables} == {dtype}
        for path, value in weights(lm.model).items():
            np.testing.assert_allclose(np.float32(weights(again.model)[path]), value, atol=1e-2, err_msg=path)
        assert again.tokenizer.fingerprint == lm.tokenizer.fingerprint
    assert main(["convert", source, str(tmp_path / "hf"), "--to", "huggingface"]) == 1
    assert "a model of KerasHub cannot be written as a folder of transformers" in capsys.readouterr().err
    assert main(["inspect", source]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for line in (
        "type GPT2Backbone",
        "stored as float32",
        "max_sequence_length 32",
        f"total {lm.model.count_params():,}",
    ):
        assert line in lines
    assert any(line.startswith("type byte_bpe, 98 tokens") for line in lines)


def test_a_half_preset_stays_one(tmp_path):
    write_preset(tmp_path / "preset", dtype="bfloat16")
    origin = origin_of(f"keras_nlp://{tmp_path / 'preset'}")
    assert origin.stored_dtype == "bfloat16"
    convert(origin.source, tmp_path / "ours", to="tfllm")
    manifest = json.loads(next((tmp_path / "ours").rglob("manifest.json")).read_text())
    assert {spec["dtype"] for spec in manifest["variables"].values()} == {"bfloat16"}


def of_preset(places, **keys):
    mapping = {
        "name": "ft",
        "model": {"type": "pretrained", "source": f"keras_nlp://{places / 'preset'}", **keys},
        "data": {"train": "python_docs", "seq_len": 16, "packing": False},
        "generation": {"max_new_tokens": 4},
    }
    return config_from_mapping(mapping)


def test_a_preset_is_where_a_training_starts(places):
    config = expand(of_preset(places, max_seq_len=24))
    assert (config.model.type, config.model.preset) == ("keras_nlp", str(places / "preset"))
    tokenizer = make_tokenizer(config, None)
    assert tokenizer.vocab_size == 98
    model = make_model(config, tokenizer.vocab_size, training=True)
    assert model.max_seq_len == 24
    there = weights(tfllm.load(f"keras_nlp://{places / 'preset'}", jit_compile=False).model)
    for path, value in weights(model).items():
        np.testing.assert_array_equal(value, there[path], path)
    for keys, words in (
        ({"max_seq_len": 33}, r"model.max_seq_len=33 exceeds the 32 positions"),
        ({"new_head": True}, r"model.new_head=true is not for keras_nlp://"),
        ({"vocab_size": 99}, r"model.vocab_size=99 is that of keras_nlp://"),
    ):
        with pytest.raises(ConfigError, match=words):
            expand(of_preset(places, **keys))
    assert expand(of_preset(places, dropout=0.3)).model.arguments == {"dropout": 0.3}


def test_the_weights_of_a_preset_fill_a_model_of_its_backbone(places, tmp_path):
    source = f"keras_nlp://{places / 'preset'}"
    section = {
        "type": "keras_nlp",
        "backbone": "GPT2Backbone",
        "source": source,
        "arguments": {
            **{"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16},
            "max_sequence_length": 32,
        },
    }
    there = weights(tfllm.load(source, jit_compile=False).model)

    def started(**model):
        mapping = {
            "name": "ft",
            "tokenizer": {"type": "pretrained"},
            "model": {**section, **model},
            "data": {"train": "python_docs", "seq_len": 16, "packing": False},
            "generation": {"max_new_tokens": 4},
        }
        config = config_from_mapping(mapping)
        made = make_model(config, make_tokenizer(config, None).vocab_size, training=True)
        start_from_source(config, made)
        return made

    for path, value in weights(started()).items():
        np.testing.assert_array_equal(value, there[path], path)
    with pytest.raises(
        ConvertError, match=r"has the shape .* there and .* in the model; take the GPT2Backbone"
    ):
        started(vocab_size=120)
    decoder = {"type": "decoder", "num_layers": 1, "hidden_dim": 8, "num_heads": 2, "source": source}
    config = config_from_mapping(
        {"name": "x", "model": decoder, "data": {"train": "python_docs", "seq_len": 80}}
    )
    with pytest.raises(ConvertError, match="has the weights of a GPT2Backbone, and the model is a Decoder"):
        start_from_source(config, make_model(config, 98))


def test_a_run_of_keras_hub_is_a_source_too(places, tmp_path):
    lm = tfllm.load(f"keras_nlp://{places / 'preset'}", jit_compile=False)
    for variable in lm.model.variables:
        variable.assign(variable + 1.0)
    lm.save(tmp_path / "run")
    model = {"type": "pretrained", "source": str(tmp_path / "run")}
    data = {"train": "python_docs", "seq_len": 16, "packing": False}
    config = expand(
        config_from_mapping({"name": "ft", "model": model, "data": data, "generation": {"max_new_tokens": 4}})
    )
    made = make_model(config, make_tokenizer(config, None).vocab_size, training=True)
    start_from_source(config, made)
    for path, value in weights(lm.model).items():
        np.testing.assert_array_equal(weights(made)[path], value, path)
