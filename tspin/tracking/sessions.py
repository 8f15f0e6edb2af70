"""Which W&B run a launch writes into, so that no launch overwrites what another one left there.

`wandb sync` begins the run of an offline folder anew, whatever the server has under its id: two
offline folders of one id replace each other. So an offline launch has an id of its own, and what
brings a run of several launches together is a replay of its files (python -m analysis wandb_sync).
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Literal

from tspin.runs.artifacts import RunDir
from tspin.tools.files import read_json, write_json

Mode = Literal["online", "offline", "none"]
OFFLINE_RUNS = "offline-run-*"


@dataclass(frozen=True)
class Session:
    """One launch of a run. id: of the W&B run that it writes into"""

    id: str
    mode: Mode


def begin(folder: RunDir, mode: Mode) -> tuple[str, bool]:
    """Takes note of a launch in tracking.json.

    -> (id in W&B, whether the W&B run of that id has all of the run, from its beginning)
    """
    facts = read_json(folder.tracking) if folder.tracking.exists() else {}
    base = str(facts.get("id") or secrets.token_hex(4))
    earlier = [Session(**each) for each in facts["sessions"]] if "sessions" in facts else []
    if "id" in facts and "sessions" not in facts:
        earlier = [_unrecorded(folder, base)]
    session = Session(_id(base, mode, earlier), mode)
    sessions = [asdict(each) for each in (*earlier, session)]
    write_json(folder.tracking, {"id": base, "sessions": sessions})
    return session.id, all(each == session and mode == "online" for each in earlier)


def _id(base: str, mode: Mode, earlier: list[Session]) -> str:
    """The run's id, but where that would be written over: one with the number of the launch."""
    online = [each.id for each in earlier if each.mode == "online"]
    if mode == "online" and online:
        return online[-1]  # which the server continues
    taken = {each.id for each in earlier if each.mode != "none"}
    return f"{base}-{len(earlier) + 1}" if base in taken and mode != "none" else base


def _unrecorded(folder: RunDir, base: str) -> Session:
    """The launches of a version that took no note of them: what they left in the folder."""
    left = folder.tracker("wandb")
    if any(left.glob(OFFLINE_RUNS)):
        return Session(base, "offline")
    return Session(base, "online" if any(left.glob("run-*")) else "none")
