"""Pages of methods: every function they name exists, and says the equation's number itself."""

import ast
import re
from pathlib import Path

import pytest

from torchreid_xres.engine import ENGINES
from torchreid_xres.models import MODELS

REPO = Path(__file__).resolve().parent.parent
LIST = REPO / "docs" / "methods" / "index.md"
PAGES = sorted(set(LIST.parent.glob("*.md")) - {LIST})
# | eq. | what | [`file`](link) `function` |; the first column is left out where the source has no numbers.
ROW = re.compile(r"^\|(?: ([\d, -]+) \|)? [^|]+ \| \[`([\w/]+\.py)`\]\(([^)]+)\) `([\w.]+)` \|$", re.MULTILINE)
MENTION = re.compile(r"\b(?:eqs?\.|equations?)\s+((?:\d+(?:\s*(?:,|and|to|-)\s*)?)+)", re.IGNORECASE)


def numbers(text: str) -> set[int]:
    """Return all numbers of "7", "8-9", "8 to 11", "9 and 10", "1, 3 to 5".

    >>> sorted(numbers("1, 3 to 5 and 7-8"))
    [1, 3, 4, 5, 7, 8]
    """
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:\s*(?:to|-)\s*(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


def source_of(path: Path, name: str) -> str:
    """Return the source of a function or class, with the comments of its lines."""
    text = path.read_text(encoding="utf-8")
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        inside = [n for n in ast.iter_child_nodes(node) if getattr(n, "name", None) == part]
        assert inside, f"{path.name} has no {name}"
        node = inside[0]
    return "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_equations_stand_where_the_page_says(page):
    rows = ROW.findall(page.read_text(encoding="utf-8"))
    assert rows
    for equations, shown, link, name in rows:
        path = (page.parent / link).resolve()
        assert path.is_file() and link.endswith(f"torchreid_xres/{shown}"), link
        source = source_of(path, name)
        said = set().union(*(numbers(mention) for mention in MENTION.findall(source)))
        assert numbers(equations) <= said, f"{shown} {name} says {sorted(said)}, the page {equations}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_row_of_a_table_of_equations_is_read(page):
    text = page.read_text(encoding="utf-8")
    assert len(ROW.findall(text)) == len(re.findall(r"^\|.*\.py\)", text, re.MULTILINE))


def test_every_method_has_a_page_that_names_it():
    texts = {page.stem: page.read_text(encoding="utf-8").partition("\n")[0] for page in PAGES}
    for name in ENGINES:
        if name in MODELS:
            assert any(f"`{name}`" in title for title in texts.values()), f"no page has {name} in its title"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_linked_from_the_list_of_methods_and_from_the_first_page(page):
    listed = LIST.read_text(encoding="utf-8")
    assert f"]({page.name})**" in listed and f"\n{page.stem}\n" in listed  # for readers of both kinds
    rows = [line for line in (REPO / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| [")]
    assert sum(f"](docs/methods/{page.name})" in row for row in rows) == 1


def test_a_number_that_is_not_said_is_noticed():
    assert numbers("8-11, 13") == {8, 9, 10, 11, 13}
    said = MENTION.findall("sum  # eq. 11\n# Equations 2 to 4 stand; Eq. 7 and 8")
    assert numbers(" ".join(said)) == {2, 3, 4, 7, 8, 11}
