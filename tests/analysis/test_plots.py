import io
import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.analysis.test_attention import maps_of
from tfllm.analysis import AnalysisError
from tfllm.analysis.plots import plot_attention, plot_head_summary, plot_loss
from tfllm.training.metrics_log import read_metrics

# A missing glyph or a layout that does not fit is a warning.
pytestmark = [
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

HARD_LABELS = ("<|bos|>", "␣the", "⏎⏎", "⇥", "␍", "$x$", "你好", "🙂", "\\xF0", "_" * 40)


def causal_maps(num_layers=2, num_heads=3, labels=HARD_LABELS):
    tokens = len(labels)
    scores = np.tril(np.random.default_rng(0).random([num_layers, num_heads, tokens, tokens])) ** 4 + np.eye(
        tokens
    )
    return maps_of(
        scores / scores.sum(axis=-1, keepdims=True),
        labels=labels,
        token_ids=np.zeros(tokens, np.int32),
    )


def rendered(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=60)
    assert file.getvalue().startswith(b"\x89PNG")
    return figure


def panels(figure):
    return [ax for ax in figure.axes if ax.images and ax.get_title()]


def shown_labels(axis):
    return [label.get_text() for label in axis.get_ticklabels() if label.get_visible()]


def test_every_head_has_its_panel_and_the_outer_ones_their_tokens():
    figure = rendered(plot_attention(causal_maps()))
    assert isinstance(figure, Figure)
    titles = [ax.get_title() for ax in panels(figure)]
    assert titles == [f"block_{layer:02d} head {head}" for layer in range(2) for head in range(3)]
    assert figure.get_supxlabel().startswith("key")
    assert figure.get_supylabel().startswith("query")
    assert [ax.get_ylabel() for ax in figure.axes if not ax.get_title()] == ["attention score"]
    corner = panels(figure)[3]
    expected = [
        "<|bos|>",
        "␣the",
        "⏎⏎",
        "⇥",
        "\\r",
        "$x$",
        "\\u4F60\\u597D",
        "\\U0001F642",
        "\\xF0",
        "_" * 13 + "…",
    ]
    assert shown_labels(corner.xaxis) == shown_labels(corner.yaxis) == expected


def test_the_colours_mean_the_same_in_all_panels_and_keys_ahead_have_none():
    maps = causal_maps()
    images = [ax.images[0] for ax in panels(plot_attention(maps))]
    assert len({id(image.norm) for image in images}) == 1
    np.testing.assert_array_equal(images[4].get_array().mask, np.triu(np.ones([10, 10], bool), k=1))
    np.testing.assert_array_equal(images[4].get_array().filled(0.0), maps.head(1, 1))
    both_ways = maps_of(np.full([1, 1, 3, 3], 1 / 3))
    assert not panels(plot_attention(both_ways))[0].images[0].get_array().mask.any()


def test_layers_and_heads_can_be_chosen():
    maps = causal_maps()
    assert [ax.get_title() for ax in panels(plot_attention(maps, layers=-1, heads=[2, 0]))] == [
        "block_01 head 2",
        "block_01 head 0",
    ]
    for wrong, message in (({"heads": 3}, "head 3"), ({"layers": "x"}, "'x'"), ({"heads": []}, "nothing")):
        with pytest.raises(AnalysisError, match=message):
            plot_attention(maps, **wrong)
    with pytest.raises(AnalysisError, match="choose some"):
        plot_attention(causal_maps(num_layers=13, num_heads=12, labels=("a", "b")))


def test_token_labels_of_a_long_text_do_not_touch():
    figure = rendered(plot_attention(causal_maps(2, 2, labels=("␣word",) * 150), layers=0))
    boxes = [label.get_window_extent() for label in panels(figure)[0].get_yticklabels()]
    assert 20 < len(boxes) < 150
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
    assert f"1 in {-(-150 // len(boxes))} labelled" in figure.get_supxlabel()


@pytest.mark.parametrize("value, unit", [("mean_distance", "tokens"), ("entropy", "nats")])
def test_the_summary_writes_one_number_a_head(value, unit):
    maps = causal_maps()
    figure = rendered(plot_head_summary(maps, value=value))
    ax, bar = figure.axes
    assert [text.get_text() for text in ax.texts] == [f"{x:.2f}" for x in getattr(maps, value)().ravel()]
    assert shown_labels(ax.yaxis) == ["block_00", "block_01"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("head", "layer")
    assert f"({unit})" in bar.get_ylabel()


def test_a_summary_that_is_not_known_is_refused():
    with pytest.raises(AnalysisError, match="mean_distance, entropy"):
        plot_head_summary(causal_maps(), value="colour")


ENTRIES = [
    {"step": 5, "split": "train", "loss": 3.0},
    {"step": 10, "split": "train", "loss": None},
    {"step": 10, "split": "validation", "loss": 2.5},
    {"step": 15, "split": "train", "loss": 2.0},
]


def test_both_losses_are_drawn_as_logged():
    figure = rendered(plot_loss(ENTRIES))
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "loss (nats/token)")
    train, validation = ax.get_lines()
    np.testing.assert_array_equal(train.get_xydata(), [[5, 3.0], [10, np.nan], [15, 2.0]])
    np.testing.assert_array_equal(validation.get_xydata(), [[10, 2.5]])
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["train (1 not finite)", "validation"]


def test_the_losses_of_a_run_are_read_from_its_file_into_given_axes(tiny_run):
    ax = Figure().add_subplot()
    assert plot_loss(read_metrics(tiny_run / "metrics.jsonl"), ax=ax) is ax.figure
    train, validation = ax.get_lines()
    assert train.get_xdata().tolist() == [5, 10, 15, 20]
    assert validation.get_xdata().tolist() == [0, 10, 20]  # logged first, drawn second


def test_no_losses_are_refused():
    with pytest.raises(AnalysisError, match="hold no loss"):
        plot_loss([])
