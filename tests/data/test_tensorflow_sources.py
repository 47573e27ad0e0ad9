import pytest
import tensorflow as tf

from tfllm.data import DataError, TextFilesSource, TfdsSource, TfRecordSource
from tfllm.data.sources import tfds as tfds_source


def test_tfds_yields_a_feature_or_a_nested_one(data_dir):
    source = TfdsSource("tiny_texts", data_dir=data_dir)
    documents = list(source.documents())
    assert sorted(documents) == [f"text {i}" for i in range(5)]
    assert documents == list(source.documents())
    nested = TfdsSource("tiny_texts", split="test", text_key="translation.de", data_dir=data_dir)
    assert sorted(nested.documents()) == ["Satz 0 ü", "Satz 1 ü"]
    assert "tiny_texts/1.0.0" in source.describe()
    sliced = TfdsSource("tiny_texts", split="train[:2]", data_dir=data_dir)
    assert list(sliced.documents()) == documents[:2]
    assert len({source.fingerprint(), nested.fingerprint(), sliced.fingerprint()}) == 3


def test_tfds_yields_records_with_names_of_classes_lists_and_columns(data_dir):
    columns = {"source": "translation.en", "target": "translation.de", "label": "kind"}
    source = TfdsSource("tiny_texts", columns=columns, data_dir=data_dir)
    records = {record.text("text"): record for record in source.records()}
    third = records["text 3"]
    assert (third.text("source"), third.text("target")) == ("sentence 3", "Satz 3 ü")
    assert third.value("label") == third.value("kind") == "odd" and third.value("words") == ["w3", "ü"]
    assert third.value("answers") == {"text": ["a3"] * 3, "answer_start": [0, 1, 2]}
    plain = next(TfdsSource("tiny_texts", data_dir=data_dir).records())
    assert type(plain.value("label")) is int and plain.place == "tiny_texts train: example 0"
    assert source.fingerprint() != TfdsSource("tiny_texts", data_dir=data_dir).fingerprint()
    [*_, last] = TfdsSource("tiny_texts", text_key="translation.en", data_dir=data_dir).records()
    assert last.text("text").startswith("sentence ")


def test_columns_of_known_data_sets_need_no_words(data_dir, monkeypatch):
    monkeypatch.setitem(tfds_source._COLUMNS, "tiny_texts", {"text": "translation.en"})
    record = next(TfdsSource("tiny_texts", data_dir=data_dir).records())
    assert record.text("text").startswith("sentence ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"columns": {"label": "stars"}},
            "columns.label='stars' is not a feature of tiny_texts; those are 'answers', 'a",
        ),
        ({"name": "no_such_texts"}, "name='no_such_texts' is no data set"),
        ({"split": "dev"}, "split='dev' is not in tiny_texts; it has test, train"),
        ({"text_key": "body"}, "text_key='body'.*'text', 'translation.de', 'translation.en'"),
        ({"text_key": "label"}, "text_key='label' is not a text feature"),
        ({"text_key": "translation"}, "text_key='translation' is not a text feature"),
    ],
)
def test_tfds_mistakes_are_named(data_dir, settings, message):
    source = TfdsSource(**{"name": "tiny_texts", "data_dir": data_dir, **settings})
    with pytest.raises(DataError, match=message):
        list(source.documents())
    with pytest.raises(DataError, match=message):
        source.fingerprint()


def test_tfds_not_prepared_is_named(tmp_path):
    source = TfdsSource("imdb_reviews", data_dir=str(tmp_path))
    with pytest.raises(DataError, match=r"'imdb_reviews' is not prepared under .*; run `tfds build"):
        source.fingerprint()


def write_records(path, records, compression=""):
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for features in records:
            feature = {
                key: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
                for key, values in features.items()
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def test_tfrecord_yields_the_feature(tmp_path):
    records = [{"text": ["é".encode()]}, {"text": [b"two"], "other": [b"x"]}]
    write_records(tmp_path / "a.tfrecord", records)
    write_records(tmp_path / "b.tfrecord.gz", records, "GZIP")
    source = TfRecordSource(tmp_path / "*.tfrecord*")
    assert list(source.documents()) == ["é", "two"] * 2
    assert source.fingerprint() != TfRecordSource(tmp_path / "*.tfrecord*", text_key="other").fingerprint()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"body": [b"x"]}, "record 2 has no feature 'text'; it has 'body'"),
        ({"text": [b"x", b"y"]}, "record 2: 'text' must hold one bytes value, not 2"),
        ({"text": [b"\xff"]}, "record 2: 'text' is not UTF-8"),
    ],
)
def test_a_bad_record_is_named(tmp_path, record, message):
    write_records(tmp_path / "a.tfrecord", [{"text": [b"good"]}, record])
    with pytest.raises(DataError, match=rf"a\.tfrecord: {message}"):
        list(TfRecordSource(tmp_path / "a.tfrecord").documents())


def test_a_truncated_or_foreign_file_is_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [{"text": [b"good"]}] * 3)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"a\.tfrecord: truncated or damaged TFRecord"):
        list(TfRecordSource(path).documents())
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(b"\xffnot an example")
    with pytest.raises(DataError, match=r"record 1 is not a tf\.train\.Example"):
        list(TfRecordSource(path).documents())
    with pytest.raises(DataError, match="compression='LZ4'"):
        TfRecordSource(path, compression="LZ4")


def test_a_file_cut_anywhere_is_named(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(path, [{"text": [b"good"]}] * 3)
    whole = path.read_bytes()
    size = len(whole) // 3
    for end in range(1, len(whole)):
        path.write_bytes(whole[:end])
        source = TfRecordSource(path)
        if end % size:
            with pytest.raises(DataError, match=r"a\.tfrecord: (truncated or damaged TFRecord|is no)"):
                list(source.documents())
        else:
            assert list(source.documents()) == ["good"] * (end // size)


@pytest.mark.parametrize("compression", ["GZIP", "ZLIB"])
def test_a_compressed_file_is_read_whole_or_named(tmp_path, compression):
    path = tmp_path / "a.tfrecord"  # a name that says nothing
    write_records(path, [{"text": [f"text {i}".encode()]} for i in range(50)], compression)
    whole = path.read_bytes()
    documents = [f"text {i}" for i in range(50)]
    for setting in (None, compression, "GZIP"):
        assert list(TfRecordSource(path, compression=setting).documents()) == documents
    for end in (*range(11, len(whole), 29), len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(DataError, match=r"a\.tfrecord: .*(truncated|cut short|damaged)"):
            list(TfRecordSource(path).documents())


def test_damage_and_other_files_are_named(tmp_path):
    path = tmp_path / "a [b].tfrecord"
    write_records(path, [{"text": [b"good"]}] * 3)
    whole = path.read_bytes()
    for place in (0, 9, 14, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"a \[b\]\.tfrecord: truncated or damaged TFRecord"):
            list(TfRecordSource(path).documents())
    path.write_bytes(b"PK\x03\x04 more than twelve bytes")
    with pytest.raises(DataError, match="is no TFRecord file but a ZIP archive"):
        list(TfRecordSource(path).documents())
    path.write_bytes(whole)
    with pytest.raises(DataError, match=r"no text but a TFRecord file; write data\.train\.type: tfrecord"):
        list(TextFilesSource(path).documents())
    path.write_bytes(b"")
    assert list(TfRecordSource(path).documents()) == []
    with tf.io.TFRecordWriter(str(path)) as writer:
        feature = {"text": tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))}
        writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    with pytest.raises(DataError, match=r"'text' holds int64 values, not bytes; set data\.train\.text_key"):
        list(TfRecordSource(path).documents())
