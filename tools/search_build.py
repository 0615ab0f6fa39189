"""``xres search build``: a gallery of a folder of images."""

from __future__ import annotations

import argparse
import shlex
import sys

SHOWN = 10  # unusable files that are named one by one


def build(args: argparse.Namespace) -> int:
    from torchreid_xres.devices.memory import keep_freed_memory
    from torchreid_xres.inference import Extractor, Gallery
    from torchreid_xres.inference.strangers import is_measured, measure
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
    if done.added or done.changed or done.removed or not is_measured(gallery, extractor):
        measure(gallery, extractor)
    print(f"next: xres search query PICTURE --gallery {shlex.quote(str(args.gallery))}")
    return 0
