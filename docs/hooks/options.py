"""The page of all options, from conf/: each key with its default and the comment beside it.

The site's build puts it where docs/options.md has the line MARK. Of Hydra's own groups it has the
files that are ours.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
MARK = "<!-- options of conf/ -->"
PACKAGE = re.compile(r"# @package (\S+)\n")


@dataclass(frozen=True)
class Row:
    """A key as it is typed, its default as it is written, and what the comments at it say."""

    key: str
    default: str
    comment: str


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by mkdocs for every page."""
    if page.file.src_uri != "options.md":
        return markdown
    if MARK not in markdown:
        raise ValueError(f"docs/options.md has no line {MARK}, where the options go; put it back")
    return markdown.replace(MARK, reference(CONF))


def reference(conf: Path) -> str:
    """Markdown: a section for the keys of no group, then one for each group of `conf`."""
    chosen = dict(defaults_of(conf / "config.yaml"))
    lines = ["## Of the run itself", "", *table(rows(conf / "config.yaml", ""))]
    for group in sorted({path.parent for path in conf.rglob("*.yaml")} - {conf}):
        name = group.relative_to(conf).as_posix()
        lines += [f"## {name}", ""]
        for path in sorted(group.glob("*.yaml")):
            lines += option(path, name, is_default=chosen.get(name) == path.stem)
    return "\n".join(lines)


def option(path: Path, group: str, *, is_default: bool) -> list[str]:
    """The lines of GROUP=OPTION: its comment, what it builds on, its keys."""
    text = path.read_text(encoding="utf-8")
    package = next(iter(PACKAGE.findall(text)), group.replace("/", "."))
    prefix = "" if package == "_global_" else f"{package}."
    also = [f"`{of}={name}`" if of else f"`{group}={name}`" for of, name in defaults_of(path)]
    lines = [f"### {group}={path.stem}" + (" (the default)" if is_default else ""), ""]
    if comment := joined(head(text)):
        lines += [comment, ""]
    if also:
        lines += [f"Builds on {', '.join(also)}.", ""]
    return lines + table(rows(path, prefix))


def defaults_of(path: Path) -> Iterator[tuple[str, str]]:
    """(group, option) of the defaults list; the group is "" for one of the same folder."""
    for entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("defaults", []):
        if isinstance(entry, str):
            name = entry.split("@")[0].lstrip("/")
            if name != "_self_":
                yield tuple(name.rsplit("/", 1)) if "/" in name else ("", name)
        else:
            for group, name in entry.items():
                if name is not None:
                    yield group.removeprefix("override ").lstrip("/"), name


def rows(path: Path, prefix: str) -> list[Row]:
    """The keys that a file sets, in its order."""
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text)
    lines = text.splitlines()
    own = len(head(text, packages=True))  # what stands above it is of the file

    def walk(node: yaml.MappingNode, prefix: str) -> Iterator[Row]:
        for key, value in node.value:
            name, first = prefix + key.value, key.start_mark.line
            block = isinstance(value, yaml.MappingNode) and not value.flow_style
            last = first if block else value.end_mark.line
            column = key.end_mark.column if block else value.end_mark.column
            comment = joined([*above(lines[own:first]), lines[last][column:]])
            default = "" if block else text[value.start_mark.index : value.end_mark.index]
            if not block or comment:
                yield Row(name, default, comment)
            if block:
                yield from walk(value, f"{name}.")

    if not isinstance(root, yaml.MappingNode):
        return []
    root.value = [
        (key, value) for key, value in root.value if key.value not in ("defaults", "hydra")
    ]
    return list(walk(root, prefix))


def head(text: str, *, packages: bool = False) -> list[str]:
    """The comments that a file begins with."""
    comments = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if packages or not line.startswith("# @package"):
            comments.append(line)
    return comments


def above(lines: list[str]) -> list[str]:
    """The comments that directly precede what follows `lines`."""
    for number in range(len(lines), 0, -1):
        if not lines[number - 1].lstrip().startswith("#"):
            return lines[number:]
    return lines


def joined(comments: list[str]) -> str:
    """Comments as one text, without their marks."""
    texts = (re.sub(r"^[:\s]*#?\s*", "", comment).strip() for comment in comments)
    return " ".join(filter(None, texts)).replace("<", "&lt;")


def table(rows: list[Row]) -> list[str]:
    """Markdown's table of them; nothing for none."""
    if not rows:
        return []
    cells = [(f"`{row.key}`", f"`{row.default}`" * bool(row.default), row.comment) for row in rows]
    lines = [" | ".join(cell.replace("|", r"\|") for cell in line) for line in cells]
    return ["| key | default | |", "|---|---|---|", *(f"| {line} |" for line in lines), ""]
