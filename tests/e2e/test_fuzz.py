"""Readers and hostile input: what hypothesis makes is read, or refused with a sentence.

Refused is ValueError or OSError with a text; anything else is a fault of ours. TSPIN_FUZZ=N
makes N examples of each (the suite 25).
"""

import gzip
import json
import math
import os
import string
import struct
import tracemalloc
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.tiny import compose, micro_tokenizer

from tspin.cli import arguments, status
from tspin.config import load as config
from tspin.data import annotated as data
from tspin.data import schemas
from tspin.data.cells import MAX_TEXT, BadRow
from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.runs import heartbeat, point
from tspin.runs.artifacts import ANSWERS, PROMPTS, Iteration, Responses, RunDir
from tspin.runs.metrics import StepLog
from tspin.runs.store import Store
from tspin.sampling.requests import check_response
from tspin.tools.files import owner, read_json, write_json, write_jsonl
from tspin.tools.parquet import SHAPE, read_rows, write_rows
from tspin.training.train_state import next_step

pytestmark = pytest.mark.runs

fuzz = settings(
    max_examples=int(os.environ.get("TSPIN_FUZZ", "25")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

# Half a surrogate, NUL, marks that turn the direction, a line end of Unicode's, special tokens
AWKWARD = [
    "\ud800",
    "\0",
    "\u202e\u2066",
    "\u2028",
    "</s>",
    "<|im_start|>",
    "<pad>",
    "\ufeff",
    "e\u0301",
]
text = st.text(max_size=20) | st.sampled_from(AWKWARD) | st.text(st.characters(), max_size=5)
KEYS = ["messages", "conversations", "prompt", "response", "completion", "instruction", "input",
        "output", "history", "label", "chosen", "text", "role",
        "content", "from", "value", "system", "user", "assistant"]  # fmt: skip
scalar = st.none() | st.booleans() | st.integers() | st.floats() | text | st.sampled_from(KEYS)
value = st.recursive(
    scalar,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | text, inner, max_size=4)
    ),
    max_leaves=12,
)
# Beyond all recursion limits. Much deeper takes YAML seconds; test_data.py has it for JSON.
deep = st.integers(1, 2_000).map(lambda n: b"[" * n) | st.integers(1, 2_000).map(
    lambda n: b'{"a":' * n + b"1" + b"}" * n
)
as_json = value.map(lambda v: json.dumps(v).encode())
raw = st.binary(max_size=60) | as_json | deep | text.map(lambda t: t.encode(errors="surrogatepass"))


@st.composite
def broken(draw, whole: bytes):
    """A file, cut or with some bytes changed."""
    found = bytearray(whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    for _ in range(draw(st.integers(0, 4))):
        if found:
            found[draw(st.integers(0, len(found) - 1))] = draw(st.integers(0, 255))
    return bytes(found)


def refused_or(read, *args, **options):
    """What `read` gives; None where it refuses with a sentence."""
    try:
        return read(*args, **options)
    except (ValueError, OSError) as error:
        assert len(str(error)) > 10, repr(error)
        return None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


ROWS = [{"prompt": f"p{i}", "response": "r"} for i in range(3)]


def parquet(folder, rows=ROWS):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


# --- data ----------------------------------------------------------------------------------------


@fuzz
@given(
    data=st.data(),
    suffix=st.sampled_from([".jsonl", ".json", ".parquet", ".csv", ".tsv", ".jsonl.gz"]),
    rounds=st.sampled_from(["first", "last", "all"]),
    skip=st.booleans(),
)
def test_files_of_rows(folder, data, suffix, rounds, skip):
    file = folder / f"rows{suffix}"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    wholes = {
        ".jsonl": data.draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]).map(lines.encode)),
        ".json": json.dumps(ROWS).encode(),
        ".parquet": parquet(folder),
        ".csv": b'prompt,response\n"p\n""0",r\np1,r\n',
        ".tsv": b"prompt\tresponse\np0\tr\n",
        ".jsonl.gz": gzip.compress(lines.encode()),
    }
    file.write_bytes(data.draw(raw | broken(wholes[suffix])))
    source = refused_or(_read_pairs, str(file), skip_bad_rows=skip, rounds=rounds)
    for pair in source.pairs if source is not None else ():
        assert pair.prompt.strip() and pair.annotated.strip()
        (pair.prompt + pair.annotated).encode()


_read_pairs = data.read_pairs


@fuzz
@given(row=value, first_only=st.booleans())
def test_rows(row, first_only):
    try:
        whole = schemas.dialogue(row, first_only=first_only)
    except BadRow as bad:
        assert str(bad) and str(bad).isprintable()  # nothing that moves a terminal's cursor
    else:
        texts = [*chain(*whole.rounds)] if whole is not None else []
        assert all(text.strip() for text in texts)
        assert whole is None or whole.system is None or whole.system.strip()


RENDERER = Renderer(micro_tokenizer(), "alpaca")


@fuzz
@given(prompt=text, system=st.none() | text, response=text)
def test_texts_to_ids(prompt, system, response):
    """What schemas lets through has ids, none of them a control id."""
    row = {"system": system, "prompt": prompt, "response": response}
    try:
        whole = schemas.dialogue(row, first_only=True)
    except BadRow:
        return
    ((prompt, response),) = whole.rounds
    ids = RENDERER.prompt_ids(Conversation(prompt, whole.system))
    assert not RENDERER.control_ids & {*ids}
    assert not RENDERER.control_ids & {*RENDERER.response_ids(response)[:-1]}


# --- artifacts -----------------------------------------------------------------------------------


def rows_of(schema):
    made = {"int32": 7, "string": "text", "bool": True, "double": 0.5}
    row = {f.name: made.get(str(f.type), [1, 2, 3]) for f in schema}
    row |= {"history": [["said", "answered"]]} if "history" in row else {}
    return [row | {"id": str(i)} for i in range(4)] + [{"id": "4"}]  # the last: nulls


@fuzz
@given(data=st.data(), schema=st.sampled_from([PROMPTS, ANSWERS]))
def test_parquet_is_what_was_written_or_refused(folder, data, schema):
    file = folder / "rows.parquet"
    write_rows(file, rows_of(schema), schema)
    before = read_rows(file)
    file.write_bytes(data.draw(broken(file.read_bytes()) | raw))
    assert refused_or(read_rows, file) in (None, before)


@fuzz
@given(data=st.data())
def test_training_states_are_what_was_written_or_refused(folder, data):
    from safetensors.torch import save_file
    from torch import zeros

    file = folder / "state.safetensors"
    save_file({"a": zeros(3)}, file, metadata={"next_step": "3"})
    file.write_bytes(data.draw(broken(file.read_bytes()) | raw))
    found = refused_or(next_step, file)
    assert found is None or found >= 0


@fuzz
@given(content=raw)
def test_json_and_what_is_read_from_it(folder, content):
    run = RunDir(folder / "run")
    run.path.mkdir(exist_ok=True)
    for path in (run.config, run.data, run.heartbeat, run.iteration(0).done):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        refused_or(read_json, path)
    refused_or(run.claim, {"seed": 0}, free=())
    heartbeat.read(run)
    point.stored(run)
    refused_or(status.survey, folder)


@fuzz
@given(row=st.dictionaries(st.sampled_from([*heartbeat.KINDS]), scalar))
def test_a_heartbeat_of_any_kind_has_a_state(folder, row):
    run = RunDir(folder / "beats" / "run")
    run.path.mkdir(exist_ok=True, parents=True)
    tree = config.dump(compose_once()) | {"name": "run"}
    write_json(run.config, tree)
    usual = dict.fromkeys(("done", "total", "moved", "time"), 0) | {"unit": "", "warnings": {}}
    usual |= dict.fromkeys(("stage", "rate", "waiting", "ended", "why"))
    run.heartbeat.write_text(json.dumps(usual | row))
    for lives in (False, True):
        with owner(run.path) if lives else nullcontext():
            (found,) = status.survey(run.path.parent, now=5.0)
        status.describe(run.path.parent, [found], width=80)


@fuzz
@given(data=st.data())
def test_metrics(folder, data):
    file = folder / "metrics.jsonl"
    write_jsonl(file, [{"step": i, "loss": 0.5} for i in range(3)])
    file.write_bytes(data.draw(broken(file.read_bytes()) | raw))
    for row in refused_or(StepLog.read, file) or ():
        assert isinstance(row, object)


@fuzz
@given(told=as_json | raw)
def test_the_manifest_of_a_copy(folder, told):
    (folder / "copy").mkdir(exist_ok=True)
    (folder / "copy" / "mirror.json").write_bytes(told)
    record = refused_or(Store(f"file://{folder}", "copy").record)
    for name in record.files if record is not None else ():
        assert (folder / name).resolve().is_relative_to(folder.resolve())


@fuzz
@given(told=value)
def test_the_manifest_of_samples(folder, told):
    samples = Responses(folder / "samples")
    write_text_json(samples.manifest, told)
    refused_or(samples.rows)


@fuzz
@given(told=value)
def test_the_record_of_an_iteration(folder, told):
    out = Iteration(folder / "iter_0")
    write_text_json(out.done, told)
    refused_or(out.check)


def write_text_json(path, told):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(told))


# --- configuration -------------------------------------------------------------------------------


def compose_once(made=[]):  # noqa: B006  # once: composing takes a second
    if not made:
        made.append(compose())
    return made[0]


@fuzz
@given(data=st.data())
def test_configurations(data):
    """One value of a good one is anything at all."""
    tree = config.dump(compose_once())
    node, path = tree, []
    while isinstance(node, dict) and node and (not path or data.draw(st.booleans(), "deeper")):
        path.append(data.draw(st.sampled_from(sorted(node))))
        parent, node = node, node[path[-1]]
    parent[path[-1]] = data.draw(value)
    run = refused_or(config.load, tree)
    if run is not None:
        assert config.load(config.dump(run)) == run
        assert run.folder.parent == Path(run.runs_dir).expanduser()


SWEEP = b"title: T\npoints:\n  - loss=sft,tspin seed=0\ninclude: []\n"


@fuzz
@given(data=st.data())
def test_sweep_files(folder, data):
    file = folder / "sweep.yaml"
    file.write_bytes(data.draw(broken(SWEEP) | raw))
    for line in refused_or(arguments.read_sweep, str(file), folder) or ():
        assert line and all("=" in word for word in line)


line_of_words = st.lists(
    st.text(string.ascii_letters + "=,.[]{}~+/'\"\\", max_size=12)
    | st.sampled_from(["loss=", "seed=", "model.path=", "sweep="]).flatmap(
        lambda key: text.map(lambda t: key + t)
    ),
    max_size=3,
)


@fuzz
@given(line=line_of_words)
def test_words(folder, line):
    if refused_or(arguments.check, line) is None and not all(
        "=" in w and w[0] != "~" for w in line
    ):
        return
    refused_or(arguments.sweep, line, folder)
    refused_or(arguments.tasks, line, Path("conf"))


# --- other programs ------------------------------------------------------------------------------


@fuzz
@given(ids=value | st.lists(st.integers(-2, 5), max_size=5))
def test_responses_of_others(ids):
    if refused_or(_checked, ids) is not None:
        assert ids[-1] == 2 or len(ids) == 4


def _checked(ids):
    check_response(ids, stop=[2], max_new_tokens=4)
    return ids


# --- what they found, plainly --------------------------------------------------------------------


def test_a_date_that_python_does_not_have_costs_only_its_row(folder):
    import pyarrow as pa
    import pyarrow.parquet as pq

    when = pa.array([0, 2**62], pa.timestamp("us"))
    table = pa.table({"prompt": ["a", "b"], "response": ["c", "d"], "when": when})
    pq.write_table(table, folder / "dates.parquet")
    source = data.read_pairs(str(folder / "dates.parquet"), skip_bad_rows=True)
    assert [pair.prompt for pair in source.pairs] == ["a"] and source.num_skipped == 1


@pytest.mark.parametrize("ids", [[-1, 2], [True, 2], [1.0, 2], ["1", 2]])
def test_ids_count_from_zero(ids):
    with pytest.raises(ValueError, match="not token ids"):
        check_response(ids, stop=[2], max_new_tokens=4)


def test_one_changed_number_in_parquet_is_found(folder):
    """NaN for a log-probability, in the one place where it stands, uncompressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / "scores.parquet"
    write_rows(file, [{"logp": -1.25}], pa.schema([("logp", pa.float64())]))
    shape = {SHAPE: pq.read_metadata(file).metadata[SHAPE]}
    table = pq.read_table(file).replace_schema_metadata(shape)
    how = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, file, **how)
    assert read_rows(file) == [{"logp": -1.25}]  # however it is stored
    here, other = struct.pack("<d", -1.25), struct.pack("<d", math.nan)
    file.write_bytes(file.read_bytes().replace(here, other))  # in the page, and its extremes
    with pytest.raises(ValueError, match=r"scores.parquet is damaged .* done.json"):
        read_rows(file)


# --- much of it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
@pytest.mark.parametrize("shape", ["one long row", "many short rows"])
def test_reading_takes_a_multiple_of_what_is_read(tmp_path, shape, suffix):
    """docs/trust.md has a row of 100 MB and a million of rows."""
    long, many = [{"prompt": "p", "response": "word " * 800_000}], 5_000
    rows = (
        long
        if shape == "one long row"
        else [{"prompt": f"{i}", "response": "r"} for i in range(many)]
    )
    file = tmp_path / f"rows{suffix}"
    write_as(file, rows)
    tracemalloc.start()  # of Python's own; Arrow has 1024 rows at a time beside it
    try:
        source = data.read_pairs(str(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source.pairs) == len(rows)
    assert peak < (5 * 4_000_000 if shape == "one long row" else 600 * many), peak


def test_a_text_beyond_all_models_costs_its_row(tmp_path):
    """Encoding it would take 200 bytes of memory for each of its characters."""
    much = "x" * (MAX_TEXT + 1)
    for role, row in {
        "response": {"prompt": "p", "response": much},
        "prompt": {"instruction": "p", "input": much[:-2], "output": "r"},
        "system": {"system": much, "prompt": "p", "response": "r"},
    }.items():
        file = tmp_path / "rows.jsonl"
        write_as(file, [{"prompt": "p", "response": "r"}, row])
        with pytest.raises(ValueError, match=f"line 2: {role} has 41943.. characters"):
            data.read_pairs(str(file))
        assert data.read_pairs(str(file), skip_bad_rows=True).num_skipped == 1


def write_as(file, rows):
    if file.suffix == ".parquet":
        file.write_bytes(parquet(file.parent, rows))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
