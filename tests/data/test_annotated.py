"""Annotated pairs: every schema and container, what is refused and how, and the laws of subsets."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny import compose

from tspin.config.shift import ShiftConfig
from tspin.data import annotated, files
from tspin.data.pairs import PairsBuilder, digest_of
from tspin.data.turns import Dialogue

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTIONS = ROOT.parent / "shared" / "data" / "instructions_1k.jsonl"


def chat(*turns):
    return [{"role": role, "content": content} for role, content in turns]


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def texts(pairs):
    return [(pair.system, pair.prompt, pair.annotated) for pair in pairs]


def make_pairs(prompts):
    """One pair for each prompt, with its place as the response."""
    return identified((None, prompt, str(place)) for place, prompt in enumerate(prompts))


def identified(rows, rounds="first"):
    """(system, prompt, response), or (system, prompt, response, prompt, response, ...) -> pairs"""
    pairs = PairsBuilder()
    for system, *turns in rows:
        pairs.add(Dialogue(system, (*zip(turns[::2], turns[1::2], strict=True),)), rounds)
    return pairs.pairs()


NUMBERED = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(5)]


# Schemas


SCHEMAS = {
    "ultrachat": (
        {"prompt": "other", "prompt_id": "7", "messages": chat(("user", "x"), ("assistant", "y"))},
        (None, "x", "y"),
    ),
    "messages_win": (
        {"prompt": "a", "response": "b", "messages": chat(("user", "x"), ("assistant", "y"))},
        (None, "x", "y"),
    ),
    "first_round": (
        {"messages": chat(("user", "x"), ("assistant", "y"), ("user", "x2"), ("assistant", "y2"))},
        (None, "x", "y"),
    ),
    "later_turns_are_not_read": (
        {"messages": [*chat(("user", "x"), ("assistant", "y")), {"role": "tool"}, 7]},
        (None, "x", "y"),
    ),
    "system": (
        {"messages": chat(("system", "s"), ("user", "x"), ("assistant", "y"))},
        ("s", "x", "y"),
    ),
    "empty_system_is_none": (
        {"messages": chat(("system", " "), ("user", "x"), ("assistant", "y"))},
        (None, "x", "y"),
    ),
    "two_systems": (
        {"messages": chat(("system", "s"), ("system", "t"), ("user", "x"), ("assistant", "y"))},
        ("s\n\nt", "x", "y"),
    ),
    "greeting_is_passed_over": (
        {"messages": chat(("assistant", "hello"), ("user", "x"), ("assistant", "y"))},
        (None, "x", "y"),
    ),
    "response": ({"prompt": "x", "response": "y"}, (None, "x", "y")),
    "completion": ({"prompt": "x", "completion": "y"}, (None, "x", "y")),
    "system_column": ({"system": "s", "prompt": "x", "response": "y"}, ("s", "x", "y")),
    "trl": (
        {
            "prompt": chat(("system", "s"), ("user", "x")),
            "completion": chat(("assistant", "y")),
        },
        ("s", "x", "y"),
    ),
    "official SPIN": (
        {
            "real": chat(("user", "x"), ("assistant", "y")),
            "generated": chat(("user", "x"), ("assistant", "")),  # as before it is sampled
        },
        (None, "x", "y"),
    ),
    "preference": ({"prompt": "x", "chosen": "y", "rejected": "z"}, (None, "x", "y")),
    "preference, as turns": (
        {
            "prompt": chat(("system", "s"), ("user", "x")),
            "chosen": chat(("assistant", "y")),
            "rejected": chat(("assistant", "z")),
        },
        ("s", "x", "y"),
    ),
    "preference, prompt in both": (
        {
            "chosen": chat(("user", "x"), ("assistant", "y")),
            "rejected": chat(("user", "x"), ("assistant", "z")),
        },
        (None, "x", "y"),
    ),
    "preference, prompt thrice": (
        {"prompt": "x", "chosen": chat(("user", "x"), ("assistant", "y"))},
        (None, "x", "y"),
    ),
    "our triplets": (
        {"system": "s", "prompt": "x", "annotated": "y", "synthetic": "z", "proto": "w"},
        ("s", "x", "y"),
    ),
    "instruction": ({"instruction": "x", "output": "y"}, (None, "x", "y")),
    "instruction_input": (
        {"instruction": "x", "input": "z", "output": "y"},
        (None, "x\n\nz", "y"),
    ),
    "instruction_empty_input": (
        {"instruction": "x", "input": "", "output": "y"},
        (None, "x", "y"),
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
        (None, "x", "y"),
    ),
    "sharegpt_roles": (
        {
            "conversations": [
                {"from": "system", "value": "s"},
                {"from": "user", "value": "x"},
                {"from": "assistant", "value": "y"},
            ]
        },
        ("s", "x", "y"),
    ),
    "nulls_are_absent": (
        {"messages": None, "instruction": None, "prompt": "x", "response": "y", "input": None},
        (None, "x", "y"),
    ),
    "text_is_unchanged": (
        {"prompt": " x\r\n", "response": "\ty \n"},
        (None, " x\r\n", "\ty \n"),
    ),
}


@pytest.mark.parametrize("row, expected", SCHEMAS.values(), ids=SCHEMAS)
def test_schema(tmp_path, row, expected):
    source = annotated.read_pairs(write_jsonl(tmp_path / "rows.jsonl", [row]))
    assert texts(source.pairs) == [expected]


# Containers


def test_jsonl_ignores_blank_lines_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row).encode() for row in NUMBERED[:2]]
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n  \n" + lines[1])
    assert texts(annotated.read_pairs(str(path)).pairs) == [(None, "p0", "r0"), (None, "p1", "r1")]


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"data": rows, "version": 1}])
def test_json_list_or_data(tmp_path, wrap):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(wrap(NUMBERED), indent=1))
    assert [pair.prompt for pair in annotated.read_pairs(str(path)).pairs] == [
        f"p{i}" for i in range(5)
    ]


def write_containers(folder):
    """The same five rows in every container, as {name: (path, split)}."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"messages": chat(("system", "s"), ("user", f"p{i}"), ("assistant", f"r{i}"))}
        for i in range(5)
    ]
    table = datasets.Dataset.from_list(rows)
    other = datasets.Dataset.from_list([SCHEMAS["system"][0]])
    table.save_to_disk(folder / "dataset")
    datasets.DatasetDict(train_sft=table, test_sft=other).save_to_disk(folder / "dict")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "files").mkdir()
    write_jsonl(folder / "files" / "train.jsonl", rows)
    write_jsonl(folder / "files" / "test.jsonl", [SCHEMAS["system"][0]])
    (folder / "rows.json").write_text(json.dumps(rows))
    return {
        "jsonl": (write_jsonl(folder / "rows.jsonl", rows), "train"),
        "json": (str(folder / "rows.json"), "train"),
        "parquet": (str(folder / "rows.parquet"), "train"),
        "saved Dataset": (str(folder / "dataset"), "train"),
        "saved DatasetDict": (str(folder / "dict"), "train_sft"),
        "folder of files": (str(folder / "files"), "train"),
    }


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test asks the hub, and each has a cache of its own."""
    import datasets
    import huggingface_hub

    def refuse(*args, **kwargs):
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


def test_every_container_gives_the_same_pairs_ids_and_digest(tmp_path):
    sources = {
        name: annotated.read_pairs(path, split=split)
        for name, (path, split) in write_containers(tmp_path).items()
    }
    assert texts(sources["jsonl"].pairs) == [("s", f"p{i}", f"r{i}") for i in range(5)]
    for name, source in sources.items():
        assert source == sources["jsonl"], name


def test_an_unknown_split_names_those_that_exist(tmp_path):
    containers = write_containers(tmp_path)
    for name, splits in {"saved DatasetDict": "train_sft", "folder of files": "test"}.items():
        with pytest.raises(ValueError, match=f"(?s)data.split=nope.*{splits}") as error:
            annotated.read_pairs(containers[name][0], split="nope")
        assert "\n" not in str(error.value)


def test_rows_are_counted_over_batches(tmp_path, monkeypatch):
    import datasets
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(files, "ROWS_PER_BATCH", 2)
    rows = [*NUMBERED, {"prompt": " ", "response": "r"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name in ("rows.parquet", "saved"):
        with pytest.raises(ValueError, match=f"{name}, row 6: prompt is empty"):
            annotated.read_pairs(str(tmp_path / name))
        source = annotated.read_pairs(str(tmp_path / name), skip_bad_rows=True)
        assert [pair.prompt for pair in source.pairs] == [f"p{i}" for i in range(5)]


def bad_utf8_table():
    """Three rows; the prompt of the second is not UTF-8."""
    import pyarrow

    prompts = pyarrow.array([b"p0", b"\xff\xfe", b"p2"], pyarrow.binary()).view(pyarrow.string())
    return pyarrow.table({"prompt": prompts, "response": ["r0", "r1", "r2"]})


def test_invalid_utf8_in_parquet_costs_only_its_row(tmp_path):
    import pyarrow.parquet

    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(bad_utf8_table(), path)
    with pytest.raises(ValueError, match="row 2: invalid UTF-8"):
        annotated.read_pairs(path)
    source = annotated.read_pairs(path, skip_bad_rows=True)
    assert [pair.prompt for pair in source.pairs] == ["p0", "p2"]


def test_invalid_utf8_in_a_dataset_costs_only_its_row(tmp_path):
    import datasets

    path = str(tmp_path / "saved")
    datasets.Dataset(bad_utf8_table()).save_to_disk(path)
    with pytest.raises(ValueError, match="row 2: invalid UTF-8"):
        annotated.read_pairs(path)
    source = annotated.read_pairs(path, skip_bad_rows=True)
    assert [pair.prompt for pair in source.pairs] == ["p0", "p2"]


def test_a_home_folder_path_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_jsonl(tmp_path / "rows.jsonl", NUMBERED)
    annotated.check_reachable("~/rows.jsonl")
    assert len(annotated.read_pairs("~/rows.jsonl").pairs) == 5


# Bad rows


ROUND = chat(("user", "x"), ("assistant", "y"))
BAD_ROWS = {
    "no assistant": ({"messages": ROUND[:1]}, "messages has no assistant turn"),
    "no user": ({"messages": ROUND[1:]}, "messages has no user turn"),
    "no turns": ({"messages": []}, "messages has no user turn"),
    "two users": (
        {"messages": ROUND[:1] + ROUND},
        "no assistant turn directly after the first user turn of messages",
    ),
    "empty user": (
        {"messages": chat(("user", ""), ("assistant", "y"))},
        r"turn 1 of messages \(user\) is empty",
    ),
    "white assistant": (
        {"messages": chat(("user", "x"), ("assistant", " \n\t"))},
        r"turn 2 of messages \(assistant\) is empty",
    ),
    "null content": (
        {"messages": chat(("user", "x"), ("assistant", None))},
        r"turn 2 of messages \(assistant\) is empty",
    ),
    "unanswered, in parts": (
        {"messages": chat(("user", [{"type": "text", "text": "x"}]))},
        "messages has no assistant turn",
    ),
    "unknown role": ({"messages": chat(("tool", "x"))}, "turn 1 of messages has role='tool'"),
    "list as role": (
        {"messages": chat((["user"], "x"))},
        r"turn 1 of messages has role=\['user'\]",
    ),
    "turn is text": ({"messages": ["x"]}, "turn 1 of messages is not an object but str"),
    "turns are text": ({"conversations": "x"}, "conversations is not a list of turns but str"),
    "number as prompt": ({"prompt": 7, "response": "y"}, "prompt is not a string but int"),
    "empty response": ({"prompt": "x", "response": "\u2003"}, "response is empty"),
    "input is a list": (
        {"instruction": "x", "input": [], "output": "y"},
        "input is not a string but list",
    ),
    "unknown schema": (
        {"frage": "x", "antwort": "y"},
        r"unknown schema with columns \['antwort', 'frage'\]; it needs messages or ",
    ),
    "null response": (
        {"prompt": "x", "response": None},
        r"unknown schema with columns \['prompt'\]",
    ),
    "no columns": ({}, r"unknown schema with columns \[\]"),
    "a list": ([1], "it is not an object but list"),
    "null": (None, "it is not an object but null"),
    "half a surrogate": ({"prompt": "a\ud800", "response": "y"}, "prompt is not valid Unicode"),
}
BAD_LINES = {
    "broken": (b'{"prompt": ', r"broken JSON \(Expecting value at column 11\)"),
    "two objects": (b"{} {}", r"broken JSON \(Extra data at column 4\)"),
    "not UTF-8": (
        b'{"prompt": "\xff", "response": "y"}',
        "prompt is not UTF-8: byte 0xff at its character 1; save",
    ),
    "deep": (b'{"prompt": ' + b"[" * 200_000, "JSON out of bounds|broken JSON"),
    "huge number": (b"1" * 5000, "JSON out of bounds"),
    "zeros": (b"\0\0\0", "broken JSON"),
} | {name: (json.dumps(row).encode(), reason) for name, (row, reason) in BAD_ROWS.items()}


@pytest.mark.parametrize("line, reason", BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_named_or_skipped(tmp_path, line, reason):
    """Line 1 and line 4 are good, line 2 is blank: the bad one is line 3."""
    good = [json.dumps(row).encode() for row in NUMBERED[:2]]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([good[0], b"", line, good[1]]))

    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 3: .*({reason})") as error:
        annotated.read_pairs(str(path))
    assert "data.skip_bad_rows=true" in str(error.value)
    assert "\n" not in str(error.value)
    str(error.value).encode()  # can be printed: no half surrogate of the row is in it

    source = annotated.read_pairs(str(path), skip_bad_rows=True)
    assert [pair.prompt for pair in source.pairs] == ["p0", "p1"]
    assert source.num_skipped == 1
    assert len(source.reasons) == 1 and "line 3: " in source.reasons[0]


@pytest.mark.parametrize("row, reason", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_of_a_json_list_is_named(tmp_path, row, reason):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([NUMBERED[0], row]))
    with pytest.raises(ValueError, match=rf"rows\.json, row 2: {reason}"):
        annotated.read_pairs(str(path))


def test_all_skipped_rows_are_counted_and_the_first_few_described(tmp_path):
    bad = [{"prompt": "", "response": "y"}] * 9
    path = write_jsonl(tmp_path / "rows.jsonl", [*bad, NUMBERED[0]])
    source = annotated.read_pairs(path, skip_bad_rows=True)
    assert (len(source.pairs), source.num_skipped) == (1, 9)
    assert list(source.reasons) == [f"{path}, line {n}: prompt is empty" for n in range(1, 6)]


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_rows_is_an_error(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"rows\.jsonl has no usable row; a row has messages"):
        annotated.read_pairs(str(path))


def test_a_file_of_only_bad_rows_is_an_error_that_shows_one(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{}, {}])
    with pytest.raises(ValueError, match="no usable row: 2 skipped, the first one .*line 1: unkn"):
        annotated.read_pairs(path, skip_bad_rows=True)


@pytest.mark.parametrize(
    "content, reason",
    [
        ('{"prompt": "x"}\n{"prompt": "y"}', "Extra data at line 2, column 1.*name it .jsonl"),
        ('{"rows": []}', "neither a list of rows nor"),
        ("7", "neither a list of rows nor"),
    ],
)
def test_a_json_file_that_holds_no_list(tmp_path, content, reason):
    path = tmp_path / "rows.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=reason):
        annotated.read_pairs(str(path), skip_bad_rows=True)


def test_a_file_that_is_not_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    path.write_text("PAR0")
    with pytest.raises(ValueError, match=r"rows\.parquet, after row 0: unreadable parquet"):
        annotated.read_pairs(str(path))


PAIR = '[{"prompt": "a", "response": "b"}]'
UNFIT = {
    "other columns": (
        '[{"question": "a", "answer": "b"}]',
        "do not fit each other: 1.json has pro",
    ),
    "other types": ('[{"prompt": {"x": 1}, "response": ["b"]}]', "2.json has prompt .dict., resp"),
    "a number": ("3", "2.json: neither a list of rows nor"),
    "broken": ('{"a"', "2.json: broken JSON"),
}


def folder_of(root, texts):
    """Beside the cache of `datasets`, which is in the working directory of a test."""
    (root / "rows").mkdir()
    for name, text in texts.items():
        (root / "rows" / name).write_text(text)
    return root / "rows"


@pytest.mark.parametrize(("text", "says"), UNFIT.values(), ids=UNFIT)
def test_a_folder_whose_files_do_not_fit_is_refused_in_our_words(tmp_path, capfd, text, says):
    """One line that names the file; nothing of what the library says of it."""
    rows = folder_of(tmp_path, {"1.json": PAIR, "2.json": text})
    with pytest.raises(ValueError, match=says) as refused:
        annotated.read_pairs(str(rows))
    assert not re.search("Arrow|TypeError|cast|\n", str(refused.value))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("kind", "text"), [("csv", ""), ("jsonl", ""), ("json", "[]")])
def test_a_folder_of_an_empty_file_names_it(tmp_path, kind, text):
    rows = folder_of(tmp_path, {f"rows.{kind}": text})
    with pytest.raises(ValueError, match=f"rows.{kind} has no rows; take it out"):
        annotated.read_pairs(str(rows))


def test_a_json_file_of_texts_is_refused_by_itself_and_in_a_folder(tmp_path):
    rows = folder_of(tmp_path, {"rows.json": '["a", "b"]'})
    for path, says in ((rows / "rows.json", "it is not an object but str"), (rows, "text")):
        with pytest.raises(ValueError, match=f"row 1: {says}"):
            annotated.read_pairs(str(path))


def test_a_folder_of_two_kinds_says_that_one_is_read(tmp_path, caplog):
    rows = folder_of(tmp_path, {"a.json": PAIR, "b.csv": "prompt,response\nc,d\n"})
    assert len(annotated.read_pairs(str(rows)).pairs) == 1
    assert "holds .csv and .json files" in caplog.text


def test_a_folder_without_data_files(tmp_path):
    with pytest.raises(ValueError, match="data.split=train: .*; use another data.split, or one of"):
        annotated.read_pairs(str(tmp_path))


# Text


UNICODE = [
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 and \U0001f1eb\U0001f1f7",  # joined emoji
    "e\u0301 is not \u00e9",  # a combining mark, and the same letter composed
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u202eabc",  # right to left
    "line\u2028separator\u0085next\x0bvertical",  # ends of lines to str.splitlines
    "a\x00b",
    "\ufeffmark",
]


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "utf8"])
def test_unicode_is_kept_as_it_is(tmp_path, ascii_only):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": text, "response": text} for text in UNICODE]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    assert texts(annotated.read_pairs(str(path)).pairs) == [(None, text, text) for text in UNICODE]


def test_unicode_is_kept_in_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"prompt": text, "response": text} for text in UNICODE]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    pairs = annotated.read_pairs(str(tmp_path / "rows.parquet")).pairs
    assert texts(pairs) == [(None, text, text) for text in UNICODE]


def test_composed_and_combining_letters_are_two_prompts():
    assert len({pair.id for pair in make_pairs(["e\u0301", "\u00e9"])}) == 2


def test_a_row_of_a_megabyte(tmp_path):
    long = "word " * 200_000
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "x", "response": long}])
    assert annotated.read_pairs(path).pairs[0].annotated == long


# Ids


def test_id_is_the_hash_of_the_content():
    """printf '["s","x","y"]' | sha256sum | cut -c1-16, and the same with [null,"x","y"]"""
    pairs = identified([("s", "x", "y"), (None, "x", "y")])
    assert [pair.id for pair in pairs] == ["5f6d562e04c175dc", "4d734ba24ca3d685"]


def test_repeated_rows_are_numbered_and_others_keep_their_id():
    (alone,) = identified([(None, "x", "y")])
    pairs = identified([(None, "a", "b"), *[(None, "x", "y")] * 3])
    assert [pair.id for pair in pairs[1:]] == [alone.id, f"{alone.id}-1", f"{alone.id}-2"]


def test_ids_do_not_depend_on_where_one_text_ends():
    assert len({pair.id for pair in identified([(None, "ab", "c"), (None, "a", "bc")])}) == 2


def test_ids_of_a_source_change_with_order_and_content(tmp_path):
    forms = [NUMBERED, NUMBERED[::-1], NUMBERED[:4], [*NUMBERED, NUMBERED[0]]]
    paths = [write_jsonl(tmp_path / f"{i}.jsonl", rows) for i, rows in enumerate(forms)]
    assert len({tuple(pair.id for pair in annotated.read_pairs(path).pairs) for path in paths}) == 4
    assert annotated.read_pairs(paths[0]) == annotated.read_pairs(paths[0])


# Subsets


PROMPTS = st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=30).filter(
    lambda prompts: len(set(prompts)) > 1
)


@settings(deadline=None, max_examples=60)
@given(prompts=PROMPTS, seed=st.integers(0, 5), choice=st.data())
def test_laws_of_split_pairs(prompts, seed, choice):
    pairs = make_pairs(prompts)
    heldout = choice.draw(st.integers(0, len(set(prompts)) - 1))
    train, judged, num_prompts = split = annotated.split_pairs(
        pairs, size=None, heldout=heldout, seed=seed
    )

    assert num_prompts == len(set(prompts))
    assert len({pair.prompt for pair in judged}) == len(judged) == heldout
    assert not {pair.prompt for pair in judged} & {pair.prompt for pair in train}
    kept = [pair for pair in pairs if pair.prompt not in {other.prompt for other in judged}]
    assert Counter(train) == Counter(kept)  # None is all of the others

    shuffled = pairs.take(choice.draw(st.permutations(range(len(pairs)))))
    assert annotated.split_pairs(shuffled, size=None, heldout=heldout, seed=seed) == split

    size = choice.draw(st.integers(1, len(train)))
    smaller = annotated.split_pairs(pairs, size=size, heldout=heldout, seed=seed)
    assert smaller == split._replace(train=train[:size])  # nested


def test_file_order_changes_nothing_even_with_repeated_rows(tmp_path):
    rows = [*NUMBERED, NUMBERED[0], NUMBERED[0]]
    splits = [
        annotated.split_pairs(
            annotated.read_pairs(write_jsonl(tmp_path / "rows.jsonl", order)).pairs,
            size=None,
            heldout=2,
            seed=3,
        )
        for order in (rows, rows[::-1])
    ]
    assert splits[0] == splits[1]


def test_a_larger_heldout_begins_with_a_smaller_one():
    pairs = make_pairs("abcdefghij")
    few, many = (
        annotated.split_pairs(pairs, size=1, heldout=heldout, seed=0).heldout for heldout in (3, 6)
    )
    assert many[:3] == few


def test_the_seed_chooses_both_parts():
    pairs = make_pairs(map(str, range(100)))
    for size, heldout, part in [(50, 0, 0), (50, 20, 1)]:
        first, second = (
            annotated.split_pairs(pairs, size=size, heldout=heldout, seed=seed)[part]
            for seed in (0, 1)
        )
        assert set(first) != set(second)


def test_a_heldout_prompt_keeps_its_other_pairs_out_of_training():
    """Prompts a, a, b with two held out leave nothing; with one, the others of its text."""
    pairs = make_pairs("aab")
    train, judged, _ = annotated.split_pairs(pairs, size=None, heldout=1, seed=0)
    assert len(judged) == 1
    assert len(train) == (1 if judged[0].prompt == "a" else 2)


@pytest.mark.parametrize(
    "size, heldout, reason",
    [
        (4, 1, "data.size=4, but 3 pairs .*4 pairs, .*data.heldout=1 .*use data.size=null"),
        (None, 4, "data.heldout=4 leaves none of 4 pairs to train on; use a smaller one"),
        (1, 5, "data.heldout=5 exceeds the 4 distinct prompts of 4 pairs"),
    ],
)
def test_asking_for_more_than_there_is(size, heldout, reason):
    with pytest.raises(ValueError, match=reason):
        annotated.split_pairs(make_pairs("abcd"), size=size, heldout=heldout, seed=0)


@pytest.mark.parametrize("words", [("data.size=70",), ("size=50k",), ("experiment=quick",)])
def test_the_way_out_of_a_size_that_is_too_large_works_however_it_was_set(words):
    """What it suggests is typed behind what set the size: an option, an experiment, a number."""
    pairs = make_pairs(map(str, range(60)))
    data = ("data=file", "data.path=pairs.jsonl", *words)
    size = compose(*data).data.size
    with pytest.raises(ValueError) as refused:
        annotated.split_pairs(pairs, size=size, heldout=10, seed=0)
    way_out = re.search(r"use (\S+) for all of them", str(refused.value))[1]
    size = compose(*data, way_out).data.size
    assert len(annotated.split_pairs(pairs, size=size, heldout=10, seed=0).train) == 50


# Which source is meant


@pytest.mark.parametrize(
    "path",
    [
        "rows.jsonl",
        "owner/rows.jsonl",
        "owner/rows.PARQUET",
        "./owner/name",
        "/owner/name",
        "~/name",
        "a/b/c",
        "name",
        "owner/",
        "own er/name",
        "a\0/b/c",
    ],
)
def test_a_typo_is_no_such_file(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for ask in (annotated.check_reachable, annotated.read_pairs):
        with pytest.raises(ValueError, match="no such file; use a .jsonl, .json, .csv, "):
            ask(path)


def test_an_unset_path(tmp_path):
    with pytest.raises(ValueError, match="data.path is not set; use a .jsonl"):
        annotated.check_reachable("")


def test_a_kind_of_file_that_is_not_read(tmp_path):
    for name in ("rows.xlsx", "rows.jsonl.zst", "rows.parquet.gz"):
        (tmp_path / name).write_text("")
        with pytest.raises(ValueError, match="kind of file that is not read; use a .jsonl"):
            annotated.check_reachable(str(tmp_path / name))


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", NUMBERED)
    annotated.check_reachable(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="may not be read"):
        annotated.check_reachable(path)


def test_what_is_here_is_local_even_if_it_looks_like_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    write_jsonl(tmp_path / "owner" / "name" / "train.jsonl", NUMBERED)
    annotated.check_reachable("owner/name")
    assert len(annotated.read_pairs("owner/name").pairs) == 5


# The hub, without a network


def test_the_hub_out_of_reach_is_one_line_with_a_way_out():
    for ask in (annotated.check_reachable, annotated.read_pairs):
        with pytest.raises(ValueError) as error:
            ask("owner/name")
        assert str(error.value) == (
            "data.path=owner/name is no local file, and as a hub dataset it is neither in reach "
            "(ConnectionError: no network in tests) nor in the local cache; use data.path=FILE, "
            "a .jsonl, .json, .csv, .tsv or .parquet file or a datasets folder"
        )


def test_the_hub_is_asked_once_with_a_short_timeout(monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, *args, **kw: asked.append((args, kw))
    )
    annotated.check_reachable("owner/name", revision="main")
    assert asked == [(("owner/name",), {"revision": "main", "timeout": 5.0})]


def test_a_hub_dataset_is_read_by_split_and_revision(monkeypatch):
    import datasets
    import huggingface_hub

    def load_dataset(path, *, split, revision):
        assert (path, split, revision) == ("owner/name", "train_sft", "v1")
        return datasets.Dataset.from_list(NUMBERED)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(annotated.read_pairs("owner/name", split="train_sft", revision="v1").pairs) == 5


def test_an_error_of_the_hub_library_is_one_line(monkeypatch):
    import datasets
    import huggingface_hub

    def load_dataset(*args, **kwargs):
        raise ValueError("Config name is missing.\nPlease pick one")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match="data.path=owner/name .*Config name is missing.; use"):
        annotated.read_pairs("owner/name")


OLD, NEW = "a" * 40, "b" * 40


def fill_cache(cache, revisions, folder="default", config_name="default"):
    """What `datasets` leaves in its cache after loading HuggingFaceH4/UltraChat_200k.

    revisions: commit -> rows, the oldest first.
    """
    from datasets.packaged_modules.json.json import Json

    for age, (commit, rows) in enumerate(revisions.items()):
        file = write_jsonl(cache.parent / f"{commit}.jsonl", rows)
        builder = Json(
            cache_dir=str(cache),
            dataset_name="UltraChat_200k",
            hash=commit,
            data_files={"train_sft": file},
        )
        builder.download_and_prepare()
        prepared = Path(builder.cache_dir)
        place = cache / "HuggingFaceH4___ultra_chat_200k" / folder / "0.0.0" / commit
        place.parent.mkdir(parents=True, exist_ok=True)
        prepared.rename(place)
        info = json.loads((place / "dataset_info.json").read_text())
        (place / "dataset_info.json").write_text(json.dumps(info | {"config_name": config_name}))
        os.utime(place, (1000 + age, 1000 + age))


@pytest.mark.parametrize("revision, num_pairs", [(None, 5), ("main", 5), (NEW, 5), (OLD, 2)])
def test_the_cache_answers_for_a_hub_out_of_reach(tmp_path, revision, num_pairs):
    fill_cache(tmp_path / "hf_cache", {OLD: NUMBERED[:2], NEW: NUMBERED})
    path = "HuggingFaceH4/UltraChat_200k"
    annotated.check_reachable(path, revision=revision)
    source = annotated.read_pairs(path, split="train_sft", revision=revision)
    assert len(source.pairs) == num_pairs


def test_the_cache_does_not_answer_for_another_commit_or_split(tmp_path):
    fill_cache(tmp_path / "hf_cache", {OLD: NUMBERED})
    path = "HuggingFaceH4/UltraChat_200k"
    with pytest.raises(ValueError, match="nor in the local cache"):
        annotated.check_reachable(path, revision="c" * 40)
    with pytest.raises(ValueError, match="with data.split=test_sft.*use another data.split"):
        annotated.read_pairs(path, split="test_sft")


def test_the_cache_answers_with_the_whole_default_configuration(tmp_path):
    """A load with data_files leaves default-<hash>, one of another configuration its name."""
    cache, path = tmp_path / "hf_cache", "HuggingFaceH4/UltraChat_200k"
    fill_cache(cache, {OLD: NUMBERED[:1]}, folder="default-0123456789abcdef")
    with pytest.raises(ValueError, match="nor in the local cache"):
        annotated.check_reachable(path)
    fill_cache(cache, {OLD: NUMBERED[:2]}, folder="de", config_name="de")
    assert len(annotated.read_pairs(path, split="train_sft").pairs) == 2
    fill_cache(cache, {OLD: NUMBERED[:3]}, folder="en", config_name="en")
    with pytest.raises(ValueError, match="nor in the local cache"):
        annotated.check_reachable(path)
    fill_cache(cache, {OLD: NUMBERED})
    assert len(annotated.read_pairs(path, split="train_sft").pairs) == 5


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"config_name": 1}'])
def test_a_cache_that_was_interrupted_does_not_answer(tmp_path, content):
    fill_cache(tmp_path / "hf_cache", {OLD: NUMBERED})
    (info,) = (tmp_path / "hf_cache").glob("*/*/*/*/dataset_info.json")
    info.write_text(content)
    with pytest.raises(ValueError, match="nor in the local cache"):
        annotated.check_reachable("HuggingFaceH4/UltraChat_200k")


@pytest.mark.parametrize("module", ["datasets.config", "huggingface_hub.constants"])
def test_offline_mode_counts_only_the_cache(tmp_path, monkeypatch, module):
    import datasets
    import huggingface_hub

    def fail(*args, **kwargs):
        raise AssertionError("asked the hub in offline mode")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    path = "HuggingFaceH4/UltraChat_200k"
    with pytest.raises(ValueError, match=r"\(offline mode is on\) nor in the local cache"):
        annotated.check_reachable(path)
    fill_cache(tmp_path / "hf_cache", {OLD: NUMBERED})
    assert len(annotated.read_pairs(path, split="train_sft").pairs) == 5


def test_a_revision_the_hub_does_not_have(tmp_path, monkeypatch):
    """Even with another revision in the cache: a typo must not train on other data."""
    import huggingface_hub
    from huggingface_hub.errors import RevisionNotFoundError

    class NoRevision(RevisionNotFoundError):
        def __init__(self):
            Exception.__init__(self, "404")

    def dataset_info(*args, **kwargs):
        raise NoRevision

    fill_cache(tmp_path / "hf_cache", {OLD: NUMBERED})
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(ValueError, match="has no data.revision=v9; use a commit, tag or branch"):
        annotated.check_reachable("HuggingFaceH4/UltraChat_200k", revision="v9")


# The built-in task and the whole section


def config(**options):
    defaults = {
        "path": annotated.MICRO,
        "split": "train",
        "revision": None,
        "size": 64,
        "heldout": 16,
        "seed": 0,
        "skip_bad_rows": False,
        "columns": {},
        "rounds": "first",
        "eval_split": "validation",
        "shift": timed(parts=4 if options.get("path") == annotated.MICRO_DRIFT else None),
    }
    return SimpleNamespace(**defaults | options)


def timed(**options):
    """data.shift: nothing of it but what is given."""
    nothing = {"column": None, "parts": None, "window": None, "replay": 0, "gamma": 1, "renew": []}
    return ShiftConfig(**nothing | options)


each_built_in = pytest.mark.parametrize("path", annotated.BUILT_IN)


@pytest.mark.slow
@each_built_in
def test_built_in_train_is_nested_and_follows_the_seed(path):
    small, large = (annotated.load(config(path=path, size=size)).train for size in (32, 64))
    assert large[:32] == small
    assert annotated.load(config(path=path, seed=1)).train != large


@pytest.mark.slow
@each_built_in
def test_built_in_heldout_is_the_same_for_every_seed_and_nested(path):
    first = annotated.load(config(path=path, heldout=32)).heldout
    assert annotated.load(config(path=path, seed=5)).heldout == first[:16]
    test = annotated.load(config(path=path, eval_split="test"))
    assert test.heldout != first[:16]
    trained_on_the_same = annotated.load(config(path=path))
    assert test.digest != trained_on_the_same.digest


@pytest.mark.slow
@pytest.mark.parametrize("path", [annotated.MICRO, annotated.MICRO_OPEN])  # verifiable has no end
def test_built_in_parts_share_no_prompt_or_id(path):
    loaded = annotated.load(config(path=path, size=None))
    assert len(loaded.train) == annotated._built_in(path).num_available("train")
    for name in ("prompt", "id"):
        train, heldout = (
            {getattr(pair, name) for pair in part} for part in (loaded.train, loaded.heldout)
        )
        assert not train & heldout
        assert len(train) == len(loaded.train) and len(heldout) == 16


@each_built_in
@pytest.mark.parametrize("option", ["size", "heldout"])
def test_built_in_names_the_option_that_asks_too_much(path, option):
    rule = rf"data\.{option}=10000000 exceeds the \d+ pairs of the {path} split"
    with pytest.raises(ValueError, match=rule):
        annotated.load(config(path=path, **{option: 10_000_000}))


@each_built_in
def test_built_in_needs_no_file_and_checks_its_annotated_answers(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    annotated.check_reachable(path)
    check = annotated.checker(config(path=path))
    for pair in annotated.load(config(path=path)).train:
        assert check({"prompt": pair.prompt, "part": pair.part}, pair.annotated)


def test_only_the_open_task_has_answers_that_say_the_same():
    canonical = annotated.canonical(config(path=annotated.MICRO_OPEN))
    assert canonical('Give two words ending with "n".', "bon adin") == "adin bon"
    assert annotated.canonical(config()) is annotated.canonical(config(path="pairs.jsonl")) is None
    assert annotated.checker(config(path="pairs.jsonl")) is None


def test_only_the_verifiable_task_is_judged_by_instructions():
    judge = annotated.judge(config(path=annotated.VERIFIABLE))
    prompt = "Write about owls. Do not use commas. Use small letters only."
    assert judge(prompt, "Owls fly.").strict == {"no_commas": True, "lowercase": False}
    assert annotated.judge(config(path=annotated.MICRO_OPEN)) is annotated.judge(config()) is None


def test_load_reads_splits_and_counts(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*NUMBERED, {"prompt": ""}])
    options = {"path": path, "size": 3, "heldout": 2, "skip_bad_rows": True}
    loaded = annotated.load(config(**options))
    expected = annotated.split_pairs(
        annotated.read_pairs(path, skip_bad_rows=True).pairs, size=3, heldout=2, seed=0
    )
    assert (loaded.train, loaded.heldout, loaded.num_prompts) == expected
    assert loaded.num_skipped == 1 and "line 6: unknown schema" in loaded.reasons[0]
    others = [{"size": 2}, {"heldout": 1}, {"seed": 1}]
    digests = {annotated.load(config(**options | other)).digest for other in others}
    assert len(digests | {loaded.digest}) == 4


@pytest.mark.skipif(not INSTRUCTIONS.exists(), reason="the shared instruction file is not here")
def test_instructions_of_ultrachat():
    source = annotated.read_pairs(str(INSTRUCTIONS))
    assert (len(source.pairs), source.num_skipped) == (999, 0)
    train, heldout, _ = annotated.split_pairs(source.pairs, size=512, heldout=100, seed=0)
    assert (len(train), len(heldout)) == (512, 100)
    assert not {pair.prompt for pair in train} & {pair.prompt for pair in heldout}


def test_importing_the_module_imports_nothing_heavy():
    code = (
        "import sys, tspin.data.annotated\n"
        "heavy = {'torch', 'datasets', 'pyarrow', 'huggingface_hub'}; "
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Rounds


THREE = ("s", "x", "y", "x2", "y2", "x3", "y3")  # system, then prompt and response of each round


def test_the_first_round_the_last_answer_or_each_answer():
    (first,), (last,), each = (identified([THREE], rounds) for rounds in ("first", "last", "all"))
    assert (first.prompt, first.annotated, first.history) == ("x", "y", ())
    assert (last.prompt, last.annotated) == ("x3", "y3")
    assert last.history == (("x", "y"), ("x2", "y2"))
    assert [*each] == [first, each[1], last] and each[1].history == (("x", "y"),)
    assert {pair.system for pair in each} == {"s"}
    assert {pair.opening for pair in each} == {"x"}


def test_an_id_is_of_the_history_too():
    """Without one it is what it was before there were any."""
    (alone,), (_, later) = identified([("s", "x2", "y2")]), identified([THREE[:5]], "all")
    assert alone.id == digest_of("s", "x2", "y2")[:16] != later.id


@given(seed=st.integers(0, 5), heldout=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_a_conversation_is_never_in_both_parts(seed, heldout):
    """Five conversations of three rounds; the later prompts are the same in all of them."""
    rows = [(None, f"x{i}", "y", "go on", "y", "go on", "y") for i in range(5)]
    train, judged, _ = annotated.split_pairs(
        identified(rows, "all"), size=None, heldout=heldout, seed=seed
    )
    openings = [pair.opening for pair in judged]
    assert len(set(openings)) == len(judged) == heldout
    assert not set(openings) & {pair.opening for pair in train}
    assert len(train) == 3 * (5 - heldout)


def test_rounds_are_an_option_of_the_data(tmp_path):
    rows = [
        {"messages": chat(("user", f"x{i}"), ("assistant", "y"), ("user", "z"), ("assistant", "w"))}
        for i in range(4)
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    options = {"path": path, "size": None, "heldout": 1}
    num = {
        rounds: len(annotated.load(config(rounds=rounds, **options)).train)
        for rounds in ("first", "last", "all")
    }
    assert num == {"first": 3, "last": 3, "all": 6}


def test_the_log_names_what_was_not_used_and_counts_what_has_no_response(tmp_path, caplog):
    rows = [row | {"score": 1, "label": True} for row in NUMBERED]
    rows[3]["note"] = "\x1b[2J"
    rows += [{"prompt": "p", "response": "rude", "label": False}] * 2
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    with caplog.at_level("INFO", "tspin"):
        loaded = annotated.load(config(path=path, size=None, heldout=0))
    assert (len(loaded.train), loaded.num_undesirable) == (5, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "columns not used: score, note (in 1 of 5 rows)",
        "2 rows left out: their label is false, so that they have no annotated response",
    ]


def test_rows_that_are_all_undesirable_are_an_error(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "p", "response": "r", "label": False}])
    with pytest.raises(ValueError, match="has no usable row: 1 whose label is false; a row has"):
        annotated.read_pairs(path)


@pytest.mark.parametrize(("name", "mark"), [("pairs.csv", ","), ("pairs.tsv", "\t")])
def test_columns_by_other_names(tmp_path, name, mark):
    """Of a table with two answers the one that is named is read."""
    rows = [["output", "answer", "question"], ["no", "4", "2 + 2?"], ["no", "6", "3 + 3?"]]
    (tmp_path / name).write_text("".join(mark.join(row) + "\n" for row in rows))
    columns = {"prompt": "question", "response": "answer"}
    pairs = annotated.read_pairs(str(tmp_path / name), columns=columns).pairs
    assert [(pair.prompt, pair.annotated) for pair in pairs] == [("2 + 2?", "4"), ("3 + 3?", "6")]


def test_columns_in_a_language_of_ones_own(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("frage,antwort\na,b\n")
    (pair,) = annotated.read_pairs(
        str(file), columns={"prompt": "frage", "response": "antwort"}
    ).pairs
    assert (pair.prompt, pair.annotated) == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.csv", "promt,respones\na,b\n"),
        ("pairs.jsonl", '{"promt": "a", "respones": "b"}\n'),
    ],
)
def test_a_misspelt_column_gets_the_nearest(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ValueError, match="data.columns={prompt:promt,response:respones} says so"):
        annotated.read_pairs(str(file))
    with pytest.raises(ValueError, match="prompt; did you mean promt"):
        annotated.read_pairs(str(file), columns={"prompt": "prompt", "response": "respones"})
    with pytest.raises(ValueError, match="column data.columns.promt; did you mean prompt"):
        annotated.read_pairs(str(file), columns={"promt": "promt"})
