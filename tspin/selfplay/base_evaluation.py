"""What the initial policy is worth: the untrained row of every table, made once for many runs."""

from __future__ import annotations

from tspin.data.triplets import join
from tspin.objectives import Role
from tspin.runs import benchmarks, evaluation
from tspin.runs.artifacts import Iteration, shared_folder
from tspin.selfplay.inputs import prompts_digest
from tspin.selfplay.session import Session
from tspin.stages.score import write_scores
from tspin.tools.files import digest, digest_each, link, read_json
from tspin.tracking import replay


def base_evaluation(session: Session) -> None:
    """Held-out scores, answers and benchmarks of theta_0, linked from what runs share."""
    cfg, world, base = session.cfg, session.world, session.folder.base
    fresh = bool(session.inputs.heldout) and not world.exists(base.evaluation)
    if fresh:
        _evaluate(session, base)
    if world.main(benchmarks.missing, base, cfg):
        _benchmark(session, base)
        fresh = True
    if fresh:
        replay.evaluation(base, 0, session.tracker)


def _evaluate(session: Session, base: Iteration) -> None:
    cfg, world, heldout = session.cfg, session.world, session.inputs.heldout
    how = [session.answers_heldout, cfg.data.eval_draws, cfg.data.eval_cool]
    if cfg.data.eval_temperature is not None:
        how.append(cfg.data.eval_temperature)
    key = {
        "weights": read_json(session.folder.initial)["weights"],
        "prompts": prompts_digest(heldout),
        "annotated": digest_each(list(row["annotated_ids"]) for row in heldout),
        "answers": how,
        **session.samples_key,
    }
    if parts := session.inputs.heldout_parts:
        key["parts"] = digest(parts)
    shared = Iteration(shared_folder(cfg.runs_dir, "base", cfg.sampling_name, key))
    with world.held(shared.path, wait=True):
        if not world.exists(shared.scores):
            triplets = join(heldout, 0)
            roles: tuple[Role, ...] = ("annotated",)
            batches = session.score_batches(triplets, roles)
            scores = session.score(session.inputs.initial, batches, roles, label="base: score")
            world.main(write_scores, shared.scores, triplets, scores.logps)
        if not world.exists(shared.evaluation):
            session.evaluate(session.inputs.initial, shared, 0, label="base: evaluate")
        world.main(link, shared.path, base.path)


def _benchmark(session: Session, base: Iteration) -> None:
    """They need neither prompts nor a seed, and are shared more widely."""
    cfg, world = session.cfg, session.world
    key = {"weights": read_json(session.folder.initial)["weights"]}
    if cfg.model.quantize is not None:
        key["quantize"] = cfg.model.quantize
    shared = Iteration(shared_folder(cfg.runs_dir, "base", cfg.model.name, key))
    with world.held(shared.path, wait=True):
        session.benchmark(session.inputs.initial, shared, label="base: benchmarks")
        world.main(link, shared.benchmarks, base.benchmarks)
    parts = session.inputs.heldout_parts
    world.main(lambda: evaluation.write(base, benchmarks.results(base, cfg), parts))
