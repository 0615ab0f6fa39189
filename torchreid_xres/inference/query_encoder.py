"""A query encoder beside a gallery: what was learned, from what, and whether it is whole and fits.

Its folder lies in the gallery's; of the gallery's own files none is touched. ``about.json`` is written last, and names
the hash of the weights beside it: a folder in which the two do not belong together was not finished, and is none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchreid_xres import checkpoint
from torchreid_xres.features.record import weights_hash
from torchreid_xres.files import require_regular, write_json
from torchreid_xres.inference.light import ABOUT, FOLDER, TRAINING, WEIGHTS, share_of_others
from torchreid_xres.models.asymmetric import Asymmetric
from torchreid_xres.tensors import require_finite

__all__ = ["ABOUT", "FOLDER", "TRAINING", "WEIGHTS", "QueryEncoder", "own_state"]

_OF_GALLERY = "gallery."  # begins the names of the gallery encoder's tensors
_NEEDED = {"gallery_sha256", "model", "weights_sha256", "size", "query_size", "threshold", "magnifications", "report"}


@dataclass(frozen=True)
class QueryEncoder:
    """What an adaptation to a gallery has learned.

    Attributes:
        folder: where it is kept.
        about: as JSON holds it: hash of the gallery's model (``gallery_sha256``), ``threshold`` of the magnification
            from which it answers (None: it answers no query), the range of ``magnifications`` it learned from, the
            ``report``, versions and more.
        state: its weights, with threshold and length.
        images: checksums of the gallery's features at that time, (N,), int64.
    """

    folder: Path
    about: dict[str, Any]
    state: dict[str, Tensor]
    images: Tensor

    @classmethod
    def read(cls, folder: str | Path) -> QueryEncoder:
        """Return what a folder holds.

        Raises:
            FileNotFoundError: if there is none, or one that was not finished.
            ValueError: if it is damaged.
        """
        folder = Path(folder).expanduser().absolute()
        about, weights = folder / ABOUT, folder / WEIGHTS
        for path in (about, weights):
            require_regular(path)
            if not path.is_file():
                unfinished = (folder / TRAINING).is_file()
                told = "is not finished; xres search adapt goes on" if unfinished else f"lacks {path.name}"
                raise FileNotFoundError(f"the query encoder in {folder} {told}")
        try:
            told = json.loads(about.read_text(encoding="utf-8"))
            lacks = ", ".join(sorted(_NEEDED - told.keys()))
        except (ValueError, AttributeError) as error:
            lacks = f"all ({error})"
        if lacks:
            raise ValueError(f"{about} is damaged, it lacks {lacks}: adapt the gallery again")
        kept = checkpoint.load(weights)
        if weights_hash(kept.get("model", {})) != told["weights_sha256"]:
            raise FileNotFoundError(f"the query encoder in {folder} was not finished: {ABOUT} is of other weights")
        return cls(folder, told, kept["model"], kept["images"])

    def save(self) -> None:
        """Write it into its folder; whoever looks finds the whole of it or none."""
        checkpoint.save_atomic({"model": self.state, "images": self.images}, self.folder / WEIGHTS)
        write_json(self.about, self.folder / ABOUT)

    def require_of(self, sha256: str) -> None:
        """Refuse another gallery's network, by the hash of its weights.

        Raises:
            ValueError: if this query encoder was learned for another one.
        """
        if sha256 != self.about["gallery_sha256"]:
            raise ValueError(
                f"the query encoder in {self.folder} follows {self.about['model']} with the weights "
                f"{self.about['gallery_sha256'][:12]}, and these are {sha256[:12]}: adapt the gallery again"
            )

    def beside(self, gallery: nn.Module, size: Sequence[int]) -> Asymmetric:
        """Return both encoders as one network, which sends each image to one of them.

        Args:
            gallery: the gallery's network, on the CPU.
            size: height and width of its input.

        Raises:
            ValueError: if this query encoder is of another network or another input, or does not fit.
        """
        self.require_of(weights_hash(gallery))
        if list(size) != self.about["size"]:
            told = "its gallery encoder's input is {}x{}, and this one's {}x{}".format(*self.about["size"], *size)
            raise ValueError(f"the query encoder in {self.folder} does not fit: {told}")
        model = Asymmetric(reid=gallery, size=self.about["size"], query_size=self.about["query_size"])
        require_finite(self.state, self.folder / WEIGHTS)
        try:
            lacking = model.load_state_dict(self.state, strict=False).missing_keys
        except RuntimeError as error:
            raise ValueError(f"{self.folder / WEIGHTS} does not fit {self.about['model']}: {error}") from error
        lacking = [name for name in lacking if not name.startswith(_OF_GALLERY)]
        if lacking:
            raise ValueError(f"{self.folder / WEIGHTS} does not fit {self.about['model']}: it lacks {lacking[0]}")
        return model.eval()

    def share_of_others(self, features: np.ndarray) -> float:
        """Return which share of a gallery's images, by their features, it did not hold when this was learned.

        Args:
            features: (N, D), the gallery's now.
        """
        return share_of_others(features, self.images.numpy())


def own_state(model: Asymmetric) -> dict[str, Tensor]:
    """Return the state of a model without its gallery encoder."""
    return {name: value for name, value in model.state_dict().items() if not name.startswith(_OF_GALLERY)}
