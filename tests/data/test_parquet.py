"""Parquet files, as warehouses and the Hugging Face hub keep them."""

import pyarrow
import pytest
from pyarrow import parquet

from tfllm.data import DataError, ParquetSource


def write(path, rows=3000, **settings):
    table = {
        "text": [f"text {i}" for i in range(rows)],
        "label": [i % 5 for i in range(rows)],
        "answers": [{"text": [f"a{i}"], "answer_start": [i]} for i in range(rows)],
        "tokens": [[f"w{i}", "x"] for i in range(rows)],
        "nothing": pyarrow.nulls(rows),
    }
    parquet.write_table(pyarrow.table(table), path, **settings)


@pytest.mark.parametrize("settings", [{}, {"compression": "gzip"}, {"row_group_size": 700}], ids=str)
def test_every_row_is_a_record_in_order(tmp_path, settings):
    write(tmp_path / "a.parquet", **settings)
    source = ParquetSource(tmp_path / "a.parquet")
    records = list(source.records())
    assert [record.text("text") for record in records] == [f"text {i}" for i in range(3000)]
    assert records[7].value("label") == 2 and records[7].value("nothing") is None
    assert records[7].value("answers") == {"text": ["a7"], "answer_start": [7]}
    assert records[7].value("tokens") == ["w7", "x"]
    assert records[7].place == f"{tmp_path / 'a.parquet'}: row 8"


def test_columns_are_called_as_asked_and_the_others_as_they_are(tmp_path):
    write(tmp_path / "a.parquet", rows=2)
    source = ParquetSource(tmp_path / "*.parquet", columns={"label": "text", "source": "nothing"})
    [first, _] = source.records()
    assert first.value("label") == "text 0" and first.value("label of the file") == 0
    assert first.value("source") is None and first.value("tokens") == ["w0", "x"]
    assert source.fingerprint() != ParquetSource(tmp_path / "*.parquet").fingerprint()


def test_what_is_no_table_or_lacks_a_column_is_told(tmp_path):
    write(tmp_path / "a.parquet", rows=2)
    with pytest.raises(
        DataError, match=r"no column 'stars', which data.train.columns.label names; the columns are 'text'"
    ):
        list(ParquetSource(tmp_path / "a.parquet", columns={"label": "stars"}).records())
    whole = (tmp_path / "a.parquet").read_bytes()
    for name, content in (
        ("cut", whole[:-20]),
        ("csv", b"text,label\na,b\n"),
        ("empty", b""),
        ("spoiled", whole[:4] + b"\0" * 200 + whole[204:]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"{name}: cannot be read as Parquet"):
            list(ParquetSource(tmp_path / name).records())
