"""What TensorBoard shows beside the host's curves (losses, learning rate, rank-1, mAP): a few restored queries."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms import Normalize
from torchvision.utils import make_grid

from torchreid_xres.data.base import CrossResolutionDataset
from torchreid_xres.data.batches import collated
from torchreid_xres.data.manager import ToNormalized
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view


def restored_grid(model: nn.Module, queries: CrossResolutionDataset, count: int = 4) -> Tensor | None:
    """Draw low-resolution queries in rows: as the network gets them, restored, and as captured.

    Args:
        model: in evaluation mode.
        queries: a set in the mode ``query``, with the loader's transform.
        count: at most so many rows; the same queries each time, spread over the set and its rates.

    Returns:
        (3, height, width) in [0, 1]; without the last column where the low resolution is the files' own. None if the
        model has no front end, or the set no low query.
    """
    low = [i for i, (path, *_) in enumerate(queries.query) if queries.rate_of[path] != 1.0]
    if not low:
        return None
    # In the order of their rates, so that an even choice shows each rate.
    low.sort(key=lambda i: str(queries.rate_of[queries.query[i][0]]))
    chosen = [low[k] for k in np.linspace(0, len(low) - 1, min(count, len(low))).round().astype(int)]
    device = next(model.parameters()).device
    batch = collated([queries[i] for i in chosen])
    batch["img"] = batch["img"].to(device)
    normalize = normalization(queries).to(device)
    view = restored_view(model, batch, normalize)
    if view is None:
        return None
    columns = [normalize.undo(batch["img"]), view.float()]
    paths = [queries.query[i][0] for i in chosen]
    if all(queries.rate_of[path] != "native" for path in paths):
        originals = torch.stack([queries.transform(queries.read(path)) for path in paths])
        columns.append(normalize.undo(originals.to(device)))
    rows = torch.stack(columns, dim=1)  # (rows, columns, 3, H, W)
    return make_grid(rows.flatten(0, 1).cpu(), nrow=len(columns), pad_value=1.0)


def show_restored(writer: SummaryWriter, name: str, model: nn.Module, queries: object, epoch: int) -> None:
    """Write a grid of restored queries, as ``Test/<data set>/restored``, if there is one to be drawn."""
    grid = restored_grid(model, queries) if isinstance(queries, CrossResolutionDataset) else None
    if grid is not None:
        writer.add_image(f"Test/{name}/restored", grid, epoch)


def normalization(dataset: CrossResolutionDataset) -> Normalization:
    """Return the normalisation of a data set's transform."""
    steps = getattr(dataset.transform, "transforms", [])
    step = next((step for step in steps if isinstance(step, (ToNormalized, Normalize))), None)
    if step is None:
        return Normalization()
    return Normalization(*(torch.as_tensor(values).flatten().tolist() for values in (step.mean, step.std)))
