import numpy as np
import pytest

from tfllm.data import DataError, RowPacker, positions_from_segments

BOS, EOS, PAD = 1, 2, 0


def pack(documents, *, seq_len, packing, batches=1):
    packer = RowPacker(seq_len=seq_len, packing=packing, bos_id=BOS, eos_id=EOS, pad_id=PAD)
    pieces = [packer.add([])]
    size = -(-len(documents) // batches) or 1
    for start in range(0, len(documents), size):
        pieces.append(packer.add(documents[start : start + size]))
    pieces.append(packer.finish())
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def chunks(rows):
    """The (inputs, targets) of each segment of each row, in order."""
    for inputs, targets, segments in zip(*rows.values(), strict=True):
        for segment in range(1, segments.max() + 1):
            yield list(inputs[segments == segment]), list(targets[segments == segment])


def rebuilt(rows):
    """Put the documents together again from the chunks."""
    documents = []
    for inputs, targets in chunks(rows):
        assert inputs[1:] == targets[:-1]
        if inputs[0] == BOS:
            documents.append([])
        else:
            assert inputs[0] == documents[-1][-1]  # the last chunk's last target
        documents[-1] += targets
    return documents


def random_documents(rng):
    return [
        list(rng.integers(3, 99, rng.integers(1, rng.choice([3, 12, 60]))))
        for _ in range(rng.integers(1, 30))
    ]


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("seed", range(25))
def test_every_target_is_there_exactly_once(packing, seed):
    rng = np.random.default_rng(seed)
    documents = random_documents(rng)
    seq_len = int(rng.integers(2, 20))
    rows = pack(documents, seq_len=seq_len, packing=packing, batches=int(rng.integers(1, 6)))
    assert rebuilt(rows) == [[*document, EOS] for document in documents]
    weights = rows["segment_ids"] > 0
    assert weights.sum() == sum(len(document) + 1 for document in documents)
    assert (rows["token_ids"][~weights] == PAD).all() and (rows["targets"][~weights] == PAD).all()
    assert all(rows[name].dtype == np.int32 and rows[name].shape[1] == seq_len for name in rows)
    if packing:
        assert weights[:-1].all()
    else:
        assert rows["segment_ids"].max() == 1
        assert (np.diff(weights.astype(int), axis=1) <= 0).all()  # tokens first, then padding


def test_packed_rows_by_hand():
    rows = pack([[3, 4], [5, 6, 7, 8], [9]], seq_len=4, packing=True)
    np.testing.assert_array_equal(rows["token_ids"], [[1, 3, 4, 1], [5, 6, 7, 8], [1, 9, 0, 0]])
    np.testing.assert_array_equal(rows["targets"], [[3, 4, 2, 5], [6, 7, 8, 2], [9, 2, 0, 0]])
    np.testing.assert_array_equal(rows["segment_ids"], [[1, 1, 1, 2], [1, 1, 1, 1], [1, 1, 0, 0]])


def test_unpacked_rows_by_hand():
    rows = pack([[3, 4], [5, 6, 7, 8]], seq_len=4, packing=False)
    np.testing.assert_array_equal(rows["token_ids"], [[1, 3, 4, 0], [1, 5, 6, 7], [8, 0, 0, 0]])
    np.testing.assert_array_equal(rows["targets"], [[3, 4, 2, 0], [5, 6, 7, 8], [2, 0, 0, 0]])
    np.testing.assert_array_equal(rows["segment_ids"], [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


@pytest.mark.parametrize("packing", [True, False])
def test_batches_make_no_difference(packing):
    documents = random_documents(np.random.default_rng(5))
    one = pack(documents, seq_len=7, packing=packing)
    many = pack(documents, seq_len=7, packing=packing, batches=len(documents))
    for name in one:
        np.testing.assert_array_equal(one[name], many[name])


@pytest.mark.parametrize("packing", [True, False])
def test_documents_without_ids_are_dropped(packing):
    rows = pack([[], [3], []], seq_len=4, packing=packing)
    assert rebuilt(rows) == [[3, EOS]]
    assert len(pack([[]], seq_len=4, packing=packing)["token_ids"]) == 0


def test_positions_restart_in_each_segment():
    segments = np.array([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 0, 0], [0, 0, 0, 0, 0, 0]])
    expected = [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5]]
    positions = positions_from_segments(segments)
    np.testing.assert_array_equal(positions, expected)
    assert positions.dtype == np.int32


def test_seq_len_is_checked():
    with pytest.raises(DataError, match=r"data\.seq_len=1 "):
        pack([[3]], seq_len=1, packing=True)
