import errno
import io
import os

import pytest

from tfllm.training.callbacks import TrainerState
from tfllm.training.display import Display
from tfllm.training.lasting_stream import LastingStream


class Failing(io.StringIO):
    """A stream that takes some writes and then fails as the system would."""

    def __init__(self, number, good=0):
        super().__init__()
        self.number, self.good, self.calls = number, good, 0

    def write(self, text):
        self.calls += 1
        if self.calls > self.good:
            raise OSError(self.number, os.strerror(self.number))
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF])
def test_a_stream_that_breaks_is_let_go(number):
    stream = Failing(number, good=1)
    lasting = LastingStream(stream)
    assert lasting.write("one") == 3
    assert lasting.write("two") == 3
    lasting.write("three")
    lasting.flush()
    assert lasting.is_broken and not lasting.isatty()
    assert (stream.getvalue(), stream.calls) == ("one", 2), "it is not tried again"


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_a_closed_stream_takes_anything(stream):
    if stream is not None:
        stream.close()
    lasting = LastingStream(stream)
    print("text", file=lasting, flush=True)
    assert lasting.is_broken and not lasting.isatty()


def test_characters_without_an_encoding_are_escaped():
    raw = io.BytesIO()
    lasting = LastingStream(io.TextIOWrapper(raw, encoding="ascii"))
    print("loss é │ 1", file=lasting, flush=True)
    assert raw.getvalue() == b"loss \\xe9 \\u2502 1\n"
    assert lasting.encoding == "ascii"
    assert not lasting.is_broken


def test_a_broken_pipe_costs_no_status_at_the_end():
    """What lies in the buffer of a broken stream goes to nowhere; Python would end with status 120 otherwise."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = os.fdopen(writer, "w")
    lasting = LastingStream(stream)
    lasting.write("text")
    lasting.flush()
    assert lasting.is_broken
    stream.flush()
    stream.close()


def test_a_display_outlives_its_terminal():
    class Terminal(Failing):
        def isatty(self):
            return True

    display = Display(total_steps=9, stream=Terminal(errno.EIO, good=2))
    display.start(TrainerState())
    display.progress(TrainerState(step=1))
    display.notice("a notice")
    display.entry({"step": 3, "split": "validation", "loss": 1.2, "tokens": 5})
    display.stop()
    assert display.stream.is_broken
