"""Stage: from theta_t and its triplets to theta_t+1.

Optimiser and learning-rate schedule are new in every iteration. The learning rate, and the noise of
optim.precision=bf16_stochastic, are functions of the step, and dropout is off, so weights,
optimiser tensors and the step are the whole state: a run that was killed goes on from the last
save and ends with the same bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tspin.data.triplets import Triplet, epoch
from tspin.distributed.world import ALONE, World
from tspin.policy.policy import Policy
from tspin.runs.artifacts import Iteration
from tspin.runs.metrics import StepLog
from tspin.tools import signals
from tspin.tools.files import remove
from tspin.tools.terminal import progress
from tspin.tracking.tracker import Tracker
from tspin.training.cut import Cut
from tspin.training.optimizer import Optimizer, build_optimizer
from tspin.training.parallel import strategy_of
from tspin.training.recipe import Recipe
from tspin.training.schedule import begin_step
from tspin.training.step import gradient_step
from tspin.training.strategy import Strategy
from tspin.training.throughput import Speed
from tspin.training.train_state import load_state, next_step, save_state, state


def train(
    policy: Policy,
    triplets: Sequence[Triplet],
    out: Iteration,
    recipe: Recipe,
    *,
    tracker: Tracker,
    steps_before: int,
    label: str,
    world: World = ALONE,
    after_save: Callable[[], None] | None = None,
    after_first: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Updates the policy in place and leaves metrics.jsonl and checkpoint/ in `out`.

    Under FSDP2 (world.shards) the policy ends in shards: what follows loads the checkpoint.

    steps_before  optimiser steps of earlier iterations, for the tracker's axis
    world         the processes that train together; all of them call this
    after_save    called by the main process when a training state was saved to go on from
    after_first   called by the main process with the row of step 0
    Raises FloatingPointError at a loss or gradient that is not finite, before it is applied.
    """
    per_epoch = len(_epoch(triplets, recipe, 0))
    num_steps = recipe.optim.epochs * per_epoch
    speed = Speed(policy, recipe.loss.roles, num_devices=world.size)
    strategy = strategy_of(policy, recipe.compute, world)
    optimizer = build_optimizer(policy, recipe.optim)
    first = _resume(out, strategy, optimizer)
    # Checkpointing acts in training mode only, where transformers drops the cache that sampling
    # needs. Dropout is 0, but in adapters if asked for: the two modes compute alike.
    policy.model.train(recipe.compute.gradient_checkpointing or policy.dropout)
    cut, saved = Cut.of(recipe.compute), time.monotonic()
    with (
        # The main process alone records the steps.
        StepLog(out.metrics, resume_from=first) if world.is_main else nullcontext() as record,
        progress(num_steps, label, "step", initial=first, show=world.is_main) as bar,
        signals.held(),
    ):
        for step, batch in _batches(triplets, recipe, first, per_epoch):
            started = time.monotonic()
            begin_step(policy, optimizer, recipe, step, per_epoch)
            metrics, cut = gradient_step(
                strategy, optimizer, batch, recipe, cut, where=f"{label}, step {step}"
            )
            timing = speed.of_step(batch, cut, time.monotonic() - started)
            place = {
                "iteration": recipe.t,
                "step": step,
                "epoch": step / per_epoch,
                "progress": (step + 1) / num_steps,
            }
            row = {**place, **metrics, "lr": optimizer.param_groups[0]["lr"], **timing}
            if record is not None:
                record.append(row)
                tracker.log_step({**row, "global_step": steps_before + step})
                if after_first is not None and step == 0:
                    after_first(row)
            bar.update(1, loss=metrics["loss"])
            due = step + 1 < num_steps and time.monotonic() - saved >= recipe.compute.save_seconds
            save, stop = _agree(world, due, signals.boundary())
            if save:
                if record is not None:
                    record.sync()  # the rows before a saved step must not be lost after it
                _save(out, strategy, optimizer, step + 1)
                if after_save is not None and not stop:
                    world.main(after_save)
                saved = time.monotonic()
            if stop:
                signals.stop()
        if record is not None:
            record.sync()  # nor the last ones after the checkpoint
    policy.model.eval()
    strategy.save(out.checkpoint)


def _epoch(triplets: Sequence[Triplet], recipe: Recipe, number: int) -> list[list[Triplet]]:
    size, seed, t = recipe.optim.batch_size, recipe.seed, recipe.t
    return epoch(triplets, batch_size=size, seed=seed, t=t, epoch=number)


def _batches(
    triplets: Sequence[Triplet], recipe: Recipe, first: int, per_epoch: int
) -> Iterator[tuple[int, list[Triplet]]]:
    """The steps from `first` on, each with its batch."""
    for number in range(first // per_epoch, recipe.optim.epochs):
        for step, batch in enumerate(_epoch(triplets, recipe, number), number * per_epoch):
            if step >= first:
                yield step, batch


def _agree(world: World, due: bool, stop: bool) -> tuple[bool, bool]:
    """Whether all save now, and stop: the main process's clock decides, a signal to any of them."""
    of_all = world.gather((due, stop))
    stop = any(signalled for _, signalled in of_all)
    return stop or of_all[0][0], stop


def _save(out: Iteration, strategy: Strategy, optimizer: Optimizer, next_step: int) -> None:
    """Saves the state of training, then removes older ones."""
    policy, world = strategy.policy, strategy.world
    if strategy.shards:
        from tspin.training import shards  # see strategy_of

        shards.save_state(out.train_shards(next_step), state(policy, optimizer), next_step, world)
    else:
        world.main(save_state, out.train_state, policy, optimizer, next_step)

    def clear() -> None:
        for step, folder in out.all_train_shards().items():
            if step != next_step or not strategy.shards:
                remove(folder)
        if strategy.shards:
            remove(out.train_state)

    world.main(clear)


def _resume(out: Iteration, strategy: Strategy, optimizer: Optimizer) -> int:
    """Loads the last state, whatever number of processes saved it. -> the next step, or 0"""

    def last() -> Path | None:
        states = out.all_train_shards()
        if out.train_state.exists():
            states[next_step(out.train_state)] = out.train_state
        return states[max(states)] if states else None

    policy, world = strategy.policy, strategy.world
    path = world.main(last)
    if path is None:
        return 0
    if path == out.train_state:
        return load_state(path, policy, optimizer, shards=strategy.shards)
    from tspin.training import shards

    return shards.load_state(path, policy, optimizer, world)
