"""Double precision: the rounding of any processor, batch size and number of threads is below what tests see."""

from contextlib import contextmanager

import torch


@contextmanager
def doubles_kept():
    """Let what is "computed in float32 whatever the type" be computed in double precision, for doubles."""
    single = torch.Tensor.float
    torch.Tensor.float = lambda x: x if x.dtype == torch.float64 else x.to(torch.get_default_dtype())
    try:
        yield
    finally:
        torch.Tensor.float = single


@contextmanager
def everything_in_double():
    """Build networks, and what they make, in double precision."""
    torch.set_default_dtype(torch.float64)
    try:
        with doubles_kept():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def cast(batch, dtype):
    """Return a batch with its numbers, where they are no integers, in a precision."""
    return {k: v.to(dtype) if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
