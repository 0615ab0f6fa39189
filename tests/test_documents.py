"""What the documents say: links, commands, snippets, tables and the cards are true of this tree."""

import argparse
import ast
import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from forked import python
from scripts import script

from torchreid_xres.config import load_config
from torchreid_xres.config_files import config_path
from torchreid_xres.data import DATASETS

REPO = Path(__file__).resolve().parent.parent
DOCUMENTS = [*sorted(REPO.glob("*.md")), *sorted((REPO / "docs").rglob("*.md"))]
SCRIPTS = [path for folder in ("tools", "benchmarks") for path in sorted((REPO / folder).glob("*.py"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:python|xres) [^`{]+)`")
SCRIPT = re.compile(r"(?:^|/)((?:tools|benchmarks)/\w+\.py)$")
COMMANDS = script(REPO / "tools/xres.py").COMMANDS
# What a reader has: folders and images of their own, and the runs they trained.
OWN = re.compile(r'"(/?path/to/[\w/]*|log/[\w/]*)"')
# Drawing a thousand people takes longer than all the rest.
FEW_PEOPLE = """
from torchreid_xres.data import DATASETS
DATASETS["synth_person"].build.defaults.update(train_identities=4, test_identities=2)
"""

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))


def blocks(document, language):
    return [content for kind, content in BLOCK.findall(document.read_text(encoding="utf-8")) if kind == language]


def commands(document):
    """Give the words of each command: of a document's blocks and text, or of a script's own description."""
    text = document.read_text(encoding="utf-8")
    if document.suffix == ".py":
        description = ast.get_docstring(ast.parse(text)) or ""
        # Those with <...> or [--...] are patterns of commands.
        lines = re.findall(r"^    ((?:python|xres) (?!.*(?:<|\[-)).*)", description.replace("\\\n", " "), re.MULTILINE)
    else:
        lines = "\n".join(blocks(document, "bash")).replace("\\\n", " ").splitlines()
        lines += INLINE.findall(BLOCK.sub("", text))
    for line in lines:
        for part in re.split(r"\s&&\s|;\s", re.sub(r"\s+#\s.*", "", line)):
            words = shlex.split(part)
            if words and words[0] == "xres" and words[1] in COMMANDS:
                yield [str(COMMANDS[words[1]].relative_to(REPO)), *words[2:]]
            elif words:
                yield words


@documents
def test_tables_are_those_the_records_give(document):
    tables = script(REPO / "benchmarks/tables.py")
    text = document.read_text(encoding="utf-8")
    assert tables.filled(text) == text, f"run: python benchmarks/tables.py write {document.relative_to(REPO)}"


def test_a_figure_in_a_sentence_is_that_of_the_record():
    tables = script(REPO / "benchmarks/tables.py")
    suite = "first_round_vehicle2cam"
    row = next(row for row in tables.kept(suite)["rows"] if row["label"] == "dgrl")
    mean = sum(record["mAP"] for record in row["records"]) / len(row["records"])
    text = "DGRL reaches <!-- says: {} dgrl mAP -->{}<!-- end --> here"
    assert tables.filled(text.format(suite, 0)) == text.format(suite, f"{mean:.1f}")
    told = [tables.said("accuracy_cuhk03_mini", "dgrl", key) for key in ("mAP_gain", "mAP_over_augmented")]
    assert told[0] == told[1] and "[" in told[0]
    with pytest.raises(ValueError, match="says nothing of dgrl's verdicts"):
        tables.said(suite, "dgrl", "verdicts")


def anchors(document):
    """Return what code hosts and the site call a document's headings."""
    headings = re.findall(r"^#+ (.*)", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(text):
    """Return file and anchor of every link that stays within the project."""
    found = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", BLOCK.sub("", text))
    return [(file, anchor) for file, anchor in found if not file.startswith(("http://", "https://"))]


@documents
def test_links_lead_somewhere(document):
    for file, anchor in links(document.read_text(encoding="utf-8")):
        if file == "api/modules.rst":  # made when the site is
            continue
        target = document.parent / file if file else document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_every_page_can_be_reached_from_the_first():
    reached, left = set(), [REPO / "README.md"]
    while left:
        page = left.pop()
        reached.add(page)
        targets = {(page.parent / file).resolve() for file, _ in links(page.read_text(encoding="utf-8")) if file}
        left += [target for target in targets - reached if target.suffix == ".md" and target.is_file()]
    assert set(DOCUMENTS) <= reached


def test_the_first_page_is_short_and_begins_with_a_small_picture():
    readme = REPO / "README.md"
    assert readme.stat().st_size <= 10_000
    picture = re.search(r"^!\[.+\]\((\S+)\)$", readme.read_text(encoding="utf-8").split("\n\n")[1])
    assert (REPO / picture[1]).stat().st_size <= 150_000


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx.ext.apidoc", reason="needs Sphinx 8.2: pip install -e '.[docs]'")
    pytest.importorskip("myst_parser")
    # A copy: the site's maker leaves pages of its own there. What the pages link to is not read.
    shutil.copytree(REPO / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("api", "_build"))
    for page in REPO.glob("*.md"):
        shutil.copy(page, tmp_path)
    for entry in set(REPO.iterdir()) - {REPO / "docs", *REPO.glob("*.md")}:
        if not entry.name.startswith("."):
            (tmp_path / entry.name).symlink_to(entry)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", "site"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    pages = {path.relative_to(REPO / "docs").with_suffix("") for path in (REPO / "docs").rglob("*.md")}
    made = {path.relative_to(tmp_path / "site").with_suffix("") for path in (tmp_path / "site").rglob("*.html")}
    assert pages | {Path("api/torchreid_xres.inference")} <= made


@documents
def test_names_of_files_are_right(document):
    text = document.read_text(encoding="utf-8")
    for path in set(re.findall(r"(?<![\w/])(?:configs|tools|benchmarks)/[\w/]+\.(?:py|yaml)", text)):
        made_there = document.name == "CONTRIBUTING.md" and f"New file `{path}`" in text
        assert made_there or (REPO / path).is_file(), path


class ParsedError(Exception):
    """Carries what a command line was parsed to."""


def parsed(name, argv, monkeypatch):
    """Let a tool's own parser read a command line, and go no further."""
    real = argparse.ArgumentParser.parse_args

    def stop(self, args=None, namespace=None):
        raise ParsedError(real(self, args, namespace))

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(sys, "argv", [name, *argv])
        patch.syspath_prepend((REPO / name).parent)  # where they find each other
        told = io.StringIO()
        try:
            with contextlib.redirect_stderr(told):
                script(REPO / name).main()
        except ParsedError as error:
            return error.args[0]
        except SystemExit:
            pytest.fail(f"{name} {' '.join(argv)}: {told.getvalue()}")
    pytest.fail(f"{name} reads no command line")


@pytest.mark.parametrize("document", [*DOCUMENTS, *SCRIPTS], ids=lambda path: str(path.relative_to(REPO)))
def test_commands_are_understood(document, monkeypatch):
    for words in commands(document):
        found = [i for i, word in enumerate(words) if SCRIPT.search(word)]
        if not found:
            continue
        name, argv = SCRIPT.search(words[found[0]])[1], words[found[0] + 1 :]
        args = parsed(name, argv, monkeypatch)
        configs = getattr(args, "config_file", None) or []
        for config in configs if isinstance(configs, list) else [configs]:
            # Unknown keys and values of the wrong type are errors.
            path = config_path(config)
            load_config(REPO / path, getattr(args, "opts", None) or [])


@documents
def test_extras_and_tests_that_are_named_exist(document):
    setup = (REPO / "setup.py").read_text(encoding="utf-8")
    extras = re.search(r"extras_require=\{(.*?)\n    \},", setup, re.DOTALL)[1]
    known = set(re.findall(r'"(\w+)": \[', extras))
    for words in commands(document):
        for word in words:
            wanted = re.fullmatch(r"\.\[([\w,]+)\]", word)
            assert wanted is None or set(wanted[1].split(",")) <= known, word
            assert not word.startswith("tests/") or (REPO / word).exists(), word


def snippets():
    """Give each document's Python, with what the document has imported before."""
    for document in DOCUMENTS:
        # The additions in CONTRIBUTING.md are files; test_contributing.py makes and runs them.
        if document.name == "CONTRIBUTING.md":
            continue
        imported = []
        for number, code in enumerate(blocks(document, "python")):
            yield pytest.param("\n".join([*imported, code]), id=f"{document.stem}-{number}")
            imported += re.findall(r"^(?:import|from) .*", code, re.MULTILINE)


@pytest.mark.parametrize("code", list(snippets()))
def test_python_snippets_run(code, tmp_path):
    """Those that read what the reader has run until they miss it."""
    done = python("-c", FEW_PEOPLE + code, cwd=tmp_path)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("FileNotFoundError") and any(place in last for place in OWN.findall(code)), done.stderr


def rows(text, heading):
    """Return the cells of the first table under a heading, without its head."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_data_card_has_every_registered_set_with_its_terms():
    card = (REPO / "docs" / "data_card.md").read_text(encoding="utf-8")
    said = {name.strip("`"): (page, terms) for name, page, terms, *_ in rows(card, "Sets and their terms")}
    metas = {name: DATASETS[name].meta for name in DATASETS}
    assert said == {name: (f"<{meta['page']}>" if meta["page"] else "-", meta["terms"]) for name, meta in metas.items()}
    described = {name for first, *_ in rows(card, "Who is in them") for name in re.findall(r"`(\w+)`", first)}
    assert described == set(metas)
    withdrawn = {name for name, meta in metas.items() if "withdrawn" in meta["terms"]}
    assert withdrawn and not any(metas[name]["downloadable"] for name in withdrawn)


def test_the_citation_is_that_of_this_version():
    import torchreid_xres

    citation = yaml.safe_load((REPO / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == torchreid_xres.__version__ and citation["license"] == "MIT"
    assert {"cff-version", "message", "title", "authors", "references"} <= set(citation)
    assert all({"type", "title", "authors", "notes"} <= set(work) for work in citation["references"])
    assert f"## {torchreid_xres.__version__}" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
