"""Algorithm 1 on the embedded model: what a run leaves and shares, and never does twice."""

import json
import logging
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from support.contents import differences
from support.offline import of, recorded
from support.tiny import play
from transformers import AutoModelForCausalLM, AutoTokenizer

from analysis.wandb import sync
from tspin.data.plain import PlainTemplate
from tspin.data.tokens import Renderer
from tspin.policy import policy
from tspin.policy.policy import Policy
from tspin.runs.metrics import StepLog
from tspin.tools.files import read_json, remove
from tspin.tools.parquet import read_rows

pytestmark = pytest.mark.runs

EOS = 1  # of the embedded tokenizer
LOSSES = ("sft", "spin", "tspin", "tspin_ref", "wo_ha")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of each loss in one runs_dir: loss -> (folder, rows of the table).

    None takes an iteration from another, so that what is equal is so because it was trained so.
    """
    root = tmp_path_factory.mktemp("runs")
    return {loss: play(root, loss, "selfplay.share=false") for loss in LOSSES}


def weights(folder, t):
    return (folder.iteration(t).checkpoint / "model.safetensors").read_bytes()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_run_leaves_the_files_of_the_contract(runs, loss):
    folder, _ = runs[loss]
    names = {p.name for p in folder.path.iterdir()}
    assert {"config.yaml", "provenance.json", "prompts.parquet", "data.json", "base"} <= names
    for t in (0, 1):
        found = {p.name for p in folder.iteration(t).path.iterdir()}
        expected = {"metrics.jsonl", "checkpoint", "scores.parquet", "samples.jsonl", "eval.json",
                    "answers.parquet", "contingency.json", "stages.json", "done.json",
                    "token_logps.parquet"}  # fmt: skip
        expected |= {"synthetic"} if loss != "sft" else set()
        expected |= {"ref_scores.parquet"} if loss in ("spin", "tspin_ref") else set()
        assert found == expected


@pytest.mark.parametrize("loss", LOSSES)
def test_a_checkpoint_is_a_plain_transformers_folder(runs, loss):
    folder, _ = runs[loss]
    model = AutoModelForCausalLM.from_pretrained(folder.iteration(1).checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(folder.iteration(1).checkpoint)
    assert model.dtype == torch.float32 and tokenizer.eos_token_id is not None
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]


def test_proto_samples_and_base_evaluation_are_made_once_for_all_losses(runs):
    root = runs["tspin"][0].path.parent
    assert len(list((root / "proto").iterdir())) == 1 == len(list((root / "base").iterdir()))
    bits = {runs[loss][0].proto.part(0).read_bytes() for loss in LOSSES if loss != "sft"}
    assert len(bits) == 1
    assert not runs["sft"][0].proto.path.exists()


@pytest.mark.parametrize("loss", [x for x in LOSSES if x != "sft"])
def test_at_iteration_0_the_synthetic_response_is_the_proto_one(runs, loss):
    """Trap 12: not sampled again, and not again different; at iteration 1 it is."""
    folder, _ = runs[loss]
    assert folder.iteration(0).synthetic.rows() == folder.proto.rows()
    assert folder.iteration(1).synthetic.rows() != folder.proto.rows()
    rows = read_rows(folder.iteration(0).scores)
    by_role = {
        r: {x["id"]: x["logp"] for x in rows if x["role"] == r} for r in ("synthetic", "proto")
    }
    assert by_role["synthetic"] == by_role["proto"]


def test_tspin_and_wo_ha_share_iteration_0_bit_for_bit_and_part_at_iteration_1(runs):
    tspin, without = runs["tspin"][0], runs["wo_ha"][0]
    assert weights(tspin, 0) == weights(without, 0)
    assert not tspin.iteration(0).metrics.samefile(without.iteration(0).metrics)
    assert weights(tspin, 1) != weights(without, 1)


def test_no_third_forward_at_iteration_0(tmp_path, monkeypatch):
    asked = Counter()
    layout = Policy.layout  # of every forward pass, whatever comes of it

    def counted(self, triplets, roles):
        asked["train" if torch.is_grad_enabled() else "score", roles] += 1
        return layout(self, triplets, roles)

    monkeypatch.setattr(Policy, "layout", counted)
    pair, three = ("annotated", "synthetic"), ("annotated", "synthetic", "proto")
    play(tmp_path, "tspin", "selfplay.iterations=1")
    base = ("score", ("annotated",))
    assert set(asked) == {base, ("train", pair), ("score", pair)}
    asked.clear()
    play(tmp_path, "tspin", "selfplay.share=false", name="two")
    assert set(asked) == {(what, roles) for what in ("train", "score") for roles in (pair, three)}


def test_sft_samples_nothing_unless_diagnostics_are_asked_for(runs, tmp_path):
    folder, _ = runs["sft"]
    assert {row["role"] for row in read_rows(folder.iteration(1).scores)} == {"annotated"}
    asked, _ = play(tmp_path, "sft", "track.diagnostics=true")
    assert len({row["role"] for row in read_rows(asked.iteration(1).scores)}) == 3
    assert weights(asked, 1) == weights(folder, 1)  # looking changes nothing


@pytest.mark.parametrize("loss", ["spin", "tspin"])
def test_rewards_and_the_contingency_table_can_be_recounted(runs, loss):
    """Figure 3 from scores.parquet by hand: spin's reward is 0.1 (logp - ref), tspin's is logp."""
    folder, rows = runs[loss]
    out = folder.iteration(1)
    scores = read_rows(out.scores)
    value = {(r["id"], r["role"]): r for r in scores}
    for r in scores:
        if loss == "spin" and r["role"] != "proto":
            assert r["reward"] == pytest.approx(0.1 * (r["logp"] - r["ref_logp"]), rel=1e-12)
        if loss == "tspin":
            assert r["reward"] == r["logp"] and r["ref_logp"] is None
    for split in ("train", "heldout"):
        counts = Counter()
        for i in {r["id"] for r in scores if r["split"] == split}:
            y, s = value[i, "annotated"], value[i, "synthetic"]
            counts[y["reward"] > s["reward"], y["logp"] > s["logp"]] += 1
        told = read_json(out.contingency)[split]["contingency"]
        cells = {"both": (True, True), "reward_only": (True, False),
                 "logp_only": (False, True), "neither": (False, False)}  # fmt: skip
        assert {c: told[c] for c in cells} == {c: counts[side] for c, side in cells.items()}
        assert sum(told[c] for c in cells) == (24 if split == "train" else 16)
    assert loss == "spin" or rows[-1]["reward_only"] == 0


def test_the_reference_is_the_policy_at_the_start_of_the_iteration(runs):
    """ref_scores of iteration 1 are the scores of the same responses under theta_1."""
    folder, _ = runs["spin"]
    reference = read_rows(folder.iteration(1).ref_scores)
    annotated = {r["id"]: r["logp"] for r in reference if r["role"] == "annotated"}
    after = read_rows(folder.iteration(0).scores)
    for row in after:
        if row["role"] == "annotated":
            assert annotated[row["id"]] == pytest.approx(row["logp"], abs=1e-4)
    first = StepLog.read(folder.iteration(1).metrics)[0]
    assert first["advantages/current"] == 0.0  # exactly: the same batches were scored


def test_a_prompt_is_encoded_once(tmp_path, monkeypatch):
    """Trap 1: one renderer. Every stage conditions on the ids in prompts.parquet."""
    encoded = Counter()
    encode = PlainTemplate.prompt_ids

    def counted(self, conversation):
        encoded[conversation.prompt] += 1
        return encode(self, conversation)

    monkeypatch.setattr(PlainTemplate, "prompt_ids", counted)
    folder, _ = play(tmp_path, "tspin", "selfplay.iterations=1")
    prompts = read_rows(folder.prompts)
    assert encoded.pop("a") == 1  # of the look at the model before the run
    assert encoded == Counter(row["prompt"] for row in prompts)
    renderer = Renderer(
        AutoTokenizer.from_pretrained(folder.iteration(0).checkpoint), "alpaca_space"
    )
    for row in prompts:
        text = f"### Instruction: {row['prompt']}\n\n### Response: "
        assert renderer.tokenizer.decode(row["prompt_ids"]) == text


def test_held_out_prompts_are_never_trained_on(runs):
    folder, _ = runs["tspin"]
    prompts = read_rows(folder.prompts)
    train, heldout = (
        {r["prompt"] for r in prompts if r["split"] == s} for s in ("train", "heldout")
    )
    assert len(train) == 24 and len(heldout) == 16 and not train & heldout
    assert [row["num_examples"] for row in StepLog.read(folder.iteration(0).metrics)] == [8, 8, 8]


def test_accuracy_before_the_first_and_after_every_iteration(runs):
    _, rows = runs["tspin"]
    assert [row["iteration"] for row in rows] == ["base", 0, 1]
    assert all({"accuracy_greedy", "accuracy_sampled"} <= set(row) for row in rows)
    folder, _ = runs["tspin"]
    answers = read_rows(folder.iteration(1).answers)
    greedy = [a["correct"] for a in answers if a["decoding"] == "greedy"]
    assert len(greedy) == 16 and rows[-1]["accuracy_greedy"] == sum(greedy) / 16
    # what was sampled after iteration 0 is what iteration 1 starts from
    sampled = {a["id"]: a["response"] for a in read_rows(folder.iteration(0).answers)
               if a["decoding"] == "sampled"}  # fmt: skip
    again = {r["id"]: r["response"] for r in folder.iteration(1).synthetic.rows()}
    assert sampled == {i: again[i] for i in sampled}


def test_the_table_says_how_fast_it_was_and_where_the_time_went(runs):
    folder, rows = runs["tspin"]
    for t, row in enumerate(rows[1:]):
        steps = StepLog.read(folder.iteration(t).metrics)
        speed = sum(s["num_tokens"] for s in steps) / sum(s["seconds"] for s in steps)
        assert row["tokens_per_second"] == pytest.approx(speed, rel=1e-9)
        assert 0 < row["useful_tokens_per_second"] < speed
        assert all(0 < step["flop_utilisation"] <= 1 for step in steps)
        assert row["padding_share"] == 0  # the packed path
        stages = [key.removeprefix("seconds_") for key in row if key.startswith("seconds_")]
        whole = sum(row[f"seconds_{stage}"] for stage in stages)
        for stage in stages:
            assert row[f"time_share_{stage}"] == row[f"seconds_{stage}"] / whole


def test_one_load_serves_every_stage_of_every_iteration(tmp_path, monkeypatch):
    """What has been trained is in memory already, and is what its checkpoint holds."""
    folders = []
    load = policy.load

    def counted(folder, **options):
        folders.append(folder)
        return load(folder, **options)

    monkeypatch.setattr(policy, "load", counted)
    folder, _ = play(tmp_path, "spin")
    assert len(folders) == 1
    folder.iteration(1).scores.unlink()
    folder.iteration(1).done.unlink()
    play(tmp_path, "spin")  # a new process would load once too
    assert folders[1:] == [folder.iteration(1).checkpoint]


def test_more_draws_and_a_cooler_control(runs, tmp_path):
    """They are added to the answers that are there without them, and change no training."""
    folder, rows = play(tmp_path, "tspin", "data.eval_draws=3", "data.eval_cool=0.01")
    answers = read_rows(folder.iteration(1).answers)
    asked = Counter((a["decoding"], a["draw"]) for a in answers)
    assert asked == {(d, i): 16 for d, i in [("greedy", 0), *(("sampled", i) for i in range(3)),
                                             ("cool", 0)]}  # fmt: skip
    by = {key: {a["id"]: a["response_ids"] for a in answers if (a["decoding"], a["draw"]) == key}
          for key in asked}  # fmt: skip
    plain = read_rows(runs["tspin"][0].iteration(1).answers)
    assert by["sampled", 0] == {
        a["id"]: a["response_ids"] for a in plain if a["decoding"] == "sampled"
    }
    assert by["sampled", 1] != by["sampled", 0] != by["sampled", 2]
    same = sum(by["cool", 0][i] == by["greedy", 0][i] for i in by["cool", 0])
    assert same >= 15  # at a temperature of 0.01 next to nothing but the likeliest is drawn
    assert weights(folder, 1) == weights(runs["tspin"][0], 1)
    assert "accuracy_cool" in rows[-1] and "accuracy_cool" not in runs["tspin"][1][-1]


def test_answers_at_a_temperature_of_their_own(runs, tmp_path):
    """y' is sampled as it is without it, and so the training is the same; at 0.01 next to nothing
    but the likeliest is drawn, and of the initial policy, too."""
    words = ("data.eval_temperature=0.01", "selfplay.iterations=1")
    folder, _ = play(tmp_path, "tspin", *words)
    for out in (folder.base, folder.iteration(0)):
        by = {(a["decoding"], a["id"]): a["response_ids"] for a in read_rows(out.answers)}
        ids = {name for _, name in by}
        assert sum(by["sampled", name] == by["greedy", name] for name in ids) >= 15
    assert weights(folder, 0) == weights(runs["tspin"][0], 0)


def test_a_complete_run_is_not_run_again(runs, monkeypatch):
    folder, rows = runs["tspin"]

    def files():
        there = [p for p in folder.path.rglob("*") if p.is_file() and p.name != ".lock"]
        return {p: p.stat().st_mtime_ns for p in there}

    before = files()
    monkeypatch.setattr("tspin.policy.policy.load", lambda *a, **k: pytest.fail("loaded a model"))
    _, again = play(folder.path.parent, "tspin")
    assert again == rows
    assert files() == before


def test_two_runs_of_one_configuration_are_bit_equal(runs, finished):
    for t in (0, 1):
        assert weights(finished, t) == weights(runs["tspin"][0], t)


def test_gradient_checkpointing_changes_memory_alone(runs, tmp_path, monkeypatch):
    """It acts while training and nowhere else: sampling would lose its cache, and time."""
    modes = set()
    layout = Policy.layout  # of every forward pass, whatever comes of it

    def watched(self, triplets, roles):
        modes.add((torch.is_grad_enabled(), self.model.training))
        return layout(self, triplets, roles)

    monkeypatch.setattr(Policy, "layout", watched)
    folder, _ = play(tmp_path, "tspin", "compute.gradient_checkpointing=true")
    assert modes == {(True, True), (False, False)}
    plain = runs["tspin"][0]
    assert folder.iteration(1).synthetic.rows() == plain.iteration(1).synthetic.rows()
    one, two = (load_file(f.iteration(1).checkpoint / "model.safetensors") for f in (folder, plain))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-6)


def test_mixing_the_last_two_sets_doubles_the_rows_from_iteration_1_on(tmp_path):
    folder, _ = play(tmp_path, "spin", "data.mix_last_two=true")
    steps = [len(StepLog.read(folder.iteration(t).metrics)) for t in (0, 1)]
    assert steps == [3, 6]
    sources = Counter(r["source"] for r in read_rows(folder.iteration(1).ref_scores))
    assert sources == {1: 2 * (24 + 16), 0: 2 * 24}
    assert {r["source"] for r in read_rows(folder.iteration(1).scores)} == {1}


def test_going_on_from_an_iteration_of_another_run(runs, tmp_path):
    """Iteration 1 from there is iteration 1 of the run itself, with the same y0."""
    start = runs["tspin"][0].iteration(0).path
    folder, rows = play(tmp_path, "tspin", f"selfplay.start_from={start}")
    assert weights(folder, 1) == weights(runs["tspin"][0], 1)
    assert not folder.iteration(0).path.exists() and [r["iteration"] for r in rows] == ["base", 1]
    with pytest.raises(ValueError, match="descends from another initial policy"):
        play(tmp_path, "tspin", f"selfplay.start_from={start}", "model=micro_base", name="other")
    with pytest.raises(ValueError, match="no finished iteration"):
        play(tmp_path, "tspin", f"selfplay.start_from={tmp_path}", name="nowhere")


def test_provenance_of_a_launch(runs):
    (launch,) = read_json(runs["tspin"][0].provenance)["launches"]
    assert launch["command"] == ["test"] and launch["versions"]["torch"] == torch.__version__
    assert len(launch["weights"]) == 64 and launch["data"]["num_train"] == 24
    assert launch["matmul_rate"] > 1e8
    assert launch["config"]["coef"]["lambda"] == 0.1 and launch["devices"]["threads"] == 1
    assert launch["arithmetic"] == {
        "device": "cpu", "weights": "float32", "dtype": "float32", "attention": "auto",
        "kernels": ["sdpa"],
    }  # fmt: skip


def test_offline_launches_overwrite_nothing_and_a_replay_has_it_all(tmp_path, caplog):
    """An id each, so that `wandb sync` of both leaves both; steps go on over the iterations."""
    tracked = ["track=wandb_offline", "decoding.max_new_tokens=4"]
    folder, _ = play(tmp_path, "tspin", *tracked)
    [whole] = recorded(folder.path)
    remove(folder.iteration(1).path)  # as if killed behind iteration 0
    caplog.clear()
    with caplog.at_level(logging.INFO, "tspin"):
        play(tmp_path, "tspin", *tracked)
    tracked_steps = {
        of(records, "run")[0]["run_id"]: train_steps(records) for records in recorded(folder.path)
    }
    first = read_json(folder.tracking)["id"]
    assert tracked_steps == {first: [0, 1, 2, 3, 4, 5], f"{first}-2": [3, 4, 5]}
    [line] = [message for message in caplog.messages if message.startswith("W&B: ")]
    assert f"python -m analysis wandb_sync runs={folder.path};" in line
    sync.main([f"runs={folder.path}", "mode=offline", f"out={tmp_path / 'out'}"])
    [replayed] = recorded(tmp_path / "out")
    assert train_steps(replayed) == train_steps(whole)
    assert of(replayed, "run")[0]["run_id"] not in tracked_steps


def train_steps(records):
    items = [row["item"] for row in of(records, "history")]
    return [item["train/step"] for item in items if "train/loss" in item]


def test_samples_are_readable(runs):
    lines = runs["tspin"][0].iteration(1).samples.read_text(encoding="utf-8").splitlines()
    row = json.loads(lines[0])
    assert len(lines) == 16
    assert {"prompt", "annotated", "synthetic", "proto"} <= set(row)


def test_a_pair_without_response_tokens_is_dropped_and_counted(tmp_path, caplog):
    rows = [{"prompt": f"Say {i}.", "response": f"word{i}"} for i in range(30)]
    rows += [
        {"prompt": "Odd one", "response": "x" * 500},
        {"prompt": "p" * 500, "response": "long"},
    ]
    rows += [{"prompt": "same", "response": "\U0001f600 caf\u00e9 \u202e\u0633"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in [*rows, {"prompt": "broken"}]))
    own = [f"data.path={file}", "data.size=null", "data.heldout=2", "model.path=micro:warm"]
    own += ["selfplay.iterations=1"]
    with pytest.raises(ValueError, match=r"line 34.*data.skip_bad_rows=true"):
        play(tmp_path, "tspin", "data=file", *own, name="strict")
    with caplog.at_level(logging.WARNING, logger="tspin"):
        folder, result = play(
            tmp_path, "tspin", "data=file", *own, "data.skip_bad_rows=true", name="lenient"
        )
    facts = read_json(folder.data)
    assert facts["num_skipped"] == 1 and "line 34" in facts["reasons"][0]
    assert facts["num_train"] == 31 and facts["num_responses_cut"] + facts["num_prompts_cut"] >= 1
    for row in read_rows(folder.prompts):
        assert len(row["prompt_ids"]) + len(row["annotated_ids"]) <= 64
        cut = len(row["annotated"]) > 100
        assert (row["annotated_ids"][-1] == EOS) != cut  # truncation removes EOS, nothing else does
    assert all(torch.tensor(r["loss"]).isfinite() for r in result if r["iteration"] != "base")


def test_warnings_in_plain_words(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="tspin"):
        play(tmp_path, "wo_ha", "decoding.max_new_tokens=2", "selfplay.iterations=1")
    assert "were cut at decoding.max_new_tokens" in caplog.text


@pytest.mark.parametrize("keep", ["all", "last"])
def test_a_finished_run_goes_on_with_more_iterations(tmp_path, keep):
    """Bit for bit as if it had been begun with two; with fewer than it has it is another run."""
    options = (f"selfplay.keep={keep}", "selfplay.share=false")
    play(tmp_path / "whole", "tspin", *options, name="run")
    folder, _ = play(tmp_path / "grown", "tspin", *options, "selfplay.iterations=1", name="run")
    assert folder.iterations() == [0]
    assert len(play(tmp_path / "grown", "tspin", *options, name="run")[1]) == 3  # with the base
    assert differences(tmp_path / "grown", tmp_path / "whole") == []
    fewer = "selfplay.iterations \\(there 2, here 1\\)"
    with pytest.raises(ValueError, match=fewer):
        play(tmp_path / "grown", "tspin", *options, "selfplay.iterations=1", name="run")
