"""The repository's pages of documentation, taken apart: headings, links, code and commands."""

import re
from pathlib import Path
from typing import NamedTuple

from helpers import ROOT

# what a reader follows; the changelog tells of what is gone, too
PAGES = ("README.md", "CONTRIBUTING.md", *sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md")))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Command(NamedTuple):
    """A line of a console block that begins with `$ `, and the output shown under it."""

    text: str
    output: str


def read_page(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def read_prose(page: str) -> str:
    """The page without its blocks of code."""
    return FENCE.sub("", read_page(page))


def read_commands(page: str) -> list[Command]:
    blocks = [text for language, text in FENCE.findall(read_page(page)) if language == "console"]
    parts = [part for text in blocks for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return [Command(*(text.strip() for text in part.partition("\n")[::2])) for part in parts]


def read_exports(page: str) -> dict[str, str]:
    """The variables that the page's commands export."""
    pairs = re.findall(r"^\$ export (\w+)=(.+)$", read_page(page), re.MULTILINE)
    return dict(pairs)


def read_block(page: str, language: str) -> str:
    """The page's only block of that language."""
    (block,) = [text for found, text in FENCE.findall(read_page(page)) if found == language]
    return str(block)


def read_code_spans(page: str) -> list[str]:
    """What is in backticks, with line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", read_prose(page))]


def read_links(page: str) -> list[tuple[str, str]]:
    """The path and the anchor of each link into the repository; one of the two may be empty."""
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", read_prose(page))
    return [(path, anchor) for path, _, anchor in (target.partition("#") for target in targets)]


def read_headings(page: str, level: str = "#+") -> list[str]:
    return re.findall(rf"^{level} (.+)$", read_prose(page), re.MULTILINE)


def to_anchor(heading: str) -> str:
    """The anchor that Git's web pages give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def defines(path: Path, name: str) -> bool:
    """Whether the Python file defines `name`, at any depth."""
    pattern = rf"^\s*(?:def |class |){name}\b\s*(?:\(|:|=)"
    return bool(re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))
