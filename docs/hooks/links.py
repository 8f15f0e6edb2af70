"""A page's links out of docs/, to files of the repository, are their paths on the site.

In the repository they lead to the files, and tests/project/test_docs.py holds them; the site does
not carry these files, and a project may lie anywhere.
"""

import re
from typing import Any

LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+)([^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """`[text](../path)` as text and path. Called by mkdocs for every page."""
    depth = page.file.src_uri.count("/")  # a page of docs/tutorials/ reaches docs/ by one "../"

    def on_the_site(link: re.Match[str]) -> str:
        text, up, path = link.groups()
        if up.count("../") <= depth:
            return link[0]
        return f"`{path}`" if text == path else f"{text} (`{path}`)"

    return LINK.sub(on_the_site, markdown)
