"""Formulas in TeX, $...$ and $$...$$, as MathML, which browsers set without a script or a font.

pymdownx.arithmatex marks them in a page, latex2mathml converts them.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs with the HTML of every page."""
    content = BLOCK.sub(lambda formula: mathml(formula[1], display="block"), content)
    return INLINE.sub(lambda formula: mathml(formula[1], display="inline"), content)


def mathml(tex: str, *, display: str) -> str:
    text = convert(html.unescape(tex).strip(), display=display)
    return text.replace("<mi>log</mi>", '<mi>log</mi><mspace width="0.17em" />')  # as TeX has it
