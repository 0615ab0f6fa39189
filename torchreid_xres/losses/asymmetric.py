"""What an asymmetric query encoder minimises: the sum of its terms, and the bank that one of them compares with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.losses.batch_hard import batch_hard_triplet
from torchreid_xres.losses.contextual import contextual_similarity
from torchreid_xres.losses.regression import regression


class AsymmetricLoss(nn.Module):
    """Terms by name, and ``loss``, their weighted sum; a term of weight 0 is not computed.

    The state dictionary holds the bank, so that a training goes on bit for bit.

    Args:
        dim: D, length of the gallery encoder's features.
        absolute: weight of :func:`~torchreid_xres.losses.regression.regression`.
        relational: weight of :func:`~torchreid_xres.losses.contextual.contextual_similarity`.
        temperature: of the relational term.
        bank: features that it compares with, those of the last sharp images.
        id: weight of the cross-entropy, with labels.
        triplet: weight of the batch-hard triplet loss on unit features, with labels.
        margin: of the triplet loss.
        smoothing: of the labels.

    Raises:
        ValueError: if all weights are 0, or the bank is empty.
    """

    features: Tensor
    seen: Tensor

    def __init__(
        self,
        dim: int,
        absolute: float = 1.0,
        relational: float = 1.0,
        temperature: float = 0.07,
        bank: int = 1024,
        id: float = 0.0,
        triplet: float = 0.0,
        margin: float = 0.3,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        self.weights = {"absolute": absolute, "relational": relational, "id": id, "triplet": triplet}
        if not any(self.weights.values()):
            raise ValueError(f"there is nothing to learn: one of {', '.join(self.weights)} must not be 0")
        if bank < 1:
            raise ValueError(f"the bank holds at least 1 feature, not {bank}")
        self.temperature, self.margin, self.smoothing = temperature, margin, smoothing
        self.register_buffer("features", torch.zeros(bank if relational else 0, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._count = 0  # of ``seen``: asked of the buffer in each step, a GPU would have to finish its work
        self.register_load_state_dict_post_hook(_count_anew)

    @property
    def labelled(self) -> bool:
        """Whether a term reads identities."""
        return bool(self.weights["id"] or self.weights["triplet"])

    def forward(
        self,
        query: Tensor,
        gallery: Tensor,
        target: Tensor | None = None,
        known: Tensor | None = None,
        logits: Tensor | None = None,
        pids: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return ``loss`` and its terms; the sharp features go into the bank.

        Args:
            query: (N, D), features of the degraded views.
            gallery: (N, D), of the sharp views; with a gradient where their encoder learns, too.
            target: (N, D), what the query's features are to be; None: ``gallery``.
            known: (N,) bool, of which images there is a sharp view; None: of all.
            logits: (N, identities), or (2N, identities), those of the sharp views behind; for the term ``id``.
            pids: (N,), for the terms with labels.
        """
        target = (gallery if target is None else target).detach().float()
        if known is not None:
            own, target = query[known], target[known]
        else:
            own = query
        terms = {}
        if self.weights["absolute"] and len(own):
            terms["absolute"] = regression(own, target)
        if self.weights["relational"] and len(own):
            bank = self.features[: self._count] if self._count else target
            terms["relational"] = contextual_similarity(own, target, bank, self.temperature)
            self._keep(target)
        if self.weights["id"]:
            labels = pids.repeat(len(logits) // len(pids))
            terms["id"] = F.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)
        if self.weights["triplet"]:
            terms["triplet"] = self._triplet(query, gallery, pids)
        # Without a sharp view there is nothing to learn from, and still a gradient.
        total = query.float().sum() * 0.0
        for name, value in terms.items():
            total = total + self.weights[name] * value
        return {"loss": total, **terms}

    def _triplet(self, query: Tensor, gallery: Tensor, pids: Tensor) -> Tensor:
        query, gallery = (F.normalize(one.float(), dim=1) for one in (query, gallery))
        if gallery.requires_grad:  # their encoder learns: both views are anchors, and what those are compared with
            return batch_hard_triplet(torch.cat((query, gallery)), pids.repeat(2), self.margin)
        return batch_hard_triplet(query, pids, self.margin, among=gallery)

    @torch.no_grad()
    def _keep(self, sharp: Tensor) -> None:
        sharp = sharp[-len(self.features) :]
        rows = (self._count + torch.arange(len(sharp), device=sharp.device)) % len(self.features)
        self.features[rows] = sharp.to(self.features)
        self.seen += len(sharp)
        self._count += len(sharp)


def _count_anew(loss: AsymmetricLoss, _: Any) -> None:
    loss._count = int(loss.seen)
