"""``xres search query``: the images of a gallery that are most like a picture, or each of several."""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from choices import PICTURES, TABLES
from lightly import bare_packages
from program import ending
from search_build import tell_if_drawn

if TYPE_CHECKING:
    import PIL.Image

    from torchreid_xres.inference import Extractor
    from torchreid_xres.inference.light import LightEncoder, LightExtractor
    from torchreid_xres.inference.query_encoder import QueryEncoder
    from torchreid_xres.report.answers import Found
    from torchreid_xres.search import Gallery, Hit
    from torchreid_xres.search.acceptance import Acceptance
    from torchreid_xres.search.reader import Reader
    from torchreid_xres.search.strangers import Strangers

MANY_OTHERS = 0.2  # share of the gallery's images, above which it is worth while to adapt again
WITHOUT_PICTURES = (".csv", ".json")  # of what --out writes


def query_options(query: argparse.ArgumentParser) -> None:
    """Add what says where the hits go."""
    query.add_argument(
        "--out", type=ending("hits", (*TABLES, *PICTURES)), action="append", default=[], metavar="FILE",
        help="hand over what was found, too: one page that prints (hits.html), a table (.csv), .json, or a contact "
        "sheet (.jpg, ...; of several pictures one each, numbered); may be given more than once",
    )  # fmt: skip
    for flag, kind in (("--json", "hits.json"), ("--sheet", "hits.jpg")):
        query.add_argument(flag, action=_Replaced, const=kind, help=argparse.SUPPRESS)


class _Replaced(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace, values, option_string=None) -> None:
        parser.error(f"{option_string} is now --out, and the file's ending says what it holds: --out {self.const}")


def query(args: argparse.Namespace) -> int:
    from torchreid_xres.search import Gallery

    gallery = Gallery(args.gallery)

    def extractor() -> Extractor:
        learned = None if args.no_adapt else query_encoder(gallery)
        how = {"device": args.device, "precision": args.precision, "query_encoder": learned}
        return gallery.make_extractor(args.run or "", **how)

    return answered(args, gallery, extractor, None if args.accept is None else accepted(gallery, args))


def light_query(args: argparse.Namespace, stopped: str) -> int | None:
    """Answer a query without torch, to the same hits; None where that cannot be: then nothing was done or said.

    Args:
        args: the command line.
        stopped: what becomes of an interrupted command.
    """
    if args.command != "query" or args.accept is not None or args.run or not isinstance(args.gallery, Path):
        return None
    if args.device not in ("auto", "cpu") or args.precision not in ("auto", "fp32"):
        return None
    with bare_packages():
        from torchreid_xres.inference.light import LightExtractor
        from torchreid_xres.jobs.ending import carried_out
        from torchreid_xres.search.reader import Reader

        try:
            gallery = Reader(args.gallery)
            if not gallery.config_is_whole(gallery.facts):
                return None
        except (OSError, ValueError):
            return None
        found = LightExtractor.of(gallery.folder, gallery.about, gallery.checkpoint(), adapted=not args.no_adapt)
        if found is None or (found.has_front_end and shows_pictures(args)):
            return None

        def extractor() -> LightExtractor:
            if found.query_encoder is not None:
                tell_of_changes(gallery, found.query_encoder)
            return found

        gc.enable()  # what is to be loaded is, nearly; there may be many pictures
        return carried_out(lambda: answered(args, gallery, extractor), stopped)


def shows_pictures(args: argparse.Namespace) -> bool:
    """Return whether what is handed over shows pictures."""
    return any(out.suffix.lower() not in WITHOUT_PICTURES for out in args.out)


def answered(
    args: argparse.Namespace,
    gallery: Reader,
    make_extractor: Callable[[], Extractor | LightExtractor],
    limit: Acceptance | None = None,
) -> int:
    """Answer a command line by a gallery and what describes queries to it."""
    from torchreid_xres.files import require_other_file, require_place
    from torchreid_xres.report.answers import numbered, write_answers
    from torchreid_xres.report.asking import Archive, Query
    from torchreid_xres.search.checks import Checks
    from torchreid_xres.search.filters import Filters
    from torchreid_xres.search.strangers import notes
    from torchreid_xres.terminal import printable

    several = len(args.images) > 1 or args.images[0].is_dir()
    if several and args.box:
        raise ValueError("--box is a part of one picture: name that one alone")
    files = asked(args.images, gallery.folder)
    several = len(files) if several else 0
    for out in args.out:
        drawn = out.suffix.lower() not in TABLES
        for path in [numbered(out, n, several) for n in range(1, several + 1)] if several and drawn else [out]:
            require_other_file(path, [*(args.images if drawn else files), gallery.images, gallery.folder], "--out")
        require_place(out)
    part = Filters(args.camera, args.not_camera, args.after, args.before, args.group or "").part(gallery)
    extractor = make_extractor()
    tell_if_drawn(extractor)
    checks = Checks(gallery, extractor)
    archive = Archive(gallery, extractor, known_strangers(gallery, extractor), limit)
    answers = []
    for start in range(0, len(files), extractor.batch_size):
        read = []
        for number, file in enumerate(files[start : start + extractor.batch_size], start + 1):
            try:
                read.append(Query(str(file), picture(extractor, file, args.box), args.box, number))
            except OSError as error:
                if not several:
                    raise
                print(f"left out: {printable(error)}", file=sys.stderr)
        for one in read:
            for line in checks.told(Path(one.name), extractor.prepare(one.picture), args.box):
                print(f"note: {f'{printable(one.name)}, ' * bool(several)}{line}", file=sys.stderr)
        answers += archive.answers(read, args.top, shows_pictures(args), part)
    if not answers:
        raise ValueError(f"none of the {len(files)} pictures can be read")
    about = archive.about | {"gallery": str(args.gallery)} | part.about
    written = [path for out in args.out for path in write_answers(out, about, answers, several)]
    told = [part.told] if part.told else []
    for answer in answers:
        name = f"{printable(answer.asked['file'])}, " if several else ""
        told += [f"query: {name}{answer.told}", shown(answer.found, limit)]
    found = {one.hit.path: None for answer in answers for one in answer.found}
    gone = [path for path in found if not path.is_file()]
    if gone:
        told.append(
            f"{len(gone)} of {len(found)} pictures found are no longer where they were, e.g. {printable(gone[0])}; "
            "build the gallery again from where they are"
        )
    told += notes(archive.strangers, len(gallery))
    if limit is not None:
        told.append(
            f"That score is of the test images of {limit.dataset}: {limit.tpr:.1f} % of the pairs of one identity and "
            f"at most {100 * limit.fpr:g} % of the others reach it; of other images other shares do."
            + " It was measured without the query encoder." * (extractor.query_encoder is not None)
        )
    what = f"look at {printable(written[0])}" if written else "--out hits.html hands over what was found"
    print("\n".join([*told, f"next: {what}"]))
    return 0


def accepted(gallery: Gallery, args: argparse.Namespace) -> Acceptance:
    """Return from which score on a hit is near enough, by the evaluation of the gallery's run."""
    from torchreid_xres.search.acceptance import acceptance

    return acceptance(gallery, args.accept, args.run or "", args.dataset)


def known_strangers(gallery: Reader, extractor: Extractor | LightExtractor) -> Strangers | None:
    """Return what is known of the strangers in a gallery; in a line, why nothing is."""
    from torchreid_xres.search.strangers import Strangers
    from torchreid_xres.terminal import printable

    try:
        return Strangers.read(gallery, extractor)
    except (OSError, ValueError) as error:
        print(f"without expected strangers: {printable(error)}", file=sys.stderr)
        return None


def query_encoder(gallery: Gallery) -> Path | None:
    """Return the folder of the query encoder that belongs to a gallery; in a line, why one that is there does not."""
    from torchreid_xres.inference.query_encoder import ABOUT, FOLDER, TRAINING, QueryEncoder
    from torchreid_xres.terminal import printable

    folder = gallery.folder / FOLDER
    if not any((folder / name).exists() for name in (ABOUT, TRAINING)):  # nothing was ever learned
        return None
    try:
        found = QueryEncoder.read(folder)
        found.require_of(gallery.about["weights_sha256"])
    except (OSError, ValueError) as error:
        print(f"without query encoder: {printable(error)}", file=sys.stderr)
        return None
    tell_of_changes(gallery, found)
    return folder


def tell_of_changes(gallery: Reader, encoder: QueryEncoder | LightEncoder) -> None:
    """Say in a line on standard error if much of a gallery is other than what its query encoder has learned from."""
    others = encoder.share_of_others(gallery.matrix)
    if others > MANY_OTHERS:
        print(
            f"{100 * others:.0f} % of the gallery's images came or changed since it was adapted; the query encoder is "
            "still valid, and xres search adapt learns from these, too", file=sys.stderr,
        )  # fmt: skip


def asked(images: list[Path], without: Path) -> list[Path]:
    """Return the pictures named, and those in and below the folders named, but for the gallery's own."""
    from torchreid_xres.data.walk import images_at
    from torchreid_xres.jobs.ending import tell_of_others

    files = []
    for path in images:
        files += tell_of_others(images_at(path, without=without)) if path.is_dir() else [path]
    return files


def picture(extractor: Extractor | LightExtractor, file: Path, box: list[int] | None) -> PIL.Image.Image:
    """Read a picture, or a box of it."""
    from torchreid_xres.archive.frames import cropped

    img = extractor.image(file)
    return cropped(img, tuple(box)) if box else img


def shown(found: list[Found], limit: Acceptance | None) -> str:
    """Return what was found, and what is said of it, as text."""
    from torchreid_xres.search.strangers import in_words
    from torchreid_xres.text import text_table

    more = [name for name in ("camera", "time") if any(getattr(one.hit, name) for one in found)]
    rows = []
    for one in found:
        row = {"rank": one.hit.rank, "score": f"{one.hit.score:.4f}"}
        row |= {name: getattr(one.hit, name) for name in more} | {"file": called(one.hit)}
        if one.strangers is not None:
            row["strangers"] = in_words(one.strangers)
        if one.accepted is not None:
            row["accepted"] = "yes" if one.accepted else "no"
        rows.append(row)
    text = text_table(rows)
    if limit is not None:
        text += f"\naccepted: {sum(one.accepted for one in found)} of {len(found)}, from score {limit.score:.4f} on"
    return text


def called(hit: Hit) -> str:
    """Return the name of a hit; of a track with the frame that shows it best."""
    return f"{hit.name} ({hit.frame}#{','.join(map(str, hit.box))})" if hit.track and hit.box else hit.name
