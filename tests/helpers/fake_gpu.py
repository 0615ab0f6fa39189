"""A GPU that is not there: tensors of shapes and devices without numbers (FakeTensorMode), and who waits for them.

What lies on the CPU is computed there as ever. A tensor moved to ``cuda`` becomes a fake one; operations on it and on
others clash as on a GPU. Two things are counted by the function of the package that asks for them: what is read back,
for which a GPU has to finish all its work (``.item()``, ``bool(tensor)``, ``.cpu()``, a mask whose number of elements
makes a shape), and what is copied to the GPU. A number read back is 0, nothing is found, a mask chooses all.
"""

import sys
from collections import Counter
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from torchreid_xres.data.degrade import _inverse_weights, _weights
from torchreid_xres.tensors import kept_constant

aten = torch.ops.aten
CACHED = (_weights, _inverse_weights, kept_constant)  # what the package keeps on a device
COPIES = {aten.copy_.default, aten._to_copy.default}
SHAPED_BY_NUMBERS = {aten.nonzero.default, aten.masked_select.default, aten._unique2.default}
TAKES_PLACES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
PACKAGE = Path(__file__).resolve().parents[2] / "torchreid_xres"


def asked_by():
    """Return the innermost function of the package or of torchreid that the present call comes from."""
    frame = sys._getframe(1)
    while frame is not None:
        code, path = frame.f_code, Path(frame.f_code.co_filename)
        inner = code.co_name.startswith("<") and frame.f_back and frame.f_back.f_code.co_filename == code.co_filename
        if path.is_relative_to(PACKAGE) and not inner:  # else a comprehension, which newer Pythons do not tell apart
            return f"{path.relative_to(PACKAGE).with_suffix('').as_posix()}:{code.co_name}"
        if "torchreid" in path.parts:
            return f"torchreid/{path.stem}:{code.co_name}"
        frame = frame.f_back
    return "elsewhere"


def is_fake(value):
    return isinstance(value, FakeTensor)


class FakeGpu(TorchDispatchMode):
    """Let ``cuda`` be a GPU of fake tensors while it is entered.

    Attributes:
        back: how often each function of the package reads back.
        there: how often each copies to the GPU.
    """

    def __init__(self):
        super().__init__()
        self.back, self.there = Counter(), Counter()
        self.mode = FakeTensorMode(allow_non_fake_inputs=False)
        with self.mode:
            pass  # on a machine without a GPU it makes torch do without one's context

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        fake, wanted = any(map(is_fake, given)), kwargs.get("device")
        to = None if wanted is None else torch.device(wanted).type
        if not fake and to != "cuda":
            return func(*args, **kwargs)
        if func is aten._local_scalar_dense.default:
            self.back[asked_by()] += 1
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is aten.equal.default:
            self.back[asked_by()] += 1
            return False
        if func in SHAPED_BY_NUMBERS:
            self.back[asked_by()] += 1
            return self._found(func, *args, **kwargs)
        if func is aten.copy_.default and not is_fake(args[0]):
            self.back[asked_by()] += 1
            return args[0]
        if func in TAKES_PLACES:
            args = self._with_places(func, args)
        elif any(one.ndim and not is_fake(one) for one in given) and (func in COPIES):
            self.there[asked_by()] += 1
        found = self._faked(func, args, kwargs)
        if fake and to == "cpu":
            self.back[asked_by()] += 1
            return tree_map_only(torch.Tensor, lambda one: torch.zeros(one.shape, dtype=one.dtype), found)
        return found

    def _faked(self, func, args, kwargs):
        def as_fake(one):
            return one if is_fake(one) else self.mode.from_tensor(one)

        args, kwargs = tree_map_only(torch.Tensor, as_fake, (args, kwargs))
        return self.mode.__torch_dispatch__(func, (), args, kwargs)  # entering it takes longer than most operations

    def _found(self, func, *args, **kwargs):
        whole = partial(torch.ones, device="cpu")
        if func is aten.nonzero.default:
            found = torch.zeros(args[0].shape, device="cpu").nonzero()
        elif func is aten.masked_select.default:
            found = whole(torch.broadcast_shapes(*(one.shape for one in args)), dtype=args[0].dtype).flatten()
        else:
            found = func(torch.arange(args[0].numel()).to(args[0].dtype).view(args[0].shape), *args[1:], **kwargs)
        return tree_map_only(torch.Tensor, lambda one: self.mode.from_tensor(one).to("cuda"), found)

    def _with_places(self, func, args):
        """Return the arguments of an indexing with places for masks."""
        places, fills = [], len(args) > 2 and args[2].numel() == 1 and not is_fake(args[2])
        for index in args[1]:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                places.append(index)
            elif is_fake(index):
                if not fills:  # else no shape is made of the mask
                    self.back[asked_by()] += 1
                places += [self.mode.from_tensor(one) for one in torch.ones(index.shape).nonzero().unbind(1)]
            else:
                places += index.nonzero().unbind(1)
        if any(one is not None and not is_fake(one) for one in places):
            self.there[asked_by()] += 1
        return (args[0], places, *args[2:])

    def move(self, module, moved):
        """Put a module on the GPU; ``moved`` maps what was to what is, for optimisers."""
        for part in module.modules():
            for kept in (part._parameters, part._buffers):
                for name, value in kept.items():
                    if value is None or is_fake(value):
                        continue
                    if value not in moved:
                        there = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")
                        parameter = isinstance(value, nn.Parameter)
                        moved[value] = nn.Parameter(there, value.requires_grad) if parameter else there
                    kept[name] = moved[value]
            if hasattr(part, "use_gpu"):  # of the host's losses
                part.use_gpu = True

    def move_engine(self, engine):
        """Put on the GPU what an engine holds."""
        moved = {}
        for held in vars(engine).values():
            if isinstance(held, nn.Module):
                self.move(held, moved)
        for optimizer in filter(None, engine._optims.values()):
            for group in optimizer.param_groups:
                group["params"] = [moved.get(one, one) for one in group["params"]]
        engine.use_gpu = True


@contextmanager
def gpu():
    """Let there be a GPU of fake tensors; without gradients, as torch's engine for those asks the driver."""
    kept = torch.cuda._lazy_init, torch.Tensor.backward, FakeTensor.tolist
    torch.cuda._lazy_init = lambda: None
    torch.Tensor.backward = lambda loss: None
    FakeTensor.tolist = lambda tensor: tensor.cpu().tolist()  # torch's own would ask number by number
    lifted = torch._C._only_lift_cpu_tensors()
    for cached in CACHED:
        cached.cache_clear()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with FakeGpu() as found:
            yield found
    finally:
        torch._C._set_only_lift_cpu_tensors(lifted)
        torch.cuda._lazy_init, torch.Tensor.backward, FakeTensor.tolist = kept
        for cached in CACHED:
            cached.cache_clear()
