"""The glossary: entries in order, each with the notebook that teaches it; notebooks link only entries that exist."""

import re
from pathlib import Path

import nbformat

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading: lower case, dashes for spaces, no punctuation."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_the_glossary_is_in_order_and_every_link_leads_to_an_entry():
    text = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^## (.+?)\n+(.*?)(?=\n## |\Z)", text, re.DOTALL | re.MULTILINE))
    terms = [term.casefold() for term in entries]
    assert len(terms) >= 40 and terms == sorted(terms)
    anchors = [anchor(term) for term in entries]
    assert len(set(anchors)) == len(anchors)
    for term, words in entries.items():
        taught = re.search(r"Taught in \[notebook (\d\d)\]\((\1_\w+\.ipynb)\)", words)
        assert taught and (NOTEBOOKS / taught[2]).exists(), term
        assert set(re.findall(r"\]\(#([^)]*)\)", words)) <= set(anchors), term
    for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        linked = set(re.findall(r"\]\(glossary\.md(?:#([^)\s]*))?\)", "\n".join(cells)))
        assert linked <= set(anchors), f"{path.name} links {sorted(linked - set(anchors))}"
        assert linked, f"{path.name} links no word of the glossary"
