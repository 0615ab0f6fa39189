"""Cross-resolution re-identification: one command for all programs.

    xres train --config-file quickstart
    xres search query picture.jpg --gallery log/gallery
    xres COMMAND --help
    xres --print-completion bash > ~/.local/share/bash-completion/completions/xres      # or zsh, tcsh
"""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

HERE = Path(__file__).resolve().parent
# In a checkout, and where the wheel puts it.
BENCHMARKS = HERE.parent / ("benchmarks" if HERE.name == "tools" else "torchreid_xres_benchmarks")
COMMANDS = {
    **{
        name: HERE / f"{name.replace('-', '_')}.py"
        for name in (
            *("train", "train-keypoints", "search", "report", "visualize", "fuse"),
            *("export", "prepare", "download", "list", "complexity"),
        )
    },
    "bench": BENCHMARKS / "accuracy.py",
}


def version() -> str:
    """Return the package's version, without loading it."""
    text = (HERE.parent / "torchreid_xres" / "version.py").read_text(encoding="utf-8")
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("__version__"))


def about(path: Path) -> str:
    """Return how a program's description begins, without loading it."""
    return re.split("[.:;\n]", ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")[0]


def parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS)) + 2
    lines = "\n".join(f"  {name:{width}}{about(path)}" for name, path in COMMANDS.items())
    own = argparse.ArgumentParser(
        "xres", description=f"{__doc__}\ncommands:\n{lines}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own.add_argument("--version", action="version", version=f"torchreid_xres {version()}")
    own.add_argument("--print-completion", metavar="SHELL", help="print what a shell completes the commands by")
    own.add_argument("command", nargs="?", metavar="COMMAND", help="one of the above, and its own arguments")
    return own


def run(name: str, arguments: list[str]) -> None:
    """Run a program as Python runs a script: from its folder, as the main module."""
    path = COMMANDS[name]
    sys.path.insert(0, str(path.parent))
    sys.argv = [f"xres {name}", *arguments]
    runpy.run_path(str(path), run_name="__main__")


def completion(shell: str) -> str:
    """Return what a shell completes all commands by.

    Raises:
        ImportError: if shtab is not installed.
        ValueError: for a shell that it does not know.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install 'torchreid_xres[completion]'") from error
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ValueError(f"--print-completion {shell}: there are {', '.join(shtab.SUPPORTED_SHELLS)}")
    whole = argparse.ArgumentParser("xres")
    commands = whole.add_subparsers()
    for name, path in COMMANDS.items():
        sys.path.insert(0, str(path.parent))
        its = runpy.run_path(str(path), run_name=name)["parser"]()
        one = commands.add_parser(name, parents=[its], add_help=False, help=about(path))
        for action in files_of(one):
            action.complete = shtab.FILE
    return shtab.complete(whole, shell)


def files_of(one: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what of a command line is a path, also below a program's own commands."""
    found = []
    for action in one._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [path for below in action.choices.values() for path in files_of(below)]
        elif isinstance(action.default, Path) or action.type is Path or action.dest == "config_file":
            found.append(action)
    return found


def main(argv: list[str] | None = None) -> int:
    command, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in COMMANDS and arguments != ["--version"]:
        try:
            run(command, arguments)
        except KeyboardInterrupt:  # before the program itself looks after it
            print("stopped", file=sys.stderr)
            return 130
    own = parser()
    args = own.parse_args(["--version"] if command in COMMANDS else [command, *arguments])
    if args.print_completion is None:
        near = get_close_matches(command, COMMANDS, n=1)
        own.error(f"there is no command {command!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    try:
        print(completion(args.print_completion))
    except (ImportError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
