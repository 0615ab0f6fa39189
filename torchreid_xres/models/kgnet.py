"""KGNet: the keypoints of a vehicle guide the recovery of its image and the alignment of its views.

A. Zheng, L. Zhang, W. Zhang, Z. Wang, C. Li, X. Sheng, "Keypoint-guided feature enhancement and alignment for
cross-resolution vehicle re-identification", Engineering Applications of Artificial Intelligence 2025. What the paper
leaves open is as in the works it names: DIC (Ma et al., CVPR 2020) for the fusion of features and keypoints, Omni-SR
(Wang et al., CVPR 2023) for super-resolution, the bag of tricks (Luo et al., CVPR Workshops 2019) for both encoders;
with the sizes here the whole has the parameters and operations of the paper's Table 7.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.data.degrade import undo_enlargement
from torchreid_xres.keypoints import FACES3, FACES3_DISJOINT, FACES4, StackedHourglass, filter_hidden
from torchreid_xres.keypoints.attention import GroupFusion, KeypointAlignment, face_attention
from torchreid_xres.models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalization
from torchreid_xres.models.omni_sr import OmniTrunk
from torchreid_xres.models.registry import MODELS
from torchreid_xres.models.staged_trunk import staged_trunk
from torchreid_xres.models.weights import load_weights
from torchreid_xres.parts import Part, its_input, nothing
from torchreid_xres.sr.base import init_small

SR = ("omni_sr", "bicubic")
ROUTES = ("role", "rate")


class Guided(NamedTuple):
    """What the dual keypoint guiding module makes of low-resolution images; without keypoints some of it is None."""

    low: Tensor  # x_lr, (N, 3, 16, 16), [0, 1]
    maps: Tensor | None  # h_k after Eq. 3, (N, 20, 32, 32)
    recovery: Tensor | None  # Att(D_k) of front, back, left, right, (N, 4, 16, 16)
    alignment: Tensor | None  # of front, back, side, (N, 3, 128, 128)
    restored: Tensor  # x_sr, (N, 3, 128, 128), [0, 1] up to overshoot
    aligned: Tensor  # x'_sr, of the same size


class Encoded(NamedTuple):
    """What an encoder makes of images."""

    feature: Tensor  # before the normalisation: triplets and distillation, (N, 2048)
    descriptor: Tensor  # behind it, (N, 2048)
    logits: Tensor | None  # (N, identities)


class KGNetOutput(NamedTuple):
    """What a training step needs."""

    student: Encoded  # of x'_sr
    teacher: Encoded  # of x_hr
    restored: Tensor  # x_sr, (N, 3, 128, 128), [0, 1] up to overshoot


class Recovery(nn.Module):
    """KGR and the SR module: x_lr, with the faces of the vehicle in it, to what its enlargement lacks.

    Args:
        guided: fuse features and attention (Eq. 4).
        scale: of the magnification.
        fusion_blocks: residual blocks of the fusion.
        features: of :class:`OmniTrunk`.
        **sizes: of :class:`OmniTrunk`.
    """

    def __init__(self, guided: bool, scale: int, fusion_blocks: int, features: int = 64, **sizes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, features, 3, padding=1)
        self.fusion = GroupFusion(features, len(FACES4), fusion_blocks) if guided else None
        self.trunk = OmniTrunk(features, **sizes)
        self.up = nn.Sequential(nn.Conv2d(features, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        init_small(self.up[0])

    def forward(self, low: Tensor, attention: Tensor | None) -> Tensor:
        """Turn (N, 3, h, w) and attention (N, 4, h, w) into (N, 3, scale * h, scale * w)."""
        features = self.head(low)  # f_lr, (N, 64, 16, 16)
        if self.fusion is not None:
            features = self.fusion(features, attention)  # f_att, Eq. 4
        return self.up(self.trunk(features))


class Encoder(nn.Module):
    """E_tea or E_stu: a trunk, average pooling, a normalisation without bias, a classifier without bias.

    Args:
        num_classes: training identities; 0 for no classifier.
        reid, pretrained, reid_weights: the trunk, see :func:`~torchreid_xres.models.staged_trunk.staged_trunk`.
        dim: features of a linear layer behind the pooling, for a trunk of few channels; 0: none.
    """

    def __init__(self, num_classes: int, reid: str, pretrained: bool, reid_weights: str, dim: int = 0) -> None:
        super().__init__()
        stem, stages, channels = staged_trunk(reid, pretrained, reid_weights)
        self.trunk = nn.Sequential(stem, *stages)
        self.widen = nn.Linear(channels[-1], dim) if dim else nn.Identity()
        self.bn = nn.BatchNorm1d(dim or channels[-1])
        self.bn.bias.requires_grad_(False)
        self.classifier = nn.Linear(dim or channels[-1], num_classes, bias=False) if num_classes else None
        if self.classifier is not None:
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, img: Tensor, classify: bool = True) -> Encoded:
        """Encode normalised images (N, 3, H, W)."""
        feature = self.widen(self.trunk(img).mean(dim=(2, 3)))  # (N, 2048, 8, 8) -> (N, 2048)
        descriptor = self.bn(feature)
        logits = self.classifier(descriptor) if classify and self.classifier is not None else None
        return Encoded(feature, descriptor, logits)


@MODELS.register("kgnet", paper="KGNet, EAAI 2025", sr=SR)
class KGNet(nn.Module):
    """Low-resolution images go through the dual keypoint guiding module and the student, others to the teacher.

    Low-resolution images come as loaders give them: enlarged to the network's size by interpolation (x'_lr). An image
    given without its role, ``model(img)``, counts as one of them; :meth:`extract` knows better.

    Args:
        num_classes: training identities; 0 for features only.
        loss: ``softmax`` (the student's logits in training) or ``triplet`` (logits and features), for the host's
            engines.
        pretrained: start the encoders from ImageNet weights.
        use_gpu: as in the host; unused.
        reid: trunk of both encoders: ``resnet50`` or another that ``staged_trunk`` knows.
        reid_weights: file the trunks start from.
        dim: length of the descriptor, by a linear layer; 0: that of the trunk's features, as in the paper.
        dual: a teacher of its own, which starts as a copy of the student; False: one encoder for both (Table 6).
        own_classifiers: of two encoders each has a classifier; False: they share one, "the classifier" of Section 3.3,
            which is what keeps their features comparable.
        kgr: guide the recovery (Table 5).
        kga: guide the alignment (Table 5).
        kgr_blocks, kga_blocks: residual blocks of their group convolutions.
        paired: how KGA reads "two-by-two", see :class:`KeypointAlignment`.
        disjoint: put each point on one of KGA's three faces only; its side then has no point of front or back.
        hourglass: sizes of :class:`StackedHourglass`. ``targets: binary`` is Table 5's row without GKL.
        hourglass_weights: file of a trained one; it stays as loaded.
        tolerance: of Eq. 3, in cells.
        sr: ``omni_sr``; or ``bicubic``: x_sr is the image as the loader enlarged it, and there is nothing for KGR.
        sr_scale: of the SR module: x_lr has 1/8 of the network's sides.
        sr_options: sizes of the SR module, those of :class:`OmniTrunk`.
        route: who goes to the student at test: ``role``, the queries, or ``rate``, the images that are low resolution.
        mean, std: the loader's normalisation.
        interpolation: kernel by which the loader enlarges images.

    Raises:
        ValueError: for parts that do not exist or do not go together, or files that do not fit.

    Example:
        >>> sizes = {"sr_options": {"features": 8, "groups": 1, "blocks": 1}, "hourglass": {"stacks": 1, "width": 8}}
        >>> model = KGNet(pretrained=False, reid="osnet_x0_25", kgr_blocks=1, **sizes).eval()
        >>> model(torch.zeros(2, 3, 128, 128)).shape
        torch.Size([2, 128])
    """

    def __init__(
        self,
        num_classes: int = 0,
        loss: str = "softmax",
        pretrained: bool = True,
        use_gpu: bool = False,
        reid: str = "resnet50",
        reid_weights: str = "",
        dim: int = 0,
        dual: bool = True,
        own_classifiers: bool = False,
        kgr: bool = True,
        kga: bool = True,
        kgr_blocks: int = 7,
        kga_blocks: int = 4,
        paired: bool = False,
        disjoint: bool = False,
        hourglass: Mapping[str, Any] | None = None,
        hourglass_weights: str = "",
        tolerance: float = 0.0,
        sr: str = "omni_sr",
        sr_scale: int = 8,
        sr_options: Mapping[str, int] | None = None,
        route: str = "role",
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        interpolation: str = "bilinear",
    ) -> None:
        super().__init__()
        for what, value, allowed in (("SR module", sr, SR), ("route", route, ROUTES)):
            if value not in allowed:
                raise ValueError(f"kgnet has no {what} {value!r}; allowed: {', '.join(allowed)}")
        if kgr and sr == "bicubic":
            raise ValueError("kgr guides the SR module, and sr is bicubic, which has none: set kgr False")
        self.loss, self.scale, self.route, self.tolerance = loss, sr_scale, route, tolerance
        self.interpolation = interpolation
        self.normalize = Normalization(mean, std)
        self.hourglass = None
        if kgr or kga:
            self.hourglass = StackedHourglass(**dict(hourglass or {}))
            if hourglass_weights:
                load_weights(self.hourglass, hourglass_weights, strict=True)
            self.hourglass.requires_grad_(False)
        self.recovery = Recovery(kgr, sr_scale, kgr_blocks, **dict(sr_options or {})) if sr == "omni_sr" else None
        self.side_faces = FACES3_DISJOINT if disjoint else FACES3
        self.alignment = KeypointAlignment(kga_blocks, paired) if kga else None
        self.encoders = nn.ModuleDict({"student": Encoder(num_classes, reid, pretrained, reid_weights, dim)})
        if dual:  # of the same weights, so that both speak of the same features from the first step on
            self.encoders["teacher"] = copy.deepcopy(self.student)
            if not own_classifiers:
                self.teacher.classifier = self.student.classifier
        self.train()

    @property
    def student(self) -> Encoder:
        """E_stu."""
        return self.encoders["student"]

    @property
    def teacher(self) -> Encoder:
        """E_tea; a single encoder is its own."""
        return self.encoders["teacher" if "teacher" in self.encoders else "student"]

    def train(self, mode: bool = True) -> KGNet:
        super().train(mode)
        if self.hourglass is not None:
            self.hourglass.eval()
        return self

    def named_parts(self) -> dict[str, Part]:
        """Return the parts by name (see ``parts.py``); without attention all faces count alike."""
        found = {}
        if self.hourglass is not None:
            found["hourglass"] = Part((self.hourglass,), nothing)
        if self.recovery is not None:
            found["SR module"] = Part((self.recovery,), nothing)
            if self.recovery.fusion is not None:
                found["keypoint attention, recovery"] = Part((self.recovery.fusion,), all_faces_alike)
        if self.alignment is not None:
            found["alignment"] = Part((self.alignment,), its_input)
            if self.alignment.fusion.groups > 1:
                found["keypoint attention, alignment"] = Part((self.alignment.fusion,), all_faces_alike)
        return found | {name: Part((encoder,)) for name, encoder in self.encoders.items()}

    @torch.no_grad()
    def keypoint_maps(self, img: Tensor) -> Tensor:
        """Return heat maps (N, 20, H/4, W/4) of images (N, 3, H, W), normalised, without those of hidden points."""
        maps = self.hourglass(img).float()
        # Binary maps have no place for hidden points by which they could be told.
        return filter_hidden(maps, self.tolerance) if self.hourglass.targets == "gaussian" else maps  # Eq. 3

    def guide(self, img: Tensor) -> Guided:
        """Recover and align low-resolution images.

        Args:
            img: x'_lr, (N, 3, H, W), normalised; enlarged by interpolation. With the default sizes H and W are
                multiples of 64.

        Raises:
            ValueError: for sides that are no multiples of the SR module's scale or the hourglass's unit.
        """
        size = (img.shape[-2], img.shape[-1])
        if size[0] % self.scale or size[1] % self.scale:
            raise ValueError(f"kgnet at sr_scale {self.scale} takes sides that are multiples of it, not {size}")
        small = (size[0] // self.scale, size[1] // self.scale)
        enlarged = self.normalize.undo(img)
        low = undo_enlargement(enlarged, small, self.interpolation)  # x_lr; down-sampling would blur it
        maps = recovery = alignment = None
        if self.hourglass is not None:
            maps = self.keypoint_maps(img)
        restored = enlarged
        if self.recovery is not None:
            if self.recovery.fusion is not None:
                recovery = face_attention(maps, small, FACES4)
            restored = enlarged + self.recovery(low, recovery)
        aligned = restored
        if self.alignment is not None:
            alignment = face_attention(maps, size, self.side_faces)
            aligned = self.alignment(restored, alignment)
        return Guided(low, maps, recovery, alignment, restored, aligned)

    @property
    def alone(self) -> bool:
        """Whether all that is left is one encoder, which images reach as they are."""
        return self.teacher is self.student and self.recovery is None and self.alignment is None

    def forward(self, img: Tensor, img_hr: Tensor | None = None, full: bool = False) -> Any:
        """Return descriptors (evaluation), what the host's loss wants (training), or all of one view or of both.

        Args:
            img: (N, 3, H, W), normalised, low resolution.
            img_hr: (N, 3, H, W), normalised, the same images at high resolution. Gives a :class:`KGNetOutput`.
            full: without ``img_hr``: return the student's :class:`Encoded`.
        """
        guided = self.guide(img)
        aligned = self.normalize(guided.aligned)
        if img_hr is None:
            student = self.student(aligned, classify=self.training or full)
            if full:
                return student
            if not self.training or student.logits is None:
                return F.normalize(student.descriptor, dim=1)
            return (student.logits, student.feature) if self.loss == "triplet" else student.logits
        if self.teacher is not self.student:
            return KGNetOutput(self.student(aligned), self.teacher(img_hr), guided.restored)
        # (2N, 3, H, W): one pass, so that batch normalisation sees both views
        both = self.student(torch.cat((aligned.to(img_hr.dtype), img_hr)))
        views = zip(*((None, None) if part is None else part.chunk(2) for part in both), strict=True)
        return KGNetOutput(*(Encoded(*view) for view in views), guided.restored)

    def taken_as_low(self, batch: Mapping[str, Any]) -> Tensor:
        """Return which images are restored and go to the student, as ``route`` says, (N,) bool.

        Args:
            batch: a loader's batch with ``low`` and ``role``. Training images have no role at test; they go by ``low``.
        """
        low = torch.as_tensor(batch["low"], dtype=torch.bool)
        if self.route != "role":
            return low
        known = {"query": True, "gallery": False}
        return torch.tensor([known.get(role, own) for role, own in zip(batch["role"], low.tolist(), strict=True)])

    def extract(self, batch: Mapping[str, Any]) -> Tensor:
        """Return descriptors (N, 2048), of length 1: the student's or the teacher's, as ``route`` says.

        Args:
            batch: a loader's batch with ``img``, ``low`` and ``role``.
        """
        img = batch["img"]
        chosen = self.taken_as_low(batch)
        parts = []
        if chosen.any():
            aligned = self.normalize(self.guide(img[chosen]).aligned)
            parts.append(self.student(aligned, classify=False).descriptor)
        if not chosen.all():
            parts.append(self.teacher(img[~chosen], classify=False).descriptor)
        order = torch.cat((torch.where(chosen)[0], torch.where(~chosen)[0])).argsort()
        return F.normalize(torch.cat(parts)[order], dim=1)


def all_faces_alike(module: GroupFusion, args: tuple, kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    """Stand for a fusion whose attention is the same for each face at each place."""
    return module.features(args[0]).mean(1)
