"""A .json file is read row by row, and says the same as `json.loads` says of the whole of it."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspin.tools import json_stream

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read(text):
    return list(json_stream.rows(io.StringIO(text, newline="")))


@pytest.fixture(params=[1, 2, 7, 64])
def narrow(request, monkeypatch):
    """A window that ends in the middle of everything."""
    monkeypatch.setattr(json_stream, "CHARACTERS", request.param)


def same(value, other):
    return json.dumps(value) == json.dumps(other)  # NaN is not itself


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(VALUES, max_size=5), before=VALUES, indent=st.sampled_from([None, 1]),
       ascii_only=st.booleans(), width=st.integers(1, 40))  # fmt: skip
def test_rows_are_those_of_the_whole_text(rows, before, indent, ascii_only, width):
    how = {"indent": indent, "ensure_ascii": ascii_only}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHARACTERS", width)
        assert same(read(json.dumps(rows, **how)), rows)
        around = {"version": before, "data": rows, "later": before}
        assert same(read(f"\ufeff {json.dumps(around, **how)}\n"), rows)


@pytest.mark.parametrize(
    "text",
    ["", " \n", "7", "nul", "{}", "[1, 2", "[1 2]", "[1,]", '[{"a": 1}\n{"a": 2}]', '{"a"',
     '{"a" 1}', '{"a": 1,}', '{"data": [1], }', '{"data": {}}', '{"data": [1]} x', "[1]\n[2]",
     '["a\nb"]', '[\n "abc', '["\\x"]', '["\\u12"]', "[1.]", "[-]", "{1: 2}",
     '{"data": [1], "data": [2]}', f"[{'[' * 100_000}", f"[{'9' * 5000}]"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_as_the_whole_text_is(narrow, text):
    with pytest.raises(json_stream.Unreadable) as refused:
        read(text)
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        said = f"({error.msg} at {line}column {error.colno})"
        # Python 3.13 has a sentence of its own for a comma too many.
        assert said in str(refused.value) or "trailing comma" in said
    except (ValueError, RecursionError):
        assert "JSON out of bounds" in str(refused.value)
    else:
        assert "write one of both" in str(refused.value)


def test_rows_before_a_broken_one_are_there(narrow):
    rows = json_stream.rows(io.StringIO('[{"a": "b"}, 2, nil, 4]'))
    assert [next(rows), next(rows)] == [{"a": "b"}, 2]
    with pytest.raises(json_stream.Unreadable, match="Expecting value at column 17"):
        next(rows)


@pytest.mark.parametrize("ends", ["]", ", nil]"])
def test_memory_does_not_grow_with_the_file(ends, monkeypatch):
    """Of 8 MB no more than some windows; where a row is broken, too."""
    monkeypatch.setattr(json_stream, "CHARACTERS", 2**16)
    row = json.dumps({"prompt": "p" * 500, "response": "r" * 500})
    text = io.TextIOWrapper(io.BytesIO(f"[{', '.join([row] * 8000)}{ends}".encode()))
    tracemalloc.start()
    rows = json_stream.rows(text)
    try:
        assert sum(1 for _ in zip(rows, range(8000), strict=False)) == 8000
        assert list(rows) == []
    except json_stream.Unreadable:
        assert "nil" in ends
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * json_stream.CHARACTERS
