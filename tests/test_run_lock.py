import errno
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from tfllm.experiment.run_lock import RunLockedError, locked_run

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from tfllm.experiment.run_lock import locked_run
with locked_run(Path(sys.argv[1])):
    child = subprocess.Popen(["sleep", "60"])  # outlives this process, and must not hold the lock for it
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in `run`, and its child."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    yield process
    process.kill()
    process.wait()
    process.stdout.close()
    os.kill(child, signal.SIGKILL)


def test_the_second_is_refused_by_name_and_writes_nothing(holder, tmp_path):
    before = (tmp_path / "run" / ".lock").read_bytes()
    with pytest.raises(RunLockedError) as caught, locked_run(tmp_path / "run"):
        raise AssertionError
    words = rf"{tmp_path / 'run'} is being trained by process {holder.pid} on {re.escape(socket.gethostname())}, since \d{{4}}-"
    assert re.match(words, str(caught.value))
    assert "--run-dir" in str(caught.value)
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]
    assert (tmp_path / "run" / ".lock").read_bytes() == before


def test_a_killed_process_leaves_no_lock(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists(), "the file stays; what counts is the lock"
    with locked_run(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / ".lock").exists()


def test_one_after_the_other_and_threads_of_one_process(tmp_path):
    for _ in range(2):
        with locked_run(tmp_path / "a" / "run"):
            errors = []

            def other(errors=errors):
                try:
                    with locked_run(tmp_path / "a" / "run"):
                        pass
                except RunLockedError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            assert len(errors) == 1 and f"process {os.getpid()} " in errors[0]
            with locked_run(tmp_path / "another"):
                pass
    assert list(tmp_path.iterdir()) == [], "folders that stayed empty are gone"


def test_what_was_there_or_was_written_stays(tmp_path):
    (tmp_path / "empty").mkdir()
    with locked_run(tmp_path / "empty"):
        pass
    with locked_run(tmp_path / "new"):
        (tmp_path / "new" / "config.yaml").write_text("")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "empty",
        "new",
        "new/config.yaml",
    ]


def test_a_file_that_its_holder_has_just_removed_is_not_held(tmp_path, monkeypatch):
    """Opened before the holder removed it, locked after: then the name is free for a third."""
    real, opened = os.open, []

    def open_and_remove(path, *arguments, **keywords):
        handle = real(path, *arguments, **keywords)
        if not opened and str(path).endswith(".lock"):
            os.unlink(path)
        opened.append(path)
        return handle

    monkeypatch.setattr(os, "open", open_and_remove)
    with locked_run(tmp_path):
        assert len(opened) == 2
        with pytest.raises(RunLockedError), locked_run(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_a_notice(tmp_path, monkeypatch, number):
    def refuse(handle, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    notices = []
    with locked_run(tmp_path, notify=notices.append):
        pass
    assert len(notices) == 1 and "has no locks" in notices[0]


def test_a_lock_that_nobody_signed_is_one_all_the_same(tmp_path):
    handle = os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(RunLockedError, match="is being trained by another process"), locked_run(tmp_path):
        pass
    os.close(handle)
