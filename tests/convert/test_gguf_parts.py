"""GGUF files in parts, written as llama.cpp's gguf-split does: keys in the first part only, tensors in all."""

import numpy as np
import pytest

from scripts.checks.small_gguf import gguf_bytes, gguf_metadata, gguf_tensors
from tfllm.convert.errors import ConvertError
from tfllm.convert.gguf_file import GgufFile
from tfllm.convert.gguf_parts import part_names
from tfllm.convert.hub import local_path


def write(folder, cuts=(5, 12), *, change=lambda number, keys: None, stem="m", **first):
    held = gguf_tensors()
    bounds = [0, *cuts, len(held)]
    count = len(bounds) - 1
    paths = []
    for number in range(count):
        keys = {} if number else {**gguf_metadata(), **first}
        keys |= {"split.no": number, "split.count": count, "split.tensors.count": len(held)}
        change(number, keys)
        paths.append(folder / f"{stem}-{number + 1:05d}-of-{count:05d}.gguf")
        paths[-1].write_bytes(gguf_bytes(keys, held[bounds[number] : bounds[number + 1]]))
    return paths


def whole(folder):
    path = folder / "whole.gguf"
    path.write_bytes(gguf_bytes(gguf_metadata(), gguf_tensors()))
    return GgufFile(path)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_any_part_stands_for_the_whole_file(given, tmp_path):
    expected, parts = whole(tmp_path), write(tmp_path)
    file = GgufFile(parts[given])
    assert file.shapes == expected.shapes and file.types == expected.types
    assert file.config() == expected.config()
    assert file.list_of("tokenizer.ggml.tokens") == expected.list_of("tokenizer.ggml.tokens")
    for name in file.shapes:
        np.testing.assert_array_equal(file.read(name), expected.read(name))


def test_a_first_part_may_hold_keys_only(tmp_path):
    file = GgufFile(write(tmp_path, cuts=(0,))[0])
    assert file.shapes == whole(tmp_path).shapes


def test_a_missing_part_is_named(tmp_path):
    parts = write(tmp_path)
    parts[1].unlink()
    with pytest.raises(
        ConvertError, match=r"m-00002-of-00003\.gguf is missing; put all 3 parts into one folder"
    ):
        GgufFile(parts[2])
    parts[0].unlink()
    with pytest.raises(ConvertError, match=r"m-00001-of-00003\.gguf and 1 more are missing"):
        GgufFile(parts[2])


def test_parts_with_other_names_are_refused_by_name(tmp_path):
    parts = write(tmp_path)
    other = parts[1].rename(tmp_path / "model.gguf")
    with pytest.raises(ConvertError, match=r"model\.gguf is part 2 of 3, .* this one …-00002-of-00003\.gguf"):
        GgufFile(other)
    other.rename(parts[1])
    swapped = parts[2].rename(tmp_path / "x")
    parts[1].rename(parts[2])
    swapped.rename(parts[1])
    with pytest.raises(
        ConvertError, match=r"00002-of-00003\.gguf: split\.no and split\.count are 2 and 3 and should"
    ):
        GgufFile(parts[0])


def test_counts_that_do_not_agree_are_refused(tmp_path):
    def fewer(number, keys):
        keys["split.tensors.count"] -= 1

    with pytest.raises(ConvertError, match=r"its 3 parts hold 20 tensors, and split\.tensors\.count says 19"):
        GgufFile(write(tmp_path, change=fewer)[0])

    def other_count(number, keys):
        keys["split.count"] = 3 if number < 2 else 4

    with pytest.raises(ConvertError, match="are 2 and 4 and should be 2 and 3"):
        GgufFile(write(tmp_path, change=other_count)[0])

    def outside(number, keys):
        keys["split.no"] = 7

    with pytest.raises(ConvertError, match=r"split\.no=7 must be below split\.count=3"):
        GgufFile(write(tmp_path, change=outside)[0])


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    parts = write(tmp_path)
    keys = {"split.no": 1, "split.count": 3, "split.tensors.count": 20}
    parts[1].write_bytes(gguf_bytes(keys, gguf_tensors()[4:12]))
    with pytest.raises(ConvertError, match=r"stands in m-00001-of-00003\.gguf and in m-00002-of-00003\.gguf"):
        GgufFile(parts[0])


def test_names_of_parts():
    assert part_names("a-00002-of-00003.gguf") == [f"a-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    assert part_names("a-00004-of-00003.gguf") == ["a-00004-of-00003.gguf"]
    assert part_names("model.gguf") == ["model.gguf"]


def test_all_parts_are_downloaded_of_a_handle_that_names_one(tmp_path, monkeypatch):
    asked = []

    def download(repository, file, revision=None):
        asked.append((repository, file, revision))
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert local_path("hf://org/name/Q4/m-00002-of-00003.gguf@v1") == tmp_path / "Q4/m-00002-of-00003.gguf"
    assert asked == [("org/name", f"Q4/m-0000{i}-of-00003.gguf", "v1") for i in (1, 2, 3)]
    asked.clear()
    assert local_path("hf://org/name/m.gguf") == tmp_path / "m.gguf"
    assert asked == [("org/name", "m.gguf", None)]
