"""An asymmetric query encoder: it says of a degraded image what the gallery encoder says of the sharp one.

The gallery encoder is any trained network and stays as it is, so that an index made by it stays valid; the query
encoder starts as a copy of it, or is another network, and may have a smaller input. After M. Budnik, Y. Avrithis,
"Asymmetric metric learning for knowledge transfer", CVPR 2021; P. Suma, G. Tolias, "Large-to-small image resolution
asymmetry in deep metric learning", WACV 2023; H. Wu, M. Wang, W. Zhou, H. Li, Q. Tian, "Contextual similarity
distillation for asymmetric image retrieval", CVPR 2022. The equations' numbers are this file's own:

    (1)  m = H / h                                      how far a network of input height H magnifies height h
    (2)  f(x) = c q(x) / ‖q(x)‖ if m >= t, else g(x)    a query's feature; a gallery image's is always g(x)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.image import resize
from torchreid_xres.models.registry import MODELS, build_model
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Part
from torchreid_xres.sr.build import read_state

MODES = ("frozen", "trained", "shared")
CLASSIFIERS = ("trained", "frozen", "none")
NEVER = torch.finfo(torch.float32).max  # a threshold that no image reaches; infinity is refused in files of weights


class AsymmetricOutput(NamedTuple):
    """What a training step needs."""

    query: Tensor  # features of the degraded views, (N, D)
    gallery: Tensor  # of the sharp views, (N, D); without a graph where the gallery encoder is frozen
    query_logits: Tensor | None  # (N, identities)
    gallery_logits: Tensor | None  # (N, identities); None where the gallery encoder is frozen


@MODELS.register("asymmetric", paper="Budnik and Avrithis, CVPR 2021")
class Asymmetric(nn.Module):
    """A gallery encoder, and a query encoder in its space of features for images that are magnified enough.

    An image given without its size, ``model(img)``, counts as one for the query encoder; :meth:`extract` knows better.

    Args:
        num_classes: training identities; 0 for no classifier.
        loss: ``softmax`` (the query encoder's logits in training) or ``triplet`` (logits and features), for the host's
            engines.
        pretrained: let networks without a file of weights fetch their published ones.
        use_gpu: as in the host.
        reid: gallery encoder: a model of the host's zoo, one of ours, or the network itself.
        reid_options: options of one of ours.
        reid_weights: file of the gallery encoder's weights, all of them.
        query: query encoder, a model of the host's zoo; empty: it starts as a copy of the gallery encoder.
        query_weights: file of weights it starts from; layers that do not fit are left out.
        query_size: height and width of its input; none: the gallery encoder's.
        size: height and width of the gallery encoder's input.
        mode: of the gallery encoder: ``frozen``; ``trained``, it learns, too; ``shared``, one network is both.
        classifier: of the gallery encoder's features, for both: ``trained``, which begins with the one in
            ``reid_weights`` if that fits; ``frozen``, as it is there; ``none``.

    Attributes:
        gallery: the gallery encoder.
        query: the query encoder.
        dim: D, length of a feature.
        threshold: t of equation 2, (), float32; 1 until it is set.
        length: c of equation 2, (), float32; 1 until it is set.

    Raises:
        ValueError: for parts that do not exist or do not go together, or files that do not fit.

    Example:
        >>> sizes = {"size": (64, 32), "query_size": (32, 16)}
        >>> model = Asymmetric(pretrained=False, reid="osnet_x0_25", query="osnet_x0_25", **sizes).eval()
        >>> batch = {"img": torch.zeros(3, 3, 64, 32), "size": torch.tensor([[16, 8], [128, 64], [16, 8]])}
        >>> model.for_query(batch | {"role": ["query", "query", "gallery"]}).tolist()
        [True, False, False]
        >>> model.extract(batch | {"role": ["query", "query", "gallery"]}).shape
        torch.Size([3, 512])
    """

    threshold: Tensor
    length: Tensor

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        reid: str | nn.Module = "osnet_x1_0",
        reid_options: Mapping[str, Any] | None = None,
        reid_weights: str = "",
        query: str = "",
        query_weights: str = "",
        query_size: Sequence[int] = (),
        size: Sequence[int] = (256, 128),
        mode: str = "frozen",
        classifier: str = "trained",
    ) -> None:
        super().__init__()
        for what, value, allowed in (("mode", mode, MODES), ("classifier", classifier, CLASSIFIERS)):
            if value not in allowed:
                raise ValueError(f"asymmetric has no {what} {value!r}; allowed: {', '.join(allowed)}")
        if mode == "shared" and query:
            raise ValueError(f"in mode shared one network is both encoders, so there is no query encoder {query!r}")
        self.loss, self.mode, self.size = loss, mode, _size(size, "size")
        self.query_size = _size(query_size, "query_size") if query_size else self.size
        named = {"pretrained": pretrained, "use_gpu": use_gpu}
        if isinstance(reid, nn.Module):
            self.gallery = reid
        else:
            self.gallery = _built(reid, reid_weights, named, strict=True, **dict(reid_options or {}))
        if mode != "shared":
            self.query = _built(query, query_weights, named) if query else _headless(copy.deepcopy(self.gallery))
            if query_weights and not query:
                load_weights(self.query, query_weights)
        self.dim, own = (
            _length_of(encoder, size)
            for encoder, size in ((self.gallery, self.size), (self.query_encoder, self.query_size))
        )
        self.project = nn.Linear(own, self.dim) if own != self.dim else nn.Identity()
        self.classifier = None
        if num_classes and classifier != "none":
            self.classifier = nn.Linear(self.dim, num_classes)
            found = _take_classifier(self.classifier, reid_weights)
            if classifier == "frozen" and reid_weights and not found:
                raise ValueError(
                    f"{reid_weights} holds no classifier, or several, of {num_classes} identities by {self.dim} "
                    "features, that could be kept frozen"
                )
            self.classifier.requires_grad_(classifier == "trained")
        if mode == "frozen":
            self.gallery.requires_grad_(False)
        self.register_buffer("threshold", torch.tensor(1.0))
        self.register_buffer("length", torch.tensor(1.0))
        self.train()

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``); the query encoder is put out by asking the gallery encoder."""

        def by_gallery(module: nn.Module, args: tuple, kwargs: Mapping[str, Any], output: Any) -> Any:
            return self.gallery(resize(args[0], self.size))

        alike = isinstance(self.project, nn.Identity) and not hasattr(self.query_encoder, "extract")
        found = {"gallery encoder": Part((self.gallery,))}
        if self.mode != "shared":
            found["query encoder"] = Part((self.query,), by_gallery if alike else None)
        found["projection"] = Part((self.project,))
        return found | ({"classifier": Part((self.classifier,))} if self.classifier is not None else {})

    @property
    def query_encoder(self) -> nn.Module:
        """The network that describes magnified queries."""
        return self.gallery if self.mode == "shared" else self.query

    def train(self, mode: bool = True) -> Asymmetric:
        super().train(mode)
        if self.mode == "frozen":
            self.gallery.eval()
        return self

    def describe_query(self, img: Tensor) -> Tensor:
        """Return the query encoder's features (N, D) of images (N, 3, H, W), normalised, of no certain length."""
        return self._seen_by(lambda small: described(self.query_encoder, small), img)

    def _seen_by(self, encoder: Callable[[Tensor], Tensor], img: Tensor) -> Tensor:
        return self.project(encoder(resize(img, self.query_size)))  # (N, 3, H, W) -> (N, 3, h, w) -> (N, D)

    def by_query_encoder(self, encoder: Callable[[Tensor], Tensor], img: Tensor) -> Tensor:
        """Return what :meth:`forward` does in evaluation, with the query encoder given as a function (export)."""
        return self._at_length(self._seen_by(encoder, img))

    def describe_gallery(self, img: Tensor) -> Tensor:
        """Return the gallery encoder's features (N, D) of sharp images (N, 3, H, W), normalised."""
        return described(self.gallery, img)

    def forward(self, img: Tensor, img_hr: Tensor | None = None, indexed: Tensor | None = None) -> Any:
        """Return features (evaluation), what the host's loss wants (training), or all of both views.

        Args:
            img: (N, 3, H, W), normalised; all go to the query encoder.
            img_hr: (N, 3, H, W), normalised: the same images when sharp. Gives an :class:`AsymmetricOutput`.
            indexed: (N, D), what the gallery encoder has said of those; None: it is asked now.
        """
        if img_hr is not None:
            return self._pair(img, img_hr, indexed)
        feature = self.describe_query(img)
        if not self.training:
            return self._at_length(feature)
        if self.classifier is None:
            return feature
        logits = self.classifier(feature)
        return (logits, feature) if self.loss == "triplet" else logits

    def _pair(self, img: Tensor, img_hr: Tensor, indexed: Tensor | None) -> AsymmetricOutput:
        if indexed is not None:
            query, gallery = self.describe_query(img), indexed
        elif self.mode == "shared" and self.query_size == self.size:
            # (2N, 3, H, W): one pass, so that batch normalisation sees both views
            query, gallery = self.describe_gallery(torch.cat((img, img_hr))).chunk(2)
        else:
            query = self.describe_query(img)
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.mode != "frozen"):
                gallery = self.describe_gallery(img_hr)
        if self.classifier is None:
            return AsymmetricOutput(query, gallery, None, None)
        sharp = None if self.mode == "frozen" else self.classifier(gallery)
        return AsymmetricOutput(query, gallery, self.classifier(query), sharp)

    def for_query(self, batch: Mapping[str, Any]) -> Tensor:
        """Return which images the query encoder describes: those magnified enough, but for the gallery's.

        Args:
            batch: a loader's batch with ``img``, ``size`` and ``role``.

        Returns:
            (N,) bool, on the CPU.
        """
        img = batch["img"]
        if "size" not in batch:  # of a set of the host, which tells none
            return torch.zeros(len(img), dtype=torch.bool)
        heights = torch.as_tensor(batch["size"], device="cpu")[:, 0]
        magnified = img.shape[-2] / heights.double() >= self.threshold.item()  # equation 1
        return magnified & torch.tensor([role != "gallery" for role in batch["role"]])

    def extract(self, batch: Mapping[str, Any]) -> Tensor:
        """Return features (N, D), each by the encoder that :meth:`for_query` says (equation 2).

        Args:
            batch: a loader's batch with ``img``, ``size``, ``role``, and what the gallery encoder asks for.
        """
        chosen, img = self.for_query(batch), batch["img"]
        parts = []
        if chosen.any():
            parts.append(self(img[chosen]))
        if not chosen.all():
            rows = torch.where(~chosen)[0]
            parts.append(self.extract_gallery({key: _rows(value, rows) for key, value in batch.items()}))
        order = torch.cat((torch.where(chosen)[0], torch.where(~chosen)[0])).argsort()
        return torch.cat([part.float() for part in parts])[order] if len(parts) > 1 else parts[0]

    def extract_gallery(self, batch: Mapping[str, Any]) -> Tensor:
        """Return what the gallery encoder alone says of a batch (N, D), whatever it does with low queries itself."""
        if hasattr(self.gallery, "extract"):
            return self.gallery.extract(batch)
        return described(self.gallery, batch["img"])

    def _at_length(self, feature: Tensor) -> Tensor:
        return self.length * F.normalize(feature.float(), dim=1)  # equation 2


def described(encoder: nn.Module, img: Tensor) -> Tensor:
    """Return an encoder's features (N, D) of images (N, 3, H, W), normalised, as of sharp ones of the gallery.

    Args:
        encoder: a network of the host's, which gives logits beside them in training, or one of ours without classifier.

    Raises:
        ValueError: if it gives none.
    """
    if hasattr(encoder, "extract"):
        facts = {
            "low": torch.zeros(len(img), dtype=torch.bool),
            "rate": torch.ones(len(img), dtype=torch.float64),
            "size": torch.tensor([tuple(img.shape[-2:])] * len(img)),
            "role": ["gallery"] * len(img),
        }
        found = encoder.extract({"img": img, **facts})
    else:
        found = encoder(img)
        if isinstance(found, tuple) and encoder.training:
            found = found[1]
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ValueError(
            f"{type(encoder).__name__} gives no features {'in training' if encoder.training else 'of images'}; name a "
            "network of torchreid's zoo as model.options.query in a configuration of asymmetric"
        )
    return found


def _built(name: str, weights: str, named: Mapping[str, bool], strict: bool = False, **options: Any) -> nn.Module:
    own = {**named, "pretrained": named["pretrained"] and not weights}
    # The zoo has no network without a classifier; as "triplet" it hands out the features beside it.
    classes = 0 if name in MODELS else 1
    network = _headless(build_model(name, num_classes=classes, loss="triplet", **own, **options))
    if weights:
        load_weights(network, weights, strict=strict)
    return network


def _headless(network: nn.Module) -> nn.Module:
    """Take off the classifier of a network of the zoo, which would be weights that nothing uses."""
    if isinstance(getattr(network, "classifier", None), nn.Linear):
        network.classifier = nn.Identity()
    return network


def _take_classifier(classifier: nn.Linear, weights: str) -> bool:
    state = read_state(weights) if weights else {}
    fits = [
        name
        for name, value in state.items()
        if name.endswith("classifier.weight") and value.shape == classifier.weight.shape
    ]
    if len(fits) != 1:
        return False
    with torch.no_grad():
        classifier.weight.copy_(state[fits[0]])
        bias = state.get(fits[0].removesuffix("weight") + "bias")
        classifier.bias.zero_() if bias is None else classifier.bias.copy_(bias)
    return True


@torch.no_grad()
def _length_of(encoder: nn.Module, size: tuple[int, int]) -> int:
    mode = encoder.training
    try:
        return described(encoder.eval(), torch.zeros(1, 3, *size)).shape[1]
    except RuntimeError as error:
        told = f"{type(encoder).__name__} takes no images of {size[0]}x{size[1]}: {' '.join(str(error).split())}"
        raise ValueError(told) from error
    finally:
        encoder.train(mode)


def _size(size: Sequence[int], what: str) -> tuple[int, int]:
    if len(size) != 2 or any(type(side) is not int or side < 1 for side in size):
        raise ValueError(f"{what} is a height and a width in pixels, not {list(size)}")
    return size[0], size[1]


def _rows(values: Any, rows: Tensor) -> Any:
    if isinstance(values, Tensor):
        return values[rows]
    return [values[i] for i in rows.tolist()]
