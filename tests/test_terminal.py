"""What is printed: names that act on a terminal, encodings that lack a letter, readers that leave."""

import io
import logging
import os
import subprocess
import sys

import pytest

from torchreid_xres.jobs.ending import carried_out
from torchreid_xres.jobs.logs import logged_to
from torchreid_xres.terminal import Terminal, any_text, printable, printable_lines, progress

# An escape sequence that clears the screen, a line feed, a turned direction of writing, a byte that is no UTF-8.
NAME = "a\x1b[2J\n\u202egpj.\udcff"
SHOWN = r"a\x1b[2J\n\u202egpj.\udcff"


def test_a_name_is_shown_in_one_line_and_does_nothing():
    assert printable(NAME) == SHOWN
    assert printable("naïve 写真 № ± \N{GRINNING FACE}") == "naïve 写真 № ± \N{GRINNING FACE}"


def test_lines_and_progress_bars_stay():
    assert printable_lines(f"one\n\ttwo {NAME}\n") == "one\n\ttwo " + SHOWN.replace(r"\n", "\n") + "\n"
    for text in ("\r 50%|#####     | 1/2", "\n\n", "\x1b[A\x1b[A", "\r"):
        assert printable_lines(text) == text
    assert printable_lines("left out: a\rquery: b") == r"left out: a\x0dquery: b".replace(r"\x0d", r"\r")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_letters_that_an_encoding_lacks_become_escapes(encoding):
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding=encoding)
    print("写 ±", NAME, file=Terminal(stream))
    stream.flush()
    shown = {"cp1252": r"\u5199 ±", "ascii": r"\u5199 \xb1", "utf-8": "写 ±"}[encoding]
    assert file.getvalue().decode(encoding).splitlines() == [f"{shown} a\\x1b[2J", r"\u202egpj.\udcff"]


def test_a_reader_that_leaves_ends_nothing():
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="utf-8") as stream:
        terminal = Terminal(stream)
        for _ in range(3):
            print("x" * 100_000, file=terminal)
            terminal.flush()


def test_other_faults_of_a_stream_are_told(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        print("x", file=Terminal(Full()))


def test_a_log_goes_on_when_its_terminal_is_gone_and_holds_no_escape_sequence(tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w", encoding="ascii") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with logged_to(tmp_path, "train") as path:
            print(f"before {NAME}", flush=True)
            logging.getLogger("torchreid_xres.data").warning("%s is left out", NAME)
            print("after", flush=True)
        monkeypatch.undo()
    lines = path.read_text(encoding="utf-8").splitlines()
    name = SHOWN.replace(r"\n", "\n").splitlines()
    assert lines == [f"before {name[0]}", name[1], name[0], f"{name[1]} is left out", "after"]


def test_both_streams_take_any_text(capsys):
    with any_text():
        print(NAME)
        print(NAME, file=sys.stderr)
    out, err = capsys.readouterr()
    assert out == err == SHOWN.replace(r"\n", "\n") + "\n"


@pytest.mark.parametrize("tty, main, shown", [(True, True, True), (False, True, False), (True, False, False)])
def test_a_bar_is_shown_on_a_terminal_by_one_process(monkeypatch, tty, main, shown):
    stream = io.StringIO()
    stream.isatty = lambda: tty
    monkeypatch.setattr(sys, "stderr", stream)
    bar = progress(range(3), main=main, desc="features", unit="batch", mininterval=0)
    assert len(bar) == 3 and list(bar) == [0, 1, 2]
    assert ("features" in stream.getvalue() and "3/3" in stream.getvalue()) == shown


def test_a_program_ends_in_one_line(capsys):
    def main(error):
        def stop():
            raise error

        return carried_out(stop, "it goes on")

    assert main(KeyError("no such key")) == 2 and main(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "KeyError: no such key\nstopped; it goes on\n"
    assert main(ValueError("a.yaml is no YAML:\n  in line 3\x1b[2J")) == 2
    assert capsys.readouterr().err == "ValueError: a.yaml is no YAML: in line 3\\x1b[2J\n"
    with pytest.raises(StopIteration):  # a fault of ours keeps its traceback
        main(StopIteration())


PROGRAM = """
import sys
from torchreid_xres.jobs.ending import carried_out
def work():
    for _ in range(10000):
        print("\u5199 " * 20)
    return 0
if __name__ == "__main__":
    sys.exit(carried_out(work, ""))
"""


@pytest.mark.slow
def test_a_program_before_head(tmp_path, repo):
    """Its output is closed after the first line: it works to its end, says nothing, and exits with 0."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": str(repo), "PYTHONIOENCODING": "cp1252"}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as program:
        assert program.stdout.readline().startswith(rb"\u5199 ")
        program.stdout.close()
        err = program.stderr.read()
        assert program.wait() == 0 and not [line for line in err.splitlines() if b"Error" in line]


def test_every_tool_is_made_so(repo):
    tools = {path.stem: path for path in (repo / "tools").glob("*.py")}
    for shared in ("choices", "lazily", "lightly", "program", "search_adapt", "search_build", "search_query",
                   "search_serve", "xres"):  # fmt: skip
        tools.pop(shared)
    assert len(tools) > 8
    for path in tools.values():
        head = path.read_text(encoding="utf-8").partition("def main(")[0]
        assert head.splitlines()[-1].startswith("@tool(parse, "), path
