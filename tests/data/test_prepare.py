"""Rows in pieces: many processes, killed ones, damaged ones; the rows stay the same."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.fakes import ByteTokenizer, ListSource, words
from tfllm.data import DataError, RowStore, Split, piece, prepare_rows, processes, store_writer
from tfllm.data.next_tokens import NextTokens
from tfllm.data.piece import PieceTokenizer
from tfllm.data.processes import ProcessError
from tfllm.data.record import text_record

TEXTS = words(200)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(piece, "PIECE_CHARACTERS", 700)


def prepare(folder, texts=TEXTS, **settings):
    settings = {"tokenizer": ByteTokenizer(), "seq_len": 16, "num_workers": 1, **settings}
    return prepare_rows(source=ListSource(texts), cache_dir=folder, **settings)


def content(store):
    return {file.name: file.read_bytes() for file in store.path.parent.iterdir() if file.name != "meta.json"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(piece, "PIECE_CHARACTERS", 700)
        return prepare(tmp_path_factory.mktemp("expected"))


def test_pieces_hold_every_document(expected):
    assert len(expected.pieces) > 20
    rows = expected.read(range(expected.num_rows))
    real = rows["segment_ids"] > 0
    np.testing.assert_array_equal(
        rows["targets"][real], np.concatenate([[*text.encode(), 257] for text in TEXTS])
    )
    assert (~real).all(axis=1).sum() == 0
    assert (~real).any(axis=1).sum() <= len(expected.pieces)  # a padded row a piece at most
    assert sum(piece.num_read for piece in expected.pieces) == len(TEXTS)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_the_number_of_processes_makes_no_difference(tmp_path, expected, num_workers):
    seen = []
    store = prepare(tmp_path, num_workers=num_workers, progress=lambda *counts: seen.append(counts))
    assert content(store) == content(expected) and store.identity == expected.identity
    assert seen == sorted(seen) and seen[0] == (0, 0)
    assert seen[-1] == (store.num_documents, store.num_bytes) and len(seen) == len(store.pieces) + 1


def test_a_split_is_cut_by_its_own_documents(tmp_path):
    split = Split("train", validation=0.4)
    one, two = (prepare(tmp_path / str(n), split=split, num_workers=n) for n in (1, 2))
    assert content(one) == content(two)
    assert sum(piece.num_read for piece in one.pieces) > one.num_documents


def test_text_of_one_piece_starts_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_start", None)
    assert prepare(tmp_path, TEXTS[:3], num_workers=8).num_documents == 3
    with pytest.raises(TypeError):
        prepare(tmp_path, num_workers=8)


def interrupt_after(number, kind=KeyboardInterrupt):
    calls = []

    def progress(*counts):
        calls.append(counts)
        if len(calls) > number:
            raise kind

    return progress, calls


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_interrupted_build_goes_on_after_its_last_piece(tmp_path, expected, num_workers):
    done = 0
    for number in (3, 5, 1):  # of this call
        progress, calls = interrupt_after(number)
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path, num_workers=num_workers, progress=progress)
        assert calls[0][0] == sum(piece.documents for piece in expected.pieces[:done])
        done += number
        assert calls[-1][0] == sum(piece.documents for piece in expected.pieces[:done])
    tokenizer = ByteTokenizer()
    assert content(prepare(tmp_path, tokenizer=tokenizer)) == content(expected)
    assert tokenizer.calls == len(expected.pieces) - done
    assert len(list((tmp_path / "rows").iterdir())) == 1


@pytest.mark.parametrize("damage", ["half a line", "half a piece", "no rows", "another line"])
def test_what_a_crash_left_half_written_is_written_again(tmp_path, expected, damage):
    progress, _ = interrupt_after(6)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, progress=progress)
    [part] = (tmp_path / "rows").iterdir()
    rows, journal = part / "rows.bin", part / "pieces.jsonl"
    if damage == "half a line":
        journal.write_bytes(journal.read_bytes()[:-5])
    elif damage == "half a piece":
        rows.write_bytes(rows.read_bytes()[:-70])
    elif damage == "no rows":
        rows.unlink()
    else:
        journal.write_text(journal.read_text() + "[1, 2]\n")
        rows.write_bytes(rows.read_bytes() + b"more")
    assert content(prepare(tmp_path)) == content(expected)


KILLED = """
import os, sys
from tests.data.fakes import ByteTokenizer, ListSource, words
from tfllm.data import piece, prepare_rows
piece.PIECE_CHARACTERS = 700
calls = []
def progress(*counts):
    calls.append(counts)
    if len(calls) == 8:
        os.kill(os.getpid(), 9)
prepare_rows(source=ListSource(words(200)), tokenizer=ByteTokenizer(), seq_len=16, num_workers=2,
             cache_dir=sys.argv[1], progress=progress)
"""


def test_a_killed_run_keeps_its_pieces_and_leaves_no_process(tmp_path, expected):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Its processes hold the other end of the pipe: the pipe ends when the last of them has.
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], env=environment, stderr=subprocess.PIPE
    )
    assert run.communicate(timeout=60)[1] == b"" and run.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "rows").iterdir())) == 1
    tokenizer = ByteTokenizer()
    assert content(prepare(tmp_path, tokenizer=tokenizer)) == content(expected)
    assert tokenizer.calls == len(expected.pieces) - 7


def test_processes_import_no_tensorflow():
    code = (
        "import sys, tfllm.data.tokenizing_process, tfllm.data.piece, tfllm.tokenizers; print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    loaded = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    tops = {name.split(".")[0] for name in loaded.stdout.split()}
    assert "numpy" in tops and not tops & {"tensorflow", "keras", "tensorflow_datasets"}


class Dying(ByteTokenizer):
    def encode_batch(self, texts):
        if any(text.startswith("150 ") for text in texts) and os.environ.get("TOKENIZERS_PARALLELISM"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(texts)


def test_a_process_that_dies_is_named_and_the_rest_is_kept(tmp_path, expected, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    with pytest.raises(ProcessError, match=r"killed by SIGKILL .*memory.*go on.*data\.num_workers"):
        prepare(tmp_path, tokenizer=Dying(), num_workers=2)
    assert not [path for path in (tmp_path / "rows").iterdir() if not path.name.startswith(".")]
    seen = []
    store = prepare(tmp_path, tokenizer=Dying(), progress=lambda *counts: seen.append(counts))
    assert content(store) == content(expected) and seen[0][0] > 0


class Failing(ByteTokenizer):
    def encode_batch(self, texts):
        print("this must not come between the answers")
        if any(text.startswith("150 ") for text in texts):
            raise ZeroDivisionError("nothing divides by 0")
        return super().encode_batch(texts)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_an_error_of_the_tokenizer_is_raised_here(tmp_path, num_workers):
    with pytest.raises(ZeroDivisionError, match="divides"):
        prepare(tmp_path, tokenizer=Failing(), num_workers=num_workers)
    with pytest.raises(DataError, match="id 257, but its vocab_size is 257"):
        prepare(tmp_path, tokenizer=ByteTokenizer(vocab_size=257), num_workers=num_workers)


def test_a_tokenizer_that_cannot_be_sent_is_named(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.lines = (line for line in "ab")
    with pytest.raises(DataError, match=r"cannot be sent.*data\.num_workers to 1"):
        prepare(tmp_path, tokenizer=tokenizer, num_workers=2)
    assert prepare(tmp_path, tokenizer=tokenizer).num_rows


def test_processes_that_cannot_be_started_are_named(tmp_path, monkeypatch):
    def refuse():
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(processes, "_start", refuse)
    with pytest.raises(DataError, match=r"process 1 of 4 cannot be started.*data\.num_workers"):
        prepare(tmp_path, num_workers=4)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_disk_that_fills_up_is_named_and_left_as_it_was(tmp_path, monkeypatch, num_workers):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_writer.os, "fsync", full)
    with pytest.raises(DataError, match=r"after [1-9][\d,]+ bytes of rows.*No space left.*bytes are free"):
        prepare(tmp_path, num_workers=num_workers)
    assert list((tmp_path / "rows").iterdir()) == []


def test_a_source_that_breaks_keeps_nothing(tmp_path):
    class Broken(ListSource):
        def documents(self):
            yield from self.texts
            raise DataError("a.jsonl:201: not valid JSON")

    with pytest.raises(DataError, match=r"a\.jsonl:201"):
        prepare_rows(
            source=Broken(TEXTS), tokenizer=ByteTokenizer(), seq_len=16, num_workers=2, cache_dir=tmp_path
        )
    assert list((tmp_path / "rows").iterdir()) == []


def test_only_a_few_pieces_are_read_ahead():
    read = []

    def pieces():
        for number in range(40):
            read.append(number)
            yield piece.Piece([text_record(f"text {number}")], [number], 1)

    tokenizer = PieceTokenizer(NextTokens(ByteTokenizer(), seq_len=8, packing=True))
    with processes.TokenizingProcesses(tokenizer, 2) as workers:
        for taken, (_, counts) in enumerate(workers.rows(pieces()), start=1):
            assert counts.bytes == len(f"text {taken - 1}")
            assert len(read) <= taken + 2 + 2
    assert taken == 40


SLOW = """
import sys, time
from tests.data.fakes import ByteTokenizer, ListSource, words
from tfllm.data import piece, prepare_rows
piece.PIECE_CHARACTERS = 700
def progress(*counts):
    print("writing", flush=True)
    time.sleep(0.1)
prepare_rows(source=ListSource(words(200)), tokenizer=ByteTokenizer(), seq_len=16, num_workers=1,
             cache_dir=sys.argv[1], progress=progress)
"""


def test_the_second_process_waits_for_the_first(tmp_path, expected, caplog):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    first = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)], env=environment, stdout=subprocess.PIPE
    )
    first.stdout.readline()
    tokenizer = ByteTokenizer()
    assert content(prepare(tmp_path, tokenizer=tokenizer)) == content(expected)
    assert tokenizer.calls == 0 and "waiting" in caplog.text
    first.communicate()
    assert first.returncode == 0 and len(list((tmp_path / "rows").iterdir())) == 1


def test_without_locks_rows_are_written_all_the_same(tmp_path, expected, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store_writer.fcntl, "flock", no_locks)
    assert content(prepare(tmp_path)) == content(expected)
    assert [path.name[0] for path in (tmp_path / "rows").iterdir()].count(".") == 0


def flip(store, row):
    """Change one bit of a row, keeping the file's size."""
    with store.path.open("r+b") as file:
        file.seek(row * store.row_bytes)
        byte = file.read(1)[0]
        file.seek(row * store.row_bytes)
        file.write(bytes([byte ^ 1]))


def test_verify_names_the_rows(tmp_path):
    store = prepare(tmp_path)
    seen = []
    store.verify(seen.append)
    assert sum(seen) == store.num_rows * store.row_bytes
    second = store.pieces[0].rows
    flip(store, second + 2)
    with pytest.raises(
        DataError, match=rf"rows {second} to {second + store.pieces[1].rows - 1} of rows\.bin.*delete"
    ):
        store.verify()


def test_a_change_that_leaves_the_size_is_found_on_opening(tmp_path):
    store = prepare(tmp_path)
    times = store.path.stat()
    flip(store, store.pieces[0].rows + 2)
    with pytest.raises(DataError, match="not as they were written"):
        RowStore.open(store.path.parent)  # its time says that it changed, so all is compared
    os.utime(store.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    RowStore.open(store.path.parent)  # without that, one bit of one piece is found by `verify` alone
    for row in np.cumsum([0, *(counts.rows for counts in store.pieces[:-1])]):
        flip(store, int(row) + 1)
    os.utime(store.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(DataError, match="not as they were written"):
        RowStore.open(store.path.parent)  # other content throughout is not


def test_a_copy_is_compared_once(tmp_path, monkeypatch):
    store = prepare(tmp_path)
    os.utime(store.path, ns=(1, time.time_ns() + 10**9))
    compared = []
    check = RowStore._check
    monkeypatch.setattr(
        RowStore, "_check", lambda self, numbers: (compared.append(len(numbers)), check(self, numbers))
    )
    assert RowStore.open(store.path.parent) == RowStore.open(store.path.parent) == store
    assert compared == [len(store.pieces), 4]


def test_a_copy_that_cannot_be_written_to_is_compared_each_time(tmp_path, monkeypatch):
    store = prepare(tmp_path)
    os.utime(store.path)

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(type(store.path), "write_text", refuse)
    assert RowStore.open(store.path.parent) == store
