"""A network as it came, but with batch statistics of one's own images (see ``models/statistics.py``), as a stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from torch.utils.data import DataLoader

from torchreid_xres.config import ConfigError
from torchreid_xres.data.batches import with_native
from torchreid_xres.data.split import shuffled
from torchreid_xres.engine.base import XresMixin
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.jobs.extraction import training_images
from torchreid_xres.jobs.run import TASKS, Run
from torchreid_xres.models.statistics import BATCH, IMAGES, measure_statistics

logger = logging.getLogger(__name__)


@TASKS.register("own_statistics", together=True)
def own_statistics(run: Run) -> list[dict]:
    """Measure the batch statistics of the given weights anew on the training images, and evaluate; no label is read.

    Returns:
        The records of the targets.

    Raises:
        ConfigError: if there are epochs to train, too.
        ValueError: if the network has no batch normalisation.
    """
    if run.cfg.train.max_epoch:
        raise ConfigError(
            f"the task own_statistics trains nothing, and train.max_epoch is {run.cfg.train.max_epoch}: set it to 0, "
            "and train in a stage of its own"
        )

    def prepare(engine: XresMixin) -> None:
        layers = measure_statistics(unwrap(engine.model), engine.extract, drawn_batches(run, engine))
        logger.info("%s: the statistics of %d batch normalisations are of its own images", run.name, layers)

    return run.train(prepare)


def drawn_batches(run: Run, engine: XresMixin) -> Iterator[dict]:
    """Give batches of training images, :data:`IMAGES` in all, of each source alike."""
    sources = list(run.cfg.data.sources)
    for name in sources:
        dataset = training_images(run, engine, name)
        drawn = shuffled(range(len(dataset)), "statistics")[: IMAGES // len(sources)]
        loader = DataLoader(dataset, batch_size=min(BATCH, len(drawn)), sampler=drawn, drop_last=True)
        yield from with_native(loader) if engine.datamanager.native else loader
