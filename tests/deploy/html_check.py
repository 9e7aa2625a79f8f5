"""A strict reader of HTML: what browsers forgive is an error here."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise

VOID = frozenset({"meta", "wbr", "br", "hr", "img", "link", "input"})
SVG = frozenset({"svg", "g", "line", "circle", "polyline", "text", "title"})
INLINE = frozenset({"a", "code", "em", "span", "wbr"})
PAGE = frozenset({"html", "head", "style", "body", "header", "nav", "main", "section", "footer"})
BLOCKS = frozenset({"h1", "h2", "h3", "p", "ul", "ol", "li", "pre", "div", "dl", "dt", "dd"})
BLOCKS |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
BLOCKS |= {"figure", "figcaption", "details", "summary"}
KNOWN = SVG | VOID | PAGE | BLOCKS | INLINE


@dataclass
class Node:
    """An element."""

    tag: str
    attributes: dict[str, str]
    parent: Node | None
    content: list[Node | str] = field(default_factory=list)

    @property
    def children(self) -> list[Node]:
        """The elements in it."""
        return [each for each in self.content if isinstance(each, Node)]

    def all(self, *tags: str) -> list[Node]:
        """Descendants with one of these tags, in the order of the document."""
        found = []
        for child in self.children:
            if child.tag in tags:
                found.append(child)
            found += child.all(*tags)
        return found

    @property
    def text(self) -> str:
        """All text within, spaces run together, blocks kept apart."""
        return " ".join(self._spaced().split())

    def _spaced(self) -> str:
        inner = "".join(each if isinstance(each, str) else each._spaced() for each in self.content)
        return inner if self.tag in INLINE else f" {inner} "

    def rows(self) -> list[list[str]]:
        """The cells of a table's body, in the signs of plain text."""
        (body,) = self.all("tbody")
        return [[plain(cell.text) for cell in row.children] for row in body.children]


def plain(text: str) -> str:
    """Text without typographic signs."""
    for sign, ascii_sign in (("−", "-"), ("×", "x"), ("\u00a0", " "), ("’", "'")):
        text = text.replace(sign, ascii_sign)
    return text


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("#document", {}, None)
        self.open = self.root

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert tag in KNOWN, f"<{tag}>"
        assert len(set(names)) == len(names), f"<{tag}> repeats an attribute"
        assert not any(name.startswith("on") or name in {"src", "style"} for name in names), names
        node = Node(tag, {name: value or "" for name, value in attrs}, self.open)
        self.open.content.append(node)
        if tag not in VOID:
            self.open = node

    def handle_startendtag(self, tag, attrs):
        assert tag in SVG, f"<{tag}/> closes nothing in HTML"
        self.handle_starttag(tag, attrs)
        self.open = self.open.parent

    def handle_endtag(self, tag):
        assert self.open.tag == tag, f"</{tag}> within <{self.open.tag}>"
        self.open = self.open.parent

    def handle_data(self, data):
        self.open.content.append(data)


def read_html(text: str) -> Node:
    """Read a document, and check what every page of this project promises."""
    assert text.startswith("<!doctype html>\n<html lang=")
    reader = _Reader()
    reader.feed(text)
    reader.close()
    root = reader.root
    assert reader.open is root, f"<{reader.open.tag}> is never closed"
    assert len(root.all("h1")) == len(root.all("main")) == 1
    assert root.all("head")[0].all("title")[0].text
    levels = [int(heading.tag[1]) for heading in root.all("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    nodes = root.all(*KNOWN)
    ids = [node.attributes["id"] for node in nodes if "id" in node.attributes]
    assert len(set(ids)) == len(ids)
    for node in nodes:
        for name in ("href", "aria-labelledby"):
            if name in node.attributes:
                assert node.attributes[name].removeprefix("#") in ids, node.attributes
    for table in root.all("table"):
        heads = table.all("thead")[0].all("th")
        assert heads
        assert all(head.attributes["scope"] == "col" for head in heads)
        for row in table.all("tbody")[0].children:
            assert row.children[0].attributes["scope"] == "row"
            assert len(row.children) == len(heads), plain(row.text)
    for drawing in root.all("svg"):
        named = drawing.attributes.get("role") == "img" and drawing.attributes.get("aria-label")
        assert named or drawing.attributes.get("aria-hidden") == "true"
    return root
