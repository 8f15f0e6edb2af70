"""The objective that a configuration names: what is refused, by whom it is known, older folders.

The classes of this module are those of somebody's own package.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import yaml
from support.tiny import CONF, compose

from tspin import objectives
from tspin.config.identity import NOT_OF_METHOD, history, run_name, without_copies
from tspin.config.load import dump, load
from tspin.config.objective import built_in
from tspin.objectives import SFT, SPIN, TSPIN, Objective, Range, TSPINRef, WithoutHA
from tspin.runs.artifacts import RunDir
from tspin.tools.files import flatten

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "version_0_1_0" / "runs"


class Silent(Objective):
    """What every class below says: its roles, and a loss."""

    roles = ("annotated", "synthetic")

    def __call__(self, policy, reference=None):
        return -policy.annotated, {}


@dataclass(frozen=True)
class Mine(Silent):
    gamma: Annotated[float, Range("between 0 and 1", lambda value: 0 <= value <= 1)]


@dataclass(frozen=True)
class Twin(Mine):
    """Other arithmetic, equal coefficients."""


@dataclass(frozen=True)
class Named(Mine):
    name: ClassVar[str] = "mine"


@dataclass(frozen=True)
class Thief(Mine):
    name: ClassVar[str] = "tspin"


@dataclass(frozen=True)
class NoRoles(Objective):
    def __call__(self, policy, reference=None):
        return -policy.annotated, {}


@dataclass(frozen=True)
class NoCall(Objective):
    roles = ("annotated",)


@dataclass(frozen=True)
class WrongRoles(Silent):
    roles = ("annotatd",)


class NoDataclass(Silent):
    gamma: float


@dataclass(frozen=True)
class Choosy(Silent):
    low: float
    high: float

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError(f"low={self.low} is above high={self.high}")


@dataclass(frozen=True)
class Puzzle(Silent):
    gamma: "Missing"  # noqa: F821


def tree(kind, **coefficients):
    """Plain values of the default run with an objective of this module."""
    values = copy.deepcopy(dump(compose()))
    target = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
    values["loss"] = {"name": "mine", "label": "Mine", "_target_": target, **coefficients}
    return values


def refused(kind, **coefficients):
    with pytest.raises(ValueError) as error:
        load(tree(kind, **coefficients))
    assert type(error.value) is ValueError and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tspin.objectives.TSPN", ["unknown class TSPN", "did you mean TSPIN?", "SPIN, TSPIN"]),
        ("nowhere_at_all.Mine", ["nowhere_at_all.Mine cannot be imported", "installed", "in /"]),
        ("TSPIN", ["_target_=TSPIN is no MODULE.CLASS", "tspin.objectives.TSPIN"]),
        ("os.getcwd", ["os.getcwd is no class but of type builtin"]),
        ("pathlib.Path", ["pathlib.Path is no objective", "derive it from", "roles"]),
        ("tspin.objectives.Objective", ["Objective is no objective", "derive"]),
        (NoRoles, ["NoRoles has no roles", "roles = ('annotated', 'synthetic')"]),
        (NoCall, ["NoCall has no __call__"]),
        (WrongRoles, ["roles=('annotatd',)", "some of annotated, synthetic, proto"]),
        (NoDataclass, ["is no dataclass", "@dataclass(frozen=True)"]),
        (Thief, ["Thief calls itself tspin", "tspin.objectives.TSPIN", "rename it"]),
        (Puzzle, ["Puzzle", "types of its fields", "Missing"]),
    ],
)  # fmt: skip
def test_what_is_no_objective_is_refused_in_one_line(kind, words):
    message = refused(kind)
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Mine, {}, ["loss.gamma is not set", "Mine"]),
        (Mine, {"gama": 1}, ["unknown coefficient loss.gama", "did you mean gamma?"]),
        (SFT, {"alpha": 1.0}, ["unknown coefficient loss.alpha of tspin.objectives.sft.SFT"]),
        (Mine, {"gamma": "x"}, ["loss.gamma='x' must be a number"]),
        (Mine, {"gamma": [0.5, float("nan")]}, ["loss.gamma=nan", "finite"]),
        (Mine, {"gamma": 2}, ["loss.gamma=2.0 must be between 0 and 1", "one per iteration"]),
        (Mine, {"gamma": [0.5, 2]}, ["loss.gamma=[0.5, 2.0] must be between 0 and 1"]),
        (Mine, {"gamma": []}, ["loss.gamma=[] must be between 0 and 1"]),
        (SPIN, {"lam": 0, "link": "logistic"}, ["loss.lam=0.0 must be above 0"]),
        (TSPIN, {"alpha": 1, "beta": -1, "link": "logistic"}, ["loss.beta=-1.0 must be at least"]),
        (WithoutHA, {"alpha": 1, "link": "hinge"}, ["loss.link='hinge'", "'exponential'"]),
        (Choosy, {"low": [0, 2], "high": 1}, ["iteration 1", "low=2.0 is above high=1.0"]),
    ],
)
def test_what_coefficients_cannot_be(kind, given, words):
    message = refused(kind, **given)
    assert all(word in message for word in words), message


def test_a_module_that_fails_is_named_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "broken_objective.py").write_text("raise RuntimeError('one\\ntwo')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "cannot be imported (RuntimeError: one two)" in refused("broken_objective.Mine")


def test_a_coefficient_may_change_over_iterations():
    run = load(tree(Mine, gamma=[1, 0.5]))
    assert [run.loss_at(t).gamma for t in (0, 1, 2)] == [1.0, 0.5, 0.5]
    assert dump(run)["loss"]["gamma"] == [1.0, 0.5] and load(dump(run)) == run


# --- what iterations are known by ----------------------------------------------------------------


def test_keys_of_iterations_are_those_of_version_0_1_0():
    link = {"link": "logistic"}
    keys = {loss: [compose(f"loss={loss}").loss_at(t).key() for t in (0, 1)]
            for loss in ("sft", "spin", "tspin", "tspin_ref", "wo_ha")}  # fmt: skip
    wo_ha, spin = ("wo_ha", {"alpha": 1.0} | link), ("spin", {"lam": 1.0} | link)
    beta = {"alpha": 1.0, "beta": 0.1} | link
    assert keys == {
        "sft": [("sft", {})] * 2,
        "spin": [spin] * 2,
        "tspin": [wo_ha, ("tspin", beta)],
        "tspin_ref": [spin, ("tspin_ref", beta)],
        "wo_ha": [wo_ha] * 2,
    }


def test_two_classes_never_share_an_iteration_by_accident():
    """Neither the file's name nor a base class makes two objectives one; a name of its own does."""
    mine, twin = (load(tree(kind, gamma=0.5)) for kind in (Mine, Twin))
    assert mine.loss_at(0).key() == (f"{__name__}.Mine", {"gamma": 0.5})
    assert twin.loss_at(0).key()[0] == f"{__name__}.Twin"
    assert history(mine, 0) != history(twin, 0)
    assert load(tree(Named, gamma=0.5)).loss_at(0).key()[0] == "mine"
    renamed = tree(Mine, gamma=0.5)
    renamed["loss"]["name"] = renamed["loss"]["label"] = "other"
    assert history(load(renamed), 1) == history(mine, 1)


def test_the_built_in_ones_have_names_of_their_own():
    names = [kind.name for kind in built_in()]
    assert len(set(names)) == len(names)
    assert {*names} == {file.stem for file in (CONF / "loss").glob("*.yaml")} - {"dpo"}
    assert TSPINRef in built_in() and Objective not in built_in()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["coef.alpha=0.3"], "micro-tspin-micro-s0-alpha=0.3"),
        (["loss.link=exponential"], "micro-tspin-micro-s0-link=exponential"),
        (["coef.alpha=0.3", "lora=default"], "coef.alpha=0.3"),
        (["loss=spin", "coef.lambda=0.3"], "micro-spin-micro-s0-lambda=0.3"),
        (["loss.alpha=0.3"], "micro-tspin-micro-s0-loss.alpha=0.3"),
        (["coef.alpha=0.3", "loss.alpha=1"], "micro-tspin-micro-s0-coef.alpha=0.3-loss.alpha=1.0"),
    ],
)
def test_a_name_says_a_coefficient_once(words, name):
    usual = dump(compose(*(word for word in words if word.startswith("loss="))))
    assert name in run_name(dump(compose(*words)), usual)


def test_what_repeats_coef_makes_no_other_method():
    values = flatten(dump(compose("coef.alpha=0.3")))
    assert {k for k in without_copies(values) if k.startswith("loss.")} == {
        "loss.name", "loss.label", "loss._target_", "loss.link"}  # fmt: skip
    assert "loss._target_" in NOT_OF_METHOD and "loss.link" not in NOT_OF_METHOD


# --- folders of version 0.1.0 --------------------------------------------------------------------


def older(run):
    """config.yaml as version 0.1.0 would have written it."""
    values = copy.deepcopy(dump(run))
    loss = values["loss"]
    values["loss"] = {"link": "logistic"} | {
        k: loss[k] for k in ("name", "label", "link") if k in loss
    }
    values["optim"]["state"] = "float32"
    return values


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["sft", "spin", "tspin", "tspin_ref", "wo_ha"])
def test_an_older_configuration_is_read_as_todays(loss, tmp_path):
    run = compose(f"loss={loss}", "coef.alpha=0.3", "coef.lambda=0.7", "coef.beta=[0,0.2,0.4]")
    before = older(run)
    assert load(copy.deepcopy(before)) == run
    RunDir(tmp_path).config.write_text(yaml.safe_dump(before), encoding="utf-8")
    RunDir(tmp_path).claim(dump(run), free=())
    with pytest.raises(
        ValueError, match="another configuration: coef.alpha .there 0.3, here 0.5.[.] Give"
    ):
        other = compose(
            f"loss={loss}", "coef.alpha=0.5", "coef.lambda=0.7", "coef.beta=[0,0.2,0.4]"
        )
        RunDir(tmp_path).claim(dump(other), free=())


def test_a_kept_folder_of_version_0_1_0_is_read():
    run = load(yaml.safe_load((GOLDEN / "whole" / "config.yaml").read_text(encoding="utf-8")))
    assert run.loss.target == f"{objectives.__name__}.TSPIN"
    assert run.loss_at(1).beta == 0.1


def test_what_went_is_not_read_as_something_else():
    before = older(compose())
    before["optim"]["state"] = "8bit"
    with pytest.raises(ValueError, match="unknown key optim.state"):
        load(before)
    before = older(compose())
    before["loss"]["name"] = "dpo"
    with pytest.raises(ValueError, match="loss._target_ is not set"):
        load(before)
