"""What may know what: imports, file names, configuration, and the three lists of dependencies.

Read from the syntax trees of the sources; only the test of torch starts a process.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from tspin.config import objective as config_objective

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("tspin", "analysis")
    for path in sorted((ROOT / folder).rglob("*.py"))
} | {"main": ROOT / "main.py", "hydra_plugins.tspin": ROOT / "hydra_plugins" / "tspin.py"}
PACKAGES = {module for module, path in SOURCES.items() if path.name == "__init__.py"}
EVERYWHERE = [*SOURCES.values(), *sorted((ROOT / "tests").rglob("*.py"))]

# package -> the packages it may import, at the top or inside a function; from the ground up
MAY_IMPORT = {
    "tools": "",
    "objectives": "tools",
    "config": "tools objectives",
    "micro": "tools",
    "verifiable": "",
    "data": "tools objectives config micro verifiable",
    "planning": "tools config micro",
    "distributed": "tools config",
    "runs": "tools objectives config planning",
    "logprobs": "tools objectives data",
    "tracking": "tools objectives config runs",
    "policy": "tools objectives config micro data logprobs",
    "training": "tools objectives config data distributed logprobs policy",
    "sampling": "tools config data logprobs policy",
    "harness": "tools config verifiable data policy",
    "stages": "tools objectives config verifiable data distributed runs logprobs tracking policy "
    "training sampling",
    "selfplay": "tools objectives config data planning distributed runs logprobs tracking policy "
    "training sampling stages",
    "cli": "tools config data planning distributed runs tracking policy training sampling selfplay",
    "export": "tools config data runs tracking policy cli",
}
STAGES = ("prepare", "choose", "generate", "score", "train", "evaluate", "benchmark")
NO_TORCH = (
    "__main__ cli.arguments cli.chat cli.command cli.compose cli.options cli.outcome cli.plan "
    "cli.completion cli.likelihood cli.quoting cli.run cli.status cli.stored_run cli.sweep "
    "config.run "
    "data.annotated data.cells data.files data.hf_datasets data.plain data.schemas data.sources "
    "data.templates data.tokens data.turns distributed.failure distributed.launcher "
    "distributed.world export.card "
    "export.checkpoint export.pairs export.opening micro "
    "micro.open_task micro.task planning.disk runs.artifacts runs.benchmarks runs.evaluation "
    "runs.comparison runs.heartbeat runs.metrics runs.mirror runs.point runs.retention runs.start "
    "runs.store sampling.requests sampling.vllm sampling.vllm_worker selfplay.banner "
    "stages.benchmark stages.evaluate stages.generate tools.activity tools.files "
    "tools.intervals tools.parquet tools.run_progress tools.seeds tools.signals tools.terminal "
    "tracking.health tracking.replay tracking.summary tracking.wandb verifiable.task"
)


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports_of(module, *, types):
    """The import statements; those under `if TYPE_CHECKING` only with types=True, and then only
    those."""
    tree = parsed(SOURCES[module])
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and (id(node) in guarded) == types
    ]


def imports(module, *, types=False):
    """(module, name or None) of every import, at the top and inside functions."""
    for node in imports_of(module, types=types):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole, None) if whole in SOURCES else (node.module, alias.name)


def ours(module, **options):
    return {name for name, _ in imports(module, **options) if name in SOURCES} - {
        "tspin",
        *PACKAGES,
    }


def third_party(module):
    names = {name.split(".")[0] for t in (False, True) for name, _ in imports(module, types=t)}
    return names - {"tspin", "analysis", "main", "hydra_plugins", *sys.stdlib_module_names}


def literals(module):
    """(string, line) of every literal that is no docstring; of f-strings their fixed parts."""
    tree = parsed(SOURCES[module])
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value, node.lineno


def root_name(node):
    """`cfg` of cfg.loss.name and of cfg["loss"]; the last attribute counts as a name too."""
    names = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        names.append(getattr(node, "attr", None))
        node = node.value
    return {getattr(node, "id", None), *names}


TSPIN = [
    m
    for m in SOURCES
    if m.startswith("tspin.") and m not in PACKAGES | {"tspin"} or m == "tspin.micro"
]


# --- who imports whom ----------------------------------------------------------------------------


def package(module):
    """objectives of tspin.objectives.links; main and the like are packages of their own."""
    return module.removeprefix("tspin.").split(".")[0]


def test_the_table_is_of_the_packages_there_are():
    folders = {path.parent.name for path in (ROOT / "tspin").glob("*/__init__.py")}
    assert set(MAY_IMPORT) == folders


def test_the_table_has_no_circle():
    """A package may import those above it in the table alone."""
    above = set()
    for name, others in MAY_IMPORT.items():
        assert set(others.split()) <= above, name
        above.add(name)


@pytest.mark.parametrize("module", TSPIN)
def test_import_direction(module):
    """Types count too: what a module names in a signature it depends on."""
    name = package(module)
    if name == "__main__":  # the others by name, when a verb is typed
        assert ours(module) == {*("tspin.cli.folders", "tspin.cli.outcome", "tspin.tools.spelling")}
        return
    imported = {package(other) for other in ours(module) | ours(module, types=True)} - {name}
    imported -= {"hydra_plugins"} if module == "tspin.cli.run" else set()  # which it hands the plan
    assert imported <= set(MAY_IMPORT[name].split())


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_package_is_small_enough_to_look_over(name):
    modules = [m for m in TSPIN if package(m) == name and not m.endswith("__init__")]
    assert len(modules) <= 16, "about a dozen modules a package"


def test_no_module_is_in_a_circle():
    """Inside a package too, and through imports inside functions."""
    graph = {module: {*ours(module), *ours(module, types=True)} for module in SOURCES}
    while leaves := [module for module in graph if not graph[module] & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert set(graph) == set()


def test_stages_never_import_each_other():
    stages = {f"tspin.stages.{stage}" for stage in STAGES}
    assert not [
        (stage, found) for stage in STAGES if (found := ours(f"tspin.stages.{stage}") & stages)
    ]


def test_only_self_play_knows_the_stages():
    stages = {f"tspin.stages.{stage}" for stage in STAGES}
    knowing = {module for module in SOURCES if ours(module) & stages}
    assert {package(module) for module in knowing - stages} == {"selfplay"}
    users = {module for module in SOURCES if "tspin.selfplay.algorithm" in ours(module)}
    assert users == {"tspin.cli.run"}


def test_main_is_the_verb_run_and_no_more():
    assert ours("main") == {"tspin.cli.outcome", "tspin.cli.run"}
    assert ours("hydra_plugins.tspin") == {
        f"tspin.{name}" for name in "tools.signals cli.sweep cli.folders cli.outcome".split()
    }


@pytest.mark.parametrize("module", [module for module in SOURCES if module.startswith("analysis")])
def test_analysis_reads_files_and_no_model(module):
    """Configuration, objectives by name and cells, run folders; W&B by the road of a live run."""
    packages = {package(name) for name in ours(module) if not name.startswith("analysis")}
    assert packages <= {"tools", "objectives", "config", "runs", "tracking", "cli"}
    assert not third_party(module) & {"torch", "transformers", "wandb", "hydra", "omegaconf"}


@pytest.mark.parametrize(
    ("library", "home"),
    [
        ("wandb", {"tspin.tracking.wandb"}),
        ("mlflow", {"tspin.tracking.mlflow"}),
        ("trackio", {"tspin.tracking.trackio"}),
        ("accelerate", {"tspin.distributed.world"}),
        ("wandb_workspaces", {"analysis.wandb.dashboard"}),
        ("itables", {"analysis.report.environment"}),
        ("jinja2", {"analysis.report.environment"}),
        ("lm_eval", {"tspin.harness.evaluation", "tspin.harness.tasks"}),
        (
            "hydra",
            {"hydra_plugins.tspin"}
            | {f"tspin.cli.{name}" for name in ("command", "compose", "quoting", "run")},
        ),
        (
            "omegaconf",
            {"hydra_plugins.tspin"} | {f"tspin.cli.{n}" for n in ("command", "compose", "run")},
        ),
        (
            "pydantic",
            {f"tspin.config.{name}" for name in ("run", "load", "objective", "shift", "strict")},
        ),
        ("vllm", {"tspin.sampling.vllm_worker"}),
        ("peft", {"tspin.policy.adapters"}),
        ("liger_kernel", {"tspin.policy.kernels"}),
        (
            "datasets",
            {"tspin.data.hf_datasets"}
            | {f"tspin.harness.{m}" for m in ("__main__", "own_tasks.verifiable.documents")},
        ),
        ("fsspec", {"tspin.runs.store"}),
        ("pickle", set()),
    ],
)
def test_a_library_has_one_home(library, home):
    found = {
        module
        for module in SOURCES
        for types in (False, True)
        if library in {name.split(".")[0] for name, _ in imports(module, types=types)}
    }
    assert found == home


def test_hydra_is_used_by_its_public_interfaces():
    names = [(module, name) for module in SOURCES for name, _ in imports(module)]
    private = [(module, name) for module, name in names if name.startswith("hydra._internal")]
    assert names and private == []


@pytest.mark.process
def test_torch_stays_out_until_there_is_something_to_compute():
    modules = [f"tspin.{name}" for name in NO_TORCH.split()]
    heavy = "{'torch', 'transformers'}"
    code = f"import main, {', '.join(modules)}, sys\nassert not {heavy} & {{*sys.modules}}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- who knows what ------------------------------------------------------------------------------

FILE_NAME = re.compile(r"[\w-]+\.(parquet|jsonl|json|yaml|safetensors)")


def test_only_artifacts_spells_the_files_of_a_run():
    names = {
        word
        for text, _ in literals("tspin.runs.artifacts")
        for word in re.findall(r"[\w.-]+", text)
        if FILE_NAME.fullmatch(word)
    }
    assert {"config.yaml", "metrics.jsonl", "scores.parquet", "done.json"} <= names
    parts = {*names, "train_state", "ref_scores", "checkpoint"}
    spelt = [
        f"{module}:{line}: {text!r}"
        for module in SOURCES
        if module != "tspin.runs.artifacts" and not module.startswith("tspin.micro")
        for text, line in literals(module)
        if " " not in text  # sentences are for people
        for part in text.split("/")
        if part in parts or part.startswith(("iter_", "part-"))
    ]
    assert spelt == []


# names a part of the configuration goes by; `model` is left out: most often it is the network
CONFIGURATION = {"cfg", "hydra_cfg", "config", "tree", "run", "loss", "coef", "data", "optim"} | {
    *("decoding", "how", "compute", "track", "selfplay")
}


@pytest.mark.parametrize("module", [m for m in SOURCES if not m.startswith("analysis")])
def test_no_second_default_for_the_configuration(module):
    for node in ast.walk(parsed(SOURCES[module])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr == "get" and len(node.args) + len(node.keywords) > 1:
                assert not root_name(node.func.value) & CONFIGURATION, f"line {node.lineno}"
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "getattr":
            default = len(node.args) > 2
            assert not (default and root_name(node.args[0]) & CONFIGURATION), f"line {node.lineno}"


@pytest.mark.parametrize(
    "module", sorted({m for m in TSPIN if package(m) != "objectives"} | {"main"})
)
def test_nobody_asks_which_objective_it_is(module):
    """Neither by its name nor by its class: what it needs is asked of it (tspin.objectives)."""
    built_in = {kind.name: kind.__name__ for kind in config_objective.built_in()}
    for node in ast.walk(parsed(SOURCES[module])):
        if isinstance(node, ast.Attribute) and node.attr == "name":
            assert "loss" not in root_name(node.value), f"line {node.lineno}"
        if isinstance(node, ast.Compare | ast.Match):
            constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            assert not constants & built_in.keys(), f"line {node.lineno}"
    assert not {name for _, name in imports(module)} & {*built_in.values()}


# --- how it is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVERYWHERE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_in_ascii(path):
    assert ast.get_docstring(parsed(path))
    assert path.read_text(encoding="utf-8").isascii()


def test_configuration_is_ascii():
    files = [*(ROOT / "conf").rglob("*.yaml"), ROOT / "pyproject.toml", ROOT / "environment.yml"]
    assert [file for file in files if not file.read_text(encoding="utf-8").isascii()] == []


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_prints_or_pickles(module):
    for node in ast.walk(parsed(SOURCES[module])):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            assert call not in ("print", "torch.save", "torch.load"), f"line {node.lineno}"
            assert call != "yaml.load" or _safe_loader(node), f"line {node.lineno}"
            keys = {keyword.arg for keyword in node.keywords}
            assert "trust_remote_code" not in keys, f"line {node.lineno}"


def _safe_loader(call):
    loader = ast.unparse(call.args[1])
    return loader in ("yaml.CSafeLoader", "FAST_YAML", "_TaskFile")  # the last two: see below


def test_loaders_of_yaml_make_plain_values_only():
    from analysis.reading.runs import FAST_YAML
    from tspin.runs.benchmarks import _TaskFile

    assert FAST_YAML in (yaml.SafeLoader, yaml.CSafeLoader)
    assert issubclass(_TaskFile, yaml.SafeLoader)
    text = "a: !!python/object/apply:os.getpid []"
    with pytest.raises(yaml.YAMLError):
        yaml.load(text, FAST_YAML)


# --- dependencies --------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
DECLARED = [
    requirement
    for requirement in map(Requirement, [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])])
    if requirement.name != PROJECT["name"]  # an extra that includes others
]
IMPORTED_AS = {
    "mlflow": "mlflow-skinny",
    "yaml": "pyyaml",
    "hydra": "hydra-core",
    "pydantic_core": "pydantic",
}


def pins(lines):
    """{name: version} of `name==version` lines."""
    pinned = {}
    for line in lines:
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, line
        name = canonicalize_name(requirement.name)
        assert name not in pinned, f"{name} is pinned twice"
        pinned[name] = Version(specifier.version)
    return pinned


def constraints():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return pins(line for line in lines if line.strip() and not line.startswith("#"))


def environment():
    """(dependencies of conda, lines of pip)"""
    file = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in file["dependencies"] if isinstance(entry, dict))
    return [entry for entry in file["dependencies"] if isinstance(entry, str)], pip


@pytest.mark.parametrize("requirement", DECLARED, ids=str)
def test_every_dependency_is_pinned_in_its_range(requirement):
    pinned = constraints()
    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


def test_nothing_else_is_pinned():
    assert set(constraints()) == {canonicalize_name(r.name) for r in DECLARED}


def test_conda_and_pip_get_the_same():
    _, pip = environment()
    assert pins(line for line in pip if not line.startswith("-")) == constraints()
    assert [line for line in pip if line.startswith("-")] in (["-e ."], ["-e .[dev]"])


def test_python():
    """3.14 breaks every hydra 1.3; 3.10 is the oldest whose syntax the code uses."""
    supported = SpecifierSet(PROJECT["requires-python"])
    assert supported == SpecifierSet(">=3.10,<3.14")
    conda, _ = environment()
    (python,) = (entry for entry in conda if entry.startswith("python"))
    assert supported.contains(python.removeprefix("python").lstrip("="))


def test_every_import_is_a_declared_dependency():
    always = {canonicalize_name(Requirement(d).name) for d in PROJECT["dependencies"]}
    extra = {
        "analysis.wandb.dashboard": "dashboards",
        "tspin.policy.adapters": "lora",
        "tspin.policy.kernels": "liger",
        "tspin.tracking.mlflow": "mlflow",
        "tspin.tracking.tensorboard": "tensorboard",
        "tspin.tracking.trackio": "trackio",
        "tspin.policy.quantization": "lora",
    }
    extra |= {module: "evals" for module in SOURCES if module.startswith("tspin.harness.")}
    brought = {"nltk", "langdetect", "sympy"}  # by extras of lm-eval and math-verify themselves
    for module in SOURCES:
        used, declared = third_party(module), always | brought if module in extra else set(always)
        if module in extra:
            declared |= {canonicalize_name(Requirement(d).name) for d in EXTRAS[extra[module]]}
        if module == "tspin.sampling.vllm_worker":
            declared.add("vllm")  # of an environment of its own: it excludes our transformers
        needed = {canonicalize_name(IMPORTED_AS[n] if n in IMPORTED_AS else n) for n in used}
        assert needed <= declared, f"{module} imports {needed - declared}"
