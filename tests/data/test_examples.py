"""Records → examples → rows with whatever a task declares, and back from the disk into batches."""

import numpy as np
import pytest
import tensorflow as tf

from tests.data.fakes import ByteTokenizer, Labelled, LabelledSource, ListSource
from tfllm.data import DataError, RowMixture, Split, piece, prepare_rows
from tfllm.data.examples import Example, WholeSegments
from tfllm.data.layout import Feature, RowLayout, next_token_layout
from tfllm.data.pipeline import evaluation_batches, training_batches
from tfllm.data.record import Record

SIDES = ("encoder_", "decoder_")


def prepare(folder, maker=None, source=None, **settings):
    maker = maker or Labelled()
    return prepare_rows(
        source=source or LabelledSource(),
        tokenizer=ByteTokenizer(),
        seq_len=maker.seq_len,
        packing=maker.packing,
        maker=maker,
        cache_dir=folder,
        **settings,
    )


def segments_of(layout, rows):
    """What each segment holds, by its example's number."""
    found = {}
    for row, segment in zip(*np.nonzero(rows["example_ids"] >= 0), strict=True):
        values = {}
        for feature in layout.features:
            array = rows[feature.name][row]
            own = (
                rows[f"{feature.side}segment_ids"][row] == segment + 1
                if feature.side is not None
                else segment
            )
            values[feature.name] = array[own]
        assert found.setdefault(int(rows["example_ids"][row, segment]), values) is values, (
            "an example stands twice"
        )
    return found


def expected_of(maker, source):
    records = [(number, record) for number, record in enumerate(source.records()) if maker.keeps(record)]
    numbers, kept = zip(*records, strict=True)
    return {example.number: example.arrays for example in maker.examples(kept, numbers)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for number, arrays in expected.items():
        for name, values in arrays.items():
            np.testing.assert_array_equal(
                found[number][name], np.asarray(values, found[number][name].dtype), name
            )


@pytest.fixture(scope="module", params=["packed", "one a row", "two sides"])
def maker(request):
    return {
        "packed": Labelled(),
        "one a row": Labelled(packing=False, segments=1),
        "two sides": Labelled(packing=False, segments=1, sides=SIDES),
    }[request.param]


def test_every_example_stands_in_one_row_as_it_was_made(tmp_path, maker):
    store = prepare(tmp_path, maker)
    rows = store.read(range(store.num_rows))
    assert_same(segments_of(store.layout, rows), expected_of(maker, LabelledSource()))
    assert store.num_documents == 54 and store.dtype == "int32"
    assert store.num_rows == 54 or maker.packing
    for name, values in rows.items():
        if name.endswith("token_ids"):
            padding = rows[name.replace("token_ids", "segment_ids")] == 0
            assert (values[padding] == 258).all()
            assert (np.diff(padding.astype(int), axis=1) >= 0).all(), "padding comes last"


def test_no_row_is_overfull_and_few_are_wasted(tmp_path):
    maker = Labelled(seq_len=24, segments=3)
    rows = prepare(tmp_path, maker, LabelledSource(400))
    held = rows.read(range(rows.num_rows))
    counts = (held["example_ids"] >= 0).sum(axis=1)
    assert counts.max() == 3 and counts.min() >= 1
    roomy = prepare(tmp_path, Labelled(seq_len=24, segments=24), LabelledSource(400))
    assert roomy.num_rows <= 11 / 9 * np.ceil(roomy.num_tokens / 24) + 1  # the bound of best fit decreasing


def test_whole_segments_against_every_other_way():
    """Of small sets, no way of packing needs fewer rows than the bound allows."""
    layout = RowLayout((("", 10),), (Feature("segment_ids", ""), Feature("example_ids", None, fill=-1)), 10)
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 11, rng.integers(1, 9))
        examples = [Example(i, {"example_ids": i}, int(n), 0) for i, n in enumerate(sizes)]
        groups = WholeSegments(layout, packing=True)._groups(examples)
        assert sorted(e.number for group in groups for e in group) == list(range(len(sizes)))
        assert all(sum(e.num_tokens for e in group) <= 10 for group in groups)
        assert len(groups) <= 11 / 9 * fewest(tuple(sorted(sizes))) + 1


def fewest(sizes, bins=()):
    """The fewest bins of 10, by trying all."""
    if not sizes:
        return len(bins)
    size, rest = sizes[-1], sizes[:-1]
    places = {b: i for i, b in enumerate(bins) if b + size <= 10}
    tries = [tuple(sorted((*bins[:i], bins[i] + size, *bins[i + 1 :]))) for i in places.values()]
    return min(fewest(rest, each) for each in [*tries, tuple(sorted((*bins, size)))])


def test_processes_and_interruptions_make_no_difference(tmp_path, monkeypatch):
    monkeypatch.setattr(piece, "PIECE_CHARACTERS", 150)
    expected = prepare(tmp_path / "one", num_workers=1)
    assert len(expected.pieces) > 4
    many = prepare(tmp_path / "many", num_workers=2)
    assert many.identity == expected.identity and many.path.read_bytes() == expected.path.read_bytes()

    def stop(documents, num_bytes):
        if documents > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path / "gone on", num_workers=1, progress=stop)
    gone_on = prepare(tmp_path / "gone on", num_workers=1)
    assert gone_on.path.read_bytes() == expected.path.read_bytes()


def test_a_split_keeps_the_numbers_of_the_source(tmp_path):
    sides = [prepare(tmp_path, split=Split(side, 1, validation=0.3)) for side in ("train", "validation")]
    found = [segments_of(store.layout, store.read(range(store.num_rows))) for store in sides]
    assert not found[0].keys() & found[1].keys() and all(found)
    assert_same({**found[0], **found[1]}, expected_of(Labelled(), LabelledSource()))


def test_what_a_task_makes_of_text_is_in_the_key(tmp_path):
    stores = [prepare(tmp_path, Labelled(segments=n)) for n in (3, 4)]
    assert stores[0].path != stores[1].path and stores[0].content != stores[1].content
    again = prepare(tmp_path, Labelled(segments=3))
    assert again == stores[0] and again.layout == Labelled(segments=3).layout
    with pytest.raises(DataError, match="one seq_len, packing and tokenizer"):
        RowMixture(tuple(stores), (1.0, 1.0))


def test_numbers_come_back_from_the_disk():
    layout = RowLayout((("", 2),), (Feature("a", ""), Feature("b", None, dtype="float32", fill=np.nan)), 3)
    rows = {"a": np.array([[-7, 2**31 - 1]], np.int32), "b": np.array([[np.nan, -1e-30, np.inf]], np.float32)}
    assert layout.width == 5 and layout.dtype == "int32"
    for name, values in layout.unpacked(layout.packed(rows)).items():
        np.testing.assert_array_equal(values, rows[name])
    assert np.isnan(layout.empty(1)["b"]).all()
    assert RowLayout.from_mapping(layout.as_mapping()) == layout
    small = next_token_layout(seq_len=4, vocab_limit=65_536, pad_id=0)
    assert small.dtype == "uint16"
    assert next_token_layout(seq_len=4, vocab_limit=65_537, pad_id=0).dtype == "int32"
    assert next_token_layout(seq_len=65_536, vocab_limit=9, pad_id=0).dtype == "int32"


def test_an_id_beyond_the_vocabulary_is_told(tmp_path):
    maker = Labelled()
    maker.layout = RowLayout(
        maker.layout.sides,
        tuple(
            Feature(f.name, f.side, f.fill, f.dtype, 100) if f.name == "token_ids" else f
            for f in maker.layout.features
        ),
        maker.layout.segments,
    )
    with pytest.raises(DataError, match=r"gave the id 258, but its vocab_size is 100"):
        prepare(tmp_path, maker)


# Batches


def numpy_batches(dataset):
    return [{name: x.numpy() for name, x in features.items()} for features in dataset]


@pytest.mark.parametrize("shares", [1, 2])
def test_batches_have_the_features_a_task_makes(tmp_path, maker, shares):
    store = prepare(tmp_path, maker)
    seen = []

    def transform(rows):
        seen.append({name: x.shape.as_list() for name, x in rows.items()})
        noise = tf.cast(rows["row_seeds"] % 1000, tf.float32)
        extra = tf.stack([rows[f"{side}token_ids"], rows[f"{side}vowels"]], axis=-1)
        return {**rows, "noise": noise, "twice": 2.0 * rows["scores"], "extra": extra}

    side = maker.sides[0]
    settings = {"num_shares": shares, "transform": transform, "aligned": {"extra": side}}
    dataset = evaluation_batches(store, batch_size=2, buckets=[8, 16, 24], **settings)
    found = numpy_batches(dataset)
    lengths = {features[f"{side}token_ids"].shape[1] for features in found}
    assert lengths <= {8, 16, 24} and (len(lengths) > 1 or maker.packing)
    merged = {}
    for features in found:
        np.testing.assert_array_equal(features["twice"], 2 * features["scores"])
        np.testing.assert_array_equal(features["extra"][..., 0], features[f"{side}token_ids"])
        assert features["scores"].dtype == np.float32 and features["labels"].shape == (
            2 // shares,
            maker.layout.segments,
        )
        merged |= segments_of(store.layout, features)
    assert_same(merged, expected_of(maker, LabelledSource()))
    assert seen[0][f"{side}token_ids"][1] == 24, "what is drawn does not depend on where a batch is trimmed"
    if len(maker.sides) == 2:
        assert any(f["encoder_token_ids"].shape != f["decoder_token_ids"].shape for f in found)
        assert found[0]["decoder_positions"].shape == found[0]["decoder_token_ids"].shape


def test_what_is_drawn_follows_the_place_in_the_sequence(tmp_path):
    store = prepare(tmp_path)

    def transform(rows):
        return {"ids": rows["example_ids"], "noise": rows["row_seeds"]}

    def sequence(size, start, stop):
        batches = training_batches(
            store, global_batch_size=size, seed=3, start_step=start, num_steps=stop, transform=transform
        )
        parts = numpy_batches(batches)
        return [np.concatenate([part[name] for part in parts]) for name in ("ids", "noise")]

    whole = sequence(4, 0, 12)
    for size, start, stop in ((2, 0, 24), (4, 5, 12)):
        part = sequence(size, start, stop)
        for one, other in zip(part, whole, strict=True):
            np.testing.assert_array_equal(one, other[start * size :])
    assert len(set(whole[1].tolist())) == 48, "no two places draw alike, and so no two epochs"


def test_a_record_says_what_it_lacks():
    record = Record({"review": "good", "stars": 3}, "a.csv:7")
    with pytest.raises(DataError, match=r"a\.csv:7: no column 'text'; the columns are 'review', 'stars'"):
        record.text("text")
    with pytest.raises(DataError, match=r"a\.csv:7: 'stars' must be a text, not 3"):
        record.text("stars")
    [plain] = ListSource(["x"]).records()
    assert plain.text("text") == "x" and plain.at == ""
