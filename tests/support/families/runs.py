"""Runs of a family: docs/models.md's columns two iterations, resume, LoRA and export."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from functools import cache
from io import StringIO
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.families.folders import FAMILIES
from support.families.logits import load, prompts_of
from support.families.texts import Apart, first_apart
from support.families.tokenizers import MARK
from support.tiny import compose, interrupted
from tspin.__main__ import main as verb
from tspin.config.run import Run
from tspin.data.templates import Conversation
from tspin.data.tokens import Renderer
from tspin.data.triplets import Triplet
from tspin.policy.policy import Policy
from tspin.runs.artifacts import RunDir
from tspin.selfplay import algorithm
from tspin.tools.files import read_json

PAIRS = [{"prompt": f"Say {i}, and {i + 1}.", "response": f"It is {i}."} for i in range(7)]
PAIRS += [{"prompt": "Where do the cat and the dog sit today?", "response": "On the mat.\nBoth."}]
QUESTION, ANSWER = "What is one and two?", "three"
# of lm-eval's --model_args, where the ids are not those of training without
OPTIONS: tuple[dict[str, bool], ...] = ({}, {"add_bos_token": False}, {"enable_thinking": False})
SMALL = [
    "model=custom", "model.max_length=256", "data.size=6", "data.heldout=2",
    "selfplay.iterations=2", "optim.batch_size=3", "optim.epochs=1", "optim.lr=1e-3",
    "decoding.max_new_tokens=4", "decoding.batch_size=4", "compute.device=cpu",
    "compute.save_seconds=0", "track.diagnostics=false",
]  # fmt: skip


@cache
def _composed(*overrides: str) -> Run:
    return compose("loss=tspin", *SMALL, *overrides)


def configuration(name: str, model: Path, runs: Path, *overrides: str) -> Run:
    """Two iterations of tspin in `runs` on eight pairs."""
    pairs = runs.parent / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    cfg = _composed("model.path=PATH", "data.path=PATH", *overrides)
    return replace(
        cfg,
        name=name,
        runs_dir=str(runs),
        model=replace(cfg.model, path=str(model), template=FAMILIES[name].template),
        data=replace(cfg.data, path=str(pairs)),
    )


def iterations(cfg: Run) -> str:
    """The run ends, every number it has recorded is finite, and the weights have moved."""
    algorithm.run(cfg, command=["test"])
    folder = RunDir(cfg.folder)
    for t in (0, 1):
        for line in folder.iteration(t).metrics.read_text().splitlines():
            bad = [k for k, v in json.loads(line).items() if not _finite(v)]
            if bad:
                raise Apart(f"iteration {t}: {', '.join(bad)} not finite")
    digests = [read_json(folder.iteration(t).done)["weights"] for t in (0, 1)]
    if len({read_json(folder.initial)["weights"], *digests}) < 3:
        raise Apart("an iteration has left the weights as they were")
    return "yes"


def _finite(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def resume(cfg: Run, again: Run) -> str:
    """Stopped behind the first step of iteration 1, the run ends with the same weights.

    again  the configuration of `cfg` with a runs_dir of its own
    """
    shutil.copytree(cfg.folder.parent, again.folder.parent)
    shutil.rmtree(again.folder / "iter_1")
    with interrupted(after=1):
        algorithm.run(again, command=["test"])
    if not (again.folder / "iter_1/train_state").exists():
        raise Apart("the stopped run has saved no state")
    algorithm.run(again, command=["test"])
    digests = [read_json(RunDir(c.folder).iteration(1).done)["weights"] for c in (cfg, again)]
    if digests[0] != digests[1]:
        raise Apart("the resumed run has other weights")
    return "yes"


def lora(name: str, cfg: Run, to: Path) -> str:
    """Adapters are trained for two iterations; exported they are merged, and compute the same."""
    targets = list(FAMILIES[name].adapted)
    if targets:
        assert cfg.model.lora is not None
        adapters = replace(cfg.model.lora, targets=targets)
        cfg = replace(cfg, model=replace(cfg.model, lora=adapters))
    iterations(cfg)
    _loads(name, cfg, to)
    return f"yes, with model.lora.targets=[{','.join(targets)}]" if targets else "yes"


def export(name: str, cfg: Run, to: Path) -> str:
    """What is exported computes the same in transformers, and lm-eval scores a row with it.

    The ids that lm-eval puts together should be those of training; its score is our log-prob of
    them, whatever they are.
    """
    ours = _loads(name, cfg, to)
    prompt, response = ours.renderer.pair_ids(Conversation(QUESTION), ANSWER)
    wanted, partly = [*prompt, *response[:-1]], ""
    for options in OPTIONS:
        with redirect_stdout(StringIO()):
            harness = HFLM(
                pretrained=str(to), device="cpu", dtype="float32", batch_size=1, **options
            )
        arguments = _question(harness)
        context, continuation = harness._encode_pair(*arguments)
        _same_score(harness, arguments, ours, context, continuation)
        theirs = [*context, *continuation]
        if theirs == wanted:
            return ", lm-eval with ".join(["yes", *(f"{k}={v}" for k, v in options.items())])
        where = "answer" if harness.tok_encode(arguments[0]) == prompt else "prompt"
        at = first_apart(wanted, theirs)
        mine, other = (_piece(ours.renderer, ids[at : at + 1]) for ids in (wanted, theirs))
        partly = partly or f"partly: lm-eval's {where} has {other!r} for {mine!r}"
    return partly


def _piece(renderer: Renderer, ids: list[int]) -> str:
    """What the vocabulary has for an id, with the space that SentencePiece's mark stands for."""
    return "".join(renderer.tokenizer.convert_ids_to_tokens(ids)).replace(MARK, " ")


def _same_score(
    harness: HFLM,
    arguments: tuple[str, str],
    ours: Policy,
    context: list[int],
    continuation: list[int],
) -> None:
    """lm-eval's log-likelihood of a continuation is our log-prob of the same ids."""
    request = Instance(request_type="loglikelihood", doc={}, arguments=arguments, idx=0)
    ((score, _),) = harness.loglikelihood([request], disable_tqdm=True)
    triplet = Triplet("0", "", 0, context, {"annotated": continuation})
    with torch.no_grad():
        expected = ours.logps([triplet], ("annotated",))["annotated"].item()
    if not math.isclose(score, expected, rel_tol=1e-4, abs_tol=1e-4):
        raise Apart(f"lm-eval scores {score:.4f}, and we {expected:.4f}")


def _question(harness: HFLM) -> tuple[str, str]:
    """Context and continuation as lm-eval's tasks have them under --apply_chat_template."""
    context = harness.apply_chat_template([{"role": "user", "content": QUESTION}])
    return context, (" " if context.endswith("Response:") else "") + ANSWER


def _loads(name: str, cfg: Run, to: Path) -> Policy:
    """Exports the last iteration and loads it with transformers. -> the run's own policy

    Its adapters, where it has any, are not merged.
    """
    with redirect_stdout(StringIO()):
        verb(["export", f"run={cfg.folder}", f"to={to}"])
    ours = load(name, RunDir(cfg.folder).iteration(1).weights(), lora=cfg.model.lora)
    theirs = AutoModelForCausalLM.from_pretrained(to).eval()
    tokenizer = AutoTokenizer.from_pretrained(to)
    renderer = Renderer(tokenizer, FAMILIES[name].template)
    if prompts_of(renderer) != prompts_of(ours.renderer):
        raise Apart("the exported tokenizer has other ids")
    for prompt in prompts_of(renderer):
        with torch.no_grad():
            logits = [network(torch.tensor([prompt])).logits for network in (ours.model, theirs)]
        # Rounding of a merged product, which a recurrence (Mamba) adds up.
        if not torch.allclose(*logits, rtol=3e-4, atol=3e-4):
            raise Apart(f"logits differ by {(logits[0] - logits[1]).abs().max():.0e}")
    return ours
