"""What a run says of itself before it has done anything."""

from support.tiny import compose

from tspin.selfplay import banner

CPU = {"dtype": "float32", "device": "cpu", "weights": "float32"}


def test_the_beginning_names_model_objective_and_folder_in_four_lines():
    run = compose("loss=tspin", "coef.alpha=0.25", "anchor.nll=0.5", "selfplay.iterations=3")
    lines = dict(line.split(":", 1) for line in banner.beginning(run).splitlines())
    assert list(lines) == ["model", "objective", "training", "folder"]
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
    where, rows, cut = banner.rows(run, facts, prompts, {}, CPU).splitlines()
    assert where == "arithmetic: float32 on cpu, weights in float32 (fp32_master)"
    assert "5 to train on (15 tokens of x and y), 1 held out; 18 steps in all" in rows
    words = f"(model.max_length={run.model.max_length})"
    assert f"4 prompts to {run.max_prompt_length} tokens {words}" in cut
    assert "responses" not in cut
    small = compose("optim.batch_size=8", "optim.epochs=1", "selfplay.iterations=1")
    _, one, cut = banner.rows(small, facts | {"num_prompts_cut": 1}, prompts, {}, CPU).splitlines()
    assert one.endswith("; 1 step in all") and " 1 prompt to " in cut
    assert len(banner.rows(run, facts | {"num_prompts_cut": 0}, prompts, {}, CPU).splitlines()) == 2


def test_what_auto_came_to_and_from_what():
    """256 / 512 = 0.5."""
    run = compose("optim.batch_size=2")
    prompts = [{"split": "train", "prompt_ids": [1], "annotated_ids": [3] * 512}] * 4
    facts = {"num_train": 4, "num_heldout": 1}
    settled = {
        "data.heldout": {"value": 1, "prompts": 5},
        "coef.alpha": {"value": 0.5, "mean_tokens": 512.0, "responses": 4},
    }
    lines = banner.rows(run, facts, prompts, settled, CPU).splitlines()
    assert "1 held out (data.heldout=auto)" in lines[1]
    assert lines[2].split(":", 1)[1].strip() == (
        "0.5 (coef.alpha=auto: 512.0 tokens a response, 1 would be for 256)"
    )


def test_what_is_new_and_here_is_said_before_torch_is_loaded(tmp_path):
    """Not what may yet be refused: data that is nowhere, a folder that holds a run."""
    file = tmp_path / "pairs.jsonl"
    file.touch()
    here = (f"runs_dir={tmp_path}", "data=file", f"data.path={file}")
    assert banner.is_plain(compose(*here))
    assert not banner.is_plain(compose(f"runs_dir={tmp_path}", "data=file", "data.path=nowhere"))
    assert not banner.is_plain(compose(*here, "model=custom", f"model.path={tmp_path}"))
    run = compose(*here, "name=begun")
    run.folder.mkdir()
    (run.folder / "config.yaml").touch()
    assert not banner.is_plain(run)


def test_pairs_of_two_iterations_double_the_later_steps():
    """4 pairs in batches of 4: one step, then two with those of the iteration before."""
    run = compose("optim.batch_size=4", "optim.epochs=1", "selfplay.iterations=2",
                  "data.mix_last_two=true")  # fmt: skip
    sizes = banner.num_rows(run, [{"split": "train"}] * 4)
    assert sizes == [4, 8] and banner.num_steps(run, sizes) == 3


def test_a_share_of_the_pairs_takes_fewer_steps_and_a_chance_at_most_as_many():
    """10 pairs in batches of 2: 5 steps, then 2 of 4 pairs; how many `skip` takes is not known."""
    words = ("optim.batch_size=2", "optim.epochs=1", "selfplay.iterations=3")
    gate = compose(*words, "curriculum=gate", "curriculum.share=0.4")
    pairs = [{"split": "train", "prompt_ids": [5], "annotated_ids": [6]}] * 10
    assert banner.num_steps(gate, banner.num_rows(gate, pairs)) == 9
    assert "curriculum=gate curriculum.share=0.4" in banner.beginning(gate)
    skip = compose(*words, "curriculum=skip")
    facts = {"num_train": 10, "num_heldout": 0}
    assert "at most 15 steps in all" in banner.rows(skip, facts, pairs, {}, CPU)
