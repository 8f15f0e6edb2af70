"""Every call into torch and transformers against the versions that pyproject.toml allows."""

import ast
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from support import signatures

pytestmark = pytest.mark.slow

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
TABLE = signatures.table()
VERSIONS = [(library, version) for library in TABLE for version in TABLE[library]]
MODEL = "transformers.modeling_utils.PreTrainedModel"
# What some versions lack, and what stands in for it.
OPTIONAL = {
    "torch.nn.attention.varlen.varlen_attn": "scaled dot-product attention",
    f"{MODEL}.activation_checkpointing_enable": f"{MODEL}.gradient_checkpointing_enable",
    f"{MODEL}.gradient_checkpointing_enable": f"{MODEL}.activation_checkpointing_enable",
    # of torch 2.6, with which compute=fsdp2 is refused
    signatures.SHARDED["set_gradient_divide_factor"]: "compute=ddp",
    signatures.SHARDED["set_force_sum_reduction_for_comms"]: "compute=ddp",
}


def test_the_oldest_version_declared_is_in_the_table():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    for library, versions in TABLE.items():
        (declared,) = [s.version for s in requirements[library] if s.operator == ">="]
        oldest = min(map(Version, versions))
        assert (oldest.major, oldest.minor) == Version(declared).release[:2]
        assert all(requirements[library].contains(version) for version in versions)


@pytest.mark.parametrize(("library", "version"), VERSIONS)
def test_what_is_imported_is_there(library, version):
    known = TABLE[library][version]
    wanted = {name for name in signatures.wanted() if name.split(".")[0] == library}
    assert wanted <= known.keys(), "make the table anew (tests/support/signatures.py)"
    absent = {name for name in wanted if known[name] is None}
    assert absent <= OPTIONAL.keys()
    assert not any(OPTIONAL[name] in absent for name in absent)


@pytest.mark.parametrize(("library", "version"), VERSIONS)
def test_every_call_binds(library, version):
    """Written-out arguments; what a call unpacks can be anything."""
    known, bound = TABLE[library][version], 0
    for place, name, call in signatures.calls():
        if not known.get(name):
            continue
        positional = [a for a in call.args if not isinstance(a, ast.Starred)]
        keywords = [k.arg for k in call.keywords if k.arg is not None]
        whole = len(positional) + len(keywords) == len(call.args) + len(call.keywords)
        parameters = signatures.signature(known[name])
        bind = parameters.bind if whole else parameters.bind_partial
        try:
            bind(*positional, **dict.fromkeys(keywords))
        except TypeError as error:
            pytest.fail(f"{place}: {name} of {library} {version}: {error}")
        bound += 1
    assert bound
