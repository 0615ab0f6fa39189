"""MSIFLA's training: reconstruction and identity losses that are "not added, but propagated separately".

"Multi-Scale Image- and Feature-Level Alignment for Cross-Resolution Person Re-Identification", Remote Sensing
16(2):278, 2024, section 3.3. The paper says that, and that the re-ID networks supervise the reconstruction networks.
How the two go together it does not say; :data:`COUPLINGS` are the readings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from yacs.config import CfgNode

from torchreid_xres.config import ConfigError, file_of
from torchreid_xres.devices.parallel import shared, to_device
from torchreid_xres.engine.base import ENGINES, XresEngine
from torchreid_xres.host_mends.training import unwrap
from torchreid_xres.losses.multi_scale_reconstruction import multi_scale_reconstruction
from torchreid_xres.losses.parts import part_cross_entropy, part_triplet
from torchreid_xres.models.cmsr2 import resolution_versions
from torchreid_xres.models.msifla import MSIFLA, MSIFLAOutput

COUPLINGS = {
    "alternate": "a step of the cascade on L_IR; then, on the images it now makes, a step of everything on L_ReID",
    "joint": "one forward pass, the gradients of both losses, one step of everything",
    "detached": "as alternate, but L_ReID does not reach the cascade",
}


@ENGINES.register("msifla")
class MSIFLAEngine(XresEngine):
    """Train the cascade on the batch's high-resolution images, and everything on the identities of the whole batch.

    L_IR gives the re-ID networks no gradient, so its step leaves them as they are. In ``alternate`` the cascade has an
    optimiser for each loss, at the learning rate of that loss's networks: L_ReID is a hundred times the larger, and
    averages over both losses' gradients, as Adam keeps them, would all but hide L_IR. For the first epochs the cascade
    learns alone: beside L_ReID from the start it stays near what its input is.

    Args:
        *args: see :class:`XresEngine`.
        coupling: one of :data:`COUPLINGS`.
        rates: down-sampling rates of the versions of a high-resolution image that the cascade learns from, beside the
            image itself (the paper: 4, 3, 2).
        kernel: down-sampling kernel of these versions.
        margin: m of eq. 12.
        label_smooth: smooth the identity labels by 0.1.
        cascade_epochs: first epochs of L_IR alone.
        unit: stripes have length 1 in the triplet loss, which from random weights draws all of them together else.
        **kwargs: see :class:`XresEngine`.

    Raises:
        ConfigError: for a coupling or rates that cannot be.
        ValueError: if the training set does not say which images are low resolution.
    """

    def __init__(
        self,
        *args: Any,
        coupling: str = "alternate",
        rates: Sequence[float] = (4, 3, 2),
        kernel: str = "area",
        margin: float = 0.5,
        label_smooth: bool = True,
        cascade_epochs: int = 0,
        unit: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if coupling not in COUPLINGS:
            raise ConfigError(f"loss.msifla.coupling is {coupling!r}; allowed: {', '.join(COUPLINGS)}")
        if any(rate <= 1 for rate in rates) or len(set(rates)) < len(rates):
            raise ConfigError(f"loss.msifla.rates are different numbers above 1, not {list(rates)}")
        if "low" not in self.datamanager.train_loader.dataset[0]:
            raise ValueError(
                "msifla reconstructs high-resolution images, and torchreid's own data sets do not say which those are; "
                "train on a set of this package"
            )
        self.coupling, self.rates, self.kernel = coupling, tuple(rates), kernel
        self.margin, self.unit = margin, unit
        self._cascaded = next(self._net.cascade.parameters(), None) is not None
        self.cascade_epochs = cascade_epochs if self._cascaded else 0
        self.smoothing = 0.1 if label_smooth else 0.0
        self._now = self.joint_losses
        if coupling == "alternate" and self._cascaded:
            self._pull = type(self.optimizer)(self._net.cascade.parameters(), **self.optimizer.defaults)
            self._optims["pull"] = self._pull  # so that a resumed run has its state
            self.optimizer.register_step_pre_hook(self._step_pull)

    @staticmethod
    def model_options(cfg: CfgNode) -> dict[str, Any]:
        """Return what :class:`MSIFLA` takes from a configuration besides ``model.options``."""
        return {"reid": cfg.model.reid, "reid_weights": file_of(cfg, cfg.model.reid_weights)}

    @staticmethod
    def engine_options(cfg: CfgNode) -> dict[str, Any]:
        """Return this engine's own keywords from a configuration."""
        return {
            "coupling": cfg.loss.msifla.coupling,
            "rates": cfg.loss.msifla.rates,
            "kernel": cfg.data.kernel,
            "margin": cfg.loss.triplet.margin,
            "label_smooth": cfg.loss.softmax.label_smooth,
            "cascade_epochs": cfg.loss.msifla.cascade_epochs,
            "unit": cfg.loss.msifla.unit,
        }

    def step(self, data: dict) -> dict:
        """Take the steps of the coupling; a batch without high-resolution images has no reconstruction loss."""
        data = to_device(data, "cuda" if self.use_gpu else "cpu")
        alone = self.epoch < self.cascade_epochs
        if data["low"].all() or not self._cascaded:
            steps = [] if alone else [self.identity_losses]
        elif alone:
            steps = [self.reconstruction_losses]
        elif self.coupling == "joint":
            steps = [self.joint_losses]
        else:
            steps = [self.reconstruction_losses, self.identity_losses]
        summary = {"loss": 0.0}
        for self._now in steps:
            found = super().step(data)
            summary |= found | {"loss": summary["loss"] + found["loss"]}
        return summary

    def losses(self, data: dict) -> dict[str, Tensor]:
        return self._now(data)

    def _step_pull(self, *_: Any) -> None:
        """Before a step on L_ReID: move the cascade by its own optimiser, and leave nothing of it to the other."""
        if self._now != self.identity_losses:
            return
        reid = next(self._net.reid.parameters())
        groups = (group for group in self.optimizer.param_groups if any(p is reid for p in group["params"]))
        self._pull.param_groups[0]["lr"] = next(groups)["lr"]
        self._pull.step()
        self._pull.zero_grad()

    @property
    def _net(self) -> MSIFLA:
        return unwrap(self.model)

    def reconstruction_losses(self, data: dict) -> dict[str, Tensor]:
        """Return L_IR of eq. 4 as ``loss``, and its terms; only the high-resolution images count."""
        versions = self._versions(data)
        inputs = [versions[rate] for rate in (*self.rates, 1)]
        # (4 N_h, 3, H, W): x_1/4, x_1/3, x_1/2, x_h through the cascade as one batch
        return self._reconstruction(shared(self._net.cascade, torch.cat(inputs)), versions)

    def identity_losses(self, data: dict) -> dict[str, Tensor]:
        """Return L_ReID of eq. 14 as ``loss``, and its parts; all images count, as the loader gives them."""
        with torch.set_grad_enabled(self.coupling != "detached"):
            images = shared(self._net.cascade, data["img"])
        return self._identity(shared(self._net.identify, images), data["pid"])

    def joint_losses(self, data: dict) -> dict[str, Tensor]:
        """Return both losses, from one pass: a high-resolution image serves in both."""
        versions, high, count = self._versions(data), ~data["low"], len(data["img"])
        images = shared(self._net.cascade, torch.cat([data["img"], *(versions[rate] for rate in self.rates)]))
        made = [torch.cat((image[count:], image[:count][high])) for image in images]
        identity = self._identity(shared(self._net.identify, [image[:count] for image in images]), data["pid"])
        reconstruction = self._reconstruction(made, versions)
        # Two backward passes would add their gradients; the sum's are the same.
        return {**identity, **reconstruction, "loss": identity["loss"] + reconstruction["loss"]}

    def _versions(self, data: dict) -> dict[float, Tensor]:
        high = ~data["low"]
        wanted = dict.fromkeys((*self.rates, *self._net.scales, 1))
        return resolution_versions(data["img"][high], data["size"][high], list(wanted), self.kernel)

    def _reconstruction(self, images: Sequence[Tensor], versions: dict[float, Tensor]) -> dict[str, Tensor]:
        terms = multi_scale_reconstruction(images, [versions[scale] for scale in self._net.scales])  # eq. 1 to 3
        named = {f"ir_x{scale:g}": term for scale, term in zip(self._net.scales, terms, strict=True)}
        return {"loss": terms.sum(), **named}  # eq. 4

    def _identity(self, output: MSIFLAOutput, pids: Tensor) -> dict[str, Tensor]:
        scales = list(zip(output.logits.unbind(dim=1), output.parts.unbind(dim=1), strict=True))
        ce = torch.stack([part_cross_entropy(logits, pids, self.smoothing) for logits, _ in scales]).sum()  # eq. 11
        vectors = [F.normalize(parts.float(), dim=2) if self.unit else parts for _, parts in scales]
        triplet = torch.stack([part_triplet(parts, pids, self.margin) for parts in vectors]).sum()  # eq. 12
        # All classifiers of an image vote.
        accuracy = 100 * (output.logits.float().softmax(-1).mean((1, 2)).argmax(-1) == pids).float().mean()
        return {"loss": ce + triplet, "ce": ce, "triplet": triplet, "acc": accuracy}  # eq. 13 and 14
