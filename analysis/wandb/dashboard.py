"""The W&B workspace as code: the curves, tables and samples of a sweep.

    python -m analysis dashboard [out=FILE] [project= entity= name=] [evals=paper] [--save]

Writes its specification as JSON, without a login; --save publishes it in the project of that
entity (a user or a team) instead. evals: the option of conf/evals whose tasks have a panel each.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from analysis.options import command
from tspin.cli.folders import CONF
from tspin.objectives.contingency import CELLS, TIES
from tspin.tools.files import digest, write_text
from tspin.tools.spelling import unknown
from tspin.tracking.replay import eval_key
from tspin.tracking.wandb import logged_in

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

log = logging.getLogger("tspin")

EVALS = CONF / "evals"
SMOOTHING = 0.7  # of curves over optimiser steps; one point per iteration is drawn as it is
MAX_RUNS = 100  # lines of a panel: a sweep of 48 points whole
COLUMNS = 3
DEFAULTS = {"out": "report/dashboard.json", "project": "tspin", "entity": "", "name": "T-SPIN",
            "evals": "paper", "save": "false"}  # fmt: skip

ROLES = {"annotated": "y", "synthetic": "y'", "proto": "y0"}
STEPS = ("train/step", "optimiser step, over all iterations")
STAGES = ("generate", "score", "train", "evaluate")
ITERATIONS = ("iteration", "after iteration t")
EVALUATED = ("eval/iterations", "iterations of self-play done")
SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class Panel:
    """Lines over one of the axes: (metric, its title). Without an axis: images to leaf through,
    one per iteration and run; without a title too: a table, as it was last logged by each run."""

    keys: tuple[str, ...]
    title: str = ""
    unit: str = ""
    axis: tuple[str, str] | None = None


def curves(axis: tuple[str, str], group: str, title: str, unit: str, *metrics: str) -> Panel:
    return Panel(tuple(f"{group}/{metric}" for metric in metrics), title, unit, axis)


steps = partial(curves, STEPS, "train")
iterations = partial(curves, ITERATIONS, "iteration")
evaluated = partial(curves, EVALUATED, "eval")


def heldout(title: str, unit: str, *metrics: str) -> Panel:
    return evaluated(title, unit, *(eval_key("heldout", metric) for metric in metrics))


def sections(tasks: Mapping[str, tuple[int | None, str]]) -> dict[str, list[Panel]]:
    """Title -> panels, in the order of the page.

    tasks  benchmark -> few-shot examples (None: the task's own), metric; see `benchmarks`
    """
    roles = ROLES.items()
    return {
        "Reward dynamics": [
            *(steps(f"Reward of {y} ({role})", "nats", f"rewards/{role}") for role, y in roles),
            *(iterations(f"Reward of {y}, {split}", "nats", f"{split}/rewards/{role}")
              for split in SPLITS for role, y in roles),
        ],
        "Log-likelihood dynamics": [
            *(steps(f"log pi({y}), {role}", "nats", f"logps/{role}") for role, y in roles),
            *(steps(f"log pi({y}) per token", "nats per token", f"logps_per_token/{role}")
              for role, y in roles),
            steps("Current advantage, y over y'", "nats", "advantages/current"),
            steps("Historical advantage, y' over y0", "nats", "advantages/historical"),
            steps("Share of the pair's gradient that is left", "weight, 0 to 1",
                  "weights/current", "weights/historical"),
        ],
        "Figure 3: rewards against log-likelihoods": [
            *(steps(f"Of y: reward {reward}, log-likelihood {logp}", "share of the batch",
                    f"contingency/{cell}") for cell, (reward, logp) in CELLS.items()),
            steps("Equal for y and y'", "share of the batch", *(f"contingency/{t}" for t in TIES)),
            *(curves(ITERATIONS, f"contingency/{split}", f"Counts after each iteration, {split}",
                     "pairs", *CELLS) for split in SPLITS),
            *(Panel((f"contingency/{split}/heat_map",), f"Table after each iteration, {split}")
              for split in SPLITS),
            *(Panel((f"contingency/{split}/table",)) for split in SPLITS),
        ],
        **({"Benchmarks over iterations": _benchmarks(tasks)} if tasks else {}),
        "Held-out prompts over iterations": [
            heldout("Right answers, greedy", "share of prompts", "exact_match,greedy"),
            heldout("Right answers, sampled", "share of prompts", "exact_match,sampled"),
            heldout("Perplexity of annotated responses", "per token", "perplexity"),
            heldout("Log-likelihood of annotated responses", "nats per token", "logp_per_token"),
            heldout("Reward margin, y over y'", "nats", "margin"),
            heldout("Reward of y above that of y'", "share of prompts", "margin_accuracy"),
            heldout("Length of samples", "tokens", "num_tokens,sampled"),
            heldout("Samples that end by themselves", "share of samples", "finished,sampled"),
            heldout("Different n-grams of samples, n = 1, 2, 3", "share of n-grams",
                    *(f"distinct_{n},sampled" for n in (1, 2, 3))),
        ],
        "Throughput": [
            steps("Speed of training", "tokens/s", "tokens_per_second", "useful_tokens_per_second"),
            steps("Padding", "share of the positions computed", "padding_share"),
            steps("FLOP utilisation", "share of the best rate seen", "flop_utilisation"),
            steps("Time of a step", "s", "seconds"),
            steps("Tokens of a step", "tokens, no padding", "num_tokens"),
            iterations("Time of each stage of an iteration", "s",
                       *(f"seconds/{stage}" for stage in STAGES)),
            iterations("Share of each stage in an iteration", "share of its time",
                       *(f"time_share/{stage}" for stage in STAGES)),
        ],
        "Optimisation": [
            steps("Objective", "nats (SFT), else 1", "loss"),
            steps("Norm of the gradient before clipping", "nats per weight", "grad_norm"),
            steps("Learning rate", "per step", "lr"),
        ],
        "Samples": [Panel(("samples/rows",))],
    }  # fmt: skip


def _benchmarks(tasks: Mapping[str, tuple[int | None, str]]) -> list[Panel]:
    panels = [evaluated(f"Average of {len(tasks)} benchmarks", "score, 0 to 1", "average")]
    for task, (shots, metric) in tasks.items():
        title = task if shots is None else f"{task}, {shots}-shot"
        unit = f"{metric.split(',')[0]}, 0 to 1"
        panels.append(evaluated(title, unit, eval_key(task, metric)))
    return panels


def benchmarks(evals: str) -> dict[str, tuple[int | None, str]]:
    """The tasks of an option of conf/evals that have a metric for the average."""
    options = {path.stem: path for path in EVALS.glob("*.yaml")}
    if evals not in options:
        raise ValueError(unknown(f"option evals={evals}", evals, options))
    option = yaml.safe_load(options[evals].read_text(encoding="utf-8"))
    tasks = option["tasks"] if "tasks" in option else {}  # some leave them to the command line
    return {task: (how["shots"], how["metric"]) for task, how in tasks.items() if how["metric"]}


def workspace(panels: Mapping[str, Sequence[Panel]], **place: str) -> ws.Workspace:
    """The page: runs grouped by objective, then by what differs beside the seed.

    A line is the mean over the runs of a group, its band the standard error. place: name, project,
    entity.
    Raises ValueError where wandb-workspaces is not installed.
    """
    # What is only built asks nobody anything; read when wandb is imported, which takes seconds.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError:
        way = "the dashboard needs wandb-workspaces: pip install -e '.[dashboards]'"
        raise ValueError(way) from None
    layout = partial(ws.SectionLayoutSettings, columns=COLUMNS)
    return ws.Workspace(
        **place,
        sections=[
            ws.Section(name=title, panels=[*map(_panel, members)], is_open=True,
                       layout_settings=layout(rows=-(-len(members) // COLUMNS)))
            for title, members in panels.items()
        ],
        settings=ws.WorkspaceSettings(max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("JobType"), ws.Metric("Group")],
            order=[ws.Ordering(ws.Metric("Name"), ascending=True)],
        ),
    )  # fmt: skip


def specification(page: ws.Workspace) -> dict[str, Any]:
    """What would be published, as plain values; the same for the same page."""
    # The library shows it in no other way without a server.
    spec = json.loads(page._to_model().model_dump_json(by_alias=True))
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        for index, panel in enumerate(section["panels"]):
            panel["__id__"] = digest([section["name"], index])[:11]  # drawn at random there
    return spec


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    if not panel.title:
        return wr.WeavePanelSummaryTable(table_name=panel.keys[0])
    names = list(panel.keys)
    if panel.axis is None:
        return wr.MediaBrowser(
            title=panel.title, media_keys=names, mode="gallery", gallery_axis="step"
        )
    smooth = panel.axis is STEPS
    return wr.LinePlot(
        title=panel.title, x=panel.axis[0], y=names, title_x=panel.axis[1], title_y=panel.unit,
        groupby_aggfunc="mean", groupby_rangefunc="stderr",
        smoothing_type="exponentialTimeWeighted" if smooth else "none",
        smoothing_factor=SMOOTHING if smooth else 0.0,
        smoothing_show_original=False, max_runs_to_show=MAX_RUNS,
    )  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    with command(__doc__, arguments, **DEFAULTS) as options:
        publish = options["save"] == "true"
        if publish and not options["entity"]:
            raise ValueError("--save needs entity=NAME, your user or team in W&B")
        if publish and not logged_in():
            raise ValueError("--save needs a login: run `wandb login`, then give this again")
        panels = sections(benchmarks(options["evals"]))
        page = workspace(panels, **{key: options[key] for key in ("name", "project", "entity")})
        if publish:
            page.save()
            log.info("published: %s", page.url)
        else:
            spec = json.dumps(specification(page), indent=2, ensure_ascii=False)
            write_text(Path(options["out"]), f"{spec}\n")
            num_panels = sum(map(len, panels.values()))
            log.info("%d panels: %s", num_panels, options["out"])
