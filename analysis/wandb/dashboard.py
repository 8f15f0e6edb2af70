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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from analysis.options import command
from tspin.tools.files import digest, write_text
from tspin.tools.spelling import unknown
from tspin.tracking.replay import eval_key
from tspin.tracking.wandb import CELLS, TIES, logged_in

if TYPE_CHECKING:
    import wandb_workspaces.workspaces as ws

log = logging.getLogger("tspin")

EVALS = Path(__file__).resolve().parents[2] / "conf" / "evals"
SMOOTHING = 0.7  # of curves over optimiser steps; one point per iteration is drawn as it is
MAX_RUNS = 100  # lines of a panel: a sweep of 48 points whole
COLUMNS = 3

ROLES = {"annotated": "y", "synthetic": "y'", "proto": "y0"}
STEPS = ("train/step", "optimiser step, over all iterations")
STAGES = ("generate", "score", "train", "evaluate")
ITERATIONS = ("iteration", "after iteration t")
EVALUATED = ("eval/iterations", "iterations of self-play done")


@dataclass(frozen=True)
class Curves:
    """Lines over one of the axes: (metric, its title)."""

    title: str
    unit: str
    keys: tuple[str, ...]
    axis: tuple[str, str]


@dataclass(frozen=True)
class Pictures:
    """One image per iteration and run, to leaf through."""

    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """A table, as it was last logged by each run."""

    key: str


Panel = Curves | Pictures | Rows


def sections(tasks: Mapping[str, tuple[int | None, str]]) -> dict[str, list[Panel]]:
    """Title -> panels, in the order of the page.

    tasks  benchmark -> few-shot examples (None: the task's own), metric; see `benchmarks`
    """
    found: dict[str, list[Panel]] = {
        "Reward dynamics": _rewards(),
        "Log-likelihood dynamics": _log_likelihoods(),
        "Figure 3: rewards against log-likelihoods": _contingency(),
        "Benchmarks over iterations": _benchmarks(tasks),
        "Held-out prompts over iterations": _heldout(),
        "Throughput": _throughput(),
        "Optimisation": _optimisation(),
        "Samples": [Rows("samples/rows")],
    }
    return {title: panels for title, panels in found.items() if panels}


def keys(panels: Sequence[Panel]) -> list[str]:
    """Every metric that the panels draw, axes included."""
    found: dict[str, None] = {}
    for panel in panels:
        if isinstance(panel, Rows):
            found[panel.key] = None
        else:
            found |= dict.fromkeys(panel.keys)
            if isinstance(panel, Curves):
                found[panel.axis[0]] = None
    return list(found)


def benchmarks(evals: str) -> dict[str, tuple[int | None, str]]:
    """The tasks of an option of conf/evals that have a metric for the average."""
    options = {path.stem: path for path in EVALS.glob("*.yaml")}
    if evals not in options:
        raise ValueError(unknown(f"option evals={evals}", evals, options))
    option = yaml.safe_load(options[evals].read_text(encoding="utf-8"))
    tasks = option["tasks"] if "tasks" in option else {}  # some leave them to the command line
    return {task: (how["shots"], how["metric"]) for task, how in tasks.items() if how["metric"]}


def workspace(
    drawn: Mapping[str, Sequence[Panel]], *, name: str, project: str, entity: str
) -> ws.Workspace:
    """The page: runs grouped by objective, then by what differs beside the seed.

    A line is the mean over the runs of a group, its band the standard error.
    Raises ValueError where wandb-workspaces is not installed.
    """
    # What is only built asks nobody anything; read when wandb is imported, which takes seconds.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise ValueError(
            "the dashboard needs wandb-workspaces: pip install -e '.[dashboards]'"
        ) from None

    return ws.Workspace(
        name=name,
        project=project,
        entity=entity,
        sections=[
            ws.Section(
                name=title,
                panels=[_panel(panel) for panel in panels],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(
                    columns=COLUMNS, rows=-(-len(panels) // COLUMNS)
                ),
            )
            for title, panels in drawn.items()
        ],
        settings=ws.WorkspaceSettings(max_runs=MAX_RUNS),
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("JobType"), ws.Metric("Group")],
            order=[ws.Ordering(ws.Metric("Name"), ascending=True)],
        ),
    )


def specification(page: ws.Workspace) -> dict[str, Any]:
    """What would be published, as plain values; the same for the same page."""
    # The library shows it in no other way without a server.
    spec = json.loads(page._to_model().model_dump_json(by_alias=True))
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        for index, panel in enumerate(section["panels"]):
            panel["__id__"] = digest([section["name"], index])[:11]  # drawn at random there
    return spec


def _rewards() -> list[Panel]:
    over_steps = [
        Curves(f"Reward of {sign} ({role})", "nats", (f"train/rewards/{role}",), STEPS)
        for role, sign in ROLES.items()
    ]
    after = [
        Curves(
            f"Reward of {sign}, {split}", "nats", (f"iteration/{split}/rewards/{role}",), ITERATIONS
        )
        for split in ("train", "heldout")
        for role, sign in ROLES.items()
    ]
    return [*over_steps, *after]


def _log_likelihoods() -> list[Panel]:
    summed = [
        Curves(f"log pi({sign}), {role}", "nats", (f"train/logps/{role}",), STEPS)
        for role, sign in ROLES.items()
    ]
    per_token = [
        Curves(
            f"log pi({sign}) per token", "nats per token", (f"train/logps_per_token/{role}",), STEPS
        )
        for role, sign in ROLES.items()
    ]
    return [
        *summed,
        *per_token,
        Curves("Current advantage, y over y'", "nats", ("train/advantages/current",), STEPS),
        Curves("Historical advantage, y' over y0", "nats", ("train/advantages/historical",), STEPS),
        Curves(
            "Share of the pair's gradient that is left",
            "weight, 0 to 1",
            ("train/weights/current", "train/weights/historical"),
            STEPS,
        ),
    ]


def _contingency() -> list[Panel]:
    titles = {
        "both": "Higher reward and higher log-likelihood",
        "reward_only": "Higher reward, lower log-likelihood",
        "logp_only": "Lower reward, higher log-likelihood",
        "neither": "Neither higher",
    }
    shares = [
        Curves(titles[cell], "share of the batch", (f"train/contingency/{cell}",), STEPS)
        for cell in CELLS
    ]
    ties = tuple(f"train/contingency/{tie}" for tie in TIES)
    counts = [
        Curves(
            f"Counts after each iteration, {split}",
            "pairs",
            tuple(f"contingency/{split}/{cell}" for cell in CELLS),
            ITERATIONS,
        )
        for split in ("train", "heldout")
    ]
    return [
        *shares,
        Curves("Equal for y and y'", "share of the batch", ties, STEPS),
        *counts,
        *(
            Pictures(f"Table after each iteration, {split}", (f"contingency/{split}/heat_map",))
            for split in ("train", "heldout")
        ),
        *(Rows(f"contingency/{split}/table") for split in ("train", "heldout")),
    ]


def _benchmarks(tasks: Mapping[str, tuple[int | None, str]]) -> list[Panel]:
    if not tasks:
        return []
    panels: list[Panel] = [
        Curves(f"Average of {len(tasks)} benchmarks", "score, 0 to 1", ("eval/average",), EVALUATED)
    ]
    for task, (shots, metric) in tasks.items():
        how = "" if shots is None else f", {shots}-shot"
        key = f"eval/{eval_key(task, metric)}"
        unit = f"{metric.split(',')[0]}, 0 to 1"
        panels.append(Curves(f"{task}{how}", unit, (key,), EVALUATED))
    return panels


def _heldout() -> list[Panel]:
    def panel(title: str, unit: str, *metrics: str) -> Panel:
        names = tuple(f"eval/{eval_key('heldout', metric)}" for metric in metrics)
        return Curves(title, unit, names, EVALUATED)

    return [
        panel("Right answers, greedy", "share of prompts", "exact_match,greedy"),
        panel("Right answers, sampled", "share of prompts", "exact_match,sampled"),
        panel("Perplexity of annotated responses", "per token", "perplexity"),
        panel("Log-likelihood of annotated responses", "nats per token", "logp_per_token"),
        panel("Reward margin, y over y'", "nats", "margin"),
        panel("Reward of y above that of y'", "share of prompts", "margin_accuracy"),
        panel("Length of samples", "tokens", "num_tokens,sampled"),
        panel("Samples that end by themselves", "share of samples", "finished,sampled"),
        panel(
            "Different n-grams of samples, n = 1, 2, 3",
            "share of n-grams",
            *(f"distinct_{n},sampled" for n in (1, 2, 3)),
        ),
    ]


def _throughput() -> list[Panel]:
    return [
        Curves(
            "Speed of training",
            "tokens/s",
            ("train/tokens_per_second", "train/useful_tokens_per_second"),
            STEPS,
        ),
        Curves("Padding", "share of the positions computed", ("train/padding_share",), STEPS),
        Curves("FLOP utilisation", "share of the matmul rate", ("train/flop_utilisation",), STEPS),
        Curves("Time of a step", "s", ("train/seconds",), STEPS),
        Curves("Tokens of a step", "tokens, no padding", ("train/num_tokens",), STEPS),
        Curves(
            "Time of each stage of an iteration",
            "s",
            tuple(f"iteration/seconds/{stage}" for stage in STAGES),
            ITERATIONS,
        ),
        Curves(
            "Share of each stage in an iteration",
            "share of its time",
            tuple(f"iteration/time_share/{stage}" for stage in STAGES),
            ITERATIONS,
        ),
    ]


def _optimisation() -> list[Panel]:
    return [
        Curves("Objective", "nats (SFT), else 1", ("train/loss",), STEPS),
        Curves(
            "Norm of the gradient before clipping", "nats per weight", ("train/grad_norm",), STEPS
        ),
        Curves("Learning rate", "per step", ("train/lr",), STEPS),
    ]


def _panel(panel: Panel) -> Any:
    import wandb_workspaces.reports.v2 as wr

    match panel:
        case Curves(title, unit, names, axis):
            smooth = axis is STEPS
            return wr.LinePlot(
                title=title,
                x=axis[0],
                y=list(names),
                title_x=axis[1],
                title_y=unit,
                groupby_aggfunc="mean",
                groupby_rangefunc="stderr",
                smoothing_type="exponentialTimeWeighted" if smooth else "none",
                smoothing_factor=SMOOTHING if smooth else 0.0,
                smoothing_show_original=False,
                max_runs_to_show=MAX_RUNS,
            )
        case Pictures(title, names):
            return wr.MediaBrowser(
                title=title, media_keys=list(names), mode="gallery", gallery_axis="step"
            )
        case Rows(key):
            return wr.WeavePanelSummaryTable(table_name=key)


def main(arguments: Sequence[str]) -> None:
    with command(
        __doc__,
        arguments,
        out="report/dashboard.json",
        project="tspin",
        entity="",
        name="T-SPIN",
        evals="paper",
        save="false",
    ) as options:
        publish = options["save"] == "true"
        if publish and not options["entity"]:
            raise ValueError("--save needs entity=NAME, your user or team in W&B")
        if publish and not logged_in():
            raise ValueError("--save needs a login: run `wandb login`, then give this again")
        drawn = sections(benchmarks(options["evals"]))
        page = workspace(drawn, **{key: options[key] for key in ("name", "project", "entity")})
        if publish:
            page.save()
            log.info("published: %s", page.url)
        else:
            spec = json.dumps(specification(page), indent=2, ensure_ascii=False)
            write_text(Path(options["out"]), f"{spec}\n")
            num_panels = sum(map(len, drawn.values()))
            log.info("%d panels: %s", num_panels, options["out"])
