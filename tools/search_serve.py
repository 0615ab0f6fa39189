"""``xres search serve``: a page in the browser on which a gallery is searched."""

from __future__ import annotations

import argparse
from pathlib import Path


def serve_options(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """Add the command, and return its parser."""
    serve = commands.add_parser("serve", help="search a gallery on a page in the browser")
    serve.add_argument("--run", type=Path, help="where run or checkpoint are now, if they were moved")
    serve.add_argument(
        "--host", default="127.0.0.1",
        help="address to answer at (default: this machine alone; of all others a token is asked)",
    )  # fmt: skip
    serve.add_argument("--port", type=int, default=0, help="default: one that is free, from 7860 on")
    serve.add_argument("--no-adapt", action="store_true", help="leave aside what adapt has learned")
    return serve


def serve(args: argparse.Namespace) -> int:
    from search_query import known_strangers, query_encoder

    from torchreid_xres.report.asking import Archive
    from torchreid_xres.search import Gallery
    from torchreid_xres.ui.desk import MARKS, Desk
    from torchreid_xres.ui.page import start

    gallery = Gallery(args.gallery)
    learned = None if args.no_adapt else query_encoder(gallery)
    how = {"device": args.device, "precision": args.precision, "query_encoder": learned}
    extractor = gallery.make_extractor(args.run or "", **how)
    archive = Archive(gallery, extractor, known_strangers(gallery, extractor))
    page, address, token = start(Desk(archive), args.host, args.port)
    reached = f"others reach it, with any name and this token: {token}" if token else "this machine alone reaches it"
    print(f"{address} answers until Ctrl-C; {reached}")
    print(f"what is marked right or wrong goes to {gallery.folder / MARKS}", flush=True)
    page.block_thread()
    return 0
