"""What tspin imports of torch and transformers, as versions of them define it.

Read from wheels without importing them, so that versions that are not installed, or not for this
machine, can be looked at. tests/golden/signatures.json is made anew by

    pip download --no-deps torch==VERSION    # any platform, and so on for transformers
    python tests/support/signatures.py WHEEL...
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "golden" / "signatures.json"
LIBRARIES = ("torch", "transformers")
SHARDED = {
    name: f"torch.distributed.fsdp._fully_shard._fully_shard.FSDPModule.{name}"
    for name in ("set_gradient_divide_factor", "set_force_sum_reduction_for_comms",
                 "set_requires_gradient_sync", "set_reshard_after_backward",
                 "set_is_last_backward", "set_unshard_in_backward")
}  # fmt: skip
METHODS = tuple(
    f"transformers.modeling_utils.PreTrainedModel.{name}"
    for name in ("set_attn_implementation", "_can_set_attn_implementation",
                 "gradient_checkpointing_enable", "activation_checkpointing_enable")
) + tuple(SHARDED.values())  # fmt: skip
COMPILED = {"torch.distributed.ProcessGroup"}  # what no source says


def table() -> dict[str, dict[str, dict[str, str | None]]]:
    """library -> version -> name in full -> as `definition` has it"""
    return json.loads(TABLE.read_text())


def signature(text: str) -> inspect.Signature:
    """The signature of a function written so: "(a, *, b=...)"."""
    namespace: dict[str, Any] = {}
    exec(f"def function{text}: ...", namespace)
    return inspect.signature(namespace["function"])


def imports() -> Iterator[tuple[Path, dict[str, str], ast.Module]]:
    """For each source file what its names stand for: `f` -> "torch.a.f", `a` -> "torch.a"."""
    for path in sorted((ROOT / "tspin").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            elif isinstance(node, ast.Import):
                names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        ours = {k: v for k, v in names.items() if v.split(".")[0] in LIBRARIES}
        yield path, ours, tree


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call of such a name. -> place in the source, the name in full, the call"""
    for path, names, tree in imports():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            whole = None
            if isinstance(node.func, ast.Attribute) and node.func.attr in SHARDED:
                self = ast.Constant("self")
                bound = ast.Call(node.func, [self, *node.args], node.keywords)
                yield f"{path.relative_to(ROOT)}:{node.lineno}", SHARDED[node.func.attr], bound
            elif isinstance(node.func, ast.Name):
                whole = names.get(node.func.id)
            elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                module = names.get(node.func.value.id)
                whole = module and f"{module}.{node.func.attr}"
            if whole is not None:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", whole, node


def wanted() -> list[str]:
    """All names imported, the functions called as attributes of modules, and METHODS."""
    imported = {whole for _, names, _ in imports() for whole in names.values()}
    called = {whole for _, whole, _ in calls() if whole.rpartition(".")[0].islower()}
    return sorted({*imported, *called, *METHODS} - COMPILED)


def definition(archive: zipfile.ZipFile, sources: list[str], whole: str) -> str | None:
    """ "(a, *, b=...)" of a function, "" of what is there and no Python function, None."""
    module, _, name = whole.rpartition(".")
    prefix, method = module.replace(".", "/"), None
    if f"{prefix}/{name}.py" in sources or f"{prefix}/{name}/__init__.py" in sources:
        return ""  # a module
    if whole in METHODS:
        method, name, prefix = name, prefix.rpartition("/")[2], prefix.rpartition("/")[0]
    near = [p for p in (f"{prefix}.py", f"{prefix}/__init__.py") if p in sources]
    first = "".join(archive.read(path).decode("utf-8") for path in near)

    def elsewhere(path: str) -> bool:
        return f"from .{Path(path).stem} import" not in first and (
            f"{path.removesuffix('.py').replace('/', '.')} import" not in first
        )

    others = [p for p in sources if p.startswith(f"{prefix}/") and p not in near]
    for path in [*near, *sorted(others, key=elsewhere)]:
        text = archive.read(path).decode("utf-8")
        node = defined(ast.parse(text).body, name) if name in text else None
        if isinstance(node, ast.ClassDef) and method is not None:
            node = defined(node.body, method)
            return written(node.args) if isinstance(node, ast.FunctionDef) else None
        if node is not None:
            return written(node.args) if isinstance(node, ast.FunctionDef) else ""
    return None


def defined(body: list[ast.stmt], name: str) -> ast.stmt | None:
    """The function, class or assignment of that name, under conditions too."""
    for node in body:
        targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
        names = [getattr(target, "id", None) for target in targets]
        decorators = [getattr(d, "id", None) for d in getattr(node, "decorator_list", ())]
        if name in (getattr(node, "name", None), *names) and "overload" not in decorators:
            return node
        if isinstance(node, ast.If | ast.Try):
            inner = defined([*node.body, *node.orelse], name)
            if inner is not None:
                return inner
    return None


def written(arguments: ast.arguments) -> str:
    """Names and which of them may be left out; neither types nor values."""
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    empty = ast.Constant(...)
    arguments.defaults = [empty for _ in arguments.defaults]
    arguments.kw_defaults = [default and empty for default in arguments.kw_defaults]
    return f"({ast.unparse(arguments)})".replace("Ellipsis", "...")


def record(wheels: list[str]) -> None:
    known: dict[str, dict[str, dict[str, str | None]]] = {library: {} for library in LIBRARIES}
    for wheel in wheels:
        library, version = Path(wheel).name.split("-")[:2]
        with zipfile.ZipFile(wheel) as archive:
            sources = [p for p in archive.namelist() if p.endswith(".py")]
            known[library][version.partition("+")[0]] = {
                whole: definition(archive, sources, whole)
                for whole in wanted()
                if whole.split(".")[0] == library
            }
    TABLE.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    record(sys.argv[1:])
