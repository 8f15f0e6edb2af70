"""conf/ against the paper, and what config.load lets through. No model; torch for loss_at alone.

Every option is composed by cli.compose, the road of the command line.
"""

import copy
import re
from functools import cache, reduce
from itertools import product
from operator import getitem

import hydra
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspin.cli.compose import compose
from tspin.cli.folders import CONF
from tspin.config.identity import IDENTITY_FREE, history, run_name
from tspin.config.load import dump, load
from tspin.config.schedules import at
from tspin.tools.files import flatten

OPTIONS = {
    group.name: sorted(str(f.relative_to(group).with_suffix("")) for f in group.rglob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name != "hydra"
}
GIVEN = ["model.path=org/model", "data.path=pairs.jsonl"]  # the mandatory values
SPIN_LR = [5e-7, 5e-7, 1e-7, 1e-7]


@cache
def composed(*overrides):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(list(overrides))


def tree(loss="tspin", **changes):
    """Plain values of the default run, with {"section__key": value} changed.

    A change of coef reaches the coefficients of the loss, as the references in conf/loss do.
    """
    values = copy.deepcopy(dump(composed(f"loss={loss}")))
    for key, name in {"alpha": "alpha", "beta": "beta", "lambda": "lam"}.items():
        if f"coef__{key}" in changes and name in values["loss"]:
            values["loss"][name] = changes[f"coef__{key}"]
    for key, value in changes.items():
        section, field = place_of(values, key.replace("__", "."))
        section[field] = value
    return values


def place_of(values, key):
    """The mapping that holds a dotted key, and its name there."""
    *sections, field = key.split(".")
    return reduce(getitem, sections, values), field


def over_iterations(schedule, num=5):
    return [at(schedule, t) for t in range(num)]


# --- conf/ ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("choice", [f"{g}={o}" for g, options in OPTIONS.items() for o in options])
def test_every_option_makes_a_run(choice):
    needs = {"data=file": GIVEN[1:], "model=custom": GIVEN, "model=smollm2": GIVEN[1:]}
    needs |= {"data=verifiable": ["model=smollm2"], "evals=local": ["evals.tasks_dir=FOLDER"]}
    run = composed(choice, *(needs[choice] if choice in needs else []))
    assert load(dump(run)) == run


@pytest.mark.slow
@pytest.mark.parametrize("pair", product(OPTIONS["experiment"], OPTIONS["model"]))
def test_every_experiment_goes_with_every_model(pair):
    experiment, model = pair
    run = composed(f"experiment={experiment}", f"model={model}", *GIVEN)
    assert run.model.name == model


PAPERS = ("sft", "spin", "tspin", "tspin_ref", "wo_ha")  # a model's file names rates for these


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair",
    [*product(PAPERS, OPTIONS["model"]), *product(OPTIONS["loss"], ("micro", "zephyr"))],
)
def test_every_loss_goes_with_every_model(pair):
    loss, model = pair
    run = composed(f"loss={loss}", f"model={model}", *GIVEN)
    assert run.loss.name == {"w/o-H-A": "wo_ha", "dpo": "spin"}.get(loss, loss)


@pytest.mark.parametrize(
    ("choice", "key"),
    [("data=file", "data.path"), ("model=custom data.path=x", "model.path")],
)
def test_mandatory_values_are_asked_for(choice, key):
    with pytest.raises(ValueError, match=rf"^{key} has to be given: {key}=VALUE$"):
        composed(*choice.split())


PAPER = {
    "model.revision": "ac6e600eefcce74f5e8bae1035d4f66019e93190",
    "model.path": "alignment-handbook/zephyr-7b-sft-full",
    "model.template": "alpaca",
    "model.max_length": 2048,
    "data.path": "HuggingFaceH4/ultrachat_200k",
    "data.split": "train_sft",
    "data.size": 50_000,
    "data.mix_last_two": False,
    "loss.name": "tspin",
    "loss.link": "logistic",
    "coef.alpha": 1.0,
    "coef.beta": [0.0, 0.1],
    "coef.lambda": 0.1,
    "optim.name": "rmsprop",
    "optim.weight_decay": 0.0,
    "optim.rms_alpha": 0.99,
    "optim.eps": 1e-8,
    "optim.momentum": 0.0,
    "optim.warmup": 0.1,
    "optim.warmup_from": "zero",
    "optim.schedule": "linear",
    "optim.batch_size": 64,
    "optim.max_grad_norm": None,
    "optim.epochs": 2,
    "optim.schedule_epochs": None,
    "decoding.sample": True,
    "decoding.temperature": 1.0,
    "decoding.top_k": None,
    "decoding.top_p": None,
    "decoding.min_p": None,
    "decoding.max_new_tokens": 256,
    "selfplay.iterations": 5,
    "seed": 0,
}
MISTRAL = {"model.path": "mistralai/Mistral-7B-v0.1", "model.revision": None}


@pytest.mark.parametrize(("model", "own"), [("zephyr", {}), ("mistral", MISTRAL)])
def test_the_papers_numbers(model, own):
    values = flatten(dump(composed(f"model={model}", "loss=tspin")))
    expected = PAPER | own
    assert {key: values[key] for key in expected} == expected


def test_the_papers_template_has_no_trailing_space():
    from tspin.data.templates import TEXT_TEMPLATES

    template = TEXT_TEMPLATES[composed("model=zephyr").model.template]
    assert template.text == "### Instruction: {prompt}\n\n### Response:"
    code = TEXT_TEMPLATES[composed("model=zephyr", "experiment=spin_code").model.template]
    assert code.text == "### Instruction: {prompt}\n\n### Response: "


@pytest.mark.parametrize("model", ["zephyr", "mistral"])
def test_the_paper_is_the_default_of_its_models(model):
    assert composed(f"model={model}", "experiment=paper") == composed(f"model={model}")


# Row by row the table of presets: the paper, the code of SPIN, the paper of SPIN.
PRESETS = {
    "max_length": (2048, 1024, 1024),
    "max_prompt_length": (2048 - 256, 512, 512),
    "lr": ([5e-7, 5e-7, 1e-7, 1e-7, 1e-7], [*SPIN_LR, 1e-7], [*SPIN_LR, 1e-7]),
    "epochs": (2, 3, 2),
    "schedule_epochs": (2, 6, 2),
    "mix_last_two": (False, True, True),
    "lambda": ([0.1] * 5, [0.1, 0.1, 0.1, 5.0, 5.0], [0.1, 0.1, 0.1, 5.0, 5.0]),
    "sample": (True, False, True),
    "temperature": (1.0, 1.0, 1.0),
    "max_new_tokens": (256, 256, 256),
}


@pytest.mark.parametrize("column", range(3), ids=["paper", "spin_code", "spin_paper"])
def test_the_three_presets(column):
    run = composed("model=zephyr", f"experiment={['paper', 'spin_code', 'spin_paper'][column]}")
    assert {
        "max_length": run.model.max_length,
        "max_prompt_length": run.max_prompt_length,
        "lr": over_iterations(run.optim.lr),
        "epochs": run.optim.epochs,
        "schedule_epochs": run.optim.schedule_epochs or run.optim.epochs,
        "mix_last_two": run.data.mix_last_two,
        "lambda": over_iterations(run.coef.lam),
        "sample": run.decoding.sample,
        "temperature": run.decoding.temperature,
        "max_new_tokens": run.decoding.max_new_tokens,
    } == {row: columns[column] for row, columns in PRESETS.items()}


def test_the_sft_baseline():
    """Table 1: 200k pairs, 2 epochs; the Alignment Handbook's AdamW, 2e-5, cosine."""
    run = composed("model=zephyr", "loss=sft", "size=200k", "optim=adamw")
    assert (run.data.size, run.optim.epochs) == (200_000, 2)
    assert (run.optim.name, run.optim.lr, run.optim.schedule) == ("adamw", 2e-5, "cosine")
    assert run.optim.weight_decay == 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["micro", "micro_open_weak", "smollm2"])
def test_small_models_keep_their_optimiser_for_sft(model):
    data = ["data.path=pairs.jsonl"] if model == "smollm2" else []
    sft, usual = (
        composed(f"model={model}", "loss=sft", f"optim={optim}", *data).optim
        for optim in ("sft", "paper")
    )
    assert sft == usual


@pytest.mark.slow
def test_sizes_are_what_they_are_called():
    sizes = {
        option: composed("data=ultrachat", f"size={option}").data.size for option in OPTIONS["size"]
    }
    assert sizes.pop("all") is None
    assert sizes == {option: int(option.removesuffix("k")) * 1000 for option in sizes}
    assert {14_000, 26_000, 50_000, 100_000, 200_000} <= set(sizes.values())  # Figure 4a


# --- schedules -----------------------------------------------------------------------------------

positive = st.floats(1e-9, 1e3)


@given(positive, st.integers(0, 100))
def test_a_scalar_holds_in_every_iteration(value, t):
    assert at(value, t) == value


@given(st.lists(positive, min_size=1, max_size=6), st.integers(0, 20))
def test_the_last_value_of_a_list_repeats(values, t):
    assert at(values, t) == (values[t] if t < len(values) else values[-1])
    assert at(values, t) == at([*values, values[-1]], t)


@pytest.mark.parametrize("loss", ["tspin", "tspin_ref"])
@pytest.mark.parametrize("beta", [0.1, [0.0, 0.1], [0.1], 0.0])
def test_beta_is_zero_at_iteration_0_whatever_the_schedule(loss, beta):
    run = load(tree(loss, coef__beta=beta))
    assert run.loss_at(0).roles == ("annotated", "synthetic")  # no third forward
    for t in (0, 1):
        _, coefficients = run.loss_at(t).key()
        assert coefficients.get("beta", 0) == (at(beta, 1) if t else 0)
        assert ("proto" in run.loss_at(t).roles) == (coefficients.get("beta", 0) > 0)


def test_without_the_historical_term_an_objective_is_its_plainer_relative():
    link = {"link": "logistic"}
    assert load(tree(loss="tspin")).loss_at(0).key() == ("wo_ha", {"alpha": 1.0} | link)
    assert load(tree(loss="tspin_ref")).loss_at(0).key() == ("spin", {"lam": 1.0} | link)
    beta = {"alpha": 1.0, "beta": 0.1} | link
    assert load(tree(loss="tspin")).loss_at(1).key() == ("tspin", beta)
    assert load(tree(loss="tspin_ref", coef__beta=0)).loss_at(1).key()[0] == "spin"


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"loss": "tspin"}, {"loss": "wo_ha"}, [True, False]),
        ({"coef__beta": 0.3}, {"coef__beta": 0.5}, [True, False]),
        ({"coef__beta": 0}, {"loss": "wo_ha"}, [True, True]),
        ({"coef__alpha": 0.3}, {"coef__alpha": 0.5}, [False, False]),
        ({"coef__alpha": [1, 0.5]}, {}, [True, False]),
        ({"coef__lambda": 0.3}, {}, [True, True]),  # tspin does not read it
        ({"selfplay__iterations": 2, "track__wandb": "none", "name": "x"}, {}, [True, True]),
        ({"optim__lr": [1e-3, 1e-4]}, {"optim__lr": 1e-3}, [True, False]),
        ({"seed": 1}, {"seed": 0}, [False, False]),
        ({"optim__epochs": 7}, {}, [False, False]),
        ({"decoding__temperature": 0.5}, {}, [False, False]),
        ({"compute__micro_batch": 3}, {}, [False, False]),  # its last bits
        ({"compute__attention": "plain"}, {}, [False, False]),
    ],
)
def test_what_is_equal_by_definition_has_equal_histories(one, other, equal):
    mine, theirs = load(tree(**one)), load(tree(**other))
    assert [history(mine, t) == history(theirs, t) for t in (0, 1)] == equal


def test_a_curriculum_is_no_part_of_where_all_prompts_are_chosen():
    """Iteration 0, and a run without one, whose keys are what they were before there were any."""
    plain, gate = load(tree()), load(tree(curriculum__prompts="gate", curriculum__share=0.5))
    less = load(tree(curriculum__prompts="gate", curriculum__share=0.4))
    assert history(plain, 0) == history(gate, 0) == history(less, 0)
    assert not any("curriculum" in key for facts in history(plain, 2) for key in facts)
    assert len({str(history(run, 1)) for run in (plain, gate, less)}) == 3
    assert plain.curriculum_at(1) is gate.curriculum_at(0) is None
    assert gate.curriculum_at(1) == gate.curriculum


def test_each_loss_gets_its_own_coefficients():
    changes = {"coef__alpha": [0.3, 0.5], "coef__beta": [0, 0.2], "coef__lambda": [0.7, 5]}
    spin = load(tree(loss="spin", **changes))
    assert [spin.loss_at(t).lam for t in (0, 1, 2)] == [0.7, 5, 5]
    for loss in ("tspin", "tspin_ref", "wo_ha"):
        run = load(tree(loss, loss__link="exponential", **changes))
        assert [run.loss_at(t).alpha for t in (1, 2)] == [0.5, 0.5]
        assert run.loss_at(0).key()[1] in ({"alpha": 0.3, "link": "exponential"},
                                       {"lam": 0.3, "link": "exponential"})  # fmt: skip
        assert run.loss_at(1).link == "exponential"
    assert load(tree(loss="sft")).loss_at(1).roles == ("annotated",)


def test_sft_samples_only_for_diagnostics():
    assert not load(tree(loss="sft")).samples
    assert load(tree(loss="sft", track__diagnostics=True)).samples
    assert load(tree()).samples


# --- load and dump -------------------------------------------------------------------------------

schedules = positive | st.lists(positive, min_size=1, max_size=4)
CHANGES = {
    "seed": st.integers(0, 2**32 - 1),
    "model__path": st.text(min_size=1, max_size=40).filter(lambda text: text != "None"),
    "model__revision": st.none() | st.sampled_from(["main", "v1", "a/b", "a-b", "a_b", "a=b"]),
    "model__max_prompt_length": st.none() | st.integers(1, 54),
    "loss": st.sampled_from(["sft", "spin", "tspin", "tspin_ref", "wo_ha"]),
    "coef__alpha": schedules,
    "coef__beta": positive | st.lists(positive, max_size=4).map(lambda betas: [0.0, *betas]),
    "coef__lambda": schedules,
    "data__path": st.sampled_from(["micro", "a/b", "a_b", "b", "x-size=5", "pairs.jsonl"]),
    "data__revision": st.none() | st.sampled_from(["main", "v1", "a/b", "a-b", "a_b", "a=b"]),
    "data__size": st.none() | st.integers(1, 10**6),
    "data__seed": st.integers(0, 3),
    "optim__lr": schedules,
    "optim__batch_size": st.sampled_from([8, 16, 32]),
    "decoding__batch_size": st.sampled_from([8, 16, 32, 128]),
    "decoding__sample": st.booleans(),
    "compute__attention": st.sampled_from(["auto", "shared", "separate", "plain"]),
    "compute__max_tokens": st.none() | st.integers(1, 10**5),
    "compute__threads": st.none() | st.integers(1, 4),
    "track__wandb": st.sampled_from(["online", "offline", "none"]),
    "track__tags": st.lists(st.text(max_size=5), max_size=2),
    "selfplay__start_from": st.none() | st.sampled_from(["runs/a/iter_0", "runs/a_iter_0"]),
}
changes = st.sets(st.sampled_from(sorted(CHANGES)), max_size=6).flatmap(
    lambda keys: st.fixed_dictionaries({key: CHANGES[key] for key in sorted(keys)})
)


@settings(deadline=None)
@given(changes)
def test_load_and_dump_are_inverse(changed):
    run = load(tree(**changed))
    assert load(dump(run)) == run
    assert dump(load(dump(run))) == dump(run)
    for key, value in changed.items():
        assert flatten(dump(run))["loss.name" if key == "loss" else key.replace("__", ".")] == value


def test_nothing_has_a_second_default():
    """Leaving out any one key is an error that names it."""
    for key in flatten(tree()):
        values = tree()
        section, field = place_of(values, key)
        del section[field]
        with pytest.raises(ValueError, match=rf"^{key} is not set"):
            load(values)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": "x"}, ["seed='x'", "whole number"]),
        ({"seed": -1}, ["seed=-1", "0"]),
        ({"coef__alpha": "x"}, ["coef.alpha='x'", "number", "list"]),
        ({"coef__alpha": float("nan")}, ["coef.alpha=nan", "finite"]),
        ({"optim__lr": [1e-7, float("inf")]}, ["optim.lr.1=inf", "finite"]),
        ({"loss__name": "d/po"}, ["loss.name='d/po'"]),
        ({"loss__link": "hinge"}, ["loss.link='hinge'", "logistic", "exponential"]),
        ({"model__template": "x"}, ["model.template='x'", "alpaca_space", "chat", "none"]),
        ({"track__wandb": "x"}, ["track.wandb='x'", "online", "offline", "none"]),
        ({"compute__device": "gpu"}, ["compute.device='gpu'", "auto|cpu|cuda"]),
        ({"compute__dtype": "fp16"}, ["compute.dtype='fp16'", "bfloat16"]),
        ({"compute__attention": "flash"}, ["compute.attention='flash'", "'separate' or 'plain'"]),
        ({"data__eval_split": "dev"}, ["data.eval_split='dev'", "validation", "test"]),
        ({"data__size": 0}, ["data.size=0", "1"]),
        ({"data__path": ""}, ["data.path=''"]),
        ({"runs_dir": ""}, ["runs_dir=''"]),
        ({"model__name": "../x"}, ["model.name='../x'"]),
        ({"optim__warmup": 1.0}, ["optim.warmup=1.0", "less than 1"]),
        ({"optim__betas": [0.9, 1.5]}, ["optim.betas.1=1.5", "less than 1"]),
        ({"data__revision": "None"}, ["data.revision=None", "data.revision=null"]),
        ({"coef__alhpa": 1}, ["coef.alhpa", "did you mean alpha?", "alpha, beta, lambda"]),
        ({"sed": 1}, ["key sed", "did you mean seed?", "runs_dir"]),
    ],
)
def test_a_wrong_value_is_named_with_what_it_may_be(changed, says):
    with pytest.raises(ValueError) as error:
        load(tree(**changed))
    message = str(error.value)
    assert type(error.value) is ValueError and "\n" not in message
    assert all(word in message for word in says), message


def test_every_wrong_value_is_named_at_once():
    with pytest.raises(ValueError, match=r"loss.link='x'.*optim.epochs=0"):
        load(tree(loss__link="x", optim__epochs=0))


# --- rules between fields ------------------------------------------------------------------------


def refused(**changed):
    with pytest.raises(ValueError) as error:
        load(tree(**changed))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_embedded_policies_stay_with_their_own_tasks():
    """A folder of the task's name is other data."""
    for path, task in {"micro:warm": "micro", "micro_open:main": "micro_open"}.items():
        message = refused(data__path="verifiable", model__path=path)
        assert "data=verifiable is in English" in message and f"use data={task}" in message
    assert composed("model=smollm2", "data=verifiable").data.path == "verifiable"
    load(tree(data__path="./verifiable"))


@given(st.integers(2, 64), st.integers(1, 64), st.none() | st.integers(1, 64))
def test_prompt_and_response_fit_into_max_length(max_length, new, prompt):
    changed = {
        "model__max_length": max_length,
        "decoding__max_new_tokens": new,
        "model__max_prompt_length": prompt,
    }
    if (prompt or 1) + new <= max_length:
        run = load(tree(**changed))
        assert run.max_prompt_length == (prompt or max_length - new) >= 1
    else:
        message = refused(**changed)
        assert f"decoding.max_new_tokens={new} " in message
        assert f"model.max_length={max_length}," in message and "model.max_prompt_length" in message


@pytest.mark.parametrize("key", ["coef.alpha", "coef.beta", "coef.lambda", "optim.lr"])
@pytest.mark.parametrize("value", [-1.0, [0.0, -0.1], []])
def test_schedules_have_a_sign_and_a_value(key, value):
    assert f"{key}={value} must be" in refused(**{key.replace(".", "__"): value})


@pytest.mark.parametrize("key", ["coef.alpha", "coef.lambda", "optim.lr"])
@pytest.mark.parametrize("value", [0.0, [1.0, 0.0]])
def test_only_beta_may_be_zero(key, value):
    assert f"{key}={value} must be above 0" in refused(**{key.replace(".", "__"): value})
    assert load(tree(coef__beta=0.0)).coef.beta == 0


@given(st.lists(positive, min_size=2, max_size=4))
def test_a_list_of_betas_begins_with_0(betas):
    assert f"coef.beta={betas} must begin with 0" in refused(coef__beta=betas)
    assert load(tree(coef__beta=[0.0, *betas])).coef.beta == [0.0, *betas]
    assert f"loss.beta={betas} must begin with 0" in refused(loss__beta=betas)
    assert load(tree(loss__beta=[0.0, *betas])).loss.coefficients["beta"] == [0.0, *betas]


GATE = {"curriculum__prompts": "gate", "curriculum__share": 0.5}


@pytest.mark.parametrize(
    ("loss", "changed", "says"),
    [
        ("tspin", {"curriculum__share": 0.5}, ["curriculum.share=0.5 is not read"]),
        ("tspin", GATE | {"curriculum__drop": "tails"}, ["curriculum.drop=tails is not read"]),
        ("tspin", GATE | {"curriculum__least": 0.1}, ["one of", "share=0.5", "least=0.1"]),
        ("tspin", {"curriculum__prompts": "gate"}, ["one of curriculum.share=None"]),
        ("tspin", {"curriculum__prompts": "random"}, ["curriculum.share is not set"]),
        ("tspin", GATE | {"curriculum__share": 1.0}, ["curriculum.share=1.0", "less than 1"]),
        ("tspin", GATE | {"data__mix_last_two": True}, ["data.mix_last_two=true"]),
        ("sft", GATE, ["loss=sft compares none", "curriculum=none"]),
        ("sft", GATE | {"track__diagnostics": True}, ["loss=sft compares none"]),
        ("ssd", GATE, ["curriculum=gate goes by", "loss=ssd never loses", "band, random"]),
    ],
)
def test_a_curriculum_that_cannot_be_is_refused(loss, changed, says):
    with pytest.raises(ValueError) as error:
        load(tree(loss, **changed))
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in says), error.value


def test_a_curriculum_without_a_gradient_goes_with_what_never_loses_its_own():
    random = {"curriculum__prompts": "random", "curriculum__share": 0.5}
    assert load(tree("ssd", **random)).curriculum_at(1)


@given(st.integers(1, 5), st.none() | st.integers(1, 5))
def test_the_decay_is_not_over_before_the_epochs_are(epochs, schedule_epochs):
    changed = {"optim__epochs": epochs, "optim__schedule_epochs": schedule_epochs}
    if schedule_epochs is None or schedule_epochs >= epochs:
        assert load(tree(**changed)).optim.schedule_epochs == schedule_epochs
    else:
        message = refused(**changed)
        assert f"optim.schedule_epochs={schedule_epochs} " in message
        assert f"optim.epochs={epochs}:" in message


@pytest.mark.parametrize("name", ["proto", "base", "multirun"])
def test_names_of_shared_folders_are_taken(name):
    with pytest.raises(ValueError, match=f"name={name} is the name of a folder that runs share"):
        load(tree(name=name))


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "\xe9", "a" * 251]
)
def test_a_name_is_one_folder(name):
    assert f"name={name!r} must be one folder name".replace("\n", " ") in refused(name=name)
    assert load(tree(name="A.b,c=1+d@e-f_g")).folder.name == "A.b,c=1+d@e-f_g"


# --- the run's name ------------------------------------------------------------------------------


def name_of(changed):
    values = dump(load(tree(**changed)))
    return run_name(values, tree(seed=values["seed"], data__seed=values["seed"]))


def numbers_of(changed):
    values = flatten(dump(load(tree(**changed))))
    return {key: value for key, value in values.items() if key not in (*IDENTITY_FREE, "name")}


@settings(deadline=None, max_examples=300)
@given(changes, changes)
@pytest.mark.slow
def test_different_configurations_never_share_a_name(one, other):
    assert (name_of(one) == name_of(other)) == (numbers_of(one) == numbers_of(other))


@settings(deadline=None)
@given(st.data(), st.sampled_from(sorted(CHANGES)))
def test_one_key_decides_between_two_names(data, key):
    """The closest two configurations can be; where the last one's examples rarely get."""
    one, other = data.draw(CHANGES[key]), data.draw(CHANGES[key])
    same = numbers_of({key: one}) == numbers_of({key: other})
    assert (name_of({key: one}) == name_of({key: other})) == same


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"model__revision": "v1"}, {"data__revision": "v1"}),  # both end in .revision
        ({"optim__batch_size": 32}, {"decoding__batch_size": 32}),
        ({"data__path": "a/b"}, {"data__path": "a_b"}),  # no slash in a folder's name
        ({"data__path": "x-size=5"}, {"data__path": "x", "data__size": 5}),
        ({"coef__alpha": [0.3]}, {"coef__alpha": 0.3}),
        ({"data__seed": 5}, {}),
        ({"seed": 5}, {"data__seed": 5}),
        ({"data__path": "a" * 300}, {"data__path": "a" * 301}),
    ],
)
def test_near_misses_have_names_of_their_own(one, other):
    assert name_of(one) != name_of(other)


@settings(deadline=None, max_examples=200)
@given(
    st.fixed_dictionaries(
        {
            "model__path": st.text(min_size=1, max_size=400).filter(lambda text: text != "None"),
            "model__revision": st.text(min_size=1).filter(lambda text: text != "None"),
            "coef__alpha": st.lists(positive, min_size=1, max_size=50),
            "seed": st.integers(0, 2**32 - 1),
        }
    )
)
def test_a_name_is_always_a_valid_file_name(changed):
    name = name_of(changed)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.,=+@-]*", name) and len(name) <= 250
    assert load(tree(name=name)).name == name


def test_long_differences_are_digested():
    name = name_of({"coef__alpha": [0.1 * i for i in range(1, 30)]})
    assert re.fullmatch(r"micro-tspin-micro-s0-[0-9a-f]{8}", name)


FREE = {
    "decoding.data_parallel": 2,
    "decoding.tensor_parallel": 2,
    "decoding.gpu_memory": 0.5,
    "compute.save_seconds": 7.0,
    "compute.grace_seconds": 3.0,
    "compute.threads": 3,
    "compute.overlap": True,
    "track.report": False,
    "track.num_token_logps": 0,
    "track.tags": ["x"],
    "selfplay.share": False,
    "selfplay.keep": "last",
    "sync.checkpoints": "last",
    "sync.train_state": False,
    "compute.parallel": "fsdp2",
    "compute.zero_stage": 2,
    "compute.deterministic": True,
    "evals.template": "run",
    "compute.products": "torch",
    **dict.fromkeys(("track.tensorboard", "track.mlflow", "track.trackio"), True),
    **dict.fromkeys(("evals.batch_size", "evals.limit", "evals.max_length"), 3),
}
FREE_KEYS = sorted(key for key in flatten(dump(composed())) if key.startswith(IDENTITY_FREE))


def test_every_free_key_or_section_is_there():
    assert all(any(key.startswith(free) for key in FREE_KEYS) for free in IDENTITY_FREE)


@pytest.mark.parametrize("key", FREE_KEYS)
def test_free_keys_do_not_change_the_name(key):
    value = FREE.get(key, "online" if key == "track.wandb" else "elsewhere")
    assert flatten(tree())[key] != value
    assert name_of({key.replace(".", "__"): value}) == "micro-tspin-micro-s0"


@pytest.mark.parametrize("key", sorted({*flatten(dump(composed()))} - {*FREE_KEYS, "name"}))
def test_every_other_key_does(key):
    values, other = tree(), flatten(tree())[key]
    section, field = place_of(values, key)
    section[field] = f"{other}1"  # any other value: not loaded
    assert run_name(values, tree()) != run_name(tree(), tree())


def test_runs_that_differ_by_seed_alone_are_one_group():
    groups = {composed(f"seed={seed}", "coef.alpha=0.3").group for seed in (0, 1, 12)}
    assert groups == {"micro-tspin-micro-alpha=0.3"}
    assert composed("track.group=mine").group == "mine"
