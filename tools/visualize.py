"""Draw what a trained model does.

    xres visualize ranks log/quickstart/split0/sr_reid --worst --count 6 --out worst.jpg
    xres visualize restored log/quickstart/split0/sr_reid path/to/images --rates 2 3 4 --out restored.png
    xres visualize activations log/quickstart/split0/sr_reid path/to/images --out activations.png
    xres visualize embedding log/quickstart/split0/sr_reid --identities 10 --out embedding.png
    xres visualize curves log/a/results/set.json other=log/b/results/set.json --out curves.svg
    xres visualize scales log/msifla_quickstart/split0/msifla path/to/images --out scales.png
    xres visualize guidance log/kgnet_synth_vehicle/split0/kgnet/kgnet path/to/images --out guidance.png

All but curves take the folder of a trained run. Images are an image or a folder of high-resolution ones, of which some
are taken at equal distances in the order of their names. ranks and embedding keep the features they extract in the
run's folder. "COMMAND --help" says more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from choices import AGAINST, FIGURES, PICTURES, QUERIES, WHICH_QUERIES
from program import ending, new_parser, tool

picture_path, figure_path = ending("pictures", PICTURES), ending("figures", FIGURES)


def parser() -> argparse.ArgumentParser:
    parser = new_parser("visualize", __doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(work: Callable, out: str, ending: Callable[[str], Path]) -> argparse.ArgumentParser:
        text = work.__doc__
        one = commands.add_parser(work.__name__, help=text.partition(".")[0], description=text)
        one.set_defaults(work=work)
        one.add_argument("--out", type=ending, default=Path(out), metavar="FILE", help=f"default {out}")
        return one

    def of_images(work: Callable, count: int) -> argparse.ArgumentParser:
        one = command(work, f"{work.__name__}.png", picture_path)
        one.add_argument("run", type=Path, help="folder of a trained run")
        one.add_argument("images", type=Path, help="an image, or a folder of images")
        one.add_argument("--count", type=int, default=count, help=f"of a folder, so many images (default {count})")
        return one

    def of_features(work: Callable, out: str, ending: Callable[[str], Path]) -> argparse.ArgumentParser:
        one = command(work, out, ending)
        one.add_argument("run", type=Path, help="folder of a trained run")
        one.add_argument("--dataset", default="", help="registered name; default: the run's first target")
        one.add_argument("--root", default="", help="folder that holds the data sets; default: as in the run")
        return one

    one = of_features(ranks, "ranks.jpg", picture_path)
    which = one.add_mutually_exclusive_group()
    for name in WHICH_QUERIES:
        which.add_argument(f"--{name}", dest="choose", action="store_const", const=name, help=f"{name} queries")
    one.set_defaults(choose="worst")
    one.add_argument("--count", type=int, default=8, help="queries (default 8)")
    one.add_argument("--top", type=int, default=10, help="gallery images of each (default 10)")
    one.add_argument("--seed", type=int, default=0, help="of --random")
    one.add_argument("--height", type=int, default=160, help="of a picture in pixels (default 160)")

    for work, rates in ((restored, [2, 3, 4]), (activations, [1, 4])):
        one = of_images(work, 4)
        said = " ".join(map(str, rates))
        one.add_argument("--rates", type=float, nargs="+", default=rates, help=f"1 = as it is (default {said})")
        one.add_argument("--height", type=int, default=192, help="of a picture in pixels (default 192)")

    one = of_features(embedding, "embedding.png", figure_path)
    one.add_argument("--identities", type=int, default=10, help="so many, drawn (default 10)")
    one.add_argument("--perplexity", type=float, default=30.0, help="of t-SNE (default 30)")
    one.add_argument("--seed", type=int, default=0, help="of the identities drawn and of t-SNE")

    one = command(curves, "curves.png", figure_path)
    one.add_argument("records", nargs="+", metavar="[LABEL=]RECORD.json")
    one.add_argument("--queries", choices=QUERIES, default="all", help="all low queries at each rate, or those drawn")
    one.add_argument("--against", choices=AGAINST, default="rate", help="what curves are over (default rate)")

    one = of_images(scales, 4)
    one.add_argument("--rates", type=float, nargs="+", default=[4, 3, 2, 1], help="at which images are given")

    one = of_images(guidance, 6)
    one.add_argument("--rate", type=float, help="at which images are given; default: the largest in training")
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    return parser().parse_args(argv)


def image_files(args: argparse.Namespace) -> list[Path]:
    from torchreid_xres.data.walk import images_at
    from torchreid_xres.jobs.ending import tell_of_others

    if args.count < 1:
        raise ValueError(f"--count is {args.count}; at least 1 image is drawn")
    paths = tell_of_others(images_at(args.images))
    count = min(args.count, len(paths))
    return [paths[i * len(paths) // count] for i in range(count)]


def ranks(args: argparse.Namespace) -> str:
    """Rank lists: queries as seen, restored by the model's front end, then what is found, hits and misses framed."""
    from torchreid_xres.data.io import save_image
    from torchreid_xres.jobs.extraction import engine_features, trained_engine
    from torchreid_xres.jobs.run import ranking_options
    from torchreid_xres.models.layers import Normalization
    from torchreid_xres.pictures.lists import RankedLists
    from torchreid_xres.pictures.queries import RunPictures
    from torchreid_xres.pictures.ranks import chosen_queries, rank_cells
    from torchreid_xres.pictures.sheet import contact_sheet
    from torchreid_xres.text import text_table

    if min(args.count, args.top) < 1:
        raise ValueError(f"--count {args.count} and --top {args.top} must be at least 1")
    run, engine = trained_engine(args.run, args.dataset, args.root)
    query, gallery = engine_features(run, engine, ("query", "gallery")).values()
    lists = RankedLists(query, gallery, ranking_options(run.cfg, query.dataset))
    chosen = chosen_queries(lists, args.choose, args.count, args.seed)
    pictures = RunPictures(engine, query.dataset, Normalization(run.cfg.data.norm_mean, run.cfg.data.norm_std))
    cells = rank_cells(lists, chosen, pictures, args.top, args.height)
    save_image(contact_sheet(*cells, args.height), args.out)
    rows = [
        {"query": query.names[q], "rate": query.rate[q], "first match": lists.rank[q], "AP": lists.ap[q]}
        for q in chosen
    ]
    return text_table(rows, floatfmt=("", "g", "g", ".3f"), disable_numparse=[0])


def restored(args: argparse.Namespace) -> str:
    """Triptychs: images at low resolution, restored by the model's front end, and as they were, with PSNR and SSIM."""
    import torch

    from torchreid_xres.data.io import save_image
    from torchreid_xres.pictures.restored import restorations, restored_cells
    from torchreid_xres.pictures.seen import trained_model
    from torchreid_xres.pictures.sheet import contact_sheet
    from torchreid_xres.text import text_table

    trained = trained_model(args.run)
    images = [restorations(trained, trained.read(path), args.rates) for path in image_files(args)]
    save_image(contact_sheet(*restored_cells(images, args.height), args.height), args.out)
    quality = torch.stack([one.quality() for one in images]).mean(dim=0)
    rows = [[f"x{rate:g}", *made.T.flatten().tolist()] for rate, made in zip(args.rates, quality, strict=True)]
    headers = ["rate", "PSNR enlarged", "PSNR restored", "SSIM enlarged", "SSIM restored"]
    return text_table(rows, headers=headers, floatfmt=("", ".2f", ".2f", ".4f", ".4f"), disable_numparse=[0])


def activations(args: argparse.Namespace) -> str:
    """Where the last feature map is strong, over what the re-ID network sees of images at each rate."""
    from torchreid_xres.data.io import save_image
    from torchreid_xres.pictures.activations import activation_cells
    from torchreid_xres.pictures.seen import trained_model
    from torchreid_xres.pictures.sheet import contact_sheet
    from torchreid_xres.terminal import printable

    trained = trained_model(args.run)
    paths = image_files(args)
    cells = activation_cells(trained, [trained.read(path) for path in paths], args.rates, args.height)
    save_image(contact_sheet(*cells, args.height), args.out)
    return "\n".join(map(printable, paths))


def embedding(args: argparse.Namespace) -> str:
    """Features of queries and gallery on a plane (t-SNE), coloured by identity, marked by rate."""
    from torchreid_xres.comparison.figures import save_figure
    from torchreid_xres.jobs.extraction import engine_features, trained_engine
    from torchreid_xres.pictures.embedding import draw_embedding, embed

    run, engine = trained_engine(args.run, args.dataset, args.root)
    sets = list(engine_features(run, engine, ("query", "gallery")).values())
    found = embed(sets, args.identities, run.cfg.test.dist_metric, args.perplexity, args.seed)
    save_figure(draw_embedding(found), args.out)
    return f"{len(found.points)} images of {len(set(found.pid.tolist()))} identities, {found.about}"


def curves(args: argparse.Namespace) -> str:
    """Rank-1 and mAP by rate or magnification; several records of one label are splits or seeds: mean and deviation."""
    from torchreid_xres.comparison.curves import FIGURES, draw_curves, labelled_records, resolution_curves
    from torchreid_xres.comparison.figures import save_figure
    from torchreid_xres.text import text_table

    found = resolution_curves(labelled_records(args.records), args.queries, args.against)
    save_figure(draw_curves(found, args.queries, args.against), args.out)
    columns = {f"x{at:.4g}": "" for at in sorted({at for one in found for at in one.at})}
    rows = [
        {"data set": one.dataset, "model": one.label, "records": one.records, "figure": name}
        | columns
        | {
            f"x{at:.4g}": f"{middle:.1f}" + (f" ± {spread:.1f}" if one.records > 1 else "")
            for at, middle, spread in zip(one.at, one.mean[key], one.std[key], strict=True)
        }
        for one in found
        for key, name in FIGURES.items()
    ]
    return text_table(rows)


def scales(args: argparse.Namespace) -> str:
    """What MSIFLA's cascade makes of an image at all scales from all rates, beside what it was to make."""
    import torch

    from torchreid_xres.data.io import save_image
    from torchreid_xres.pictures.scales import draw_scales, scales_from_rates
    from torchreid_xres.pictures.seen import trained_model
    from torchreid_xres.text import text_table

    trained = trained_model(args.run, ["msifla"])
    data, model = trained.data, trained.model
    drawn = [
        scales_from_rates(
            model.cascade, trained.read(path), (data.height, data.width), args.rates, data.kernel, trained.normalize
        )
        for path in image_files(args)
    ]
    save_image(draw_scales(drawn), args.out)
    quality = torch.stack([one.quality() for one in drawn]).mean(0)  # (rates, scales, 2)
    rows = [
        {"given at": f"x{rate:g}"}
        | {
            f"scale 1/{scale:g}": f"{made:.1f} ({given:.1f})"
            for scale, (given, made) in zip(model.scales, line.tolist(), strict=True)
        }
        for rate, line in zip(args.rates, quality, strict=True)
    ]
    return f"PSNR in dB to each scale's target, in brackets the input's own\n\n{text_table(rows)}"


def guidance(args: argparse.Namespace) -> str:
    """What keypoints do in KGNet: low resolution, recovery, alignment, original, heat maps and faces."""
    from torchreid_xres.data.io import save_image
    from torchreid_xres.pictures.guidance import draw_guidance, guidance_images
    from torchreid_xres.pictures.seen import trained_model
    from torchreid_xres.text import text_table

    trained = trained_model(args.run, ["kgnet"])
    data, model = trained.data, trained.model
    rate = args.rate or max(data.pair_rates, default=model.scale)
    paths = image_files(args)
    vehicles = [
        guidance_images(model, trained.read(path), (data.height, data.width), rate, data.kernel) for path in paths
    ]
    save_image(draw_guidance(vehicles), args.out)
    rows = []
    for path, one in zip(paths, vehicles, strict=True):
        enlarged, made = (f"{figure:.1f}" for figure in one.quality())
        rows.append({"image": path.name, "points": one.visible(), "enlarged (dB)": enlarged, "restored (dB)": made})
    return text_table(rows, disable_numparse=[0])


@tool(parse, "no file is half written")
def main(args: argparse.Namespace) -> int:
    from torchreid_xres.devices.memory import keep_freed_memory
    from torchreid_xres.files import require_other_file, require_place
    from torchreid_xres.terminal import printable

    require_place(args.out)
    if "images" in args:
        require_other_file(args.out, [args.images], "--out")
    keep_freed_memory()
    with redirect_stdout(sys.stderr):  # torchreid's loaders print what they have found
        table = args.work(args)
    print(f"{table}\nnext: look at {printable(args.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
