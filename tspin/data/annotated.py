"""Annotated pairs (x, y) from wherever a user keeps them, and their train and held-out parts.

A source is a file, a folder of `datasets`, a hub id, or a built-in task, one of BUILT_IN.
Of a conversation of several rounds the first counts, the last, or each (data.rounds). Text is taken
as it is: nothing is stripped, normalised or tokenized here, and the join with sampled responses to
triplets belongs to the stages.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from tspin.config import auto
from tspin.config.auto import AUTO, Auto
from tspin.data import schemas, shift, sources
from tspin.data.cells import BadRow, BadRows, printable
from tspin.data.pairs import Pairs, PairsBuilder, Rounds, digest_of
from tspin.data.turns import Dialogue

if TYPE_CHECKING:
    from tspin.config.run import DataConfig
    from tspin.config.shift import ShiftConfig
    from tspin.verifiable.task import Verdict

# data.path; a folder of that name is spelled ./micro
MICRO, MICRO_OPEN, MICRO_DRIFT = "micro", "micro_open", "micro_drift"
VERIFIABLE = "verifiable"
BUILT_IN = (MICRO, MICRO_OPEN, MICRO_DRIFT, VERIFIABLE)
BUILT_IN_EVAL_SEED = 0  # every run is judged on the same prompts: seeds compare paired
NUM_NAMES = 30  # columns not used that the log lists

log = logging.getLogger("tspin")

# row of prompts.parquet, response -> right, wrong or unknown
Check = Callable[[Mapping[str, Any], str], bool | None]
Canonical = Callable[[str, str], str | None]  # prompt, response -> one spelling of a right answer


@dataclass(frozen=True)
class Source:
    """What one source held: its pairs in file order, and what was left out.

    reasons: the first few bad rows, "file, line 3: why"
    num_undesirable: rows whose label says that the response is none to learn from
    unused: columns that hold something and were not read, for people
    times: of the pairs, where a column with them was asked for
    """

    pairs: Pairs
    num_skipped: int = 0
    reasons: tuple[str, ...] = ()
    num_undesirable: int = 0
    unused: tuple[str, ...] = ()
    times: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """What a run trains on and is judged on; no text that opens a conversation is in both.

    num_prompts: different texts that open a conversation of the source; 0 of a built-in task
    digest: sha256 of the ids of train and heldout, in order.
    """

    train: Pairs
    heldout: Pairs
    num_prompts: int
    num_skipped: int
    num_undesirable: int
    reasons: tuple[str, ...]
    digest: str


def load(data: DataConfig) -> Dataset:
    """The train and held-out pairs that the `data` section of a run asks for.

    The log says which columns were not used, and how many rows have no response to learn from.
    """
    source = Source(Pairs())
    if data.path in BUILT_IN:
        train, heldout = built_in_pairs(data)
        num_prompts = 0
    else:
        source = read_pairs(
            data.path,
            split=data.split,
            revision=data.revision,
            columns=data.columns,
            skip_bad_rows=data.skip_bad_rows,
            rounds=data.rounds,
            time=data.shift.column,
        )
        pairs = _in_parts(source, data.shift) if data.shift.timed else source.pairs
        train, heldout, num_prompts = split_pairs(
            pairs, size=data.size, heldout=data.heldout, seed=data.seed
        )
    if source.unused:
        log.info("columns not used: %s", ", ".join(source.unused))
    if source.num_undesirable:
        log.warning(
            "%d rows left out: their label is false, so that they have no annotated response",
            source.num_undesirable,
        )
    return Dataset(
        train,
        heldout,
        num_prompts,
        source.num_skipped,
        source.num_undesirable,
        source.reasons,
        digest_of(train.ids, heldout.ids),
    )


def check_reachable(path: str, *, revision: str | None = None) -> None:
    """Raise ValueError if the source is not there: to be asked before anything heavy is loaded."""
    if path not in BUILT_IN:
        sources.check_reachable(path, revision=revision)


def read_pairs(
    path: str,
    *,
    split: str = "train",
    revision: str | None = None,
    columns: Mapping[str, str] | None = None,
    skip_bad_rows: bool = False,
    rounds: Rounds = "first",
    time: str | None = None,
) -> Source:
    """The pairs of a file, a `datasets` folder or a hub dataset "owner/name", in file order.

    What exists on this machine is local; `split` chooses among the splits of a folder or a hub
    dataset, `revision` is of the hub. A row is a conversation (schemas), of which `rounds` says
    what becomes a pair: the first round; the last answer, with all before it; each answer, with
    all before it. A row that holds no conversation raises ValueError, or with skip_bad_rows is
    left out and counted; one whose label is false has no annotated response and is left out.
    columns: what this source calls those of schemas, where they have other names.
    time: a column that says when a row is from, see shift.time_of.
    """
    schemas.check_columns(columns or {})
    pairs = PairsBuilder()
    times: list[float] = []
    kinds: dict[str, str] = {}  # kind of time -> place of the first
    bad_rows = BadRows(skip_bad_rows)
    num_rows = num_undesirable = 0
    unused: Counter[str] = Counter()
    own = (columns or {}).values()
    for place, row in sources.rows(path, split=split, revision=revision, columns=own):
        try:
            dialogue = schemas.dialogue(row, first_only=rounds == "first", columns=columns)
            kind, moment = ("", 0.0) if time is None else shift.time_of(row, time)
        except BadRow as bad:
            bad_rows.add(f"{path}, {place}", bad)
            continue
        if dialogue is None:
            num_undesirable += 1
            continue
        num_rows += 1
        unused.update(name for name in dialogue.unused if name != time)
        kinds.setdefault(kind, place)
        times += [moment] * pairs.add(dialogue, rounds)
    if len(kinds) > 1:
        told = " and ".join(f"{kind} ({place})" for kind, place in kinds.items())
        raise ValueError(
            f"{path}: data.shift.column={time} holds {told}, which have no order; write one of both"
        )
    if not times:
        counts = []
        if bad_rows.number:
            counts.append(f"{bad_rows.number} skipped, the first one {bad_rows.reasons[0]}")
        counts += [f"{num_undesirable} whose label is false"] if num_undesirable else []
        detail = f": {'; '.join(counts)}" if counts else ""
        raise ValueError(f"data.path={path} has no usable row{detail}; a row has {schemas.SCHEMAS}")
    left = _listed(unused, num_rows)
    in_time = None if time is None else tuple(times)
    return Source(pairs.pairs(), bad_rows.number, bad_rows.reasons, num_undesirable, left, in_time)


class Split(NamedTuple):
    """num_prompts: different texts that open a conversation, in both parts and beside them"""

    train: Pairs
    heldout: Pairs
    num_prompts: int


def split_pairs(pairs: Pairs, *, size: int | None, heldout: int | Auto, seed: int) -> Split:
    """`size` pairs to train on (None = all that are left) and `heldout` to judge on.

    Both are drawn by a hash of the seed and the content: the row order of the file does not
    matter, and with the same seed and heldout a larger train set begins with every smaller one.
    Held out are the TEXTS that open conversations, one pair each; other pairs of a conversation
    that opens with such a text are in neither part. `auto` is auto.num_heldout of them.
    """
    # The texts' hashes decide their order and tell them apart; texts themselves may be many.
    openings = [bytes.fromhex(digest_of(seed, "heldout", pair.opening)) for pair in pairs]
    prompts = sorted({*openings})
    if heldout == AUTO:
        heldout = auto.num_heldout(len(prompts))
        if heldout == 0:
            raise ValueError(
                f"data.heldout={AUTO} holds out one prompt of {auto.HELDOUT_EVERY}, and there are "
                f"{len(prompts)}; data.heldout=0 trains on all of them and judges by none"
            )
    if heldout > len(prompts):
        raise ValueError(
            f"data.heldout={heldout} exceeds the {len(prompts)} distinct prompts of "
            f"{len(pairs)} pairs; use a smaller one"
        )
    held, ids = set(prompts[:heldout]), pairs.ids
    judged: dict[bytes, int] = {}  # hash of a text -> its first pair
    train: list[int] = []
    for number in sorted(range(len(ids)), key=lambda i: digest_of(seed, "train", ids[i])):
        if openings[number] in held:
            judged.setdefault(openings[number], number)
        else:
            train.append(number)
    if not train:
        raise ValueError(
            f"data.heldout={heldout} leaves none of {len(pairs)} pairs to train on; use a smaller "
            "one"
        )
    if size is not None and size > len(train):
        raise ValueError(
            f"data.size={size}, but {len(train)} pairs are left to "
            f"train on ({len(pairs)} pairs, without those of the data.heldout={heldout} prompts); "
            "use data.size=null for all of them, or a smaller data.heldout"
        )
    first = (judged[text] for text in prompts[:heldout])
    return Split(pairs.take(train[:size]), pairs.take(first), len(prompts))


def built_in_pairs(data: DataConfig) -> tuple[Pairs, Pairs]:
    """Train and held-out pairs of a built-in task, whose splits share no prompt.

    The seed chooses the train pairs, nested in size. The held-out ones are the first of
    data.eval_split ("validation" or "test") under a fixed seed, the same for every run.
    With data.shift.parts the pairs take turns in the parts.
    """
    task, parts = _built_in(data.path), data.shift.parts
    if data.shift.column is not None:
        raise ValueError(
            f"data.shift.column={data.shift.column}: data.path={data.path} has no columns; use "
            "data.shift.parts=N"
        )
    if data.path == MICRO_DRIFT and parts is None:
        raise ValueError(f"data.path={data.path} drifts from part to part: data.shift.parts=N")
    if data.heldout == AUTO:
        raise ValueError(
            f"data.heldout={AUTO} is for rows of your own: {data.path} holds out prompts that it "
            "makes for that; use data.heldout=N"
        )

    def first(split: str, num: int | None, seed: int, option: str) -> Pairs:
        available = task.num_available(split)
        num = available if num is None else num
        if num > available:
            raise ValueError(
                f"{option}={num} exceeds the {available} pairs of the {data.path} split "
                f"{split!r}; use a smaller one"
            )
        rows = task.pairs(split, num, seed=seed)
        pairs = PairsBuilder()
        for number, (prompt, answer) in enumerate(rows):
            part = None if parts is None else number % parts
            if data.path == MICRO_DRIFT:
                answer = task.answer(prompt, part)
            pairs.add(Dialogue(None, ((prompt, answer),)), "first", part)
        return pairs.pairs()

    return (
        first("train", data.size, data.seed, "data.size"),
        first(data.eval_split, data.heldout, BUILT_IN_EVAL_SEED, "data.heldout"),
    )


def checker(data: DataConfig) -> Check | None:
    """The program that checks answers to this data's prompts, where there is one."""
    if data.path not in BUILT_IN:
        return None
    task = _built_in(data.path)
    if data.path == MICRO_DRIFT:  # what is right depends on the time
        return lambda row, response: task.check(row["prompt"], response, row["part"])
    return lambda row, response: task.check(row["prompt"], response)


def canonical(data: DataConfig) -> Canonical | None:
    """The program that spells all right answers that say the same alike, where many are right."""
    return _built_in(MICRO_OPEN).canonical if data.path == MICRO_OPEN else None


def judge(data: DataConfig) -> Callable[[str, str], Verdict] | None:
    """The program that judges an answer instruction by instruction, where prompts have several."""
    if data.path != VERIFIABLE:
        return None
    from tspin.verifiable.task import verdict

    return verdict


def _built_in(path: str) -> ModuleType:
    """The module that makes and checks a built-in task."""
    from tspin.micro import drift, open_task, task
    from tspin.verifiable import task as verifiable

    tasks = {MICRO: task, MICRO_OPEN: open_task, MICRO_DRIFT: drift, VERIFIABLE: verifiable}
    return tasks[path]


def _in_parts(source: Source, how: ShiftConfig) -> Pairs:
    """The pairs, each with the part that its time is in; without times by their order."""
    times = range(len(source.pairs)) if source.times is None else source.times
    parts = shift.parts_of(times, how.parts)
    return source.pairs.in_parts(parts)


def _listed(unused: Counter[str], num_rows: int) -> tuple[str, ...]:
    """The columns as a log line can show them: `score`, `system (in 3 of 90 rows)`."""
    names = [
        printable(name) + ("" if count == num_rows else f" (in {count} of {num_rows} rows)")
        for name, count in unused.most_common(NUM_NAMES)
    ]
    more = len(unused) - len(names)
    return (*names, f"and {more} more") if more else tuple(names)
