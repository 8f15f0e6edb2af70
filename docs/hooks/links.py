"""A page's links out of docs/, to files of the repository, are their paths on the site.

In the repository they lead to the files, and tests/project/test_docs.py holds them; the site does
not carry these files, and a project may lie anywhere.
"""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`[text](../path)` as text and path. Called by mkdocs for every page."""
    return OUTSIDE.sub(as_text, markdown)


def as_text(link: re.Match[str]) -> str:
    text, path = link.groups()
    return f"`{path}`" if text == path else f"{text} (`{path}`)"
