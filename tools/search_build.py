"""``xres search build``: a gallery of a folder of images, or of boxes in them."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from choices import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from torchreid_xres.inference import Extractor
    from torchreid_xres.search import Gallery
    from torchreid_xres.search.building import Update

LIGHT_FROM = 200  # images; writing the network takes longer than a build of fewer
SHOWN = 10  # unusable files, and boxes, that are named one by one


def build(args: argparse.Namespace) -> int:
    import torch

    from torchreid_xres.devices import distributed
    from torchreid_xres.devices.memory import keep_freed_memory
    from torchreid_xres.search import Gallery

    if not args.images.exists():  # before a network is fetched for them
        raise FileNotFoundError(f"there is no folder or video {args.images}")
    with distributed.processes(args.device != "cpu" and torch.cuda.is_available()):
        with distributed.in_turn():  # what the first one fetches, the others find
            gallery = Gallery(args.gallery, extractor_of(args), args.index)
        first = distributed.is_main()
        if first:
            tell_if_drawn(gallery.extractor)
        keep_freed_memory()
        start = time.perf_counter()
        done = gallery.update(
            args.images, args.boxes or "", rate=args.rate, names=args.names,
            own_statistics=args.run is None if args.own_statistics is None else args.own_statistics,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    if first:
        tell(args, gallery, done, seconds)
    return 0


def tell(args: argparse.Namespace, gallery: Gallery, done: Update, seconds: float) -> None:
    """Say what a build did, and measure what the gallery's strangers do."""
    from torchreid_xres.jobs.ending import tell_of_others
    from torchreid_xres.search.strangers import is_measured, measure

    left_out("left out", done.faults)
    left_out(f"left out of {args.boxes}", done.listed)
    tell_of_others(done.tree)
    if not len(gallery):
        name, fault = next(iter({**gallery.faults, **done.faults}.items()))
        raise ValueError(f"none of the images in {args.images} can be used; the first is {name}: {fault}")
    new = done.added + done.changed
    if new and gallery.extractor.backend.told:
        print(f"computed by {gallery.extractor.backend.name}, {gallery.extractor.backend.told}")
    print(
        f"{args.gallery}: {held(gallery)} by {gallery.about['model']}; {done.added} new, {done.changed} changed, "
        f"{done.removed} gone, {len(gallery.faults.keys() | done.faults.keys())} that cannot be used"
        + f", {done.unseen} kept that could not be looked for" * bool(done.unseen)
        + f", {len(done.listed)} boxes that cannot be used" * bool(done.listed)
        + f", {done.thinned} boxes in frames between those taken" * bool(done.thinned)
        + f"; {new / seconds:.0f} images/s" * bool(new)
    )
    if gallery.measured_of and done.added and not done.kept:
        print("its batch statistics are those of these images (--no-own-statistics leaves the network as it came)")
    elif args.own_statistics and not gallery.measured_of:
        print("the network is as it came: --own-statistics is for a new gallery, of at least 200 images")
    elif args.run is None and args.own_statistics is None and not (gallery.measured_of or done.kept):
        print("the network is as it came: of fewer than 200 images no batch statistics are measured")
    if done.added or done.changed or done.removed or not is_measured(gallery, gallery.extractor):
        measure(gallery, gallery.extractor)
    keep_light(gallery, gallery.extractor)
    if args.index and args.index != "FLAT":
        print(recall(gallery))
    print(f"next: xres search query PICTURE --gallery {shlex.quote(str(args.gallery))}")


def keep_light(gallery: Gallery, extractor: Extractor) -> None:
    """Keep what describes queries to a gallery in a folder without torch, and say what that took."""
    from torchreid_xres.inference.light_files import write_light

    if len(gallery) < LIGHT_FROM or gallery.searches:
        return
    seconds = write_light(extractor, gallery.folder)
    if seconds is not None:
        print(f"queries to it are answered without loading torch; to keep the network for that took {seconds:.0f} s")


def recall(gallery: Gallery) -> str:
    """Return in words what share of the nearest images the index of a gallery finds."""
    from torchreid_xres.search.milvus import PROBES

    share = gallery.recall()
    index = gallery.facts["index"]
    if share is None:
        return f"{index}: the recall of archives as small or as large as this one is not measured"
    return f"{index}: of the 10 nearest of {min(PROBES, len(gallery))} of its images it finds {100 * share:.1f} %"


def extractor_of(args: argparse.Namespace) -> Extractor:
    """Return the network that is asked for; where none is, the gallery's own, or the usual one for a new gallery."""
    from torchreid_xres.inference.published import fetch_network, is_published
    from torchreid_xres.search import Gallery

    how: dict[str, Any] = {
        "device": args.device, "precision": args.precision, "batch_size": args.batch, "backend": args.backend
    }  # fmt: skip
    try:
        held = Gallery(args.gallery)
    except FileNotFoundError:
        held = None
    if args.run is not None or args.model or held is None:
        given = given_extractor(args, how | {"full_size": args.full_size})
        return given if held is None or not held.is_measured_of(given) else held.make_extractor(**how)
    if args.size or args.full_size:
        raise ValueError(f"the gallery in {args.gallery} has its sizes already; others are for another gallery")
    if not held.weights.exists() and is_published(held.weights):
        fetch_network(held.weights.stem, held.weights.parent)
    return held.make_extractor(**how)


def given_extractor(args: argparse.Namespace, how: dict[str, Any]) -> Extractor:
    """Return the network that is asked for, or the usual one."""
    from torchreid_xres.inference import Extractor
    from torchreid_xres.inference.published import fetch_network

    if args.run is not None and args.model:
        return Extractor.of_host(args.model, args.run, tuple(args.size or (256, 128)), **how)
    if args.run is not None:
        return Extractor(args.run, config=args.config_file, **how)
    found = fetch_network(args.model or DEFAULT_WEIGHTS, args.weights or "")
    if args.size:
        found.config.data.height, found.config.data.width = args.size
    return Extractor(found.weights, config=found.config, **how)


def held(gallery: Gallery) -> str:
    """Return what a gallery holds, in words."""
    kinds = Counter("tracks" if row.track else "boxes" if row.box else "images" for row in gallery.rows)
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def tell_if_drawn(extractor: Extractor) -> None:
    """Say in a line on standard error of a network that has never seen a photograph that it has not."""
    drawn = extractor.drawn_sources
    if drawn:
        print(
            f"{extractor.about['model']} has learned from drawn images alone ({', '.join(drawn)}): expect little of it "
            f"on photographs, for which there is --model {DEFAULT_WEIGHTS}", file=sys.stderr,
        )  # fmt: skip


def left_out(what: str, faults: dict[str, str]) -> None:
    """Name the first of what is left out in a line each on standard error, and count the others."""
    from torchreid_xres.terminal import printable

    for name, fault in list(faults.items())[:SHOWN]:
        print(f"{printable(what)}: {printable(name)}: {printable(fault)}", file=sys.stderr)
    if len(faults) > SHOWN:
        print(f"{printable(what)}: {len(faults) - SHOWN} more", file=sys.stderr)
