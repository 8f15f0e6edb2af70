"""Configurations of version 0.1.0, as this version writes them: their folders stay good."""

from __future__ import annotations

from typing import Any

from tspin.config.objective import KEYS_OF_COEF, OURS, TARGET, built_in
from tspin.config.shift import WAYS

ADDED: dict[str, Any] = {
    "anchor.nll": None,
    "anchor.hinge": None,
    "anchor.cap": None,
    "anchor.average": False,
    "curriculum.prompts": "all",
    "curriculum.share": None,
    "curriculum.least": None,
    "curriculum.explore": None,
    "curriculum.floor": None,
    "curriculum.drop": None,
    "model.lora": None,
    "model.quantize": None,
    "model.template_args": {},
    "optim.warmup_from": "step",
    "compute.deterministic": False,
    "compute.zero_stage": "auto",
    "compute.compile": False,
    "compute.kernels": "torch",
    "compute.products": "auto",
    "compute.overlap": False,
    "data.columns": {},
    "data.eval_temperature": None,
    "data.rounds": "first",
    "data.shift": {"column": None, "parts": None, **WAYS},
    "data.system": "error",
    "track.tensorboard": False,
    "track.mlflow": False,
    "track.trackio": False,
    "track.report": True,
    "track.num_token_logps": 0,
}
"""Keys that came after the first runs, each at the value where a run is what it was without it."""

BEFORE_AUTO: dict[str, Any] = {"data.heldout": 32}
"""Keys whose default is auto now, each at the number that it was."""

REMOVED: dict[str, Any] = {
    "optim.state": "float32",
    "decoding.url": None,
    "decoding.url_model": None,
}
"""Keys that went, each at the value where a run is what it is without it; sync.seconds went too,
which decided nothing."""

_LOSS = {"name", "label", "link"}  # where the objective stood in a list of names


def current(tree: dict[str, Any]) -> dict[str, Any]:
    """The same with the class of the loss and its coefficients, and without what went.

    Only of a tree whose loss names no class. A removed key with another value stays, and is refused
    as unknown.
    """
    loss, coef = tree.get("loss"), tree.get("coef")
    if not isinstance(loss, dict) or loss.keys() != _LOSS or not isinstance(coef, dict):
        return tree
    kind = {kind.name: kind for kind in built_in()}.get(str(loss["name"]))
    if kind is None:
        return tree
    given = {**coef, "link": loss["link"]}
    own = {name: KEYS_OF_COEF.get(name, name) for name in kind.coefficients()}
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    tree["loss"] = {"name": loss["name"], "label": loss["label"]}
    tree["loss"] |= {TARGET: f"{OURS}.{kind.__name__}"}
    tree["loss"] |= {name: given[key] for name, key in own.items() if key in given}
    for section in ("anchor", "curriculum"):  # which came later
        tree.setdefault(section, {})
    sections = {key: value for key, value in tree.items() if isinstance(value, dict)}
    for key, value in REMOVED.items():
        section, name = key.split(".")
        if section in sections and name in sections[section] and sections[section][name] == value:
            del sections[section][name]
    sections.get("sync", {}).pop("seconds", None)
    for key, value in ADDED.items():
        section, name = key.split(".")
        if section in sections:
            sections[section].setdefault(name, value)
    return tree
