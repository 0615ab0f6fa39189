"""One contract for every front end, the published parameter counts, and what loading refuses."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from golden_values import agree_with_kept, fill, noise, probed
from gradients import awaken, fitting, watch_gradients, without_gradient
from tiny_front_ends import TINY, build
from tiny_jobs import same

from torchreid_xres.image import resize
from torchreid_xres.metrics.image import psnr
from torchreid_xres.models import build_model
from torchreid_xres.models.weights import load_weights as load_model_weights
from torchreid_xres.sr import FRONT_ENDS, FrontEnd, FrontEndInfo, build_front_end, load_weights
from torchreid_xres.sr.edsr import ResidualBlock
from torchreid_xres.sr.vdsr import VDSR

# Of spandrel's networks, which are not ours to mend.
pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated"),
]


# Parameters that a step gives no gradient, by a pattern of their names, and why.
NO_GRADIENT = {
    "spandrel-RCAN": {r"model\.(sub|add)_mean\.\w+": "the mean colour of its training images; fixed"},
    "spandrel-SPAN": {r"model\..*\beval_conv\.\w+": "kernels merged from the others for evaluation; fixed"},
    "spandrel-SeemoRe": {r"model\..*\.experts\.1\..*": "its gate sends both images to the other expert"},
}

every_front_end = pytest.mark.parametrize("case", TINY)


def test_the_table_above_covers_the_registry():
    assert {name for name, _ in TINY.values()} == set(FRONT_ENDS)
    assert all(isinstance(FRONT_ENDS[name].meta["info"], FrontEndInfo) for name in FRONT_ENDS)


@every_front_end
@pytest.mark.parametrize("training", [True, False])
def test_any_size_in_the_asked_size_out(case, training):
    front_end = build(case).train(training)
    with torch.no_grad():
        for small in [(4, 4), (1, 9), (23, 10)]:
            x = torch.rand(2, 3, *small)
            for asked in [(32, 16), (5, 7), None]:
                y = front_end(x, asked)
                expected = asked or tuple(front_end.scale * side for side in small)
                assert y.shape == (2, 3, *expected)
                assert y.isfinite().all()


@every_front_end
@pytest.mark.parametrize("small", [(4, 4), (16, 16)])
def test_the_callers_tensor_is_not_written_to(case, small):
    front_end = build(case)
    for training in (True, False):
        x = torch.rand(2, 3, *small)
        before, version = x.clone(), x._version
        front_end.train(training)(x, (16, 16))
        assert torch.equal(x, before) and x._version == version


@every_front_end
def test_a_step_gives_the_image_and_every_parameter_a_gradient_but_the_listed_ones(case, monkeypatch):
    front_end = build(case).train()
    awaken(front_end, monkeypatch)
    norms = watch_gradients(front_end)
    # A leaf that requires a gradient: an in-place operation on it raises.
    x = torch.rand(2, 3, 16, 16, requires_grad=True)
    (front_end(x, (32, 32)) - torch.rand(2, 3, 32, 32)).square().mean().backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    assert all(map(math.isfinite, norms.values()))
    assert without_gradient(front_end, norms) == fitting(front_end, NO_GRADIENT.get(case, {}))


def stepped(case):
    """Return a front end after one step of a seed, and what it held before."""
    torch.manual_seed(0)
    front_end = build(case).train()
    untrained = copy.deepcopy(front_end.state_dict())
    (front_end(torch.rand(2, 3, 16, 16), (32, 32)) - torch.rand(2, 3, 32, 32)).square().mean().backward()
    torch.optim.Adam(front_end.parameters(), lr=1e-3).step()
    return front_end, untrained


every_trained = pytest.mark.parametrize("case", [case for case in TINY if case != "bicubic"])


@every_trained
def test_the_same_seed_gives_the_same_weights_after_a_step(case):
    (first, untrained), (again, _) = stepped(case), stepped(case)
    assert same(first.state_dict(), again.state_dict())
    moved = {key for key, value in first.state_dict().items() if not torch.equal(value, untrained[key])}
    assert moved and moved <= {key for key, p in first.named_parameters() if p.requires_grad}


@every_front_end
def test_evaluation_is_clamped_and_independent_of_the_batch(case):
    # In double precision: SPAN's untrained output is so large that rounding would hide a fault.
    front_end = build(case).double().eval()
    x = torch.rand(3, 3, 16, 24, dtype=torch.float64).round()  # black and white: filters overshoot
    with torch.no_grad():
        together = front_end(x, (64, 96))
        alone = torch.cat([front_end(image, (64, 96)) for image in x.split(1)])
    assert together.min() >= 0 and together.max() <= 1
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-8)


@every_front_end
def test_bfloat16_autocast(case):
    front_end = build(case)
    x = torch.rand(2, 3, 16, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = front_end(x, (32, 16))
    assert y.shape == (2, 3, 32, 16) and y.dtype == torch.float32 and y.isfinite().all()


@every_trained
def test_a_saved_front_end_loads_into_a_new_one(case, tmp_path):
    name, options = TINY[case]
    saved, _ = stepped(case)
    torch.save({"state_dict": saved.state_dict(), "epoch": 3}, tmp_path / "saved.pth")
    torch.manual_seed(1)
    other, loaded = build(case), build_front_end(name, weights=tmp_path / "saved.pth", **options)
    assert same(loaded.state_dict(), saved.state_dict()) and not same(other.state_dict(), saved.state_dict())
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.eval()(x), saved.eval()(x))


def measured(case, dtype):
    """Return the numbers that are kept of a front end: its size, what it says, a loss and its gradient."""
    front_end = build(case).to(dtype)
    fill(front_end)
    sizes = {"low": (12, 10), "high": (20, 30)}
    small, large = (0.5 + 0.2 * noise(key, 2, 3, *size).to(dtype) for key, size in sizes.items())
    with torch.no_grad():
        said = front_end.eval()(small, (20, 30))
    norms = watch_gradients(front_end)
    loss = (front_end.train()(small.requires_grad_(), (20, 30)) - large).square().mean()
    loss.backward()
    return {
        "parameters": count(front_end),
        "answer": probed(said.flatten()),
        "loss": loss.item(),
        "gradient": math.hypot(small.grad.norm().item(), *norms.values()),
    }


def test_golden_values():
    ours = [case for case, (name, _) in TINY.items() if name != "spandrel"]
    agree_with_kept("front_ends", lambda dtype: {case: measured(case, dtype) for case in ours})


class Repeat(FrontEnd):
    """A net that repeats pixels, and refuses what it has not declared."""

    info = FrontEndInfo(paper="none")

    def net(self, x):
        height, width = x.shape[-2:]
        assert height % self.multiple == width % self.multiple == 0
        assert min(height, width) >= self.minimum
        assert not self.square or height == width
        magnification = 1 if self.pre_upsampled else self.scale
        return x.repeat_interleave(magnification, dim=2).repeat_interleave(magnification, dim=3)


@pytest.mark.parametrize("needs", [{}, {"multiple": 8}, {"minimum": 16}, {"multiple": 6, "minimum": 7, "square": True}])
@pytest.mark.parametrize("small", [(4, 4), (1, 9), (23, 10), (16, 24)])
def test_padding_satisfies_the_net_and_is_cut_off_again(needs, small):
    x = torch.rand(2, 3, *small)
    expected = x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    assert torch.equal(Repeat(3, **needs)(x), expected)
    on_target_grid = Repeat(3, pre_upsampled=True, **needs).train()(x, (30, 17))
    assert torch.equal(on_target_grid, resize(x, (30, 17)))
    both = Repeat(3, residual=True, **needs).train()(x)
    torch.testing.assert_close(both, expected + resize(x, tuple(3 * side for side in small)))


@pytest.mark.parametrize("case", ["bicubic", "vdsr", "vdsr-rgb", "edsr-x3-residual"])
def test_training_keeps_what_is_out_of_range(case):
    y = build(case).train()(torch.rand(1, 3, 8, 8).round(), (32, 32))
    assert y.min() < 0 and y.max() > 1


def smooth_image() -> torch.Tensor:
    return resize(torch.rand(1, 3, 6, 4), (24, 16)).clamp(0, 1)


@pytest.mark.parametrize(
    "case", ["vdsr", "vdsr-rgb", "srcnn-rgb-residual", "fsrcnn-residual", "edsr-x3-residual", "rcan-x2-residual"]
)
def test_an_untrained_residual_net_starts_near_the_bicubic_image(case):
    x = smooth_image()
    y = build(case).eval()(x, (96, 64))
    assert psnr(y, resize(x, (96, 64)).clamp(0, 1)).item() > 35


def test_an_untrained_full_size_vdsr_starts_near_the_bicubic_image():
    x = smooth_image()
    assert psnr(build_front_end("vdsr")(x).clamp(0, 1), resize(x, (96, 64)).clamp(0, 1)).item() > 35


def test_luminance_nets_hand_colour_through():
    vdsr = build("vdsr")
    torch.nn.init.zeros_(vdsr.last.weight)
    x = torch.rand(2, 3, 9, 5)
    torch.testing.assert_close(vdsr(x, (40, 30)), resize(x, (40, 30)), rtol=0, atol=2e-6)


def test_srcnn_repeats_the_border():
    srcnn = build_front_end("srcnn", channels=3, widths=(3, 3))
    with torch.no_grad():
        for layer in srcnn.layers:
            # Each filter averages over its window: a flat image stays flat, up to its last pixel.
            layer.weight.zero_()
            for c in range(3):
                layer.weight[c, c] = 1 / layer.weight[c, c].numel()
            layer.bias.zero_()
    flat = torch.full((1, 3, 6, 6), 0.5)
    torch.testing.assert_close(srcnn(flat, (12, 12)), torch.full((1, 3, 12, 12), 0.5))


def test_edsr_scales_the_branch_of_a_block():
    block, x = ResidualBlock(4, gain=0.1), torch.rand(1, 4, 5, 5)
    first, second = block.body[0], block.body[2]
    branch = F.conv2d(F.relu(F.conv2d(x, first.weight, first.bias, padding=1)), second.weight, second.bias, padding=1)
    torch.testing.assert_close(block(x), x + 0.1 * branch)


def count(front_end: FrontEnd, filters_only: bool = False) -> int:
    return sum(p.numel() for p in front_end.parameters() if p.ndim == 4 or not filters_only)


@pytest.mark.parametrize(
    ("name", "options", "filters_only", "published"),
    [
        ("bicubic", {}, False, 0),
        ("srcnn", {}, True, 8_032),  # TPAMI 2016, section 4.3.2
        ("srcnn", {"kernels": (9, 3, 5)}, True, 24_416),
        ("srcnn", {"kernels": (9, 5, 5)}, True, 57_184),
        ("fsrcnn", {}, True, 12_464),  # ECCV 2016, table 1
        ("vdsr", {}, False, 664_704),
        ("vdsr", {"channels": 3}, False, 664_704 + 2 * 2 * 9 * 64),
    ],
)
def test_published_counts(name, options, filters_only, published):
    assert count(build_front_end(name, **options), filters_only) == published


@pytest.mark.parametrize(
    ("name", "scale", "exact", "published_millions"),
    [
        ("edsr_baseline", 2, 1_369_859, "1.37"),
        ("edsr_baseline", 4, 1_517_571, "1.52"),
        ("edsr", 2, 40_729_603, "40.73"),
        ("edsr", 3, 43_680_003, "43.68"),
        ("edsr", 4, 43_089_923, "43.09"),
        ("rcan", 4, 15_592_355, "15.59"),
    ],
)
def test_published_counts_in_millions(name, scale, exact, published_millions):
    with torch.device("meta"):
        number = count(build_front_end(name, scale=scale))
    assert number == exact and f"{number / 1e6:.2f}" == published_millions


@pytest.mark.parametrize("name", [n for n in FRONT_ENDS if FRONT_ENDS[n].meta["info"].parameters is not None])
def test_the_registry_tells_the_published_count(name):
    info = FRONT_ENDS[name].meta["info"]
    with torch.device("meta"):
        front_end = build_front_end(name)
    # Some papers round to two digits; some count filters alone.
    rounded = info.parameters and info.parameters % 10_000 == 0
    near = [count(front_end), count(front_end, filters_only=True)]
    assert info.parameters in near or (rounded and abs(near[0] / info.parameters - 1) < 0.02)
    assert front_end.info == info
    assert info.counted


def test_errors_name_what_is_allowed():
    with pytest.raises(KeyError, match="did you mean 'vdsr'"):
        build_front_end("vdrs")
    with pytest.raises(TypeError, match="no option 'dept'; it takes: scale, channels, depth, features"):
        build_front_end("vdsr", dept=3)
    with pytest.raises(ValueError, match="EDSR has no scale 5; allowed: 2, 3, 4, 8"):
        build_front_end("edsr_baseline", scale=5)
    with pytest.raises(ValueError, match=r"no scale 0; allowed: any whole number"):
        build_front_end("bicubic", scale=0)
    with pytest.raises(ValueError, match="2 channels; allowed: 1"):
        build_front_end("vdsr", channels=2)
    with pytest.raises(ValueError, match="odd sides"):
        build_front_end("srcnn", kernels=(9, 2, 5))
    with pytest.raises(ValueError, match="8 features cannot be reduced 16"):
        build_front_end("rcan", features=8)
    with pytest.raises(ValueError, match="at least 2 layers"):
        build_front_end("vdsr", depth=1)


def test_inputs_that_are_no_images_are_refused():
    bicubic = build_front_end("bicubic")
    with pytest.raises(TypeError, match="divide 8-bit images by 255"):
        bicubic(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    for shape in [(3, 4, 4), (1, 1, 4, 4), (1, 3, 0, 4)]:
        with pytest.raises(ValueError, match="shape"):
            bicubic(torch.zeros(shape))
    with pytest.raises(ValueError, match="height, width"):
        bicubic(torch.zeros(1, 3, 4, 4), (0, 4))


def test_files_that_do_not_fit_are_refused(tmp_path):
    vdsr = VDSR(depth=3, features=4)
    with pytest.raises(FileNotFoundError, match=r"no weights at .*none\.pth"):
        load_weights(vdsr, tmp_path / "none.pth")

    other = VDSR(depth=4, features=4).state_dict()
    torch.save(other, tmp_path / "deeper.pth")
    with pytest.raises(ValueError, match=r"deeper\.pth does not fit VDSR.* has besides middle\.1\.weight"):
        load_weights(vdsr, tmp_path / "deeper.pth")

    torch.save(VDSR(depth=3, features=4, channels=3).state_dict(), tmp_path / "rgb.pth")
    with pytest.raises(ValueError, match=r"first\.weight \(4, 3, 3, 3\) for \(4, 1, 3, 3\)"):
        load_weights(vdsr, tmp_path / "rgb.pth")

    torch.save({"epoch": 3}, tmp_path / "no_state.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_weights(vdsr, tmp_path / "no_state.pth")

    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.pth is no checkpoint: it begins with b\'not a checkpoint\'"):
        load_weights(vdsr, tmp_path / "broken.pth")

    # A whole pickled module is code: it must not be run.
    torch.save(vdsr, tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"module\.pth is no checkpoint, or holds more than tensors"):
        load_weights(vdsr, tmp_path / "module.pth")


@pytest.fixture(scope="module")
def magnifying(tmp_path_factory):
    """A small FSRCNN of scale 3 that repeats pixels, and the file of its weights."""
    net = build_front_end("fsrcnn", scale=3, features=6, shrunk=4, depth=1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.first[0].weight[0, 0, 2, 2] = net.middle[0].weight[0, 0] = net.middle[2].weight[0, 0, 1, 1] = 1
        net.middle[4].weight[0, 0] = 1
        net.last.weight[0, 0, 4:7, 4:7] = 1
    path = tmp_path_factory.mktemp("weights") / "three.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_weights_of_another_scale_are_refused(magnifying, scale):
    with pytest.raises(ValueError, match=rf"three\.pth is of FSRCNN at scale 3, not {scale}: .* Set scale 3"):
        build_front_end("fsrcnn", scale=scale, features=6, shrunk=4, depth=1, weights=magnifying)


def test_weights_of_the_asked_scale_are_read(magnifying):
    net = build_front_end("fsrcnn", scale=3, features=6, shrunk=4, depth=1, weights=magnifying)
    x = torch.rand(1, 3, 5, 4)
    repeated = x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    shown = net.net(repeated[:, :1, ::3, ::3])
    torch.testing.assert_close(shown, repeated[:, :1])


def test_a_model_refuses_a_front_end_of_another_scale(magnifying, tmp_path):
    options = {"sr": "fsrcnn", "sr_options": {"features": 6, "shrunk": 4, "depth": 1}, "pretrained": False}
    three = build_model("sr_reid", sr_scale=3, sr_weights=str(magnifying), **options)
    torch.save({"models": {"model": three.state_dict()}}, tmp_path / "last.pth.tar")
    load_model_weights(build_model("sr_reid", sr_scale=3, **options), tmp_path / "last.pth.tar", strict=True)
    with pytest.raises(ValueError, match=r"last\.pth\.tar is of FSRCNN at scale 3, not 4"):
        load_model_weights(build_model("sr_reid", sr_scale=4, **options), tmp_path / "last.pth.tar", strict=True)


@every_front_end
def test_shapes_or_a_picture_tell_the_scale_of_a_net_that_magnifies(case):
    name, options = TINY[case]
    front_end = build(case)
    if front_end.pre_upsampled:
        return  # works on the target grid, whatever the scale
    own = {key: value.shape for key, value in front_end.state_dict().items()}
    for scale in {2, 3, 4} - {front_end.scale}:
        try:
            other = build_front_end(name, **{**options, "scale": scale})
        except ValueError:  # no such scale
            continue
        if {key: value.shape for key, value in other.state_dict().items()} == own:
            twin = front_end.at_scale(scale)
            assert twin(torch.rand(1, 3, 4, 4)).shape[-1] == 4 * scale and front_end.scale != scale


def test_weights_that_are_not_finite_are_refused(tmp_path):
    vdsr = VDSR(depth=3, features=4)
    state = vdsr.state_dict()
    state["last.weight"] = state["last.weight"].clone()
    state["last.weight"][0, 0] = math.nan
    torch.save(state, tmp_path / "failed.pth")
    with pytest.raises(ValueError, match=r"failed\.pth holds NaN or infinity, in last\.weight"):
        load_weights(VDSR(depth=3, features=4), tmp_path / "failed.pth")
    with pytest.raises(ValueError, match=r"failed\.pth holds NaN or infinity, in last\.weight"):
        load_model_weights(VDSR(depth=3, features=4), tmp_path / "failed.pth")


def test_data_parallel_and_safetensors_files_load(tmp_path):
    from safetensors.torch import save_file

    saved = VDSR(depth=3, features=4)
    torch.save({f"module.{k}": v for k, v in saved.state_dict().items()}, tmp_path / "parallel.pth")
    save_file(saved.state_dict(), tmp_path / "saved.safetensors")
    for file in ("parallel.pth", "saved.safetensors"):
        loaded = build_front_end("vdsr", depth=3, features=4, weights=tmp_path / file)
        assert torch.equal(loaded.first.weight, saved.first.weight)
