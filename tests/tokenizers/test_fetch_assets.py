import hashlib
import importlib.util
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture
def assets(monkeypatch, tmp_path):
    """The script, with one asset whose package pip finds in a folder."""
    path = Path(__file__).parents[2] / "scripts" / "fetch_assets.py"
    spec = importlib.util.spec_from_file_location("fetch_assets", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fetch_assets", module)
    spec.loader.exec_module(module)
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / "some_words-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_words/list.txt", "words")
        wheel.writestr(
            "some_words-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-words\nVersion: 1.0\n"
        )
        wheel.writestr(
            "some_words-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    digest = hashlib.sha256(b"words").hexdigest()
    monkeypatch.setattr(
        module,
        "ASSETS",
        {
            "words": module.Asset("some-words==1.0", "some_words/list.txt", digest),
            "absent": module.Asset("no-words==1.0", "no_words/list.txt", digest),
        },
    )
    return module


def test_a_file_is_fetched_once(assets, tmp_path, monkeypatch):
    path = assets.path_of("words", to=tmp_path / "kept")
    assert path.read_text() == "words"
    monkeypatch.setattr(assets, "_fetch", None)
    assert assets.path_of("words", to=tmp_path / "kept") == path


def test_what_cannot_be_had_is_said(assets, tmp_path, monkeypatch, capsys):
    with pytest.raises(assets.AssetError, match="asset 'word' is not known; known are words, absent"):
        assets.path_of("word", to=tmp_path)
    monkeypatch.setattr(sys, "argv", ["fetch_assets.py", "absent", "--to", str(tmp_path / "kept")])
    assert assets.main() == 1
    assert "no-words==1.0 could not be fetched" in capsys.readouterr().err
    wrong = assets.Asset("some-words==1.0", "some_words/list.txt", "0" * 64)
    monkeypatch.setattr(assets, "ASSETS", {"words": wrong})
    with pytest.raises(assets.AssetError, match="it must be 0000"):
        assets.path_of("words", to=tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("list.txt"))
