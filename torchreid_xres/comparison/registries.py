"""What is registered, and what of it is there: models, front ends, data sets, losses, configurations, mends."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from torchreid_xres import host, losses
from torchreid_xres.config import as_dict, load_config, stage_configs
from torchreid_xres.data import DATASETS
from torchreid_xres.data.datasets.drawn import DrawnDataset
from torchreid_xres.data.datasets.folder import Folder
from torchreid_xres.data.datasets.mlr_cuhk03 import MAT, MLRCUHK03, RELEASE
from torchreid_xres.engine.base import ENGINES
from torchreid_xres.host_mends import MENDS
from torchreid_xres.models import MODELS
from torchreid_xres.sr import FRONT_ENDS
from torchreid_xres.text import text_table

NOT_FOUND = "not found"


def registry_table(kind: str, style: str = "github") -> str:
    """Return what is registered, or mended, from the facts kept beside each builder.

    Args:
        kind: ``models``, ``data sets``, ``front ends`` or ``mends``.
        style: a table format of ``tabulate``.

    Raises:
        KeyError: for another kind.
    """
    return text_table(REGISTRIES[kind](), style)


def _models() -> list[dict]:
    return [{"name": name, "source": MODELS[name].meta["paper"]} for name in MODELS]


def _data_sets() -> list[dict]:
    rows = []
    for name in DATASETS:
        meta, cls = DATASETS[name].meta, DATASETS[name].build
        gap = "natural" if cls.natural else "rates " + ", ".join(f"{rate:g}" for rate in cls.rates)
        rows.append(
            {
                "name": name,
                "gap": gap,
                "evaluation": cls.metric.replace("_", "-"),
                "splits": cls.num_splits,
                "options": ", ".join(key for key in cls.defaults if key != "check_counts") or "-",
                "source": meta["cite"] or "your own images",
            }
        )
    return rows


def _front_ends() -> list[dict]:
    rows = []
    for name in FRONT_ENDS:
        info = FRONT_ENDS[name].meta["info"]
        rows.append(
            {
                "name": name,
                "parameters": "-" if info.parameters is None else f"{info.parameters:,}",
                "of which": info.counted or "-",
                "scales": ", ".join(map(str, info.scales)) or "any",
                "licence": info.licence,
                "source": info.paper,
            }
        )
    return rows


def _mends() -> list[dict]:
    return [{"mend": name, "fault": mend.fault} for name, mend in MENDS.items()]


REGISTRIES: Mapping[str, Callable[[], list[dict]]] = {
    "models": _models,
    "data sets": _data_sets,
    "front ends": _front_ends,
    "mends": _mends,
}


def inventory(kind: str, root: str | Path, configs: str | Path) -> list[dict[str, Any]]:
    """Return a row for each thing of a kind, with what a user needs before using it.

    Args:
        kind: a name of :data:`KINDS`.
        root: folder that holds the data sets.
        configs: folder of configurations.

    Returns:
        Rows that JSON can hold; all of a kind have the same keys.

    Raises:
        KeyError: for another kind; the message lists those there are.
        NotADirectoryError: if there is no folder of configurations.
    """
    if kind not in KINDS:
        raise KeyError(f"there is no list of {kind!r}; there are: {', '.join(KINDS)}")
    if kind == "models":
        zoo = sorted(set(host.model_factory()) - set(MODELS))
        ours = [row | {"engine": ENGINES[row["name"]].build.__name__} for row in _models()]
        return [*ours, *({"name": name, "source": "torchreid", "engine": "torchreid's"} for name in zoo)]
    if kind == "data-sets":
        return list(_data_sets_at(Path(root).expanduser()))
    if kind == "losses":
        return list(_losses())
    if kind == "configs":
        return list(_configs(Path(configs), Path(root).expanduser()))
    return REGISTRIES[kind.replace("-", " ")]()


KINDS = ("models", "front-ends", "data-sets", "losses", "configs", "mends")


def _data_sets_at(root: Path) -> Iterator[dict[str, Any]]:
    for row in _data_sets():
        meta = DATASETS[row["name"]].meta
        yield {
            "name": row["name"],
            "on disk": data_set_at(row["name"], root),
            "gap": row["gap"],
            "how to get it": meta["page"] or "nothing to get",
            "terms": meta["terms"],
        }


def data_set_at(name: str, root: Path) -> str:
    """Say what a data set's reader finds below a folder, without writing anything.

    Args:
        name: registered name.
        root: folder that holds the sets.

    Returns:
        The numbers of images and the folder; or ``not found``, with the folders that were looked for; or what is wrong
        with what is there.
    """
    cls = DATASETS[name].build
    if issubclass(cls, DrawnDataset):
        return "draws itself on first use"
    if cls is Folder:
        return "your own folders"
    if cls is MLRCUHK03:
        places = [root / place for folder in RELEASE for place in (folder, f"{folder}/{folder}")]
        archives = [place / MAT for place in places if (place / MAT).is_file()]
        # Its reader would unpack the archive.
        if archives and not any((place / "images_detected").is_dir() for place in places):
            return f"archive in {archives[0].parent}, unpacked on first use"
    try:
        # Reads names and lists, and checks their numbers; no image is opened.
        split = cls(root=str(root), mode="query", verbose=False).split
    except FileNotFoundError as error:
        reason = str(error.__cause__ or error)  # without what every set says of the root
        return f"{NOT_FOUND}: {reason.removeprefix(f'no such data set under {root.absolute()}; ')}"
    except (ValueError, OSError) as error:
        return f"unusable: {error}"
    counts = " + ".join(f"{len(getattr(split, role))} {role}" for role in ("train", "query", "gallery"))
    return f"{counts} images in {split.folder}"


def _losses() -> Iterator[dict[str, Any]]:
    for found in pkgutil.iter_modules(losses.__path__):
        module = import_module(f"{losses.__name__}.{found.name}")
        for name, part in vars(module).items():
            public = not name.startswith("_") and (inspect.isfunction(part) or inspect.isclass(part))
            if public and part.__module__ == module.__name__:
                first, _, rest = inspect.getdoc(part).partition("\n\n")
                yield {
                    "name": name,
                    "module": f"losses.{found.name}",
                    "what": " ".join(first.split()),
                    "source": " ".join(rest.partition("\n\n")[0].split()),
                }


def _configs(folder: Path, root: Path) -> Iterator[dict[str, Any]]:
    if not folder.is_dir():
        raise NotADirectoryError(f"there is no folder of configurations {folder}")
    for path in sorted(folder.glob("*.yaml")):
        cfg = load_config(path)
        last = list(stage_configs(cfg).values())[-1]
        sets = dict.fromkeys([*last.data.sources, *last.data.targets])
        yield {
            "name": path.stem,
            "method": last.model.name,
            "front end": last.sr.name if "sr" in _options(last) else "-",
            "stages": ", ".join(cfg.stages) or "-",
            "data set": ", ".join(sets),
            "input": f"{last.data.height}x{last.data.width}",
            "needs": ", ".join(_needed(cfg, root)) or "nothing",
        }


def _options(cfg: CfgNode) -> Mapping[str, Any]:
    return ENGINES[cfg.model.name].build.model_options(cfg) if cfg.model.name in ENGINES else {}


def _needed(cfg: CfgNode, root: Path) -> Iterator[str]:
    """Give what a configuration takes from outside: files below the root (with what is missing), downloads, sets."""
    stages = stage_configs(cfg).values()
    sets = dict.fromkeys(name for own in stages for name in [*own.data.sources, *own.data.targets])
    for name in sets:
        if name in DATASETS and DATASETS[name].meta["page"]:
            yield f"the set {name}"
    files = dict.fromkeys(text for own in stages for text in _texts(as_dict(own)) if text.startswith("{root}/"))
    for text in files:
        there = (root / text.removeprefix("{root}/")).is_file()
        yield text if there else f"{text} (missing)"
    if any(own.model.pretrained and not own.model.reid_weights and own.task == "train" for own in stages):
        yield "ImageNet weights (fetched)"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _texts(inner)
