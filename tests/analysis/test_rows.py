"""Files of many rows: numbers as arrays, texts by id from the row groups that have them."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.reading import rows
from tspin.runs.artifacts import SCORES
from tspin.tools import parquet

SCHEMA = pa.schema([("id", pa.string()), ("role", pa.string()), ("text", pa.string())])


@pytest.fixture
def file(tmp_path, monkeypatch):
    """p0 to p9, each with two rows, four rows to a group."""
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 4)
    path = tmp_path / "file.parquet"
    content = [{"id": f"p{i}", "role": role, "text": f"{role} {i}"} for i in range(10)
               for role in ("a", "b")]  # fmt: skip
    parquet.write_rows(path, content, SCHEMA)
    return path


def test_rows_are_found_by_the_values_of_columns(file):
    """Columns that the file has not are left out; every column named has to have a value wanted."""
    found = rows.found(file, ("id", "text", "none"), id=["p9", "p0"]).to_pylist()
    assert found == [{"id": f"p{i}", "text": f"{role} {i}"} for i in (0, 9) for role in ("a", "b")]
    assert rows.found(file, ("text",), id=["p1", "p2"], role=["b"]).to_pylist() == [
        {"text": "b 1"}, {"text": "b 2"}
    ]  # fmt: skip
    for nothing in (["nobody"], []):
        table = rows.found(file, ("text",), id=nothing)
        assert (table.column_names, len(table)) == (["text"], 0)


def test_no_other_row_group_is_read(file, monkeypatch):
    """p2 and p3 are in group 1 of 5, p9 in the last."""
    read, honest = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *a, **o: read.append(a[1]) or honest(*a, **o)
    )
    rows.found(file, ("text",), id=["p2", "p3", "p9"])
    assert read == [1, 4]


def test_words_are_found_in_any_case(file):
    assert [*rows.matching(file, ("text",), "B 7")] == ["p7"]


def test_scores_are_arrays_in_the_order_of_the_ids(tmp_path):
    """NaN where a prompt was not scored; no role that nobody scored."""
    path = tmp_path / "scores.parquet"
    content = [("a", 0, "annotated", -1.0), ("b", 0, "annotated", -2.0), ("b", 0, "proto", -3.0),
               ("x", 0, "annotated", -7.0)]  # fmt: skip
    parquet.write_rows(path, (
        {"id": i, "split": "train", "source": t, "role": role, "logp": logp, "num_tokens": 4,
         "ref_logp": None, "reward": None}
        for i, t, role, logp in content
    ), SCORES)  # fmt: skip
    scored = rows.scores(path, pa.array(["b", "c", "a"]))
    np.testing.assert_array_equal(scored["logp", "annotated"], [-2, np.nan, -1])
    np.testing.assert_array_equal(scored["logp", "proto"], [-3, np.nan, np.nan])
    assert np.isnan(scored["reward", "annotated"]).all()
    assert not any(role == "synthetic" for _, role in scored)
    np.testing.assert_array_equal(rows.scores(path)["num_tokens", "annotated"], [4, 4, 4])
    assert rows.scores(tmp_path / "nothing") == {}
