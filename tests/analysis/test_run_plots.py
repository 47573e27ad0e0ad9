"""Figures of a run: lengths of texts, and classes taken for others; looked at in what they draw."""

import numpy as np
import pytest

from tfllm.analysis.confusion_plot import plot_confusion
from tfllm.analysis.errors import AnalysisError
from tfllm.analysis.rows_plot import plot_lengths
from tfllm.data.layout import Feature, RowLayout
from tfllm.experiment import pictures


def drawn(figure):
    """The axes of panels, once everything is laid out."""
    figure.canvas.draw()
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


def test_bars_count_each_text_once():
    lengths = np.array([1, 1, 1, 4, 9, 60])
    [ax] = drawn(plot_lengths({"text": lengths}, seq_len=64, filled=0.75))
    counts = {round(bar.get_x() + 0.5): bar.get_height() for bar in ax.patches if bar.get_height()}
    assert sum(counts.values()) == 6 and counts[1] == 3  # two tokens a bar
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["half have at most 2", "95% have at most 47", "room for 64"]


@pytest.mark.parametrize("lengths", [[1], [5, 5, 5], list(range(1, 9000)), [1, 100_000]])
def test_lengths_of_every_kind_are_drawn(lengths):
    [ax] = drawn(plot_lengths({"text": np.array(lengths)}, seq_len=8, filled=1.0))
    assert sum(bar.get_height() for bar in ax.patches) == len(lengths) and len(ax.patches) <= 52


def test_two_sides_have_a_panel_each():
    figure = plot_lengths({"source": np.array([3, 4]), "target": np.array([9])}, seq_len=10, filled=0.5)
    assert [ax.get_xlabel() for ax in drawn(figure)] == ["tokens of a source", "tokens of a target"]
    assert "rows are filled to 50%" in figure.get_suptitle()
    with pytest.raises(AnalysisError, match="no text whose length"):
        plot_lengths({"text": np.array([], int)}, seq_len=8, filled=0.0)


def test_a_row_is_what_was_meant_and_a_column_what_was_said():
    counts = np.array([[8, 2, 0], [0, 0, 0], [1, 0, 3]])
    [ax] = drawn(plot_confusion(counts, ["good", "$x$", "坏"], title="3 of $5"))
    written = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "8", (1, 0): "2", (0, 2): "1", (2, 2): "3"}
    [image] = ax.images
    np.testing.assert_allclose(image.get_array(), [[0.8, 0.2, 0], [0, 0, 0], [0.25, 0, 0.75]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["good", "$x$", "\\u574F"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("said", "meant")


def test_of_many_classes_the_most_frequent_are_drawn():
    counts = np.diag(np.arange(1, 152))
    [ax] = drawn(plot_confusion(counts, [f"class {i}" for i in range(151)]))
    assert len(ax.get_yticklabels()) == 40 and not ax.texts
    assert ax.get_title() == "Confusion; the 40 most frequent of 151 classes"
    assert ax.get_yticklabels()[0].get_text() == "class 111"
    [ax] = drawn(plot_confusion(np.eye(2, dtype=int), ["a" * 80, "b"]))
    assert ax.get_yticklabels()[0].get_text() == "a" * 23 + "…"
    for wrong, names in ((np.eye(3), ["a"]), (np.zeros([2, 2], int), ["a", "b"])):
        with pytest.raises(AnalysisError, match="must hold a row and a column for each"):
            plot_confusion(wrong, names)


class Rows:
    """A store of two rows of two sides."""

    num_rows, seq_len = 2, 5
    layout = RowLayout(
        (("encoder_", 5), ("decoder_", 4)),
        (Feature("encoder_segment_ids", "encoder_"), Feature("decoder_segment_ids", "decoder_")),
        segments=2,
    )

    def read(self, rows):
        assert list(rows) == [0, 1]
        return {
            "encoder_segment_ids": np.array([[1, 1, 1, 2, 0], [1, 0, 0, 0, 0]], np.int32),
            "decoder_segment_ids": np.array([[1, 1, 2, 2], [1, 1, 1, 0]], np.int32),
        }


def test_lengths_are_those_of_the_segments(monkeypatch):
    monkeypatch.setattr(pictures, "stores_of", lambda rows: [rows])
    lengths, filled = pictures.lengths_of(Rows())
    assert {side: sorted(found.tolist()) for side, found in lengths.items()} == {
        "source": [1, 1, 3],
        "target": [2, 2, 3],
    }
    assert filled == 12 / 18


def test_a_picture_that_fails_costs_a_line(tmp_path):
    told = []
    pictures.draw_lengths(tmp_path / "lengths.png", None, notify=told.append)
    assert len(told) == 1 and f"{tmp_path / 'lengths.png'} was not drawn (" in told[0]
    assert not list(tmp_path.iterdir())
