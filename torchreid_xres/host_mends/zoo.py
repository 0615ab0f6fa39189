"""Mends of the host's zoo: published weights are read without running code, every network takes every memory layout."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from torchreid_xres.host_mends.table import mend
from torchreid_xres.tensors import only_tensors

_FETCHING = (
    "densenet", "inceptionv4", "mlfn", "mobilenetv2", "nasnet", "osnet", "osnet_ain", "pcb", "resnet", "resnet_ibn_a",
    "resnet_ibn_b", "resnetmid", "senet", "shufflenet", "shufflenetv2", "squeezenet", "xception",
)  # fmt: skip


@mend(
    "zoo-weights",
    "models/resnet.py:379: torch unpickles all that is fetched or lies in its cache, and runs any code in it "
    "(models/osnet.py:482 and models/osnet_ain.py:492 only before torch 2.6)",
    *(f"models.{name}:init_pretrained_weights" for name in _FETCHING),
    "models.inceptionresnetv2:InceptionResNetV2.load_imagenet_weights",
)
def _tensors_only(original: Callable) -> Callable:
    def read(*args: Any, **kwargs: Any) -> None:
        load = torch.load

        def load_tensors(path: str | os.PathLike, *more: Any, **options: Any) -> Any:
            with only_tensors(path):
                return load(path, *more, **options)

        # torch.hub, through which most of the zoo reads, has no other switch that reaches a call in the host.
        forced = mock.patch.dict(os.environ, {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"})
        with forced, mock.patch.object(torch, "load", load_tensors):
            original(*args, **kwargs)

    return read


@mend(
    "zoo-layout",
    "models/pcb.py:246, models/mudeep.py:194: view() of channels-last maps crashes PCB at test and MuDeep always",
    "models.pcb:PCB.featuremaps",
    "models.mudeep:MuDeep.featuremaps",
)
def _contiguous(original: Callable) -> Callable:
    def featuremaps(self: nn.Module, x: Tensor) -> Tensor:
        return original(self, x).contiguous()

    return featuremaps
