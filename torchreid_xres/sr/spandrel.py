"""Any architecture of spandrel as a front end: from its checkpoint, or by name to train it.

spandrel (extra ``sr``) knows some forty published networks, tells from a checkpoint which one it
is and how large, and declares what sizes it takes. It is imported when such a front end is built.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from torchreid_xres.sr.base import FRONT_ENDS, FrontEnd, FrontEndInfo
from torchreid_xres.sr.build import load_weights, read_state

logger = logging.getLogger(__name__)

INFO = FrontEndInfo(
    paper="the architecture's own",
    licence="the architecture's own (spandrel itself: MIT)",
    reads_weights=True,
)

# What the classes call the magnification.
_SCALE_WORDS = ("scale", "upscale", "up_scale", "upscale_factor", "upscaling_factor")

# The published sizes, where the class itself defaults to others or to none.
_TRANSFORMER = {"embed_dim": 180, "depths": (6,) * 6, "num_heads": (6,) * 6, "mlp_ratio": 2.0}
_PUBLISHED_SIZES: dict[str, dict[str, Any]] = {
    "HAT": {**_TRANSFORMER, "window_size": 16},
    "MMRealSR": {"num_in_ch": 3, "num_out_ch": 3},
    "OmniSR": {"res_num": 5},
    "SAFMN": {"dim": 36},
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3},
    "SwinIR": {**_TRANSFORMER, "window_size": 8},
}

# Parameters that no loss reaches: SPAN's kernels merged for evaluation; RCAN's mean colour is fixed.
_FIXED_MODULES = ("eval_conv", "sub_mean", "add_mean")

# Networks whose code takes a single image only, the latter in evaluation.
_ONE_AT_A_TIME = ("IPT", "SeemoRe")


def import_spandrel() -> ModuleType:
    """Import spandrel; the error names the extra that brings it."""
    try:
        return importlib.import_module("spandrel")
    except ImportError as error:
        raise ImportError(
            "the front end 'spandrel' needs the package spandrel: pip install 'torchreid_xres[sr]'"
        ) from error


def architectures() -> dict[str, type[nn.Module]]:
    """Return the network classes that can be built by name, those of installed extensions included.

    Raises:
        ImportError: if spandrel is missing.
    """
    return {name: cls for name, (cls, _) in _architectures().items()}


def _architectures() -> dict[str, tuple[type[nn.Module], Any]]:
    found = {}
    for support in import_spandrel().MAIN_REGISTRY:
        module = importlib.import_module(type(support.architecture).__module__)
        for name in module.__all__:
            cls = getattr(module, name)
            if isinstance(cls, type) and issubclass(cls, nn.Module):
                found[name] = (cls, support.architecture)
    return found


@FRONT_ENDS.register("spandrel", info=INFO)
class SpandrelFrontEnd(FrontEnd):
    """A network of spandrel's: recognised in a checkpoint, or built by name.

    A network that does not magnify (NAFNet and other restorers) works on the image resized
    bicubically to the asked size. Not everything can be read from a checkpoint (the pixel range of
    RCAN, for one): a network built with such an option is loaded again by its name with the same
    option, and a warning says so when it is built.

    Args:
        scale: magnification; where the network magnifies, the same as the network's.
        weights: a checkpoint; without ``arch`` it decides the architecture and its sizes.
        arch: name of the architecture, such as ``"SwinIR"``; :func:`architectures` lists them. The
            sizes default to the published ones.
        residual: add the bicubic image to what the network gives, so that an untrained one starts
            near it; only for networks that add neither the image nor its mean colour themselves.
        options: the architecture's own options, only with ``arch``.

    Raises:
        ImportError: if spandrel is missing.
        ValueError: if spandrel does not know the checkpoint or the name, if the network magnifies
            by another factor or cannot restore RGB or luminance images.
        TypeError: if the architecture does not take an option, or lacks one that it needs.
    """

    info = INFO

    def __init__(
        self, scale: int = 4, weights: str | Path = "", arch: str = "", residual: bool = False, **options: Any
    ) -> None:
        if not arch and not weights:
            raise ValueError("the front end 'spandrel' needs weights=<a checkpoint> or arch=<a name>")
        if not arch and options:
            raise TypeError(
                f"the checkpoint decides the sizes; the options {sorted(options)} go with arch=<a name> only"
            )
        source = arch or str(weights)
        if arch:
            model, descriptor = _build(arch, scale, options)
        else:
            descriptor = _detect(weights)
            model = descriptor.model
        if isinstance(descriptor, import_spandrel().MaskedImageModelDescriptor):
            raise ValueError(f"{source}: {descriptor.architecture.name} fills masks; it restores no images")
        if descriptor.scale not in (1, scale):
            raise ValueError(f"{source} magnifies by {descriptor.scale}, not by {scale!r}")
        if descriptor.input_channels != descriptor.output_channels:
            raise ValueError(
                f"{source} turns {descriptor.input_channels} channels into {descriptor.output_channels}"
            )
        requirements = descriptor.size_requirements
        super().__init__(
            scale,
            channels=descriptor.input_channels,
            pre_upsampled=descriptor.scale == 1,
            multiple=requirements.multiple_of,
            minimum=max(requirements.minimum, 1),
            square=requirements.square,
            residual=residual,
        )
        self.architecture = descriptor.architecture.name
        self._one_at_a_time = descriptor.architecture.id in _ONE_AT_A_TIME
        # How to call the network (some want a noise map, some return several images) is spandrel's
        # knowledge; its own __call__ is of no use here, it switches the gradients off.
        self._call = descriptor._call_fn
        self.model = model
        for name, parameter in model.named_parameters():
            if any(part in _FIXED_MODULES for part in name.split(".")):
                parameter.requires_grad_(False)
        if arch and weights:
            load_weights(self, weights)
        self.train()

    def net(self, x: Tensor) -> Tensor:
        x = x.clone()  # some networks (RCAN) multiply their input in place
        if self._one_at_a_time:
            return torch.cat([self._call(self.model, image) for image in x.split(1)])
        return self._call(self.model, x)

    def keep_merged(self) -> None:
        """Merge kernels that a network merges at each call in evaluation (SPAN) now, for good.

        For a copy that is evaluated only: what is trained or loaded afterwards is not merged again. An exporter cannot
        follow a network that writes to its own weights; torch ends with a segmentation fault.
        """
        module: Any
        for module in self.model.modules():
            if hasattr(module, "update_params") and hasattr(module, "eval_conv"):
                module.update_params()
                module.update_params = _nothing

    def rename(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if state.keys() & self.state_dict().keys():
            return state
        return {f"model.{name}": tensor for name, tensor in state.items()}

    def extra_repr(self) -> str:
        return f"{self.architecture}, {super().extra_repr()}"


def _nothing() -> None:
    pass


def _detect(path: str | Path) -> Any:
    spandrel = import_spandrel()
    state = read_state(path)
    candidates = [state]
    if all(name.startswith("model.") for name in state):
        # Saved from this front end. Old ESRGAN files look the same, so the names as they are go first.
        candidates.append({name.removeprefix("model."): tensor for name, tensor in state.items()})
    for candidate in candidates:
        try:
            return spandrel.MAIN_REGISTRY.load(dict(candidate))
        except spandrel.UnsupportedModelError:
            continue
        except Exception as error:  # each architecture fails in its own way
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path} looks like one of spandrel's architectures, but cannot be loaded as such: {reason}"
            ) from error
    raise ValueError(
        f"spandrel {spandrel.__version__} does not know the architecture of {path} "
        f"(first names: {', '.join(list(state)[:3])}). It knows: {', '.join(sorted(architectures()))}"
    )


def _build(arch: str, scale: int, options: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    known = _architectures()
    if arch not in known:
        near = difflib.get_close_matches(arch.lower(), [name.lower() for name in known], n=1)
        hint = next((f"; did you mean {name!r}?" for name in known if [name.lower()] == near), ".")
        raise ValueError(f"spandrel has no architecture {arch!r}{hint} There are: {', '.join(sorted(known))}")
    cls, architecture = known[arch]
    parameters = inspect.signature(cls).parameters
    sizes = _PUBLISHED_SIZES.get(arch, {}) | dict(options)
    for word in _SCALE_WORDS:
        if word in parameters:
            sizes.setdefault(word, [scale] if isinstance(parameters[word].default, list) else scale)
    if "upsampler" in parameters and parameters["upsampler"].default == "":
        # Such classes restore without magnifying unless they are told how to magnify.
        sizes.setdefault("upsampler", "pixelshuffle")
    unknown = sorted(set(sizes) - set(parameters))
    lacking = [p.name for p in parameters.values() if p.default is p.empty and p.name not in sizes]
    if unknown or lacking:
        fault = f"takes no option {', '.join(unknown)}" if unknown else f"needs {', '.join(lacking)}"
        raise TypeError(f"spandrel's {arch} {fault}; its options: {', '.join(parameters)}")
    model = cls(**sizes)
    # The scale and the sizes that a network takes are told by the loader alone, which builds a second
    # network for it: a draw of weights that must not shift the seeds of what follows.
    with torch.random.fork_rng(devices=[]):
        descriptor = architecture.load(dict(model.state_dict()))
    seen = getattr(descriptor.model, "hyperparameters", {})
    # A configuration file says [6, 6] where a class says (6, 6).
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in seen.items()}
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    hidden = sorted(name for name in told if name in plain and plain[name] != told[name])
    if hidden:
        logger.warning("%s: a checkpoint does not tell %s; load it by name, with the same", arch, ", ".join(hidden))
    return model, descriptor
