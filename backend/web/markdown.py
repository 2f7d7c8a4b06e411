"""The Markdown of a policy's text as HTML with a table of contents.

Raw HTML is shown as text, an image as its description, and a link with a dangerous scheme as text: nothing of the
output is written by the text itself, so no sanitizer is needed.
"""

import re
from collections.abc import MutableMapping, Sequence
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from markupsafe import Markup

DEEPEST = 6
LINK = re.compile("https?:|mailto:|tel:|[#/]", re.IGNORECASE)


class Heading(NamedTuple):
    """An entry of the table of contents; the level of the highest headings is 0."""

    level: int
    id: str
    text: str


class Rendered(NamedTuple):
    """A text as HTML, and its headings."""

    html: Markup
    headings: tuple[Heading, ...]


class _Renderer(RendererHTML):
    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]) -> str:
        """Return the description of an image, which is not loaded."""
        return str(Markup.escape(self.renderInlineAsText(tokens[idx].children or [], options, env)))

    def table_open(self, *_: object) -> str:
        """Let a wide table scroll by itself, with the keyboard too."""
        return '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>\n'

    def table_close(self, *_: object) -> str:
        return "</table></div>\n"


_MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
_RENDERER = _Renderer()
_MARKDOWN.validateLink = lambda url: LINK.match(url) is not None  # type: ignore[method-assign]


def render(text: str, under: int, anchor: str) -> Rendered:
    """Return a text as HTML. Its headings come below those of level `under`, with ids that begin with `anchor`."""
    tokens, headings = _MARKDOWN.parse(text), list[Heading]()
    openings = [token for token in tokens if token.type == "heading_open"]
    highest = min((int(token.tag[1]) for token in openings), default=1)
    last = under
    for opening, inline, closing in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if opening.type == "heading_open":
            # No level is left out, as programs that read a page aloud expect.
            last = min(under + 1 + int(opening.tag[1]) - highest, last + 1, DEEPEST)
            opening.tag = closing.tag = f"h{last}"
            opening.attrSet("id", f"{anchor}-{len(headings) + 1}")
            text_only = _RENDERER.renderInlineAsText(inline.children or [], _MARKDOWN.options, {})
            headings.append(Heading(last - under - 1, str(opening.attrs["id"]), text_only))
    html = _RENDERER.render(tokens, _MARKDOWN.options, {})
    return Rendered(Markup(html), tuple(headings))  # noqa: S704 - made of the parsed text, with everything escaped
