"""Search a folder of images for the person or vehicle of a picture, or of each of many.

    xres search build log/sr_reid/split0/sr_reid path/to/images --gallery log/gallery
    xres search query path/to/picture.jpg --gallery log/gallery --top 10
    xres search query path/to/pictures another.jpg --gallery log/gallery --accept 0.001 --json hits.json
    xres search query scene.jpg --box 310 84 42 96 --gallery log/gallery --sheet hits.jpg --json hits.json
    xres search adapt --gallery log/gallery

``build`` takes the folder of a trained run, or a checkpoint: one in a run's folder, one of torchreid with ``--model``
and ``--size``, or any with ``--config-file``. It may be stopped at any time and goes on where it was; later it adds
only new and changed images and drops those that are gone. ``query`` takes pictures of any sizes, or a box of one, and
chooses front end and branch by each picture's resolution. A search always finds something; ``--accept`` marks what is
near enough, by the evaluation of the gallery's run. For data that is smaller than the network's input even at full
resolution, ``build`` wants to know ``--full-size`` (Market-1501: 128 64). ``adapt`` learns from the gallery's images,
without labels, to describe bad crops as the sharp images are described; ``query`` then does so by itself, and the
gallery's features stay as they are.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from choices import PICTURES, PRECISIONS
from program import ending, new_parser, tool

if TYPE_CHECKING:
    import PIL.Image

    from torchreid_xres.inference import Extractor, Gallery, Hit
    from torchreid_xres.inference.acceptance import Acceptance

COLUMNS, HEIGHT = 6, 192  # of a contact sheet
SHOWN = 10  # unusable files that are named one by one
MANY_OTHERS = 0.2  # share of the gallery's images, above which it is worth while to adapt again


def parser() -> argparse.ArgumentParser:
    parser = new_parser("search", __doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make a gallery of a folder of images, or bring it up to date")
    build.add_argument("run", type=Path, help="folder of a trained run, or a checkpoint")
    build.add_argument("images", type=Path, help="folder of images, with all folders below it")
    what = build.add_mutually_exclusive_group()
    what.add_argument("--config-file", metavar="NAME|FILE", help="configuration of a checkpoint that is in no run")
    what.add_argument("--model", help="the network's name, for a checkpoint of torchreid")
    build.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="its input (default: 256 128)")
    build.add_argument("--full-size", type=int, nargs=2, metavar=("H", "W"), help="of a picture of full resolution")
    query = commands.add_parser("query", help="find the images that are most like a picture, or each of several")
    query.add_argument("images", type=Path, nargs="+", help="pictures, and folders of them with all folders below")
    query.add_argument("--run", type=Path, help="where run or checkpoint are now, if they were moved")
    query.add_argument("--box", type=int, nargs=4, metavar=("X", "Y", "W", "H"), help="of one picture only this part")
    query.add_argument("--top", type=int, default=10, help="images to find")
    query.add_argument(
        "--accept", type=float, metavar="FPR",
        help="mark the hits that are near enough: no farther than what the run's evaluation accepted at this false "
        "positive rate, a share such as 0.001",
    )  # fmt: skip
    query.add_argument("--dataset", default="", help="the evaluated set --accept is of, for a run with several")
    query.add_argument("--json", type=Path, metavar="FILE", help="write what was found there, too")
    query.add_argument(
        "--sheet", type=ending("pictures", PICTURES), metavar="FILE",
        help="draw a contact sheet of what was found; for several pictures one each, their names numbered",
    )  # fmt: skip
    query.add_argument("--no-adapt", action="store_true", help="leave aside what adapt has learned")
    adapt = commands.add_parser("adapt", help="learn from a gallery's images to describe low-resolution queries")
    adapt.add_argument("--run", type=Path, help="where run or checkpoint are now, if they were moved")
    adapt.add_argument("--steps", type=int, help="of learning (default: 680 for 2,000 images, by their root)")
    adapt.add_argument(
        "--query-size", type=int, nargs=2, default=(), metavar=("H", "W"),
        help="input of the query encoder; half the network's costs a quarter (default: the network's)",
    )  # fmt: skip
    for command in (build, query, adapt):
        command.add_argument("--gallery", type=Path, required=True, metavar="DIR", help="where the gallery is kept")
        command.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: the GPU if there is one")
        command.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: as the run was evaluated")
    build.add_argument("--batch", type=int, default=64, help="images that pass the network at once")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    reader = parser()
    args = reader.parse_args(argv)
    if args.command == "build" and args.size and not args.model:
        reader.error("--size is the input of a --model of torchreid; others have it in their configuration")
    if args.command == "query" and args.dataset and args.accept is None:
        reader.error("--dataset says which evaluation --accept is of; give --accept, too")
    return args


@tool(parse, "the same command goes on from here")
def main(args: argparse.Namespace) -> int:
    return {"build": build, "query": query, "adapt": adapt}[args.command](args)


def build(args: argparse.Namespace) -> int:
    from torchreid_xres.devices.memory import keep_freed_memory
    from torchreid_xres.inference import Extractor, Gallery
    from torchreid_xres.jobs.command import tell_of_others
    from torchreid_xres.terminal import printable

    how = {"device": args.device, "precision": args.precision, "batch_size": args.batch, "full_size": args.full_size}
    if args.model:
        extractor = Extractor.of_host(args.model, args.run, tuple(args.size or (256, 128)), **how)
    else:
        extractor = Extractor(args.run, config=args.config_file, **how)
    gallery = Gallery(args.gallery, extractor)
    keep_freed_memory()
    done = gallery.update(args.images)
    for name, fault in list(done.faults.items())[:SHOWN]:
        print(f"left out: {printable(name)}: {printable(fault)}", file=sys.stderr)
    if len(done.faults) > SHOWN:
        print(f"left out: {len(done.faults) - SHOWN} more", file=sys.stderr)
    tell_of_others(done.tree)
    if not len(gallery):
        name, fault = next(iter({**gallery.faults, **done.faults}.items()))
        raise ValueError(f"none of the images in {args.images} can be used; the first is {name}: {fault}")
    print(
        f"{args.gallery}: {len(gallery)} images by {gallery.about['model']}; {done.added} new, {done.changed} changed, "
        f"{done.removed} gone, {len(gallery.faults.keys() | done.faults.keys())} that cannot be used"
        + f", {done.unseen} kept that could not be looked for" * bool(done.unseen)
    )
    print(f"next: xres search query PICTURE --gallery {shlex.quote(str(args.gallery))}")
    return 0


def adapt(args: argparse.Namespace) -> int:
    from torchreid_xres.inference import Gallery
    from torchreid_xres.inference.adapt import FEW, plan
    from torchreid_xres.inference.adapt import adapt as learn

    gallery = Gallery(args.gallery)
    extractor = gallery.make_extractor(args.run or "", device=args.device, precision=args.precision)
    planned = plan(gallery, extractor, args.steps, args.query_size)
    if planned.low or planned.gone:
        print(f"left out: {planned.low} images of low resolution, {planned.gone} whose file is gone", file=sys.stderr)
    if planned.few:
        print(
            f"{len(planned.learned) + len(planned.held_out)} images are few to learn from: below {FEW} expect less for "
            "queries of other people or vehicles than the report shows; more images are the remedy", file=sys.stderr,
        )  # fmt: skip
    print(f"learning in {planned.steps} steps from {len(planned.learned)} images", file=sys.stderr)
    learned = learn(gallery, extractor, planned)
    about = learned.about
    print(report(about))
    threshold = about["threshold"]
    print(
        "the query encoder nowhere finds the sharp image better than the network itself, and answers no query"
        if threshold is None
        else f"queries that the network enlarges at least {threshold:.2f} times go to the query encoder"
    )
    print(f"{learned.folder}: {about['seconds']:.0f} s; of the gallery's own files none was written")
    print(f"next: xres search query PICTURE --gallery {shlex.quote(str(args.gallery))}")
    return 0


def report(about: dict) -> str:
    """Return what an adaptation changed on images that it has not learned from, as text."""
    from torchreid_xres.text import text_table

    shown = {"cosine to sharp": ("cosine", ".3f"), "sharp one first, %": ("first", ".1f"), "median rank": ("rank", "g")}
    rows = [
        {"enlarged": f"{part['magnification']} times", "images": part["images"]}
        | {"adapted": part["by_query_encoder"]}
        | {
            name: " -> ".join(f"{part[when][key]:{form}}" for when in ("before", "after"))
            for name, (key, form) in shown.items()
        }
        for part in about["report"]
    ]
    return text_table(rows)


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
    others = found.share_of_others(gallery.features)
    if others > MANY_OTHERS:
        print(
            f"{100 * others:.0f} % of the gallery's images came or changed since it was adapted; the query encoder is "
            "still valid, and xres search adapt learns from these, too", file=sys.stderr,
        )  # fmt: skip
    return folder


def query(args: argparse.Namespace) -> int:
    from torchreid_xres.data.io import save_image
    from torchreid_xres.files import require_other_file, write_json
    from torchreid_xres.inference import Gallery
    from torchreid_xres.inference.acceptance import acceptance
    from torchreid_xres.inference.extractor import native_rate
    from torchreid_xres.terminal import printable

    gallery = Gallery(args.gallery)
    limit = None if args.accept is None else acceptance(gallery, args.accept, args.run or "", args.dataset)
    several = len(args.images) > 1 or args.images[0].is_dir()
    if several and args.box:
        raise ValueError("--box is a part of one picture: name that one alone")
    files = asked(args.images, args.gallery)
    sheets = sheet_files(args.sheet, len(files), several) if args.sheet else []
    for path in sheets:
        require_other_file(path, [*args.images, gallery.images, args.gallery], "--sheet")
    if args.json:
        require_other_file(args.json, [*files, args.gallery], "--json")
    learned = None if args.no_adapt else query_encoder(gallery)
    how = {"device": args.device, "precision": args.precision, "query_encoder": learned}
    extractor = gallery.make_extractor(args.run or "", **how)
    records, told = [], []
    for start in range(0, len(files), extractor.batch_size):
        read = []
        for number, file in enumerate(files[start : start + extractor.batch_size], start):
            try:
                read.append((number, file, extractor.prepare(picture(extractor, file, args.box))))
            except OSError as error:
                if not several:
                    raise
                print(f"left out: {printable(error)}", file=sys.stderr)
        found = gallery.search(extractor.describe([one for *_, one in read]), args.top) if read else []
        for (number, file, prepared), hits in zip(read, found, strict=True):
            low, rate = extractor.is_low(prepared.size), native_rate(prepared.size, extractor.full_size)
            adapted = bool(extractor.by_query_encoder([prepared]))
            if sheets:
                restored = extractor.restored(prepared) if low and not adapted else None
                save_image(sheet(extractor, picture(extractor, file, args.box), restored, hits, limit), sheets[number])
            asked_for = {"file": str(file), "box": args.box, "size": list(prepared.size), "rate": rate, "low": low}
            encoder = ""
            if learned:
                magnification = extractor.size[0] / prepared.size[0]
                asked_for |= {"magnification": magnification, "encoder": "query" if adapted else "gallery"}
                encoder = f"; enlarged {magnification:.1f} times, answered by the {asked_for['encoder']} encoder"
            records.append({"query": asked_for, "hits": [hit_record(hit, limit) for hit in hits]})
            height, width = prepared.size
            kind = f"low resolution, {rate:.1f} times smaller than {{}}x{{}}" if low else "full resolution for {}x{}"
            name = f"{printable(file)}, " if several else ""
            told.append(f"query: {name}{height}x{width}, {kind.format(*extractor.full_size)}{encoder}")
            told.append(shown(hits, limit))
    if not records:
        raise ValueError(f"none of the {len(files)} pictures can be read")
    if args.json:
        about = {"gallery": str(args.gallery), "images": len(gallery)}
        about |= {key: gallery.about[key] for key in ("model", "weights_sha256", "metric")}
        about |= {} if limit is None else {"accept": limit._asdict()}
        if learned:
            own = extractor.query_encoder.about
            about["query_encoder"] = {key: own[key] for key in ("weights_sha256", "threshold")}
        write_json(about | ({"queries": records} if several else records[0]), args.json)
    if limit is not None:
        told.append(
            f"That score is of the test images of {limit.dataset}: {limit.tpr:.1f} % of the pairs of one identity and "
            f"at most {100 * limit.fpr:g} % of the others reach it; of other images other shares do."
            + " It was measured without the query encoder." * bool(learned)
        )
    what = f"look at {printable(sheets[0])}" if sheets else "--sheet FILE draws what was found"
    print("\n".join([*told, f"next: {what}"]))
    return 0


def sheet_files(path: Path, count: int, several: bool) -> list[Path]:
    """Return where the contact sheet of each picture goes: there, or of several numbered."""
    if not several:
        return [path]
    return [path.with_stem(f"{path.stem}_{number:0{len(str(count))}}") for number in range(1, count + 1)]


def asked(images: list[Path], without: Path) -> list[Path]:
    """Return the pictures named, and those in and below the folders named, but for the gallery's own."""
    from torchreid_xres.data.walk import images_at
    from torchreid_xres.jobs.command import tell_of_others

    files = []
    for path in images:
        files += tell_of_others(images_at(path, without=without)) if path.is_dir() else [path]
    return files


def hit_record(hit: Hit, limit: Acceptance | None) -> dict:
    """Return a hit as JSON holds it."""
    record = {"rank": hit.rank, "score": hit.score, "file": str(hit.path), "size": list(hit.size)}
    return record if limit is None else record | {"accepted": limit.accepts(hit)}


def picture(extractor: Extractor, file: Path, box: list[int] | None) -> PIL.Image.Image:
    """Read a picture, or a box of it."""
    from torchreid_xres.inference.pictures import cropped

    img = extractor.image(file)
    return cropped(img, tuple(box)) if box else img


def shown(hits: list[Hit], limit: Acceptance | None) -> str:
    """Return what was found, and what of it is near enough, as text."""
    from torchreid_xres.text import text_table

    rows = [[hit.rank, hit.score, hit.name] for hit in hits]
    headers = ["rank", "score", "file"]
    if limit is not None:
        rows = [[*row, "yes" if limit.accepts(hit) else "no"] for row, hit in zip(rows, hits, strict=True)]
        headers.append("accepted")
    text = text_table(rows, headers=headers, floatfmt=".4f", disable_numparse=[2])
    if limit is not None:
        text += f"\naccepted: {sum(map(limit.accepts, hits))} of {len(hits)}, from score {limit.score:.4f} on"
    return text


def sheet(
    extractor: Extractor,
    img: PIL.Image.Image,
    restored: PIL.Image.Image | None,
    hits: list[Hit],
    limit: Acceptance | None,
) -> PIL.Image.Image:
    """Draw the query as seen, restored if it was, then what was found, what is near enough in a green frame.

    A file that is gone since leaves its place.
    """
    from torchreid_xres.report.sheet import Cell, contact_sheet
    from torchreid_xres.terminal import printable

    cells = [Cell(img, f"query, {img.height}x{img.width}", "blue")]
    if restored is not None:
        width = max(1, round(restored.height * img.width / img.height))  # the network's input has another shape
        cells.append(Cell(restored.resize((width, restored.height)), "restored", "blue"))
    for hit in hits:
        picture = extractor.image(hit.path) if hit.path.is_file() else None
        frame = "green" if limit and limit.accepts(hit) else ""
        cells.append(Cell(picture, f"{hit.rank}: {hit.score:.3f}\n{printable(hit.name)}", frame))
    return contact_sheet(cells, COLUMNS, HEIGHT)


if __name__ == "__main__":
    sys.exit(main())
