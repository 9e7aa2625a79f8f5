"""No link between the pages leads nowhere."""

from __future__ import annotations

import pytest
from pages import PAGES, ROOT, anchors, links, name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_internal_link_leads_somewhere(page):
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)}: {link}"
        assert target.is_relative_to(ROOT), f"{name(page)}: {link} leads out of the repository"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}"


def test_every_page_can_be_reached():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in links(page)
        if "://" not in link
    }
    assert {name(page) for page in PAGES if page not in linked} <= {"README.md"}


def test_anchors_are_those_of_github(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# What's `--max-drop`?\n\n## [A link](x.md), twice\n\n```text\n# no heading\n```\n"
        "## A link, twice\n",
        encoding="utf-8",
    )
    assert anchors(page) == {"whats---max-drop", "a-link-twice", "a-link-twice-1"}
