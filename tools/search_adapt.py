"""``xres search adapt``: a query encoder learned from a gallery's images."""

from __future__ import annotations

import argparse
import shlex
import sys

from search_build import keep_light


def adapt(args: argparse.Namespace) -> int:
    from torchreid_xres.search import Gallery
    from torchreid_xres.search.adapt import FEW, plan
    from torchreid_xres.search.adapt import adapt as learn
    from torchreid_xres.search.strangers import measure

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
    learned = learn(gallery, extractor, planned, args.caution)
    how = {"device": args.device, "precision": args.precision, "query_encoder": learned.folder}
    both = gallery.make_extractor(args.run or "", **how)
    measure(gallery, both)
    about = learned.about
    print(report(about))
    threshold = about["threshold"]
    print(
        "the query encoder nowhere finds the sharp image better than the network itself, and answers no query"
        if threshold is None
        else f"queries that the network enlarges at least {threshold:.2f} times go to the query encoder"
    )
    keep_light(gallery, both)
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
