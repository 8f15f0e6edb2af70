"""Run folders with made-up numbers in the real schema, for the tests of `analysis`.

    PYTHONPATH=. python tests/support/report_runs.py            writes tests/golden/folders anew
    PYTHONPATH=. python tests/support/report_runs.py tables     and tests/golden/tables from them

The numbers follow rules that a reader can check by hand. After iteration t, of 50 held-out prompts
20 + GAIN (t + 1) + seed are answered right greedily, half of that sampled.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import yaml

from tspin.runs.artifacts import (
    PROMPTS,
    RESPONSES,
    SCORES,
    TOKEN_LOGPS,
    TOKEN_LOGPS_PER_GROUP,
    Iteration,
    RunDir,
)
from tspin.tools.files import write_json, write_jsonl, write_text
from tspin.tools.parquet import write_rows

HERE = Path(__file__).parents[1] / "golden"
FOLDERS, TABLES = HERE / "folders", HERE / "tables"
HELDOUT, START = 50, 20
GAIN = {"sft": 5, "spin": 2, "tspin": 3, "tspin_ref": 2, "wo_ha": 1, "space": 4}
LABELS = {"sft": "SFT", "spin": "SPIN", "tspin": "T-SPIN", "tspin_ref": "T-SPIN_ref",
          "wo_ha": "w/o H-A", "space": "SPACE"}  # fmt: skip
TASKS = {
    "gsm8k": "exact_match,strict-match",
    "leaderboard_math_hard": "exact_match,none",
    "leaderboard_musr": "acc_norm,none",
    "mmlu": "acc,none",
    "leaderboard_mmlu_pro": "acc,none",
    "leaderboard_gpqa": "acc_norm,none",
    "hellaswag": "acc_norm,none",
    "winogrande": "acc,none",
    "leaderboard_bbh": "acc_norm,none",
    "leaderboard_ifeval": "prompt_level_strict_acc,none",
}
ANSWERS = pa.schema([*RESPONSES, ("decoding", pa.string()), ("correct", pa.bool_())])


def write_run(
    root,
    loss,
    *,
    seed=0,
    model="micro",
    data="micro",
    apart="",
    alpha=1.0,
    beta=0.1,
    size=8,
    iterations=2,
    steps=4,
    heldout=HELDOUT,
    scores=False,
    benchmarks=False,
    split="test",
    lr=1e-4,
    hinge=None,
):
    """One finished run. -> its folder

    apart       what its name says beyond model, loss, data and seed
    scores      with scores.parquet, of every prompt
    benchmarks  with the ten tasks, and without answers
    """
    folder = RunDir(root / f"{model}-{loss}-{data}-s{seed}{apart}")
    config = {
        "name": folder.path.name,
        "runs_dir": "runs",
        "seed": seed,
        "model": {"name": model},
        "loss": {"name": loss, "label": LABELS[loss], "link": "logistic"},
        "coef": {"alpha": alpha, "beta": [0.0, beta], "lambda": 1.0},
        "data": {"name": data, "size": size, "seed": seed, "eval_split": split},
        "optim": {"lr": lr, "epochs": 2},
        "selfplay": {"iterations": iterations},
    }
    if hinge is not None:
        config["anchor"] = {"hinge": hinge}
    write_text(folder.config, yaml.safe_dump(config, sort_keys=False))
    words = [f"model={model}", f"data={data}", f"loss={loss}", f"seed={seed}"]
    words += [f"data.eval_split={split}"] * (split != "test")
    write_json(folder.provenance, {"launches": [{"command": ["main.py", *words]}]})
    write_json(folder.data, {"num_train": size})
    gain = GAIN[loss] + (apart != "")  # a variant gains one prompt more
    _evaluate(folder.base, loss, -1, START + seed, heldout, benchmarks)
    for t in range(iterations):
        out = folder.iteration(t)
        write_jsonl(out.metrics, [_step(loss, t, i, steps) for i in range(steps)])
        write_json(out.contingency, {s: _contingency(loss, t) for s in ("train", "heldout")})
        write_jsonl(out.samples, [_sample(i, t) for i in range(2)])
        _evaluate(out, loss, t, START + gain * (t + 1) + seed, heldout, benchmarks)
        if scores:
            rows = [row for i in range(heldout) for row in _scores(i, t)]
            write_rows(out.scores, rows, SCORES)
        if not benchmarks and t == iterations - 1:
            write_rows(out.answers, _answers(START + gain * (t + 1) + seed, heldout), ANSWERS)
        write_json(out.done, {"seconds": {"train": 1.5}, "weights": "0" * 8})
    return folder


def add_triplets(folder, number=4, iterations=2, text=lambda i, what: f"{what} {i}", tokens=False):
    """prompts.parquet, y0, y' and the scores of p0, p1, ..., the last one of training, the others
    held out.

    log pi(y) of p_i is -10 at first, then -10 + i - 1: p0 loses 1, p2 gains 1. y' of p_i has i + 1
    tokens more in every iteration. The reward of y' is above that of y for p1 alone.

    tokens  with token_logps.parquet: of a response's words the first has log pi 0, the next -1, ...
    """
    ids = [f"p{i}" for i in range(number)]
    prompts = [
        {"id": name, "split": "train" if i == number - 1 else "heldout", "system": None,
         "history": None, "prompt": text(i, "prompt"), "annotated": text(i, "y"),
         "prompt_ids": [1], "annotated_ids": [1]}
        for i, name in enumerate(ids)
    ]  # fmt: skip
    write_rows(folder.prompts, prompts, PROMPTS)
    _respond(folder.proto, ids, 0, text, "y0")
    for t in range(iterations):
        _respond(folder.iteration(t).synthetic, ids, t, text, f"y' at {t}")
        rows = []
        for i, name in enumerate(ids):
            logps = {"annotated": -10.0 + t * (i - 1), "synthetic": -20.0, "proto": -30.0}
            for role, logp in logps.items():
                reward = 0.0 if (role, i) == ("synthetic", 1) else logp
                rows.append({
                    "id": name, "split": prompts[i]["split"], "source": t, "role": role,
                    "logp": logp, "num_tokens": (i + 1) * (t + 1), "ref_logp": None,
                    "reward": reward,
                })  # fmt: skip
        write_rows(folder.iteration(t).scores, rows, SCORES)
        if tokens:
            whats = {"annotated": "y", "synthetic": f"y' at {t}", "proto": "y0"}
            words = [
                (name, role, re.findall(r"\S+\s*", text(i, what)))
                for i, name in enumerate(ids)
                for role, what in whats.items()
            ]
            known = [{"id": name, "role": role, "tokens": parts,
                      "logps": [-float(k) for k in range(len(parts))]}
                     for name, role, parts in words]  # fmt: skip
            path = folder.iteration(t).token_logps
            write_rows(path, known, TOKEN_LOGPS, per_group=TOKEN_LOGPS_PER_GROUP)
    return folder


def _respond(samples, ids, t, text, what):
    samples.path.mkdir(parents=True)
    rows = [
        {"id": name, "response": text(i, what), "response_ids": [1],
         "num_tokens": (i + 1) * (t + 1), "finish_reason": "length" if i == 0 else "stop"}
        for i, name in enumerate(ids)
    ]  # fmt: skip
    write_rows(samples.part(0), rows, RESPONSES)
    write_json(samples.manifest, {"num_parts": 1, "num_prompts": len(ids)})


def main(arguments):
    shutil.rmtree(FOLDERS, ignore_errors=True)
    for seed in (0, 1):
        for loss in ("sft", "spin", "tspin"):
            write_run(FOLDERS, loss, seed=seed, scores=loss != "sft" and seed == 0)
    for loss in ("tspin_ref", "wo_ha"):
        write_run(FOLDERS, loss)
    write_run(FOLDERS, "tspin", apart="-alpha=0.3", alpha=0.3)
    write_run(FOLDERS, "tspin", apart="-size=4", size=4)
    write_run(FOLDERS, "sft", apart="-size=4", size=4)
    for loss in ("sft", "spin", "tspin"):
        write_run(FOLDERS, loss, model="zephyr", data="ultrachat", benchmarks=True)
    if arguments == ["tables"]:
        write_tables(FOLDERS, TABLES)


def of_each_kind(commands):
    """Of commands that differ in seeds, learning rate or coefficients alone, one, with one seed."""
    words = re.compile(r" '?(seed|optim\.lr|coef\.\w+)=\S+")
    found = {words.sub("", text): text for text in sorted(commands)}.values()
    return [text.replace("seed=0,1,2", "seed=0") for text in found]


def write_tables(folders, out):
    """The CSV of every table of these runs."""
    from analysis.figures.pieces import Table, csv
    from analysis.reading.runs import Runs
    from analysis.report import catalogue

    names = [name for name in catalogue.NAMES if name != "table3"]  # what conf/ says
    for piece in catalogue.build(Runs.read(folders), names, with_paper=True):
        if isinstance(piece, Table):
            write_text(out / f"{piece.name}.csv", csv(piece.frame))


def _evaluate(out: Iteration, loss, t, right, heldout, benchmarks):
    found = {}
    if benchmarks:
        base = 0.3 + 0.01 * GAIN[loss] * (t + 1)
        tasks = {task: base + 0.01 * i for i, task in enumerate(TASKS)}
        found["benchmarks"] = {
            task: {
                "num_fewshot": 5,
                "n": 100,
                "version": 1.0,
                "metrics": {TASKS[task]: {"value": value, "stderr": 0.01},
                            "other,none": {"value": 0.9, "stderr": None}},
                "subtasks": {},
                "seconds": 1.0,
            }
            for task, value in tasks.items()
        }  # fmt: skip
        found["average"] = {"value": base + 0.045, "stderr": 0.01 / 10**0.5, "of": TASKS}
        found["harness"] = {"lm_eval": "0.4.13", "template": "none", "limit": None}
    else:
        held = {
            "exact_match,greedy": {"value": right / heldout, "stderr": 0.07, "n": heldout},
            "exact_match,sampled": {"value": right / 2 / heldout, "stderr": 0.06, "n": heldout},
            "num_tokens,sampled": {"value": 5.0 + t, "stderr": 0.3, "n": heldout},
            "finished,sampled": {"value": 0.9, "stderr": 0.04, "n": heldout},
        }
        if t >= 0:
            held["perplexity"] = {"value": 2 - 0.1 * (t + 1), "stderr": 0.01, "n": heldout}
        if t >= 0 and loss != "sft":
            held["margin"] = {"value": t + 1.0, "stderr": 0.1, "n": heldout}
            held["logp_margin"] = {"value": t + 2.0, "stderr": 0.1, "n": heldout}
        found["heldout"] = held
    write_json(out.evaluation, found)


def _step(loss, t, i, steps):
    """Over progress p: log pi(y) = -10 + t + p, log pi(y') = -12 - p; SPIN's reward is a tenth."""
    p = (i + 1) / steps
    logps = {"annotated": -10.0 + t + p, "synthetic": -12.0 - p}
    row = {"iteration": t, "step": i, "epoch": 2 * i / steps, "progress": p, "loss": 1 - p / 2}
    if loss == "sft":
        return row | {"logps/annotated": logps["annotated"], "grad_norm": 1.0, "lr": 1e-4}
    scale = 0.1 if loss in ("spin", "tspin_ref") else 1.0
    row |= {f"logps/{role}": value for role, value in logps.items()}
    row |= {f"rewards/{role}": scale * value for role, value in logps.items()}
    row |= {"weights/current": 0.4, "grad_norm": 1.0, "lr": 1e-4}
    if t > 0 and loss.startswith("tspin"):
        row |= {"weights/historical": 0.4, "advantages/historical": 0.5}
    return row


def _contingency(loss, t):
    """SPIN ranks 3 of 8 prompts by reward only; the others never."""
    if loss == "sft":
        return {"num_prompts": 8, "logps/annotated": -9.0 + t, "contingency": {}}
    split = (4, 3) if loss in ("spin", "tspin_ref") else (7, 0)
    cells = {"both": split[0], "reward_only": split[1], "logp_only": 0, "neither": 1}
    means = {"logps/annotated": -9.0 + t, "logps/synthetic": -13.0}
    return {"num_prompts": 8} | means | {"contingency": cells | {"tied_reward": 0, "tied_logp": 0}}


def _sample(i, t):
    return {
        "id": f"p{i}", "split": "heldout", "prompt": f"Say {i}.", "annotated": str(i),
        "synthetic": f"{i}, {t} | y'", "proto": f"{i}, 0 | y'",
    }  # fmt: skip


def _scores(i, t):
    for role, logp in (("annotated", -1.0 + 0.1 * t), ("synthetic", -3.0), ("proto", -4.0)):
        yield {
            "id": f"p{i}", "split": "heldout", "source": t, "role": role, "logp": logp,
            "num_tokens": 4, "ref_logp": None, "reward": logp,
        }  # fmt: skip


def _answers(right, heldout):
    return [
        {
            "id": f"p{i}", "response": str(i), "response_ids": [i], "num_tokens": 1,
            "finish_reason": "stop", "decoding": how, "correct": i < right / share,
        }
        for how, share in (("greedy", 1), ("sampled", 2))
        for i in range(heldout)
    ]  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
