"""What every page shares: the templates, styles and scripts inside the file, words as they are
escaped. Its content policy lets a browser load nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from itables import options as datatables
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis.figures import style

FOLDER = Path(__file__).parent / "template"


def render(
    template: str, *, scripts: tuple[str, ...] = (), tables: bool = False, **values: Any
) -> str:
    """A page as text.

    scripts  of template/, in their order
    tables   whether tables are sorted by DataTables, 600 KB, rather than not at all
    """
    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"coded": coded, "slug": slug, "part": part, "ink": ink}
    environment.globals |= {"colour": lambda label: ink(style.colour(label))}
    bundle = Path(datatables.dt_bundle)
    styles, modules = [inline(FOLDER / "page.css")], {}
    if tables:
        styles.insert(0, inline(bundle.with_suffix(".css")))
        modules = {"datatables": data_url("text/javascript", bundle.read_bytes())}
        scripts = ("tables.js", *scripts)
    return environment.get_template(template).render(
        styles=styles, modules={"imports": modules},
        scripts=[inline(FOLDER / name) for name in scripts], **values,
    )  # fmt: skip


def embedded(value: Any) -> Markup:
    """JSON inside a script element: no text of a run can end it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def coded(line: str) -> Markup:
    """A line with its `commands` as code."""
    return Markup(re.sub("`([^`]*)`?", r"<code>\1</code>", str(escape(line))))


def part(name: str) -> str:
    """A name as a part of an address."""
    return quote(name, safe="")


def ink(colour: str) -> str:
    """Black is the page's ink, which is light in the dark."""
    return "currentColor" if colour == "#000000" else colour


def slug(text: str) -> str:
    """A text as the id of an element."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def inline(path: Path) -> Markup:
    """A script or a style of ours, or of the table library, as it stands."""
    text = path.read_text(encoding="utf-8")
    assert "</script" not in text and "</style" not in text, path
    return Markup(text)


def data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
