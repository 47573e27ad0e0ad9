import pytest
import tensorflow as tf

from tfllm.training.tensorboard import TensorBoard


def test_what_is_written_is_read_again(tmp_path):
    notices = []
    board = TensorBoard(tmp_path / "tensorboard", notify=notices.append)
    with board.as_default(step=3):
        tf.summary.scalar("train/loss", 1.5)
    board.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = list(tf.compat.v1.train.summary_iterator(str(file)))
    assert [(e.step, v.tag) for e in events for v in e.summary.value] == [(3, "train/loss")]
    assert notices == []


def test_a_folder_that_cannot_be_written_is_one_notice(tmp_path):
    (tmp_path / "tensorboard").write_text("in the way")
    notices = []
    board = TensorBoard(tmp_path / "tensorboard", notify=notices.append)
    for step in (1, 2):
        with board.as_default(step=step):
            tf.summary.scalar("train/loss", 1.5)
    board.flush()
    board.close()
    (notice,) = notices
    assert notice.startswith(f"{tmp_path / 'tensorboard'} cannot be written any more (Not a directory)")
    assert "metrics.jsonl" in notice


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), tf.errors.DataLossError(None, None, "disk")]
)
def test_a_write_that_fails_is_one_notice_and_the_last(tmp_path, error):
    notices, done = [], []
    board = TensorBoard(tmp_path, notify=notices.append)
    with board.as_default(step=1):
        raise error
    with board.as_default(step=2):
        tf.summary.scalar("train/loss", 1.5)
        done.append(2)
    board.close()
    assert len(notices) == 1 and done == [2]


def test_a_closed_writer_is_a_notice(tmp_path):
    notices, done = [], []
    board = TensorBoard(tmp_path, notify=notices.append)
    board.close()
    with board.as_default(step=1):
        done.append(1)
    assert len(notices) == 1 and done == [1]


def test_an_interrupt_passes(tmp_path):
    board = TensorBoard(tmp_path, notify=str)
    with pytest.raises(KeyboardInterrupt), board.as_default(step=1):
        raise KeyboardInterrupt
