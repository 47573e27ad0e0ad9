"""Reading ahead gives what reading gives, in any order, and keeps nothing."""

import threading

import numpy as np
import pytest

from tfllm.convert.errors import ConvertError
from tfllm.convert.read_ahead import _AHEAD, ReadAhead

NAMES = [f"t{i}" for i in range(3 * _AHEAD)]


class Numbers:
    """Each tensor is its number; `bad` cannot be read."""

    def __init__(self, bad=None):
        self.bad, self.read_names, self.threads = bad, [], set()

    def read(self, name):
        self.read_names.append(name)
        self.threads.add(threading.get_ident())
        if name == self.bad:
            raise ConvertError(f"{name} is damaged")
        return np.array(int(name[1:]))


@pytest.mark.parametrize(
    "order", [NAMES, NAMES[::-1], [*NAMES[1::2], *NAMES[::2]]], ids=["as said", "other", "mixed"]
)
def test_every_tensor_comes_out_in_any_order(order):
    tensors = Numbers()
    with ReadAhead(tensors, NAMES) as ahead:
        assert [int(ahead.take(name)) for name in order] == [int(name[1:]) for name in order]
        assert not ahead._read
        assert int(ahead.take("t0")) == 0  # a second time too


def test_it_reads_ahead_and_no_further_than_it_says():
    tensors = Numbers()
    with ReadAhead(tensors, NAMES) as ahead:
        ahead.take(NAMES[0])
        assert len(ahead._read) == _AHEAD
    assert threading.get_ident() not in tensors.threads
    assert len(tensors.read_names) <= 1 + _AHEAD


def test_what_cannot_be_read_is_said_to_whom_asks_for_it():
    with ReadAhead(Numbers(bad="t2"), NAMES) as ahead:
        assert int(ahead.take("t1")) == 1
        with pytest.raises(ConvertError, match="t2 is damaged"):
            ahead.take("t2")
        assert int(ahead.take("t3")) == 3
