"""Files of rows as programs leave them: tables, encodings, compression, and what is broken."""

import csv
import gzip
import json

import pytest

from tspin.data import annotated

ROWS = [
    {"prompt": 'a "quoted", word', "response": "two\nlines\tand a tab"},
    {"prompt": "caf\u00e9", "response": "\u2028 is no end of a line"},
]
TEXTS = [(row["prompt"], row["response"]) for row in ROWS]


def read(path, **options):
    return [(p.prompt, p.annotated) for p in annotated.read_pairs(str(path), **options).pairs]


def table(path, rows, *, encoding="utf-8", **how):
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.writer(file, **how)
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix, delimiter", [(".csv", ","), (".tsv", "\t"), (".CSV", ",")])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_is_read(tmp_path, suffix, delimiter, encoding):
    rows = [["prompt", "response"], *TEXTS]
    path = table(tmp_path / f"rows{suffix}", rows, delimiter=delimiter, encoding=encoding)
    assert read(path) == TEXTS


def test_the_place_in_a_table_is_the_line_where_a_row_begins(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('id,prompt,response\n\n1,"a\n\nb",r\n2,only\n,"",r\n3,c,d\n')
    with pytest.raises(ValueError, match=r"rows.csv, line 6: 2 cells for 3 columns; repair"):
        read(path)
    source = annotated.read_pairs(str(path), skip_bad_rows=True)
    assert [pair.prompt for pair in source.pairs] == ["a\n\nb", "c"]
    assert "line 7: unknown schema with columns ['response']" in source.reasons[1]
    assert source.unused == ("id",)


def test_a_cell_of_a_megabyte(tmp_path):
    text = "word " * 200_000
    assert read(table(tmp_path / "rows.csv", [["prompt", "response"], ["p", text]])) == [
        ("p", text)
    ]


@pytest.mark.parametrize(
    "content, reason",
    [
        ("what is 2+2?,4\n", r"line 1: \['what is 2\+2\?', '4'\] names no column that is read"),
        ("prompt;response\na;b\n", "line 1: .*names no column that is read; begin the file with"),
        ("prompt,response,prompt\na,b,c\n", "line 1: two columns have the name 'prompt'"),
        ('prompt,response\na,b\n"c"d,e\n', "line 3: .*; a text with a quote, a line break"),
        ('prompt,response\na,b\n"c,d\ne,f\n', "line 3: .*; a text with a quote, a line break"),
        ("", "has no usable row; a row has"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, content, reason):
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"rows.csv,? {reason}") as error:
        read(path, skip_bad_rows=True)
    assert "\n" not in str(error.value)


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_an_encoding_that_the_first_bytes_show(tmp_path, encoding):
    (tmp_path / "rows.jsonl").write_bytes(lines(ROWS).encode(encoding))
    (tmp_path / "rows.json").write_bytes(json.dumps(ROWS).encode(encoding))
    assert read(tmp_path / "rows.jsonl") == read(tmp_path / "rows.json") == TEXTS


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_an_encoding_that_is_not_read_is_named_with_the_way_out(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    contents = {
        ".jsonl": lines(ROWS[1:]),
        ".json": json.dumps(ROWS[1:], ensure_ascii=False),
        ".csv": "prompt,response\ncaf\u00e9,r\n",
    }
    path.write_bytes(contents[suffix].replace("\u2028", " ").encode("latin-1"))
    place = {".jsonl": "line 1", ".json": "row 1", ".csv": "line 2"}[suffix]
    reason = "prompt is not UTF-8: byte 0xe9 at its character 4; save the file as UTF-8"
    with pytest.raises(ValueError, match=f"rows{suffix}, {place}: {reason}"):
        read(path)


def test_half_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines(ROWS).encode("utf-16") + b"x")
    with pytest.raises(ValueError, match="rows.jsonl: it begins as UTF-16.* save it as UTF-8"):
        read(path)


def test_a_compressed_file(tmp_path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(lines(ROWS).encode()))
    (tmp_path / "rows.csv.gz").write_bytes(gzip.compress(b"prompt,response\na,b\n"))
    assert read(tmp_path / "rows.jsonl.gz") == TEXTS
    assert read(tmp_path / "rows.csv.gz") == [("a", "b")]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"text", lambda data: b""])
def test_a_compressed_file_that_is_damaged(tmp_path, damage):
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(damage(gzip.compress(lines(ROWS).encode())))
    with pytest.raises(ValueError, match=r"rows.jsonl.gz (cannot be read|has no usable row)"):
        read(path)


def test_a_type_that_cannot_be_decoded_costs_its_row_and_is_no_traceback(tmp_path, monkeypatch):
    """An image without the package that reads images."""
    import datasets

    table = datasets.Dataset.from_list([{"prompt": "a", "response": "b"}] * 3)
    table.save_to_disk(tmp_path / "saved")

    def fail(self, key):
        raise ImportError("To support decoding images, install Pillow.\nSee the docs")

    monkeypatch.setattr(datasets.Dataset, "__getitem__", fail)
    with pytest.raises(ValueError, match="saved, row 1: ImportError: To support .*Pillow.; repair"):
        read(tmp_path / "saved")
