"""The data's way on many rows: in little memory, and with the results of lists held whole."""

import json
import subprocess
import sys
import tracemalloc
from argparse import Namespace
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from support.tiny import compose

from benchmarks.scale import GATE, GATED, Size, Stage, growth, missed, whole, write
from tspin.data.triplets import join, keyed
from tspin.objectives import TSPIN
from tspin.runs.artifacts import PROMPTS, RESPONSES, SCORES, RunDir, run_dirs
from tspin.selfplay.inputs import Inputs
from tspin.stages.score import summarise, write_scores
from tspin.tools import parquet, spill
from tspin.tools.files import Damaged, digest, digest_each, write_json
from tspin.tools.parquet import SHAPE, each_row, read_rows, write_rows
from tspin.tracking import report

ROOT = Path(__file__).resolve().parents[2]
ROWS, PROMPT, RESPONSE = 3000, 250, 275  # tokens
# Of a joined row: 2 bytes for each of its 1075 tokens, and what objects take; lists: 40000. Where
# ids lie on the disk, objects alone.
BYTES, ON_DISK = 4000, 1700


def ids(random, length: int, *, vocab: int = 49152) -> list[int]:
    return random.integers(0, vocab, length).tolist()


def prompt_rows(num: int = ROWS) -> Iterator[dict]:
    random = np.random.default_rng(0)
    for i in range(num):
        text = {"prompt": f"prompt {i} " * 100, "annotated": f"answer {i} " * 100}
        split = "heldout" if i % 100 == 7 else "train"
        tokens = {"prompt_ids": ids(random, PROMPT), "annotated_ids": ids(random, RESPONSE)}
        yield {"id": f"{i:016x}", "split": split, **text, **tokens}


def fill(samples, seed: int) -> None:
    """Two parts, in another order than the prompts."""
    random = np.random.default_rng(seed)
    for part in range(2):
        rows = (
            {"id": f"{i:016x}", "response": f"sample {i} " * 100, "num_tokens": RESPONSE,
             "response_ids": ids(random, RESPONSE), "finish_reason": "stop"}
            for i in range(ROWS - 1 - part, -1, -2)
        )  # fmt: skip
        write_rows(samples.part(part), rows, RESPONSES)
    write_json(samples.manifest, {"num_parts": 2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> RunDir:
    made = RunDir(tmp_path_factory.mktemp("scale"))
    write_rows(made.prompts, prompt_rows(), PROMPTS)
    fill(made.proto, 1)
    fill(made.iteration(1).synthetic, 2)
    return made


def naive(folder: RunDir):
    sets = folder.iteration(1).synthetic, folder.proto
    by_id = ({row["id"]: row["response_ids"] for row in of.rows()} for of in sets)
    return join(read_rows(folder.prompts), 1, *by_id)


def listed(triplet):
    responses = {role: list(ids) for role, ids in triplet.responses.items()}
    return triplet.id, triplet.split, triplet.source, list(triplet.prompt_ids), responses


# --- the join ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("in_memory", "most"), [(2**30, BYTES), (0, ON_DISK)])
def test_a_joined_row_takes_few_bytes(folder, monkeypatch, in_memory, most):
    monkeypatch.setattr(spill, "IN_MEMORY", in_memory)
    cfg = compose("loss=tspin")
    tracemalloc.start()
    inputs = Inputs(cfg, folder, folder.path)
    triplets = inputs.triplets(1)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(triplets) == ROWS
    assert held / ROWS < most
    assert peak - held < BYTES * parquet.ROWS_PER_GROUP  # one row group, its texts too


@pytest.mark.slow
@pytest.mark.parametrize("in_memory", [2**30, 10_000, 0])
def test_the_join_is_that_of_lists(folder, monkeypatch, in_memory):
    monkeypatch.setattr(spill, "IN_MEMORY", in_memory)
    found = Inputs(compose("loss=tspin"), folder, folder.path).triplets(1)
    assert list(map(listed, found)) == list(map(listed, naive(folder)))


# --- files of many row groups --------------------------------------------------------------------


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 7)


ODD = [[], [0], [65535], [65536], [-1, 5], None, [2**31 - 1, 1]]


@pytest.mark.parametrize("num", [0, 1, 7, 8, 30])
def test_rows_are_the_same_one_by_one(tmp_path, small_groups, num):
    rows = [{"id": str(i), "response_ids": ODD[i % 5 if i < 7 else i % 7]} for i in range(num)]
    write_rows(tmp_path / "a.parquet", iter(rows), RESPONSES)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == -(-num // 7) or num == 0
    whole = read_rows(tmp_path / "a.parquet")
    assert [{key: row[key] for key in ("id", "response_ids")} for row in whole] == rows
    each = [
        row | {"response_ids": None if row["response_ids"] is None else list(row["response_ids"])}
        for row in each_row(tmp_path / "a.parquet")
    ]
    assert each == whole
    some = list(each_row(tmp_path / "a.parquet", "num_tokens", "id"))
    assert some == [{"num_tokens": None, "id": row["id"]} for row in rows]


def test_ids_take_two_bytes_where_they_can(tmp_path):
    write_rows(tmp_path / "a.parquet", [{"response_ids": [65535]}], RESPONSES)
    write_rows(tmp_path / "b.parquet", [{"response_ids": [65536]}], RESPONSES)
    sizes = [next(each_row(tmp_path / name))["response_ids"].itemsize for name in
             ("a.parquet", "b.parquet")]  # fmt: skip
    assert sizes == [2, 4]


def test_a_change_in_a_later_group_is_found(tmp_path, small_groups):
    file = tmp_path / "scores.parquet"
    write_rows(file, ({"id": str(i), "logp": float(i)} for i in range(20)), SCORES)
    facts, table = pq.read_metadata(file), pq.read_table(file)
    at = facts.row_group(2).column(0).dictionary_page_offset + 30
    whole = file.read_bytes()
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    rows = each_row(file)
    assert [next(rows)["id"] for _ in range(14)] == [str(i) for i in range(14)]
    with pytest.raises(Damaged, match=r"scores.parquet is damaged"):
        next(rows)
    table = table.replace_schema_metadata({SHAPE: facts.metadata[SHAPE]})
    pq.write_table(table, file, row_group_size=20)
    with pytest.raises(Damaged, match="row groups that were written"):
        read_rows(file)


@pytest.mark.slow
def test_writing_holds_a_group_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROWS_PER_GROUP", 100)
    peaks = []
    for num in (200, 1600):
        tracemalloc.start()
        write_rows(tmp_path / f"{num}.parquet", prompt_rows(num), PROMPTS)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_the_digest_of_many_is_that_of_their_list():
    for values in ([], [1], [["a", [1, 2]], {"b": None, "a": "\u00e9"}, 0.5]):
        assert digest_each(iter(values)) == digest(values)


# --- what is counted from scores -----------------------------------------------------------------


@pytest.mark.slow
def test_scores_are_counted_as_from_lists(folder, tmp_path):
    """Means to the last bit, and the table of reward and log-likelihood."""
    triplets, random = naive(folder), np.random.default_rng(3)
    roles = ("annotated", "synthetic", "proto")
    logps = {(x.id, x.source, r): -300 * random.random() for x, r in product(triplets, roles)}
    loss = TSPIN(alpha=0.7, beta=0.1)
    write_scores(tmp_path / "scores.parquet", triplets, logps, loss=loss)
    assert keyed(each_row(tmp_path / "scores.parquet")) == logps
    found = summarise(each_row(tmp_path / "scores.parquet"))
    assert list(found) == ["train", "heldout"]
    for split, facts in found.items():
        mine = [x.id for x in triplets if x.split == split]
        assert facts["num_prompts"] == len(mine)
        for role in roles:
            of_role = [logps[i, 1, role] for i in mine]
            assert facts[f"logps/{role}"] == sum(of_role) / len(mine)
            assert facts[f"logps_per_token/{role}"] == sum(of_role) / (RESPONSE * len(mine))
            rewards = [0.7 * logp for logp in of_role]
            assert facts[f"rewards/{role}"] == sum(rewards) / len(mine)
        above = sum(logps[i, 1, "annotated"] > logps[i, 1, "synthetic"] for i in mine)
        counts = facts["contingency"]
        assert (counts["both"], counts["neither"]) == (above, len(mine) - above)


def test_a_missing_reward_is_no_reward():
    def row(i, role, logp, reward):
        return {"id": i, "split": "train", "source": 0, "role": role, "logp": logp,
                "num_tokens": 2, "reward": reward}  # fmt: skip

    rows = [row("a", "annotated", -1.0, -1.0), row("a", "synthetic", -2.0, -2.0),
            row("b", "annotated", -1.0, None), row("b", "synthetic", -2.0, -2.0)]  # fmt: skip
    facts = summarise(rows)["train"]
    assert facts["contingency"]["both"] == 1 and "rewards/annotated" not in facts
    assert summarise(rows[2:])["train"]["contingency"] == {}
    assert summarise(rows[:1])["train"]["contingency"] == {}


def test_readable_samples_are_the_first_of_all(folder):
    report.samples(folder, 1, folder.proto, count=40)
    lines = folder.iteration(1).samples.read_text().splitlines()
    prompts = sorted(read_rows(folder.prompts), key=lambda r: (r["split"] != "heldout", r["id"]))
    texts = {row["id"]: row["response"] for row in folder.iteration(1).synthetic.rows()}
    rows = [json.loads(line) for line in lines]
    assert [row["id"] for row in rows] == [row["id"] for row in prompts[:40]]
    assert all(row["synthetic"] == texts[row["id"]] and "prompt_ids" not in row for row in rows)


# --- the benchmark -------------------------------------------------------------------------------


@pytest.mark.process
def test_the_benchmark_meets_every_stage_of_a_run(tmp_path):
    """Also where rows of two iterations are mixed."""
    words = [sys.executable, "-m", "benchmarks.scale", "--rows", "--mixed=40", "--iterations=2"]
    done = subprocess.run(
        [*words, f"--folder={tmp_path}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (run,) = run_dirs(tmp_path / "runs")
    cfg = yaml.safe_load(run.config.read_text())
    assert cfg["data"]["mix_last_two"] and cfg["data"]["size"] == 40
    assert max(id for row in read_rows(run.prompts) for id in row["annotated_ids"]) > 2**16
    stages = json.loads(done.stdout)
    assert set(stages) == {
        *("begin", "rest", "data", "samples", "join", "score", "score files", "train"),
        *("token log-probs", "answers", "evaluation file", "contingency", "readable samples"),
    }
    assert all(stage["peak"] > 50 and stage["seconds"] > 0 for stage in stages.values())
    assert stages["data"]["disk"] > 0 and stages["samples"]["disk"] > 0


def test_the_table_has_a_line_for_each_stage(tmp_path):
    found = {
        Size(10): {"a": Stage(1, 2, 3), "b": Stage(4, 5, -1e-9)},
        Size(20, mixed=True): {"a": Stage(), "b": Stage()},
    }
    options = Namespace(loss="tspin", iterations=5, out=tmp_path / "scale")
    write(options, found, "the command")
    text = (tmp_path / "scale.md").read_text()
    assert "| a | 1 / 2 / 3 | 0 / 0 / 0 |\n| b | 4 / 5 / 0 |" in text
    assert "| all | 4 / 7 / 3 |" in text and "the command" in text
    assert "| 10 rows | 20 rows, mixed |" in text
    assert json.loads((tmp_path / "scale.json").read_text())["sizes"]["10 rows"]["a"]["disk"] == 3


def test_a_gate_is_for_sizes_up_to_its_own():
    stages = {"a": Stage(GATE, 1, 2), "b": Stage(5, 3, 4)}
    assert whole(stages) == Stage(GATE, 4, 6)
    assert missed(Size(GATED), stages) and missed(Size(GATED, mixed=True), stages)
    assert not missed(Size(GATED + 1), stages) and not missed(Size(GATED), {"b": stages["b"]})


def test_what_a_row_more_takes_between_two_sizes():
    """2 KB and 3 ms; mixed ones are on no line with the others."""
    found = {Size(n): {"a": Stage(1 + 2 * n / 1000, 3 * n / 1000)} for n in (1000, 10, 3000)}
    found |= {Size(n, mixed=True): {"a": Stage(n / 1000, 0)} for n in (3000, 5000)}
    assert [*growth(found)] == [
        "- from 10 to 1000 rows: 2.0 KB and 3.0 ms for each row more",
        "- from 1000 to 3000 rows: 2.0 KB and 3.0 ms for each row more",
        "- from 3000 to 5000 rows, mixed: 1.0 KB and 0.0 ms for each row more",
    ]
    assert not [*growth({Size(10): found[Size(10)]})]
