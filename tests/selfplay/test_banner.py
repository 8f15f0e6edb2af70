"""What a run says of itself before it has done anything."""

from support.tiny import compose

from tspin.selfplay import banner


def test_the_beginning_names_model_objective_and_folder_in_five_lines():
    run = compose("loss=tspin", "coef.alpha=0.25", "anchor.nll=0.5", "selfplay.iterations=3")
    lines = dict(line.split(":", 1) for line in banner.beginning(run).splitlines())
    assert list(lines) == ["model", "objective", "training", "arithmetic", "folder"]
    assert "parameters)" in lines["model"]
    assert "alpha=0.25" in lines["objective"] and "anchor.nll=0.5" in lines["objective"]
    assert lines["training"].strip().startswith("3 iterations")
    assert lines["folder"].strip() == str(run.folder)


def test_rows_count_tokens_of_the_trained_ones_and_name_the_limit_that_cuts():
    """5 pairs in batches of 2 are 3 steps an epoch: 2 iterations of 3 epochs have 18."""
    run = compose("optim.batch_size=2", "optim.epochs=3", "selfplay.iterations=2")
    prompts = [{"split": "train", "prompt_ids": [1, 2], "annotated_ids": [3]}] * 5
    prompts += [{"split": "heldout", "prompt_ids": [1] * 9, "annotated_ids": [2]}]
    facts = {"num_train": 5, "num_heldout": 1, "num_prompts_cut": 4, "num_responses_cut": 0}
    rows, cut = banner.rows(run, facts, prompts, {}).splitlines()
    assert "5 to train on (15 tokens of x and y), 1 held out; 18 steps in all" in rows
    assert f"4 prompts to {run.max_prompt_length} tokens (model.max_prompt_length)" in cut
    assert "responses" not in cut
    assert len(banner.rows(run, facts | {"num_prompts_cut": 0}, prompts, {}).splitlines()) == 1


def test_pairs_of_two_iterations_double_the_later_steps():
    """4 pairs in batches of 4: one step, then two with those of the iteration before."""
    run = compose("optim.batch_size=4", "optim.epochs=1", "selfplay.iterations=2",
                  "data.mix_last_two=true")  # fmt: skip
    assert banner.num_steps(run, 4) == 3
