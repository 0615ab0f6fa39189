"""The network of a trained run or a checkpoint, without the data it was trained on."""

from __future__ import annotations

from pathlib import Path

from yacs.config import CfgNode

from torchreid_xres import host
from torchreid_xres.config import load_config, stage_configs
from torchreid_xres.data.datasets.drawn import DrawnDataset
from torchreid_xres.data.options import DATASETS
from torchreid_xres.engine.base import LAST
from torchreid_xres.jobs.extraction import load_network
from torchreid_xres.jobs.run import Run
from torchreid_xres.models import MODELS

__all__ = ["drawn_sources", "find_run", "host_config", "load_network", "run_folder"]


def find_run(weights: str | Path, config: str | Path | CfgNode | None = None) -> tuple[Run, Path]:
    """Return what a network is, and the file of its weights.

    Args:
        weights: folder of a trained run, a checkpoint in one, or with ``config`` any checkpoint.
        config: a configuration, or its file, that says what network the weights are of; of several stages the last.

    Raises:
        FileNotFoundError: if nothing was trained there, or nobody says of what network the checkpoint is.
    """
    weights = Path(weights).expanduser().absolute()
    if not weights.exists():
        raise FileNotFoundError(f"there is no run or checkpoint at {weights}")
    if config is not None:
        cfg = config if isinstance(config, CfgNode) else load_config(config)
        cfg = list(stage_configs(cfg).values())[-1]
        return Run(cfg, cfg.data.split_id, weights.parent, "", name=""), weights
    if weights.is_file():
        folder = run_folder(weights)
        if folder is not None:
            return Run.load(folder), weights
        raise FileNotFoundError(
            f"{weights} lies in no folder of a run, so nobody says what network it is of: give a configuration, or for "
            "a network of torchreid its name and size"
        )
    if not (weights / "run.json").is_file():
        below = sorted(str(path.parent) for path in weights.glob("**/run.json"))
        hint = f"; there are runs in {', '.join(below)}" if below else ""
        raise FileNotFoundError(f"{weights} is no folder of a run: it has no run.json{hint}")
    return Run.load(weights), weights / LAST


def run_folder(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in; None if it lies in none."""
    # Our checkpoints lie in the run's folder, the host's in one below.
    return next((folder for folder in checkpoint.parents[:2] if (folder / "run.json").is_file()), None)


def host_config(name: str, size: tuple[int, int]) -> CfgNode:
    """Return a configuration for a network of the host's zoo.

    Args:
        name: in the zoo.
        size: height and width of its input.

    Raises:
        ValueError: if the zoo has no such network.
    """
    zoo = sorted(set(host.model_factory()) - set(MODELS))
    if name not in zoo:
        raise ValueError(f"torchreid has no network {name!r}; there are: {', '.join(zoo)}")
    keys = {"model.name": name, "data.height": size[0], "data.width": size[1], "test.dist_metric": "cosine"}
    return load_config(None, [str(part) for pair in keys.items() for part in pair])


def drawn_sources(cfg: CfgNode) -> list[str]:
    """Return the sets that a network has learned from, if they are drawn ones alone; else nothing."""
    if cfg.model.reid_weights or cfg.model.load_weights or cfg.model.gallery_run:
        return []
    sources = list(cfg.data.sources)
    drawn = [name for name in sources if name in DATASETS and issubclass(DATASETS[name].build, DrawnDataset)]
    return drawn if drawn == sources else []
