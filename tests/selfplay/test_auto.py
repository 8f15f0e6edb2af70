"""Values that are left to the rows: chosen once, kept, shared; and rows that are too few."""

import pytest
from support.tiny import play

from tspin.policy import weights
from tspin.runs import start
from tspin.tools.files import read_json
from tspin.tools.parquet import each_row

WORDS = ("data=file", "data.size=null", "data.heldout=auto", "coef.alpha=auto",
         "decoding.max_new_tokens=4")  # fmt: skip


def rows_of(number, tmp_path):
    file = tmp_path / "pairs.csv"
    lines = [f"Question {i}?,{'yes ' * (1 + i % 3)}" for i in range(number)]
    file.write_text("\n".join(["prompt,response", *lines]) + "\n", encoding="utf-8")
    return f"data.path={file}"


@pytest.mark.runs
def test_a_run_keeps_what_it_chose_and_others_share_it(tmp_path):
    data = rows_of(12, tmp_path)
    first, _ = play(tmp_path / "runs", "tspin", data, *WORDS, "selfplay.iterations=1", name="run")
    lengths = [
        len(row["annotated_ids"]) for row in each_row(first.prompts) if row["split"] == "train"
    ]
    facts = start.settled(first)
    alpha = facts["coef.alpha"]["value"]
    assert len(lengths) == 10 and alpha == float(f"{256 / (sum(lengths) / 10):.3g}")
    assert facts["data.heldout"] == {"value": 2, "prompts": 12}
    launch = read_json(first.provenance)["launches"][0]
    assert launch["settled"] == facts and launch["config"]["coef"]["alpha"] == alpha
    begun = first.prompts.read_bytes()

    # More rows in the file, and more iterations: the run is the one that it was.
    data = rows_of(60, tmp_path)
    longer, rows = play(tmp_path / "runs", "tspin", data, *WORDS, name="run")
    assert longer.iterations() == [0, 1] and longer.prompts.read_bytes() == begun
    assert start.settled(longer) == facts
    settings = [launch["config"]["coef"] for launch in read_json(first.provenance)["launches"]]
    assert [setting["alpha"] for setting in settings] == [alpha, alpha]

    # One that asks for the same, and one that says the number, link its iteration 0.
    data = rows_of(12, tmp_path)
    for name, words in (("asks", ()), ("says", (f"coef.alpha={alpha}", "data.heldout=2"))):
        words = (data, *WORDS, *words, "selfplay.iterations=1")
        other, _ = play(tmp_path / "runs", "wo_ha", *words, name=name)
        assert read_json(other.iteration(0).done)["from"] == "run/iter_0", name


@pytest.mark.parametrize(
    ("number", "words", "reason"),
    [
        (2, (), "data.heldout=auto holds out one prompt of 5, and there are 2; data.heldout=0"),
        (6, ("data.heldout=6",), "data.heldout=6 leaves none of 6 pairs to train on"),
        (6, ("data.heldout=7",), "data.heldout=7 exceeds the 6 distinct prompts"),
        (6, ("data=micro",), "data.heldout=auto is for rows of your own: micro holds out"),
    ],
)
def test_rows_that_are_no_run_are_refused_before_a_model_is_fetched(
    number, words, reason, tmp_path, monkeypatch
):
    def fetched(*args, **kwargs):
        raise AssertionError("fetched")

    monkeypatch.setattr(weights, "fetch", fetched)
    data = rows_of(number, tmp_path)
    if "data=micro" in words:
        data = "data.path=micro"
    with pytest.raises(ValueError, match=reason):
        play(tmp_path / "runs", "tspin", data, *WORDS, *words)
    assert not (tmp_path / "runs" / "tspin").exists()
