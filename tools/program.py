"""What the programs share. Help is there at once: the package, and torch with it, is loaded after the parsing."""

from __future__ import annotations

import argparse
import functools
import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

INTERRUPTED = 130


def new_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a command of ``xres``, whose help shows a description as it is written."""
    return argparse.ArgumentParser(
        f"xres {name}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def training_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a training: a configuration, flags of torchreid's, further keys and values."""
    parser = new_parser(name, description)
    parser.add_argument("--config-file", default="", metavar="NAME|FILE", help="a configuration that comes with the "
                        "package, or a YAML file; without one the defaults hold")  # fmt: skip
    parser.add_argument("-s", "--sources", nargs="+", help="training sets")
    parser.add_argument("-t", "--targets", nargs="+", help="test sets")
    parser.add_argument("--transforms", nargs="+", help="training augmentations")
    parser.add_argument("--root", help="folder that holds the data sets")
    parser.add_argument("--fresh", action="store_true", help="throw away what an earlier run left in data.save_dir")
    parser.add_argument("--liveness", action="store_true", help="tell after the first epoch which parts of the network "
                        "learn, and keep that in the record")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write there how it ended")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="further keys and their values")
    return parser


def ending(kind: str, endings: Sequence[str]) -> Callable[[str], Path]:
    """Return a type for argparse: the path of a file whose name has one of some endings.

    Args:
        kind: what such files are, for the message ("pictures").
        endings: in lower case, ``.png``.
    """

    def path_of(text: str) -> Path:
        path = Path(text)
        if path.suffix.lower() not in endings:
            raise argparse.ArgumentTypeError(f"{text}: {kind} end in {', '.join(endings)}")
        return path

    return path_of


def tool(
    parse: Callable[[Sequence[str] | None], argparse.Namespace],
    stopped: str = "the same command starts again",
    light: Callable[[argparse.Namespace, str], int | None] | None = None,
) -> Callable[[Callable[[argparse.Namespace], int]], Callable]:
    """Make a function of the parsed command line the main function of a program.

    Whatever it prints reaches the terminal or, if nobody reads it any more, nobody; a user's error and an interruption,
    also while the package is loaded, end in one line.

    Args:
        parse: reads the command line, without the package.
        stopped: what becomes of an interrupted command.
        light: does the work without torch, given both, and returns the exit status; None where it cannot.
    """

    def made(main: Callable[[argparse.Namespace], int]) -> Callable:
        @functools.wraps(main)
        def run(argv: Sequence[str] | None = None) -> int:
            args = parse(argv)
            new = "torchreid_xres" not in sys.modules
            gc.disable()  # what is loaded stays: looking through it for garbage takes a quarter of the time of loading
            try:
                status = None if light is None else light(args, stopped)
                if status is not None:
                    return status
                from torchreid_xres.jobs.ending import carried_out
            except KeyboardInterrupt:
                print(f"stopped; {stopped}", file=sys.stderr)
                return INTERRUPTED
            except Exception as error:  # an installation in which something is missing or does not fit
                print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
                return 2
            finally:
                if new:
                    gc.freeze()
                gc.enable()
            return carried_out(lambda: main(args), stopped)

        return run

    return made
