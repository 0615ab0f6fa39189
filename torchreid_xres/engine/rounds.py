"""Epochs of a fixed number of batches, however large the set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, repeat

from torch.utils.data import DataLoader


class Rounds:
    """A loader whose epoch has a fixed number of batches: it begins anew where the images run out.

    Args:
        loader: what it draws from.
        batches: of an epoch.

    Raises:
        ValueError: if the loader has no batch.

    Example:
        >>> [batch.tolist() for batch in Rounds(DataLoader(range(3), batch_size=2), batches=3)]
        [[0, 1], [2], [0, 1]]
    """

    def __init__(self, loader: DataLoader, batches: int) -> None:
        if not len(loader):
            raise ValueError("the training set does not fill a batch; lower train.batch_size")
        self.loader, self.batches, self.batch_size = loader, batches, loader.batch_size

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator:
        return islice(chain.from_iterable(repeat(self.loader)), self.batches)
