import errno
import json
import logging
import multiprocessing
from pathlib import Path

import numpy as np
import pytest

from tests.data.fakes import ByteTokenizer, ListSource, words
from tfllm.data import DataError, RowStore, Split, piece, prepare_rows
from tfllm.data import prepare as prepare_module
from tfllm.data import store as store_module
from tfllm.data.sources import JsonlSource


def prepare(folder, texts=None, **settings):
    settings = {"tokenizer": ByteTokenizer(), "seq_len": 16, "cache_dir": folder, **settings}
    return prepare_rows(source=ListSource(words(20) if texts is None else texts), **settings)


def test_rows_hold_the_documents_and_are_counted(tmp_path):
    texts = ["héllo", "", "wörld " * 9]
    store = prepare(tmp_path, texts)
    data = [text.encode() for text in texts if text]
    assert store.num_documents == 2
    assert store.num_bytes == sum(map(len, data))
    assert store.num_tokens == sum(map(len, data)) + 2
    assert store.num_rows == -(-store.num_tokens // 16)
    assert store.row_bytes == 3 * 16 * 2 and store.dtype == "uint16"
    rows = store.read(range(store.num_rows))
    real = rows["segment_ids"] > 0
    expected = np.concatenate([[*text, 257] for text in data])
    np.testing.assert_array_equal(rows["targets"][real], expected)
    assert rows["token_ids"][0, 0] == 256 and (rows["token_ids"][~real] == 258).all()
    assert all(array.dtype == np.int32 for array in rows.values())
    np.testing.assert_array_equal(store.read([2, 0])["targets"], rows["targets"][[2, 0]])
    for index in (-1, store.num_rows):
        with pytest.raises(IndexError):
            store.read([index])


def test_many_batches_of_text_make_the_same_rows(tmp_path, monkeypatch):
    whole = prepare(tmp_path / "a")
    monkeypatch.setattr(piece, "_BATCH_CHARACTERS", 50)
    tokenizer = ByteTokenizer()
    batches = prepare(tmp_path / "b", tokenizer=tokenizer)
    assert tokenizer.calls > 5
    assert whole.path.read_bytes() == batches.path.read_bytes() and whole.identity == batches.identity


def test_large_vocabularies_take_int32(tmp_path):
    small = prepare(tmp_path, tokenizer=ByteTokenizer(vocab_size=65536))
    large = prepare(tmp_path, tokenizer=ByteTokenizer(vocab_size=65537))
    assert (small.dtype, large.dtype) == ("uint16", "int32")
    assert large.row_bytes == 2 * small.row_bytes
    for name, array in small.read([0, 1]).items():
        np.testing.assert_array_equal(array, large.read([0, 1])[name])


def test_the_second_call_tokenises_nothing(tmp_path):
    tokenizer = ByteTokenizer()
    first = prepare(tmp_path, tokenizer=tokenizer)
    calls = tokenizer.calls
    assert calls and prepare(tmp_path, tokenizer=tokenizer) == first
    assert tokenizer.calls == calls


def test_every_setting_is_in_the_key(tmp_path):
    changed_ids = ByteTokenizer()
    changed_ids.pad_id = 0
    settings = [
        {},
        {"texts": words(21)},
        {"tokenizer": ByteTokenizer(fingerprint="bytes-2")},
        {"tokenizer": ByteTokenizer(vocab_size=70000)},
        {"tokenizer": changed_ids},
        {"seq_len": 17},
        {"packing": False},
        {"split": Split("train", validation=0.2)},
        {"split": Split("validation", validation=0.2)},
        {"split": Split("train", validation=0.3)},
        {"split": Split("train", 1, validation=0.2)},
        {"split": Split("train", validation=0.2, test=0.1)},
        {"split": Split("train", validation=0.2, column="text")},
    ]
    stores = [prepare(tmp_path, **changes) for changes in settings]
    assert len({store.path for store in stores}) == len(settings)


def test_the_two_sides_of_a_split_make_the_whole(tmp_path):
    texts = words(100) + words(100)
    sides = [
        prepare(tmp_path, texts, split=Split(side, 7, validation=0.3)) for side in ("train", "validation")
    ]
    whole = prepare(tmp_path, texts)
    assert sum(side.num_documents for side in sides) == whole.num_documents == 200
    assert sum(side.num_bytes for side in sides) == whole.num_bytes
    documents = [set(_documents(side)) for side in sides]
    assert not documents[0] & documents[1]


def _documents(store):
    rows = store.read(range(store.num_rows))
    stream = rows["targets"][rows["segment_ids"] > 0].astype(np.uint16)
    return bytes(np.where(stream == 257, 0, stream).astype(np.uint8)).split(b"\0")[:-1]


@pytest.mark.parametrize(
    "damage",
    ["short", "long", "other bytes", "pieces", "json", "keys", "format", "no meta", "no rows", "a file"],
)
def test_a_damaged_store_is_built_again_with_a_notice(tmp_path, damage, caplog):
    store = prepare(tmp_path)
    good, folder = store.path.read_bytes(), store.path.parent
    meta = json.loads((folder / "meta.json").read_text())
    if damage in ("short", "long"):
        store.path.write_bytes(good[:-1] if damage == "short" else good + b"x")
    elif damage == "other bytes":
        store.path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    elif damage == "pieces":
        (folder / "pieces.jsonl").write_text("")
    elif damage == "json":
        (folder / "meta.json").write_text('{"num_rows": ')
    elif damage == "keys":
        (folder / "meta.json").write_text(json.dumps({"format": 2}))
    elif damage == "format":
        (folder / "meta.json").write_text(json.dumps({**meta, "format": 0}))
    else:
        for file in folder.iterdir():
            if damage == "a file" or file.name == {"no meta": "meta.json", "no rows": "rows.bin"}[damage]:
                file.unlink()
        if damage == "a file":
            folder.rmdir()
            folder.write_text("")
    tokenizer = ByteTokenizer()
    with caplog.at_level(logging.WARNING):
        assert prepare(tmp_path, tokenizer=tokenizer) == store
    assert tokenizer.calls and store.path.read_bytes() == good
    [notice] = caplog.messages
    assert notice.startswith("building rows again") and "\n" not in notice
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]  # nothing is left over


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file.*cannot be written.*data\.cache_dir"):
        prepare(tmp_path / "file")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch):
    def no_space(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare_module, "write_meta", no_space)
    with pytest.raises(
        DataError, match=r"after [\d,]+ bytes.*No space left.*bytes are free.*data\.cache_dir"
    ):
        prepare(tmp_path)
    assert list((tmp_path / "rows").iterdir()) == []


def test_a_source_that_fails_is_not_taken_for_a_full_disk(tmp_path):
    class Failing(ListSource):
        def documents(self):
            yield "text"
            raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(DataError, match=r"a list of 0 texts: cannot be read.*check the source"):
        prepare_rows(source=Failing([]), tokenizer=ByteTokenizer(), seq_len=4, cache_dir=tmp_path)
    assert list((tmp_path / "rows").iterdir()) == []


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def interrupt(*counts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, progress=interrupt)
    assert list((tmp_path / "rows").iterdir()) == []
    assert prepare(tmp_path).num_rows


def test_processes_may_race(tmp_path):
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        stores = pool.map(prepare, [tmp_path] * 6)
    assert all(store == stores[0] for store in stores)
    assert [path.name for path in (tmp_path / "rows").iterdir()] == [stores[0].path.parent.name]


def test_too_little_text_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"0 documents with 0 tokens.*at least one"):
        prepare(tmp_path, [])
    with pytest.raises(DataError, match=r"1 documents with 4 tokens.*data\.seq_len=16.*at most 4"):
        prepare(tmp_path, ["abc"])
    assert prepare(tmp_path, ["abc"], require_full_row=False).num_rows == 1
    assert prepare(tmp_path, ["abc"], packing=False).num_rows == 1
    with pytest.raises(
        DataError,
        match=r"validation side.*one document, which no share divides: .*data\.validation, or .*split_on",
    ):
        prepare(tmp_path, ["abc" * 20], split=Split("validation", validation=1e-9))


def test_tokenizers_without_begin_or_pad_token(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.bos_id = tokenizer.pad_id = None
    rows = prepare(tmp_path, ["abc"], tokenizer=tokenizer, packing=False).read([0])
    assert list(rows["token_ids"][0, :5]) == [257, *b"abc", 0]
    tokenizer.eos_id = None
    with pytest.raises(DataError, match="eos_id"):
        prepare(tmp_path, tokenizer=tokenizer)


def test_ids_beyond_the_vocabulary_are_named(tmp_path):
    with pytest.raises(DataError, match="id 258, but its vocab_size is 257"):
        prepare(tmp_path, ["abc" * 20], tokenizer=ByteTokenizer(vocab_size=257))


def test_the_default_cache_dir_is_the_environments_or_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TFLLM_CACHE", str(tmp_path / "cache"))
    assert prepare(None).path.is_relative_to(tmp_path / "cache")
    monkeypatch.delenv("TFLLM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_module.default_cache_dir() == Path(tmp_path, ".cache", "tfllm")


def test_open_names_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError):
        RowStore.open(tmp_path / "none")
    with pytest.raises(DataError, match="delete the folder"):
        RowStore.open(tmp_path)


def test_what_was_skipped_is_counted_and_told_on_every_run(tmp_path):
    lines = ['{"text": "one two three four"}', "{broken", '{"text": "five six seven eight"}', "[]"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines * 20) + "\n")
    for _ in range(2):  # the second finds the rows on disk and reads no line
        source = JsonlSource(tmp_path / "a.jsonl", on_error="skip")
        store = prepare_rows(
            source=source, tokenizer=ByteTokenizer(), seq_len=16, cache_dir=tmp_path / "cache"
        )
        assert store.num_skipped == 40
        assert "40 unreadable in the source and skipped" in store.summary
