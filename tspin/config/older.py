"""Configurations of version 0.1.0, as this version writes them: their folders stay good."""

from __future__ import annotations

from typing import Any

from tspin.config.objective import KEYS_OF_COEF, OURS, TARGET, built_in

ADDED: dict[str, Any] = {"model.lora": None, "model.quantize": None}
"""Keys that came after the first runs, each at the value where a run is what it was without it."""

REMOVED: dict[str, Any] = {
    "optim.state": "float32",
    "decoding.url": None,
    "decoding.url_model": None,
}
"""Keys that went, each at the value where a run is what it is without it; sync.seconds too, which
never decided anything."""

_LOSS = {"name", "label", "link"}  # where the objective stood in a list of names


def current(tree: dict[str, Any]) -> dict[str, Any]:
    """The same with the class of the loss and its coefficients, and without what went.

    Only of a tree whose loss names no class. A removed key with another value stays, and is refused
    as unknown.
    """
    loss = tree.get("loss")
    if not isinstance(loss, dict) or loss.keys() != _LOSS:
        return tree
    kind = {kind.name: kind for kind in built_in()}.get(str(loss["name"]))
    sections = ("coef", "decoding", "model", "optim", "sync")
    if kind is None or not all(isinstance(tree.get(section), dict) for section in sections):
        return tree
    given = {**tree["coef"], "link": loss["link"]}
    own = {name: KEYS_OF_COEF.get(name, name) for name in kind.coefficients()}
    loss = {"name": loss["name"], "label": loss["label"], TARGET: f"{OURS}.{kind.__name__}"}
    loss |= {name: given[key] for name, key in own.items() if key in given}
    tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    tree["loss"] = loss
    for key, value in REMOVED.items():
        section, _, name = key.partition(".")
        if name in tree[section] and tree[section][name] == value:
            del tree[section][name]
    tree["sync"].pop("seconds", None)
    for key, value in ADDED.items():
        section, _, name = key.partition(".")
        tree[section] = {name: value, **tree[section]}
    return tree
