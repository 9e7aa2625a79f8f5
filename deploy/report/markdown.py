"""report.md: what was built, what it costs in accuracy, and what the builder fused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deploy.report.filters import FILTERS
from deploy.report.view import report_view

if TYPE_CHECKING:
    from jinja2 import Environment

# Changed examples of each precision; report.html has all that results.json has.
_SHOWN = 3

# Characters of a text of one of those.
_EXCERPT = 160

# What would become markup in a sentence: HTML, emphasis, a table's border, a link's target.
_MARKUP = re.compile(r"[<*|]|(?<=\])\(")


def render_markdown(results: Mapping[str, Any]) -> str:
    """Render results.json as Markdown."""
    template = markdown_environment().get_template("report.md.j2")
    metrics = list(results["accuracy"]["fp32"]["metrics"])
    return template.render(metrics=metrics, shown=_SHOWN, **report_view(results))


def markdown_environment() -> Environment:
    """Templates of Markdown; `inline`, `cell` and `prose` keep a name from becoming markup."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("deploy.report", "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown is not HTML
    )
    environment.filters.update(
        FILTERS,
        cell=cell,
        excerpt=excerpt,
        inline=inline,
        prose=prose,
    )
    return environment


def prose(text: str) -> str:
    """A sentence that no name in it can turn into markup; what it quotes stays code."""
    return _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))


def excerpt(text: str) -> str:
    """The start of a text, on one line."""
    line = " ".join(text.split()) or "(empty)"
    return line if len(line) <= _EXCERPT else f"{line[: _EXCERPT - 1].rstrip()}…"


def inline(text: object) -> str:
    """Text as inline code that it cannot break out of (CommonMark 0.31, section 6.1)."""
    line = " ".join(str(text).split())
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    # A backtick at either end would join the fence.
    pad = " " if longest else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def cell(text: object) -> str:
    """Inline code in a table, where GitHub's tables take every bare pipe for a border."""
    return inline(text).replace("|", "\\|")
