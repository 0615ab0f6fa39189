"""Batches of identities x instances, and of identities x (HR, LR) mixes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

import torch
from torch.utils.data import Sampler

SAMPLERS = ("IdentitySampler", "MixedIdentitySampler")


class IdentitySampler(Sampler[int]):
    """Draw batches of P identities with K images each; every batch is whole and the length is exact.

    The host's ``RandomIdentitySampler`` splits identities over batches when K does not divide the batch and
    announces more batches than it gives. Here an identity with n images takes part max(1, n // K) times in
    an epoch; one with fewer than K images repeats some. With ``low`` given, ``num_low`` of the K images are
    low resolution and the others high; an identity that lacks one kind is filled from the other.

    Args:
        pids: identity of each training image, in the data set's order.
        batch_size: images in a batch, a multiple of ``num_instances``.
        num_instances: K, images per identity and batch.
        low: for each image, whether it is low resolution; None draws without regard to it.
        num_low: low-resolution images among the K (only with ``low``).
        left_out: indices of images that are never drawn.

    Raises:
        ValueError: if the batch does not divide into identities, or there are too few identities for one.

    Example:
        >>> sampler = IdentitySampler([0, 0, 1, 1, 2], batch_size=4, num_instances=2)
        >>> len(list(sampler)) == len(sampler)
        True
    """

    def __init__(
        self,
        pids: Sequence[int],
        batch_size: int,
        num_instances: int,
        low: Sequence[bool] | None = None,
        num_low: int = 0,
        left_out: Collection[int] = (),
    ) -> None:
        self._how = {"batch_size": batch_size, "num_instances": num_instances, "low": low, "num_low": num_low}
        self._pids = pids
        if num_instances < 1 or batch_size % num_instances:
            raise ValueError(
                f"train.batch_size {batch_size} is not a multiple of sampler.num_instances {num_instances}"
            )
        if not 0 <= num_low <= num_instances:
            raise ValueError(f"sampler.num_low {num_low} is not between 0 and num_instances {num_instances}")
        self.ids_per_batch = batch_size // num_instances
        self.num_instances = num_instances
        self.quota = (num_instances,) if low is None else (num_instances - num_low, num_low)
        # identity -> its images by kind: (all,) or (high, low)
        self.pools: dict[int, tuple[list[int], ...]] = defaultdict(lambda: tuple([] for _ in self.quota))
        for index, pid in enumerate(pids):
            if index in left_out:
                continue
            self.pools[pid][0 if low is None else int(low[index])].append(index)
        if len(self.pools) < self.ids_per_batch:
            raise ValueError(
                f"a batch of {batch_size} with {num_instances} images each needs {self.ids_per_batch} identities, "
                f"the training set has {len(self.pools)}; lower train.batch_size or raise sampler.num_instances"
            )
        self.turns = {
            pid: max(1, sum(map(len, kinds)) // num_instances) for pid, kinds in self.pools.items()
        }
        self.num_batches = _most_batches(list(self.turns.values()), self.ids_per_batch)

    def without(self, left_out: Collection[int]) -> IdentitySampler:
        """Return the same sampler without some of the images, by their indices."""
        return type(self)(self._pids, **self._how, left_out=left_out)

    def __len__(self) -> int:
        return self.num_batches * self.ids_per_batch * self.num_instances

    def __iter__(self) -> Iterator[int]:
        # Seeded from torch's global generator, whose state the checkpoints hold.
        generator = torch.Generator().manual_seed(int(torch.empty((), dtype=torch.int64).random_()))
        decks = {pid: [_Deck(kind, generator) for kind in kinds] for pid, kinds in self.pools.items()}
        pids = list(self.turns)
        left = torch.tensor(list(self.turns.values()))
        batches = []
        for _ in range(self.num_batches):
            # Those with most turns left go first (ties at random): this reaches the greatest number of batches.
            order = torch.randperm(len(pids), generator=generator)
            chosen = order[left[order].argsort(descending=True, stable=True)[: self.ids_per_batch]]
            left[chosen] -= 1
            batch = []
            for i in chosen.tolist():
                batch += self._group(decks[pids[i]])
            batches.append(batch)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[i]

    def _group(self, decks: list[_Deck]) -> list[int]:
        group: list[int] = []
        for deck, quota in zip(decks, self.quota, strict=True):
            source = deck if deck.cards else next(d for d in decks if d.cards)
            group += [source.draw() for _ in range(quota)]
        return group


class _Deck:
    """Images drawn without repetition until none is left, then shuffled again."""

    def __init__(self, cards: list[int], generator: torch.Generator) -> None:
        self.cards, self.generator, self.left = cards, generator, []

    def draw(self) -> int:
        if not self.left:
            order = torch.randperm(len(self.cards), generator=self.generator).tolist()
            self.left = [self.cards[i] for i in order]
        return self.left.pop()


def _most_batches(turns: list[int], width: int) -> int:
    """Return the greatest T for which T batches of ``width`` different identities exist.

    T is possible when the turns, none counted more than T times, fill T batches: sum(min(t, T)) >= width * T.
    """
    most = 0
    for total in range(1, sum(turns) // width + 1):
        if sum(min(t, total) for t in turns) < width * total:
            break
        most = total
    return most
