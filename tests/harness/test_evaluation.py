"""The harness from inside: prompts as trained, answers scored as asked, numbers by hand."""

import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import langdetect
import pytest
import torch
from lm_eval.api.model import LM
from support import hub
from support.tiny import compose, micro_tokenizer
from tokenizers.processors import TemplateProcessing

from tspin.data import annotated
from tspin.data.templates import Conversation, Rendering
from tspin.data.tokens import Renderer
from tspin.harness import evaluation, numbers, tasks
from tspin.runs.evaluation import of_verdicts
from tspin.stages.evaluate import Grader
from tspin.verifiable.task import KINDS

pytestmark = pytest.mark.slow

WANTED = {"shots": None, "metric": None}
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("harness")
    hub.write(root / "hub")
    hub.checkpoint(root / "policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NLTK_DATA", str(hub.punkt(root / "nltk")))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        datasets.disable_caching()  # as main does
        yield root
        datasets.enable_caching()


@pytest.fixture
def in_hub(place, monkeypatch):
    monkeypatch.chdir(place / "hub")


@pytest.fixture
def request_of(place):
    def make(**settings):
        return {
            "policy": str(place / "policy"),
            "template": "none",
            "limit": None,
            "batch_size": 8,
            "max_length": None,
            "compute": vars(compose("compute.device=cpu").compute),
            "precision": "fp32_master",
            "quantize": None,
        } | settings

    return make


def evaluate(lm, task, request, shots=None):
    return evaluation.run(lm, tasks.task_manager([task], None), task, shots, request)


class Oracle(LM):
    """Finds the right one of the four colours in the prompt; remembers prompts."""

    device = torch.device("cpu")
    model = SimpleNamespace(dtype=torch.float32)
    max_length = 100

    def __init__(self):
        super().__init__()
        self.seen = []

    def loglikelihood(self, requests, disable_tqdm=False):
        self.seen += [request.args[0] for request in requests]
        right = [re.search(r"(\(.\)) brown", request.args[0])[1] for request in requests]
        return [
            (0.0 if r in q.args[1] else -9.0, True) for r, q in zip(right, requests, strict=True)
        ]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


# --- documents -----------------------------------------------------------------------------------


def test_gpqa_is_scored_in_the_order_it_is_asked_in(in_hub, request_of):
    """Who reads the answers is always right; the order is the same whatever was drawn before."""
    orders = []
    for task in ("leaderboard_gpqa", "leaderboard_gpqa", "leaderboard_gpqa_diamond"):
        oracle = Oracle()
        result = evaluate(oracle, task, request_of())
        assert result["metrics"]["acc_norm,none"]["value"] == 1.0
        orders.append(oracle.seen)
    whole, again, alone = orders
    assert whole == again
    assert whole[: len(alone)] == alone
    assert len({re.search(r"(\(.\)) brown", prompt)[1] for prompt in whole}) > 1


def test_documents_are_processed_once_per_split():
    calls = []
    process = evaluation.once(lambda split: calls.append(split) or [len(calls)])
    train, test = ["a"], ["a"]
    assert [process(train), process(test), process(train)] == [[1], [2], [1]]


def test_languages_are_told_the_same_way_twice(monkeypatch):
    """IFEval asks langdetect, which for this text says Finnish or Polish as it happens to draw."""
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", None)
    evaluation.seed_everything()
    assert len({langdetect.detect("Otec matka syn.") for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("task", "shots", "used"),
    [("winogrande", None, 0), ("winogrande", 2, 2), ("leaderboard_gpqa_main", 3, 0)],
)
def test_examples(in_hub, request_of, task, shots, used):
    """A task's own number without one of ours; lm-eval never overrides a 0 of the task."""
    lm = evaluation.language_model(request_of(limit=1))
    result = evaluate(lm, task, request_of(limit=1), shots)
    assert (result["num_fewshot"], result["n"]) == (used, 1)
    assert result["harness"]["limit"] == 1


def test_prompts_that_lose_their_beginning_are_counted(in_hub, request_of):
    """Two answers to each of three sentences, all longer than 16 characters."""
    request = request_of(max_length=16)
    result = evaluate(evaluation.language_model(request), "winogrande", request)
    assert result["truncated"] == 6


class Answers(LM):
    """Gives these, in the documents' order."""

    device = torch.device("cpu")
    model = SimpleNamespace(dtype=torch.float32)
    max_length = 100
    tokenizer_name = "none"

    def __init__(self, texts):
        super().__init__()
        self.texts = dict(texts)

    def generate_until(self, requests, disable_tqdm=False):
        return [self.texts[request.args[0]] for request in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError


def test_the_verifiable_task_counts_as_eval_json_does(tmp_path, request_of):
    """Right, loosely right, half right and wrong answers to all of its prompts: each number and
    error, and the prompts are those that a run holds out."""
    data = compose("model=smollm2", "data=verifiable").data
    pairs = annotated.load(replace(data, size=1)).heldout
    spoil = [str, "Sure:\n{}".format, str.lower, "{}, {{".format]
    texts = [(pair.prompt, spoil[i % 4](pair.annotated)) for i, pair in enumerate(pairs)]
    result = evaluate(Answers(texts), "verifiable", request_of(), 0)

    grader = Grader(annotated.checker(data), None, annotated.judge(data))
    rows = [
        row | grader.grade({"prompt": prompt}, row) | {"id": prompt}
        for prompt, text in texts
        for row in [{"response": text, "finish_reason": "stop"}]
    ]
    ours = of_verdicts(rows)
    named = {
        "inst_level_strict_acc": "instruction_strict",
        "inst_level_loose_acc": "instruction_loose",
        "prompt_level_loose_acc": "prompt_loose",
        **{f"strict_{kind}": f"strict_{kind}" for kind in KINDS},
    }
    for theirs, own in named.items():
        assert 0 < ours[own]["value"] < 1
        found = result["metrics"][f"{theirs},none"]
        assert found == pytest.approx({key: ours[own][key] for key in ("value", "stderr")}), theirs
    right = sum(row["correct"] for row in rows) / len(rows)
    assert result["metrics"]["prompt_level_strict_acc,none"]["value"] == pytest.approx(right)
    assert result["n"] == len(pairs) == data.heldout


# --- templates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("template", ["alpaca", "alpaca_space"])
def test_a_prompt_and_its_answer_are_the_ids_of_training(request_of, template):
    lm = evaluation.language_model(request_of(template=template))
    trained = Renderer(micro_tokenizer(), template)
    for system in (None, "Be brief."):
        turns = [{"role": "system", "content": f"{system}\n\n"}] if system else []
        text = lm.apply_chat_template([*turns, {"role": "user", "content": "a {b} c"}])
        context, answer = lm._encode_pair(text, "yes")
        assert context == trained.prompt_ids(Conversation("a {b} c", system))
        assert [*answer, trained.eos_id] == trained.response_ids("yes")


# The tokenizer puts BOS before a text, the template too; a space stands before the answer.
SPACED = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}"
    "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
THINKS = CHAT.replace(
    "<assistant>{% endif %}", "<assistant>{% if not quick %}<think>{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    "template, how", [(CHAT, {}), (SPACED, {}), (THINKS, {}), (THINKS, {"quick": True})]
)
def test_under_chat_a_prompt_and_its_answer_are_the_ids_of_training(
    place, request_of, tmp_path, template, how
):
    policy = shutil.copytree(place / "policy", tmp_path / "policy")
    tokenizer = micro_tokenizer()
    tokenizer.chat_template = template
    tokenizer.bos_token = begin = tokenizer.eos_token
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(policy)
    request = request_of(policy=str(policy), template="chat", template_args=how)
    lm = evaluation.language_model(request)
    context = lm.apply_chat_template([{"role": "user", "content": "a {b} c"}])
    trained = Renderer(lm.tokenizer, Rendering("chat", how))
    prompt, response = trained.pair_ids(Conversation("a {b} c"), "yes")
    ids, answer = lm._encode_pair(context, " yes")
    assert ids == prompt and [*answer, trained.eos_id] == response
    batch, _ = lm.tok_batch_encode([context])
    assert batch[0].tolist() == prompt


def test_an_answer_that_has_begun_goes_on_as_it_is(place, request_of, tmp_path):
    policy = shutil.copytree(place / "policy", tmp_path / "policy")
    tokenizer = micro_tokenizer()
    tokenizer.chat_template = SPACED
    tokenizer.save_pretrained(policy)
    lm = evaluation.language_model(request_of(policy=str(policy), template="chat"))
    turns = [("user", "a"), ("assistant", "The answer is")]
    context = lm.apply_chat_template([{"role": r, "content": c} for r, c in turns])
    assert context.endswith("[/INST] The answer is")
    ids, answer = lm._encode_pair(context, " yes")
    assert lm.tokenizer.decode(ids) == context and lm.tokenizer.decode(answer) == " yes"


def test_examples_stand_in_the_one_user_turn(in_hub, request_of, monkeypatch):
    seen = []
    request = request_of(template="alpaca", limit=1)
    lm = evaluation.language_model(request)
    monkeypatch.setattr(lm, "loglikelihood", lambda requests: seen.extend(requests) or
                        [(0.0, True)] * len(requests))  # fmt: skip
    result = evaluate(lm, "leaderboard_bbh_navigate", request)
    assert result["harness"]["template"] == "alpaca"
    context, answer = seen[0].args
    assert context.count("### Instruction:") == context.count("### Response:") == 1
    assert context.endswith("Case 0: which?\nA:\n\n### Response:")
    assert context.index("\n\n### Instruction: Q: ") > 0  # the task's description, then examples
    assert context.count("Q: ") == 4
    assert answer == "Yes"


# --- numbers -------------------------------------------------------------------------------------


def sample(strict):
    return {
        "prompt_level_strict_acc": all(strict),
        "inst_level_strict_acc": strict,
        "prompt_level_loose_acc": True,
        "inst_level_loose_acc": [True] * len(strict),
    }


def test_instructions_followed_by_hand():
    """Three prompts, 2 + 1 + 1 instructions: P = 1/3, R = 2/4, mean = 5/12.

    mean(m) = 4/3, so e = ((1 - 1), (1 - 1/2), (0 - 1/2)) * 3/4 = (0, 3/8, -3/8), and
    d = (p - 1/3 + e) / 2 = (-1/3, 2/3 + 3/8, -1/3 - 3/8) / 2 = (-8, 25, -17) / 48.
    """
    found = numbers.instructions_followed([sample([True, False]), sample([True]), sample([False])])
    assert found["inst_level_strict_acc,none"]["value"] == 0.5
    variance = 2 * (3 / 8) ** 2 / (3 * 2)
    assert found["inst_level_strict_acc,none"]["stderr"] == pytest.approx(math.sqrt(variance))
    assert found["strict_acc_mean,none"]["value"] == pytest.approx(5 / 12)
    variance = (8**2 + 25**2 + 17**2) / 48**2 / (3 * 2)
    assert found["strict_acc_mean,none"]["stderr"] == pytest.approx(math.sqrt(variance))
    assert found["loose_acc_mean,none"] == {"value": 1.0, "stderr": 0.0}


def test_with_one_instruction_each_the_two_levels_are_one():
    """The error is then that of a mean: 2 of 4, sqrt(4 * 1/4 / (4 * 3))."""
    found = numbers.instructions_followed([sample([hit]) for hit in (True, True, False, False)])
    for metric in ("inst_level_strict_acc,none", "strict_acc_mean,none"):
        assert found[metric] == {"value": 0.5, "stderr": pytest.approx(math.sqrt(1 / 12))}
    assert numbers.instructions_followed([sample([True])])["strict_acc_mean,none"]["stderr"] is None


def test_what_is_no_number_is_left_out_or_null():
    row = {"acc,none": 0.5, "acc_stderr,none": "N/A", "ppl,none": math.inf, "alias": "x"}
    found = {
        "results": {"x": row},
        "samples": {},
        "n-shot": {"x": 0},
        "n-samples": {"x": {"effective": 7}},
        "versions": {"x": "N/A"},
    }
    left_out = {}
    entry = numbers._entry(found, "x", ["x"], left_out)
    assert entry["metrics"] == {"acc,none": {"value": 0.5, "stderr": None}}
    assert (entry["n"], entry["version"]) == (7, None)
    assert list(left_out) == ["ppl,none"]


# --- what is wrong with a task -------------------------------------------------------------------


def problems(task, place, **wanted):
    manager = tasks.task_manager([task], None)
    return tasks.problems(manager, task, WANTED | wanted, data_root=str(place / "hub"))


def test_good_tasks_have_no_problems(in_hub, place):
    assert problems("winogrande", place, metric="acc,none", shots=5) == []
    assert problems("leaderboard_ifeval", place, metric="loose_acc_mean,none", shots=0) == []
    assert problems("leaderboard_musr", place, metric="acc_norm,none") == []


def test_a_metric_the_task_does_not_report(in_hub, place):
    (problem,) = problems("gsm8k", place, metric="exact_match,strict")
    assert "did you mean exact_match,strict-match?" in problem
    (problem,) = problems("leaderboard_math_hard", place, metric="exact_match_original,none")
    assert problem.endswith("(choices: exact_match,none)")


def test_examples_that_lm_eval_would_not_give(in_hub, place):
    (problem,) = problems("leaderboard_gpqa", place, shots=5)
    assert "evals.tasks.leaderboard_gpqa.shots=5" in problem and "use 0 or null" in problem


def test_no_punkt_tab(in_hub, place, monkeypatch):
    """Said without importing the task, which would try to download it."""
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval.instructions", None)
    (problem,) = problems("leaderboard_ifeval", place)
    assert "python -m nltk.downloader punkt_tab" in problem


def test_no_math_verify(in_hub, place, monkeypatch):
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.leaderboard.math.utils", raising=False)
    monkeypatch.setitem(sys.modules, "math_verify", None)
    (problem,) = problems("leaderboard_math_algebra_hard", place)
    assert "math_verify" in problem and "pip install -e '.[evals]'" in problem


def test_gated_data():
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub.")
    told = tasks.reason(error, ["x/y", "a/b"])
    assert "https://huggingface.co/datasets/a/b" in told and "hf auth login" in told


def test_anything_else_in_one_line():
    assert tasks.reason(KeyError("no\nsplit"), []) == "KeyError: 'no\\nsplit'"
    assert tasks.reason(ValueError("first\nsecond"), ["a/b"]) == "ValueError: first"


def test_only_the_folders_that_are_needed():
    """A stock name by its folder, a group with its members; all of lm-eval is not read."""
    manager = tasks.task_manager(["mmlu", "leaderboard_bbh"], None)
    assert "gsm8k" not in manager.task_index
    leaves = list(tasks._leaves(manager, "mmlu"))
    assert len(leaves) == 57 and "mmlu_anatomy" in leaves
    assert len(list(tasks._leaves(manager, "leaderboard_bbh"))) == 24
    assert Path(manager.task_index["mmlu"].yaml_path).parent.name == "default"
