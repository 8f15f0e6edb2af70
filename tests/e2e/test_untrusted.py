"""What is not ours stays what it is: secrets, names, weights and texts of others.

Text to ids is in test_tokens.py, the page of the report in test_page.py, readers in test_fuzz.py.
"""

import json

import pytest
import torch
from support.forker import MAIN, TINY
from support.tiny import compose, micro_tokenizer, play, random_model

from analysis.__main__ import main as analysis
from analysis.report import catalogue
from tspin.__main__ import main as verbs
from tspin.config.load import dump, load
from tspin.policy import adapters, policy, weights
from tspin.runs.store import Store
from tspin.tools.files import write_json
from tspin.tools.parquet import read_rows

pytestmark = pytest.mark.runs

SECRETS = {
    "WANDB_API_KEY": "planted0wandb0planted0wandb0planted0wandb",  # of the length of a real one
    "HF_TOKEN": "hf_planted0hub",
    "AWS_SECRET_ACCESS_KEY": "planted0store",
    "WANDB_BASE_URL": "https://user:planted0url@127.0.0.1:9",
}


# --- secrets -------------------------------------------------------------------------------------


def test_no_secret_of_the_environment_is_in_any_file_or_word(
    forker, tmp_path, monkeypatch, capfd, caplog
):
    """A run with W&B offline and a copy in a store; a sweep, of which a point fails; all that is
    made from the run."""
    environment = SECRETS | {"WANDB_MODE": "offline"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    runs = tmp_path / "runs"
    words = [str(MAIN), f"runs_dir={runs}", *TINY, "selfplay.iterations=1"]
    copied = ["track.wandb=offline", f"sync.url=file://{tmp_path / 'store'}"]
    whole = forker.python(*words, *copied, cwd=tmp_path, **environment)
    points = ["-m", "name=null", "optim.lr=3e-5,1e30"]
    sweep = forker.python(*words, *points, cwd=tmp_path, code=1, **environment)
    assert "diverged" in sweep.err
    run = [f"run={runs / 'run'}", "iteration=0"]
    assert verbs(["export", *run, f"to={tmp_path / 'policy'}"]) == 0
    assert verbs(["pairs", *run, f"to={tmp_path / 'pairs'}"]) == 0
    assert verbs(["status", str(runs)]) == 0
    monkeypatch.setattr(catalogue, "NAMES", ("table1", "figure2"))  # of what there is, quickly
    analysis(["all", f"runs={runs}", f"out={tmp_path / 'report'}"])
    output = [whole.out, whole.err, sweep.out, sweep.err, *capfd.readouterr(), caplog.text]
    (tmp_path / "output").write_text("".join(output))
    assert "2 runs" in (tmp_path / "output").read_text()
    for name in ("runs/run/wandb", "store/run", "policy/README.md", "pairs", "report/index.html"):
        assert (tmp_path / name).exists(), name
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 100  # logs, the runs, the tracker's files, the store, and those
    for path in files:
        assert b"planted0" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sync.url", "s3://AKIA:planted0key@bucket/runs"),
        ("sync.url", "s3://bucket/runs?secret=planted0key"),
        ("decoding.vllm_args", {"hf_token": "planted0key"}),
    ],
)
def test_a_secret_on_the_command_line_is_refused_and_not_repeated(key, value):
    """Before anything is written; the message may stand in a log."""
    tree = dump(compose())
    section, last = key.split(".")
    tree[section][last] = value
    tree["decoding"]["engine"] = "vllm"
    with pytest.raises(ValueError, match="environment") as refused:
        load(tree)
    assert key in str(refused.value) and "planted0key" not in str(refused.value)


@pytest.mark.parametrize("url", ["s3://bucket/runs", "/a folder/with@sign", "memory://x/y", None])
def test_addresses_without_one_stay_good(url):
    tree = dump(compose())
    tree["sync"]["url"] = url
    assert load(tree).sync.url == url


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", ".", "a/b", "~", "x\n", "a\0b", "-rf"])
@pytest.mark.parametrize("key", ["data.name", "model.name", "decoding.name", "name"])
def test_names_lead_nowhere(key, name):
    tree = dump(compose())
    section, _, last = key.rpartition(".")
    (tree[section] if section else tree)[last] = name
    with pytest.raises(ValueError, match=key):
        load(tree)


@pytest.mark.parametrize("name", ["../outside", "/etc/outside", "a/../../outside", "", "a\0b"])
def test_a_copy_that_names_files_outside_of_the_run_is_refused(tmp_path, name):
    (tmp_path / "run").mkdir()
    facts = {"size": 1, "sha256": "0" * 64}
    write_json(tmp_path / "run" / "mirror.json", {"revision": 3, "files": {name: facts}})
    with pytest.raises(ValueError, match="outside of a run"):
        Store(f"file://{tmp_path}", "run").record()


# --- weights -------------------------------------------------------------------------------------


class Runs:
    """Pickled: writes a file when it is read."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return open, (str(self.sign), "w")


def test_pickled_weights_are_refused_unread(tmp_path):
    folder, sign = tmp_path / "policy", tmp_path / "ran"
    random_model().save_pretrained(folder)
    micro_tokenizer().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Runs(sign), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no \*.safetensors"):
        weights.weight_digest(folder)
    with pytest.raises((ValueError, OSError), match="safetensors"):
        compute = compose("compute.device=cpu").compute
        policy.load(folder, template="none", compute=compute, precision="fp32_master")
    assert not sign.exists()


def test_pickled_adapters_are_refused_unread(tmp_path):
    pytest.importorskip("peft")
    write_json(tmp_path / adapters.CONFIG, {"base_model_name_or_path": "x"})
    torch.save(Runs(tmp_path / "ran"), tmp_path / "adapter_model.bin")
    for read in (adapters.attach, adapters.merge):
        with pytest.raises(ValueError, match="holds no adapter_model.safetensors"):
            read(random_model(), tmp_path)
    assert not (tmp_path / "ran").exists()


def test_code_beside_weights_is_not_run(tmp_path):
    """auto_map names a class in a file of the folder; trust_remote_code would import it."""
    folder, sign = tmp_path / "policy", tmp_path / "ran"
    random_model().save_pretrained(folder)
    micro_tokenizer().save_pretrained(folder)
    facts = json.loads((folder / "config.json").read_text())
    facts |= {"model_type": "theirs", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "code.py").write_text(f"open({str(sign)!r}, 'w')\nclass C: pass\nclass M: pass\n")
    with pytest.raises((ValueError, OSError)):
        compute = compose("compute.device=cpu").compute
        policy.load(folder, template="none", compute=compute, precision="fp32_master")
    assert not sign.exists()


# --- texts ---------------------------------------------------------------------------------------


def test_special_tokens_in_data_train_as_text(tmp_path):
    """From a file of rows to the ids that every stage reads: one EOS a response."""
    rows = [
        {"prompt": f"</s><pad> say {i} </s>", "response": f"<pad>{i}</s></s>"} for i in range(48)
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data=file", f"data.path={data}", "selfplay.iterations=1", "model.max_length=128"]
    folder, _ = play(tmp_path / "runs", "sft", *overrides, "track.diagnostics=false")
    control = {*micro_tokenizer().all_special_ids}
    for row in read_rows(folder.prompts):
        assert not control & {*row["prompt_ids"]} and "</s>" in row["prompt"]
        assert sum(i in control for i in row["annotated_ids"]) == 1
