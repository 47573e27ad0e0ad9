import errno
import json
import os
import stat
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from export_case import CONTEXT, DEFAULTS, LIMIT, tiny_model

from tfllm.export import saved_model
from tfllm.export.errors import ExportError
from tfllm.export.saved_model import export_saved_model
from tfllm.tokenizers import ByteTokenizer

GENERATION = types.SimpleNamespace(**DEFAULTS)


@pytest.fixture(scope="module")
def tokenizer():
    return ByteTokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    return tiny_model(tokenizer, num_layers=1)


@pytest.fixture
def quick(monkeypatch):
    """Saves a model of one line: what is tested is how folders come and go."""

    def serving_module(*_, **__):
        module = tf.Module()
        spec = tf.TensorSpec([None], tf.string, name="prompt")
        module.generate = tf.function(
            lambda prompt: {"text": prompt}, input_signature=[spec], autograph=False
        )
        module.serving_default = module.generate
        return module

    monkeypatch.setattr(saved_model, "serving_module", serving_module)


def export(model, tokenizer, folder, **arguments):
    return export_saved_model(model, tokenizer, folder, generation=GENERATION, **arguments)


def test_versions_count_up(quick, model, tokenizer, tmp_path):
    for version in ("1", "2"):
        assert export(model, tokenizer, tmp_path / "a" / "b") == tmp_path / "a" / "b" / version
    (tmp_path / "a" / "b" / "notes").mkdir()
    assert export(model, tokenizer, tmp_path / "a" / "b", version=9).name == "9"
    assert export(model, tokenizer, str(tmp_path / "a" / "b")).name == "10"
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["1", "10", "2", "9", "notes"]


def test_a_version_that_exists_stays(quick, model, tokenizer, tmp_path):
    export(model, tokenizer, tmp_path, version=3)
    before = (tmp_path / "3" / "saved_model.pb").stat()
    with pytest.raises(ExportError, match=r"exists; leave version out, or take 4"):
        export(model, tokenizer, tmp_path, version=3)
    assert os.listdir(tmp_path) == ["3"]
    assert (tmp_path / "3" / "saved_model.pb").stat() == before


def test_two_exports_at_once_get_two_versions(quick, model, tokenizer, tmp_path, monkeypatch):
    export(model, tokenizer, tmp_path)
    found = iter([0, 1])
    monkeypatch.setattr(saved_model, "latest_version", lambda folder: next(found))
    assert export(model, tokenizer, tmp_path).name == "2"


def test_other_users_may_read_the_export(quick, model, tokenizer, tmp_path):
    previous = os.umask(0o022)
    try:
        path = export(model, tokenizer, tmp_path)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (tf.errors.ResourceExhaustedError(None, None, "disk quota"), "disk quota"),
    ],
)
def test_a_failed_write_leaves_nothing(quick, model, tokenizer, tmp_path, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(saved_model, "_write_metadata", fail)
    folder = tmp_path / "new" / "export"
    with pytest.raises(ExportError, match=words):
        export(model, tokenizer, folder)
    assert os.listdir(tmp_path) == []


def test_ctrl_c_leaves_nothing(quick, model, tokenizer, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_model, "lint_saved_model", fail)
    with pytest.raises(KeyboardInterrupt):
        export(model, tokenizer, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file(quick, model, tokenizer, tmp_path):
    (tmp_path / "file").write_text("here")
    with pytest.raises(ExportError, match=r"cannot write .*file"):
        export(model, tokenizer, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "here"


def test_problems_found_by_lint_stop_the_export(quick, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_model, "lint_saved_model", lambda path: ["PyFunc runs Python"])
    with pytest.raises(ExportError, match="would not serve:\n  PyFunc runs Python"):
        export(model, tokenizer, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "words"), [({"max_new_tokens": 0}, "max_new_tokens=0"), ({"version": 0}, "version=0")]
)
def test_arguments_out_of_range(quick, model, tokenizer, tmp_path, arguments, words):
    with pytest.raises(ExportError, match=words):
        export(model, tokenizer, tmp_path, **arguments)


def test_the_files(case):
    metadata = json.loads((case.path / "assets.extra" / "tfllm.json").read_text())
    assert metadata["tokenizer"] == {"type": case.tokenizer.type, "vocab_size": case.tokenizer.vocab_size}
    assert (metadata["context_length"], metadata["max_new_tokens"]) == (CONTEXT, LIMIT)
    assert metadata["defaults"] == DEFAULTS
    here = str(Path(__file__).parents[2]).encode()
    for file in case.path.rglob("*"):
        assert file.is_dir() or here not in file.read_bytes()


def test_defaults_above_the_limits_are_lowered(quick, model, tokenizer, tmp_path):
    path = export(model, tokenizer, tmp_path, max_new_tokens=5)
    metadata = json.loads((path / "assets.extra" / "tfllm.json").read_text())
    assert metadata["defaults"]["max_new_tokens"] == metadata["max_new_tokens"] == 5


def test_other_types_are_exported_in_float32(tokenizer, tmp_path):
    model = tiny_model(tokenizer, num_layers=1, dtype="mixed_bfloat16")
    path = export(model, tokenizer, tmp_path)
    loaded = tf.saved_model.load(str(path))
    assert {name: v.dtype for name, v in loaded.weights.items()} == {
        v.path: tf.float32 for v in model.variables
    }
    for variable in model.variables:
        np.testing.assert_array_equal(loaded.weights[variable.path].numpy(), variable.numpy())
    graph = loaded.signatures["generate"].graph.as_graph_def()
    types_used = {a.type for f in graph.library.function for n in f.node_def for a in n.attr.values()}
    assert tf.float32.as_datatype_enum in types_used and tf.bfloat16.as_datatype_enum not in types_used
