"""A trained network as ONNX, from the picture's pixels to the descriptor, compared with torch before it is kept.

A file takes RGB images of any size and any number; resizing and normalisation are inside. A method that treats
low-resolution queries and high-resolution gallery images differently becomes two files.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchreid_xres.features.record import weights_hash
from torchreid_xres.files import whole_file
from torchreid_xres.inference.branches import ways
from torchreid_xres.inference.chain import Chain, Recipe, by
from torchreid_xres.models.asymmetric import NEVER, Asymmetric
from torchreid_xres.sr.spandrel import SpandrelFrontEnd
from torchreid_xres.version import __version__

# The least cosine to torch's descriptor in float32 that an image may have.
BOUNDS = {"fp32": 0.99999, "fp16": 0.999, "int8": 0.98}
# In float32 no number may differ by more than this share of the largest one: a graph for another batch does.
SHARE = 1e-4
INPUTS = {"uint8": torch.uint8, "float32": torch.float32}
ROLES = ("query", "gallery")
# Of drawn batches: images, height and width. The export follows the first (torch takes a size of 1 for a fixed one).
SHAPES = ((2, (64, 32)), (3, (45, 23)), (1, (150, 81)))
# Antialiased resizing came with 18.
LEAST_OPSET = 18


class ExportError(RuntimeError):
    """A network that ONNX cannot hold, or a file whose answers are not torch's; none is kept."""


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: where it is.
        role: ``query`` or ``gallery``, empty where the file is for both.
        precision: of its weights.
        difference: largest absolute difference to torch's descriptors in float32.
        cosine: the least over all compared images.
        dim: length of the descriptor.
        size: bytes.
    """

    path: Path
    role: str
    precision: str
    difference: float
    cosine: float
    dim: int
    size: int


def export_onnx(
    model: nn.Module,
    path: str | Path,
    recipe: Recipe,
    *,
    roles: Sequence[str] = ROLES,
    precision: str = "fp32",
    input_type: str = "uint8",
    opset: int = LEAST_OPSET,
    images: Sequence[Tensor] = (),
    bound: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> list[Exported]:
    """Write a network as ONNX, in one file, or in two where queries and gallery images take different ways.

    The input ``image`` is (N, 3, h, w), RGB, of any N, h and w; the output ``descriptor`` is (N, D), float32. Every
    file is run by onnxruntime on batches of several sizes, with images of several sizes, beside the model's own
    ``extract`` (or ``forward``) in torch; only if all agree are the files put in place, all or none. Those of a query
    and a gallery encoder hold ``threshold``, an image is for the first if the input is at least so many times as high,
    and ``gallery_sha256``, the hash of the gallery encoder's weights.

    Args:
        model: the network; left as it was.
        path: the file; of two, ``model.onnx`` becomes ``model.query.onnx`` and ``model.gallery.onnx``.
        recipe: what lies around the network.
        roles: which files to write of a network that has two; a single one keeps ``path`` as its name.
        precision: ``fp32``; ``fp16`` (weights and arithmetic); ``int8`` (convolutions and matrix products, weights by
            channel, ranges of activations from ``images``).
        input_type: ``uint8``, 0 to 255, or ``float32``, 0 to 1.
        opset: of ONNX, at least 18.
        images: pictures (3, h, w), uint8, RGB, of any sizes, to compare on, beside drawn ones. ``int8`` needs some, as
            the network was trained on: every other one sets the ranges, the file is compared on the rest.
        bound: the least cosine that is accepted; None: :data:`BOUNDS`.
        facts: more to write into the file beside the package's version, sizes, role and hash of the weights.

    Returns:
        The files, queries' first.

    Raises:
        ExportError: if torch cannot export the network, or the file's answers differ from torch's. No file is kept.
        ImportError: if onnx, onnxscript or onnxruntime is missing.
        ValueError: for arguments that cannot be, or a network that gives no descriptors.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> class Means(nn.Module):
        ...     def forward(self, img):
        ...         return img.mean(dim=(2, 3))
        >>> with TemporaryDirectory() as folder:
        ...     (file,) = export_onnx(Means(), f"{folder}/means.onnx", Recipe((8, 4)))
        ...     Session(file.path)(torch.zeros(5, 3, 20, 30, dtype=torch.uint8)).shape
        torch.Size([5, 3])
    """
    path = Path(path)
    _check(precision, input_type, opset, roles, images)
    needs_onnx()
    model = exportable(model)
    routing = {}
    if isinstance(model, Asymmetric):
        routing = {"threshold": model.threshold.item(), "gallery_sha256": weights_hash(model.gallery)}
        if "query" in roles:
            recipe = replace(recipe, low_size=_routed_size(model, recipe))
    wanted = [role for role in ways(model, recipe.low_size) if role in roles or not role]
    # 8 bits are not good for what no picture shows: they are compared on pictures only.
    batches = _batches(images[1::2] if precision == "int8" else images, precision != "int8", INPUTS[input_type])
    least = BOUNDS[precision] if bound is None else bound
    about = {
        **(facts or {}),
        **routing,
        **{key: by(value) if "size" in key else value for key, value in asdict(recipe).items()},
        "package": f"torchreid_xres {__version__}",
        "torch": torch.__version__,
        "weights_sha256": weights_hash(model),
        "precision": precision,
    }
    found = []
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for role in wanted:
            target = path.with_name(f"{path.stem}.{role}{path.suffix}") if len(wanted) > 1 else path
            scratch = stack.enter_context(whole_file(target))
            chain = Chain(model, role, recipe)
            reference = [chain.reference(batch) for batch in batches]
            if precision == "fp16":
                chain = Chain(copy.deepcopy(model).half(), role, recipe, half=True)
            made = Path(folder) / f"{role or 'model'}.onnx"
            write_graph(chain, made, _drawn(*SHAPES[0], INPUTS[input_type]), opset)
            if precision == "int8":
                made = _quantised(made, images[::2], INPUTS[input_type])
            _put_facts(made, {**about, "role": role or "any"}, scratch)
            difference, cosine = compare(scratch, batches, reference, least, exact=precision == "fp32")
            dim, written = reference[0].shape[1], scratch.stat().st_size
            found.append(Exported(target, role, precision, difference, cosine, dim, written))
    return found


def exportable(model: nn.Module) -> nn.Module:
    """Return a copy of a network as exporters can follow it: on the CPU, in single precision, in evaluation mode."""
    model = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format).eval()
    for part in model.modules():
        if isinstance(part, SpandrelFrontEnd):
            part.keep_merged()
    return model


def needs_onnx() -> None:
    """Raise an ImportError that says what to install where ONNX cannot be written."""
    if "dynamic_shapes" not in inspect.signature(torch.onnx.export).parameters:
        raise ImportError(f"torch {torch.__version__} cannot export images of any size to ONNX; 2.5 or newer can")
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"{error.name} is needed to export: pip install 'torchreid_xres[export]'") from error


def write_graph(
    chain: nn.Module, path: Path, image: Tensor, opset: int, axes: Sequence[str] = ("n", "", "h", "w")
) -> None:
    """Write a chain as ONNX, with batch, height and width of its input open.

    Args:
        chain: from images to descriptors, in evaluation mode.
        path: the file.
        image: a batch to follow the chain with, at least 2 images.
        opset: of ONNX.
        axes: names of the open dimensions of the input, empty for those that are as in ``image``.

    Raises:
        ExportError: if torch cannot.
    """
    names = {axis: name for axis, name in enumerate(axes) if name}
    if hasattr(torch.export.Dim, "DYNAMIC"):  # torch 2.6
        dimensions = dict.fromkeys(names, torch.export.Dim.AUTO)
    else:
        dimensions = {axis: torch.export.Dim(name, min=2) for axis, name in names.items()}
    try:
        with torch.no_grad(), _quiet():
            places = {name: parameter.data_ptr() for name, parameter in chain.model.named_parameters()}
            chain(image)  # whatever it keeps for later calls is made of numbers now, not of the exporter's symbols
            moved = [name for name, parameter in chain.model.named_parameters() if parameter.data_ptr() != places[name]]
            if moved:  # following it, the exporter ends in a segmentation fault
                raise ValueError(f"at each call it puts another tensor into its parameter {moved[0]}")
            torch.onnx.export(
                chain,
                (image,),
                path,
                input_names=["image"],
                output_names=["descriptor"],
                opset_version=opset,
                dynamic_shapes=(dimensions,),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever its passes raise
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        raise ExportError(f"torch cannot export {type(chain.model).__name__}: {reason}") from error


def compare(
    file: Path, batches: Sequence[Tensor], reference: Sequence[Tensor], bound: float, exact: bool = True
) -> tuple[float, float]:
    """Return how far a file's descriptors are from torch's: largest absolute difference, and least cosine.

    Args:
        file: ONNX.
        batches: images as the file takes them.
        reference: torch's descriptors of each batch.
        bound: the least cosine that is accepted.
        exact: do not accept differences beyond :data:`SHARE` either.

    Raises:
        ExportError: if the file cannot run a batch, or a difference is too large; the message says at which batch.
    """
    session = Session(file)
    differences, cosines = [], []
    for batch, wanted in zip(batches, reference, strict=True):
        where = f"{len(batch)} images of {batch.shape[-2]}x{batch.shape[-1]}"
        try:
            got = session(batch)
        except Exception as error:  # onnxruntime's exceptions have no common name
            reason = str(error).splitlines()[0]
            raise ExportError(f"the file fails at {where}: {reason}") from error
        if got.shape != wanted.shape:
            raise ExportError(f"the file gives {tuple(got.shape)} for {where}, torch {tuple(wanted.shape)}")
        difference = (got - wanted).abs().max().item()
        cosine = F.cosine_similarity(got.double(), wanted.double()).min().item()
        # Written so that NaN fails.
        if not cosine >= bound:
            raise ExportError(f"at {where} the file's cosine to torch is {cosine:.6f}, at least {bound:g} is asked for")
        if exact and not difference <= SHARE * wanted.abs().max().item():
            raise ExportError(
                f"at {where} the file differs from torch by {difference:.2g}, where the largest number is "
                f"{wanted.abs().max().item():.2g}: the graph is not the network at this number and size of images"
            )
        differences.append(difference)
        cosines.append(cosine)
    return max(differences), min(cosines)


class Session:
    """A file in onnxruntime, on the CPU, with as many threads as torch has; images in, descriptors out.

    Args:
        file: ONNX, as :func:`export_onnx` writes it.
    """

    def __init__(self, file: str | Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (self._input,) = self._session.get_inputs()
        self.facts = dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, images: Tensor) -> Tensor:
        """Return (N, D) of images (N, 3, h, w) in [0, 1] or 0 to 255, turned into the type that the file takes."""
        if self._input.type == "tensor(uint8)" and images.dtype != torch.uint8:
            images = images.mul(255).round().to(torch.uint8)
        elif self._input.type == "tensor(float)" and images.dtype == torch.uint8:
            images = images.float() / 255
        return torch.from_numpy(self._session.run(None, {self._input.name: images.numpy()})[0])


def _check(precision: str, input_type: str, opset: int, roles: Sequence[str], images: Sequence[Tensor]) -> None:
    for what, value, allowed in (("precision", precision, BOUNDS), ("input type", input_type, INPUTS)):
        if value not in allowed:
            raise ValueError(f"there is no {what} {value!r}; allowed: {', '.join(allowed)}")
    if not roles or set(roles) - set(ROLES):
        raise ValueError(f"the roles are {', '.join(ROLES)} or one of them, not {list(roles)}")
    if opset < LEAST_OPSET:
        raise ValueError(f"opset {opset} has no antialiased resizing; at least {LEAST_OPSET}")
    if precision == "int8" and len(images) < 2:
        raise ValueError(f"int8 takes its ranges from images, and is compared on others; there are {len(images)}")


def _routed_size(model: Asymmetric, recipe: Recipe) -> tuple[int, int]:
    """Return the size of a query that goes to the query encoder, at most the one that was asked for."""
    threshold = model.threshold.item()
    height = math.floor(recipe.size[0] / max(threshold, 1))
    if threshold == NEVER or height < 1:
        raise ValueError("the query encoder answers no query, so it is not exported; its gallery encoder is by itself")
    return min(height, recipe.low_size[0]), recipe.low_size[1]


def _drawn(count: int, size: tuple[int, int], kind: torch.dtype) -> Tensor:
    """Return images (N, 3, h, w) of soft colours, the same each time."""
    coarse = torch.rand(count, 3, 9, 5, generator=torch.Generator().manual_seed(count))
    images = F.interpolate(coarse, size, mode="bicubic", align_corners=False).clamp(0, 1)
    return images if kind == torch.float32 else images.mul(255).round().to(kind)


def _batches(images: Sequence[Tensor], drawn: bool, kind: torch.dtype) -> list[Tensor]:
    """Return what is compared: drawn batches, and the given images one by one."""
    given = [image[None] if kind == torch.uint8 else image[None].to(kind) / 255 for image in images]
    return [*(_drawn(*shape, kind) for shape in SHAPES if drawn), *given]


def _quantised(file: Path, images: Sequence[Tensor], kind: torch.dtype) -> Path:
    """Return a file with 8-bit convolutions and matrix products, their ranges as in these images."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(image[None] if kind == torch.uint8 else image[None].to(kind) / 255 for image in images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"image": image.numpy()}

    prepared, made = file.with_suffix(".prepared.onnx"), file.with_suffix(".int8.onnx")
    with _quiet():
        # Without the symbolic pass, which needs sympy and knows fewer operators than onnx itself.
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            made,
            Reader(),
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return made


def _put_facts(file: Path, facts: Mapping[str, Any], target: Path) -> None:
    import onnx

    graph = onnx.load(file)
    onnx.helper.set_model_props(graph, {key: str(value) for key, value in facts.items()})
    # Each operator carries the Python lines it came from: half of a small file, with the paths of this machine.
    for part in (*graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.ClearField("metadata_props")
    onnx.checker.check_model(graph)
    onnx.save(graph, target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what exporter and quantiser say of their own passes, among it the whole graph."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir", "")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
