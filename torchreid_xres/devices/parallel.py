"""A batch shared among processes: each loads and runs its part, and all have the losses of the whole.

Every process loads its share of a batch and runs the network on it. The images and the network's outputs are then
gathered, so that each process computes the losses of the whole batch: batch-hard mining, means over some of the images
and the engines' own random draws are what they are in one process, without an engine knowing. A gathered output's
gradient goes back to the process that made it; DistributedDataParallel averages the parameters' gradients.

The same losses as in one process, up to rounding, need a network without statistics of the batch, or frozen ones. On
GPUs batch normalisation is made to use those of the whole batch (SyncBatchNorm); on CPUs there is no such layer, and
each process normalises by its share. Dropout and augmentation draw other numbers than one process does, and other ones
in each process. A layer that no loss uses has a gradient of 0 among several processes and none in one, so that weight
decay reaches it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, Subset

from torchreid_xres.checkpoint import random_state, random_state_kept, set_random_state
from torchreid_xres.devices.distributed import active, launched, own_draws, process, seed_own_draws, world
from torchreid_xres.host_mends.training import unwrap

# -- the network -----------------------------------------------------------------------------------------------


def parallel(model: nn.Module, use_gpu: bool, whole_step: bool) -> nn.Module:
    """Return a network on its device, or this process's part of it among several.

    Without torchrun the host's engines use all GPUs through DataParallel, as the host does. Ours use one: DataParallel
    would mix up the views of a batch, and knows only a network's forward.

    Args:
        model: the network.
        use_gpu: use the GPUs.
        whole_step: for an engine of ours, which synchronises its whole step (:func:`synchronised`).
    """
    if not active():
        if not use_gpu:
            return model
        if whole_step or launched():
            return model.cuda()
        return nn.DataParallel(model).cuda()
    if use_gpu:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model).cuda()
    return ProcessParallel(model if whole_step else _ddp(model))


def synchronised(engine: Any) -> Callable[[dict], dict[str, Tensor]]:
    """Return an engine's ``losses``, through DistributedDataParallel where there are several processes.

    All that a step does is in the forward then: several passes, parts of the network, none of some.
    """
    return _ddp(_Step(engine)) if active() else lambda data: engine.losses(data)


def _ddp(module: nn.Module) -> nn.Module:
    if not any(p.requires_grad for p in module.parameters()):
        return module  # nothing to synchronise, which DistributedDataParallel takes for a mistake
    for buffer in module.buffers():
        # The strides that channels_last gives to a (1, 3, 1, 1) pass for overlapping where buffers are received.
        buffer.data = buffer.data.clone(memory_format=torch.contiguous_format)
    # Some layers serve one loss only, and not every batch has every loss.
    return DistributedDataParallel(module, find_unused_parameters=True)


class _Step(nn.Module):
    def __init__(self, engine: Any) -> None:
        super().__init__()
        self.engine = engine
        self.network = unwrap(engine.model)  # so that its parameters are found

    def forward(self, data: dict) -> dict[str, Tensor]:
        losses = self.engine.losses(data)
        return {name: loss if name == "loss" else loss.detach() for name, loss in losses.items()}


class ProcessParallel(nn.DataParallel):
    """DataParallel over processes: each runs its share of the batch, and all return all outputs.

    In evaluation it is the network itself. It is a DataParallel so that whoever looks through one (the host, too) looks
    through this.

    Args:
        module: the network; a row of each tensor that it gets or gives belongs to an image, or its output holds several
            views of the batch one behind the other.
    """

    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module
        self.device_ids: list[int] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.training:
            return unwrap(self)(*args, **kwargs)
        return shared(self.module, *args, **kwargs)


def shared(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function of a batch, or part of a network, on this process's share, and gather the results of all.

    Args:
        function: works on each image for itself.
        *args: tensors with a row for each image, the same in all processes, also in lists, tuples and dictionaries;
            anything else is passed on as it is.
        **kwargs: as ``args``.

    Returns:
        What ``function`` returns for the whole batch; gradients go back to the process that computed.

    Raises:
        ValueError: if a result does not have a row for each image, or a multiple of that (several views of the
            batch, one behind the other).
    """
    if not active():
        return function(*args, **kwargs)
    lengths = dict.fromkeys(len(x) for x in _tensors((args, kwargs)))
    if any(0 < length < world() for length in lengths):
        return function(*args, **kwargs)  # layers fail on no images at all, so all processes take those few
    with own_draws():
        result = function(*_mapped(_share, args), **_mapped(_share, kwargs))
    found = list(_tensors(result))
    rows: list[Any] = [None] * world()
    dist.all_gather_object(rows, [len(x) for x in found])
    plans = [_Plan([in_one[i] for in_one in rows], list(lengths)) for i in range(len(found))]
    # All at once: an output that no loss uses still has a gradient, 0, which DistributedDataParallel waits for.
    whole = iter(_Gather.apply(plans, *found))
    return _mapped(lambda _: next(whole), result)


class _Plan:
    """How the rows that the processes have become those of the batch."""

    def __init__(self, rows: Sequence[int], lengths: Sequence[int]) -> None:
        self.rows = rows
        for views in (1, *range(2, max(rows) + 1)):
            for length in lengths:
                if list(rows) == [views * part for part in _parts(length)]:
                    self.views = views
                    self.starts = [0, *accumulate(_parts(length))]
                    return
        raise ValueError(
            f"a result of {' + '.join(map(str, rows))} rows in the processes cannot be put together: the batch has "
            f"{' or '.join(map(str, lengths))} images, and a result has a row for each or several views of all"
        )

    def join(self, share: Tensor) -> Tensor:
        parts = gather_rows(share, self.rows)
        by_view = [part.unflatten(0, (self.views, len(part) // self.views)) for part in parts]
        return torch.cat(by_view, dim=1).flatten(0, 1)

    def own(self, grad: Tensor) -> Tensor:
        rank = process()
        by_view = grad.unflatten(0, (self.views, self.starts[-1]))
        return by_view[:, self.starts[rank] : self.starts[rank + 1]].flatten(0, 1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plans: Sequence[_Plan], *shares: Tensor) -> tuple[Tensor, ...]:
        ctx.plans = plans
        whole = tuple(plan.join(share) for plan, share in zip(plans, shares, strict=True))
        ctx.mark_non_differentiable(*(x for x in whole if not x.is_floating_point()))
        return whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        # Each process has the whole loss, and the mean over processes is to be the sum over their shares.
        own = (
            plan.own(grad) * world() if needed else None
            for plan, grad, needed in zip(ctx.plans, grads, ctx.needs_input_grad[1:], strict=True)
        )
        return None, *own


# -- batches ---------------------------------------------------------------------------------------------------


def to_device(batch: dict, device: torch.device | str) -> dict:
    """Return a loader's batch with its images and identities on a device.

    What is said of the images (``low``, ``rate``, ``size``, ...) stays on the CPU: it decides which network an image
    meets, and a GPU that is asked for it has to finish all its work first.

    Example:
        >>> batch = {"img": torch.zeros(1, 3, 2, 2), "low": torch.tensor([True]), "impath": ["a.png"]}
        >>> {key: getattr(value, "device", None) for key, value in to_device(batch, "meta").items()}
        {'img': device(type='meta'), 'low': device(type='cpu'), 'impath': None}
    """
    return {
        k: v.to(device, non_blocking=True) if _computed_with(k) and isinstance(v, Tensor) else v
        for k, v in batch.items()
    }


def _computed_with(key: str) -> bool:
    return key == "pid" or key.startswith("img")


def _parts(length: int) -> list[int]:
    """Return how many of ``length`` rows each process takes, as ``tensor_split`` cuts them."""
    least, more = divmod(length, world())
    return [least + (rank < more) for rank in range(world())]


def _share(x: Tensor) -> Tensor:
    return x.tensor_split(world())[process()]


def _tensors(tree: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested lists, tuples and dictionaries."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _tensors(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _tensors(value)


def _mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return nested lists, tuples and dictionaries with their tensors changed."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        changed = [_mapped(function, value) for value in tree]
        return type(tree)(*changed) if hasattr(tree, "_fields") else type(tree)(changed)
    return tree


def gather_rows(share: Tensor, rows: Sequence[int]) -> list[Tensor]:
    """Return the tensors of all processes, which differ in their number of rows at most.

    Args:
        share: this process's, of any type.
        rows: how many each process has.
    """
    if max(rows) == 0:
        return [share.detach() for _ in rows]
    # As bytes, which every back end carries; padded, since all must send the same number.
    width = math.prod(share.shape[1:])
    sent = share.detach().reshape(len(share), width).contiguous().view(torch.uint8)
    sent = torch.cat((sent, sent.new_zeros(max(rows) - len(sent), sent.shape[1])))
    received = [torch.empty_like(sent) for _ in rows]
    dist.all_gather(received, sent)
    return [x[:n].view(share.dtype).reshape(n, *share.shape[1:]) for x, n in zip(received, rows, strict=True)]


def share_batches(loader: Any, device: torch.device | str) -> Any:
    """Return a training loader whose batches the processes load together (see :class:`SharedLoader`).

    Args:
        loader: a DataLoader, or something that draws from one in its attribute ``loader``.
        device: where batches are put together.

    Raises:
        ValueError: if the batches do not divide.
    """
    if isinstance(loader, DataLoader):
        return SharedLoader(loader, device)
    if not isinstance(loader, SharedLoader):  # of a run before
        loader.loader = share_batches(loader.loader, device)
    return loader


class SharedLoader:
    """A loader that yields the same batches in all processes, of which each has loaded a part.

    The batches are those that one process would draw; the first process has the first images of each, and so on. An
    identity's images stay in one process. What the items themselves draw (augmentation) differs between processes. An
    epoch begins with the first process's generators, so its checkpoint is enough to go on in all.

    Args:
        loader: the loader that one process would use.
        device: where batches are put together.

    Raises:
        ValueError: if the batch, or the identities of a batch, cannot be shared evenly.
    """

    def __init__(self, loader: DataLoader, device: torch.device | str) -> None:
        instances = getattr(loader.sampler, "num_instances", 1)
        if loader.batch_size % (world() * instances):
            raise ValueError(
                f"train.batch_size {loader.batch_size} is the whole batch, of which each of {world()} processes takes "
                f"an equal share{f' of identities with {instances} images each' * (instances > 1)}: it must be a "
                f"multiple of {world() * instances}"
            )
        self.loader, self.device = loader, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        state = [random_state()]
        dist.broadcast_object_list(state, src=0)
        set_random_state(state[0])
        with random_state_kept():
            seed = int(torch.randint(2**62, ()))
        # Through a loader, so that the generators are used in the order of one process.
        drawn = DataLoader(_Indices(self.loader.dataset), batch_sampler=self.loader.batch_sampler, collate_fn=list)
        batches = list(drawn)
        seed_own_draws(seed + 1 + process())
        share = self.loader.batch_size // world()
        first = process() * share
        loaded = DataLoader(
            self.loader.dataset,
            batch_sampler=[batch[first : first + share] for batch in batches],
            num_workers=self.loader.num_workers,
            pin_memory=self.loader.pin_memory,
            collate_fn=self.loader.collate_fn,
        )
        with own_draws():
            parts = iter(loaded)
        for _ in batches:
            with own_draws():
                part = next(parts)
            yield self._whole(part)

    def _whole(self, part: dict) -> dict:
        rest = {key: value for key, value in part.items() if not any(True for _ in _tensors(value))}
        held: list[Any] = [None] * world()
        dist.all_gather_object(held, rest)  # names and paths, a list each
        rows = [self.loader.batch_size // world()] * world()
        return {
            key: [x for one in held for x in one[key]]
            if key in rest
            else _mapped(lambda x: torch.cat(gather_rows(x, rows)), value)
            for key, value in to_device(part, self.device).items()
        }


class _Indices(Dataset):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> int:
        return index


def by_shares(
    work: Callable[[DataLoader], tuple[Tensor, dict[str, np.ndarray]]], loader: DataLoader
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Let each process work on a part of a loader's images and return the results of all, in the loader's order.

    Args:
        work: loader -> a row for each image (N, D), and facts of as many rows by name.
        loader: of all images, unshuffled.
    """
    images = len(loader.dataset)
    if not active() or images < world():
        return work(loader)
    ends = [0, *accumulate(_parts(images))]
    rank = process()
    rows, facts = work(
        DataLoader(
            Subset(loader.dataset, range(ends[rank], ends[rank + 1])),
            batch_size=loader.batch_size,
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
            collate_fn=loader.collate_fn,
        )
    )
    held: list[Any] = [None] * world()
    dist.all_gather_object(held, facts)
    joined: dict[str, list] = defaultdict(list)
    for one in held:
        for key, values in one.items():
            joined[key].append(values)
    return torch.cat(gather_rows(rows, _parts(images))), {key: np.concatenate(kept) for key, kept in joined.items()}
