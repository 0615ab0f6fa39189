"""``xres search query``: the images of a gallery that are most like a picture, or each of several."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from search_build import tell_if_drawn

if TYPE_CHECKING:
    import PIL.Image

    from torchreid_xres.inference import Extractor, Gallery, Hit
    from torchreid_xres.inference.acceptance import Acceptance

COLUMNS, HEIGHT = 6, 192  # of a contact sheet
MANY_OTHERS = 0.2  # share of the gallery's images, above which it is worth while to adapt again


def query(args: argparse.Namespace) -> int:
    from torchreid_xres.data.io import save_image
    from torchreid_xres.files import require_other_file, write_json
    from torchreid_xres.inference import Gallery
    from torchreid_xres.inference.acceptance import acceptance
    from torchreid_xres.inference.checks import Checks
    from torchreid_xres.inference.extractor import native_rate
    from torchreid_xres.inference.filters import Filters, groups
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
    among, by = Filters(args.camera, args.not_camera, args.after, args.before).among(gallery)
    grouped = groups(gallery, args.group) if args.group else None
    by += [f"{args.group} by {grouped.source}"] if grouped else []
    learned = None if args.no_adapt else query_encoder(gallery)
    how = {"device": args.device, "precision": args.precision, "query_encoder": learned}
    extractor = gallery.make_extractor(args.run or "", **how)
    tell_if_drawn(extractor)
    checks = Checks(gallery, extractor)
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
        features = extractor.describe([one for *_, one in read]) if read else []
        found = gallery.search(features, args.top, among, grouped and grouped.values) if read else []
        for (number, file, prepared), hits in zip(read, found, strict=True):
            for line in checks.told(file, prepared, args.box):
                print(f"note: {f'{printable(file)}, ' * several}{line}", file=sys.stderr)
            low, rate = extractor.is_low(prepared.size), native_rate(prepared.size, extractor.full_size)
            adapted = bool(extractor.by_query_encoder([prepared]))
            if sheets:
                restored = extractor.restored(prepared) if low and not adapted else None
                img = picture(extractor, file, args.box)
                save_image(sheet(gallery, extractor, img, restored, hits, limit), sheets[number])
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
    if by:
        searched = len(gallery) if among is None else int(among.sum())
        told.insert(0, f"searched: {searched} of {len(gallery)} images; {', '.join(by)}")
    if not records:
        raise ValueError(f"none of the {len(files)} pictures can be read")
    if args.json:
        about = {"gallery": str(args.gallery), "images": len(gallery)}
        about |= {key: gallery.about[key] for key in ("model", "weights_sha256", "metric")}
        about |= {} if limit is None else {"accept": limit._asdict()}
        about |= {"searched": searched, "by": by} if by else {}
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
    more = {name: getattr(hit, name) for name in ("frame", "box", "time", "camera", "track", "identity")}
    record |= {name: value for name, value in more.items() if value}
    return record if limit is None else record | {"accepted": limit.accepts(hit)}


def picture(extractor: Extractor, file: Path, box: list[int] | None) -> PIL.Image.Image:
    """Read a picture, or a box of it."""
    from torchreid_xres.inference.pictures import cropped

    img = extractor.image(file)
    return cropped(img, tuple(box)) if box else img


def shown(hits: list[Hit], limit: Acceptance | None) -> str:
    """Return what was found, and what of it is near enough, as text."""
    from torchreid_xres.text import text_table

    more = [name for name in ("camera", "time") if any(getattr(hit, name) for hit in hits)]
    rows = [[hit.rank, hit.score, *(getattr(hit, name) for name in more), called(hit)] for hit in hits]
    headers = ["rank", "score", *more, "file"]
    if limit is not None:
        rows = [[*row, "yes" if limit.accepts(hit) else "no"] for row, hit in zip(rows, hits, strict=True)]
        headers.append("accepted")
    text = text_table(rows, headers=headers, floatfmt=".4f", disable_numparse=[*range(2, len(headers))])
    if limit is not None:
        text += f"\naccepted: {sum(map(limit.accepts, hits))} of {len(hits)}, from score {limit.score:.4f} on"
    return text


def called(hit: Hit) -> str:
    """Return the name of a hit; of a track with the frame that shows it best."""
    return f"{hit.name} ({hit.frame}#{','.join(map(str, hit.box))})" if hit.track and hit.box else hit.name


def sheet(
    gallery: Gallery,
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
        picture = gallery.picture(hit, extractor.image) if hit.path.is_file() else None
        frame = "green" if limit and limit.accepts(hit) else ""
        cells.append(Cell(picture, f"{hit.rank}: {hit.score:.3f}\n{printable(called(hit))}", frame))
    return contact_sheet(cells, COLUMNS, HEIGHT)
