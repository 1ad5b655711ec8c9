"""The glossary: every link of a notebook leads to an entry, every entry is used, and the entries are in order."""

import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "notebooks" / "glossary.md"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
LINK = re.compile(r"\]\(glossary\.md(?:#([^)\s]*))?\)")
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|^(?:#|\|).*?$", re.DOTALL | re.MULTILINE)  # code, headings, tables
MOST_WORDS = 70  # of an entry, so that it stays one or two sentences and where it is taught


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading: lower case, dashes for spaces, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def entries_of(text: str) -> dict[str, str]:
    """Term -> what stands under its heading, in the order of the file."""
    return dict(re.findall(r"^## (.+?)\n+(.*?)(?=\n## |\Z)", text, re.DOTALL | re.MULTILINE))


def links_of(notebook: nbformat.NotebookNode) -> list[str]:
    """The anchors that a notebook's prose links, in order."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return [found for text in texts for found in LINK.findall(NOT_PROSE.sub("", text))]


def faults_of(links: list[str], anchors: set[str]) -> list[str]:
    """What is wrong with the links of one notebook."""
    faults = [f"glossary.md#{link} is no entry" for link in links if link not in anchors]
    faults += [f"{link} is linked twice" for link in sorted(set(links)) if links.count(link) > 1]
    return faults + [f"only {len(links)} words are linked"] * (len(links) < 5)


ENTRIES = entries_of(GLOSSARY.read_text(encoding="utf-8"))
LINKS = {path.name: links_of(nbformat.read(path, as_version=4)) for path in NOTEBOOKS}


@pytest.mark.parametrize("name", LINKS)
def test_a_notebook_links_entries_once_each(name):
    assert not faults_of(LINKS[name], {anchor(term) for term in ENTRIES})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_link_stands_in_prose(path):
    """In a heading it would change the heading's own anchor, and in code it would be text."""
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)
    assert len(LINK.findall(source)) == len(LINKS[path.name])


def test_every_entry_is_linked_from_a_notebook():
    linked = {link for links in LINKS.values() for link in links}
    assert not [term for term in ENTRIES if anchor(term) not in linked]


def test_the_entries_are_alphabetical_and_have_anchors_of_their_own():
    terms = [term.casefold() for term in ENTRIES]
    assert 40 <= len(terms) and terms == sorted(terms)
    assert len({anchor(term) for term in ENTRIES}) == len(terms)


@pytest.mark.parametrize("term", ENTRIES)
def test_an_entry_is_short_and_says_where_it_is_taught(term):
    text = ENTRIES[term]
    assert len(text.split()) <= MOST_WORDS
    taught = re.search(r"Taught in \[notebook (\d\d)\]\((\1_\w+\.ipynb)\)", text)
    assert taught and (GLOSSARY.parent / taught[2]).exists(), text
    own = re.findall(r"\]\(#([^)]*)\)", text)
    assert set(own) <= {anchor(other) for other in ENTRIES} - {anchor(term)}


@pytest.mark.parametrize(
    ("links", "fault"),
    [
        (["a", "b", "c", "d", "x"], "glossary.md#x is no entry"),
        (["a", "b", "c", "d", ""], "glossary.md# is no entry"),
        (["a", "b", "c", "d", "a"], "a is linked twice"),
        (["a", "b", "c", "d"], "only 4 words are linked"),
    ],
)
def test_a_wrong_link_is_found(links, fault):
    assert fault in faults_of(links, set("abcd"))


def test_links_are_told_from_text_that_is_none():
    prose = "The [loss](glossary.md#loss).\n\n## A [head](glossary.md#head)\n\n`[code](glossary.md#code)`"
    assert links_of(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(prose)])) == ["loss"]
