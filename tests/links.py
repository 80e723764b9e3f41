"""Relative links and anchors in markdown, wherever it stands, and how a text names a chapter."""
import re
from pathlib import Path

import nbformat

BLOCK, CODE = re.compile(r"```.*?```", re.DOTALL), re.compile(r"`([^`\n]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
NUMBERED = re.compile(
    r"\bchapters?(?:'s)?\s+(?:up\s+to\s+)?\[?\d+"  # in prose
    r"|\[\d[^\]()]*\]\([^)\s]*\.ipynb"  # in a link
    r"|\b\d\d_[a-z]\w*",  # in a file's name
    re.IGNORECASE,
)


def notebook_text(notebook) -> str:
    """All that a notebook sets as text: its markdown cells, and its code cells' markdown outputs."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell in notebook.cells:
        texts += [o.data["text/markdown"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]
    return "\n\n".join(texts)


def anchors(text: str, in_notebook: bool) -> set[str]:
    """The anchors that a page gets from its headings: Jupyter keeps their letters, GitHub makes them plain."""
    headings = re.findall(r"^#+ +(.*?) *$", CODE.sub(r"\1", BLOCK.sub("", text)), re.MULTILINE)
    if in_notebook:
        return {heading.replace(" ", "-") for heading in headings}
    plain = (re.sub(r"\[(.*?)\]\(.*?\)|[*\\]", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def anchors_in(file: Path) -> set[str]:
    if file.suffix == ".ipynb":
        return anchors(notebook_text(nbformat.read(file, as_version=4)), in_notebook=True)
    return anchors(file.read_text(), in_notebook=False)


def numbered_chapters(text: str) -> list[str]:
    """Where a text calls a chapter by a number. It should name it, so that a new chapter can stand anywhere."""
    return [" ".join(found.split()) for found in NUMBERED.findall(text)]


def links(text: str) -> list[str]:
    return [target or attribute for target, attribute in LINK.findall(CODE.sub("", BLOCK.sub("", text)))]


def broken_links(text: str, folder: Path, own: set[str]) -> list[str]:
    """The relative links of a page in `folder`, whose own anchors are `own`, that lead nowhere."""
    problems = []
    for target in links(text):
        if re.match(r"(https?|mailto):", target):
            continue
        name, _, anchor = target.partition("#")
        file = folder / name
        if name and not file.exists():
            problems.append(target)
        elif anchor and anchor not in (anchors_in(file) if name else own):
            problems.append(target)
    return problems
