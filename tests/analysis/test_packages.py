"""Which package of analysis may import which: reading, figures, claims, report; wandb alone."""

import pytest
from test_architecture import ROOT, SOURCES, ours

MAY_IMPORT = {
    "reading": "",
    "figures": "reading",
    "claims": "reading figures",
    "report": "reading figures claims",
    "wandb": "",
}
# Beside the files: what a run is doing, and what its numbers mean.
LOOKED_UP = ("tspin.cli.status", "tspin.tracking.health")
COMMANDS = {"analysis.report.report", "analysis.wandb.dashboard", "analysis.wandb.sync",
            "analysis.wandb.local_sync"}  # fmt: skip
OF_TSPIN = ("tspin.config.", "tspin.objectives.", "tspin.runs.", "tspin.tools.",
            "tspin.cli.folders")  # fmt: skip


def package(module):
    return module.split(".")[1]


IN_PACKAGES = [m for m in SOURCES if m.startswith("analysis.") and package(m) in MAY_IMPORT]


def imported(module):
    return ours(module) | ours(module, types=True)


def test_the_table_is_of_the_packages_there_are():
    folders = {path.parent.name for path in (ROOT / "analysis").glob("*/__init__.py")}
    assert folders == set(MAY_IMPORT)


@pytest.mark.parametrize("module", IN_PACKAGES)
def test_a_module_imports_its_package_and_those_below(module):
    """Options of the command line are for the commands alone."""
    others = {other for other in imported(module) if other.startswith("analysis.")}
    if module in COMMANDS:
        others -= {"analysis.options"}
    name = package(module)
    assert {package(other) for other in others} <= {name, *MAY_IMPORT[name].split()}


@pytest.mark.parametrize("module", IN_PACKAGES)
def test_only_wandb_sees_the_tracker(module):
    """Everything else reads files: the configuration, what run folders hold, tools."""
    others = {other for other in imported(module) if other.startswith("tspin.")}
    allowed = OF_TSPIN + (("tspin.tracking.",) if package(module) == "wandb" else ())
    allowed += LOOKED_UP if package(module) == "report" else ()
    assert [other for other in others if not other.startswith(allowed)] == []
