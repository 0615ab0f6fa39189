"""Complexity against counts by hand, and against figures published with the networks."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from torchreid_xres import host
from torchreid_xres.comparison.complexity import comparison_table, complexity, complexity_table
from torchreid_xres.comparison.latency import latency
from torchreid_xres.models import MODELS, build_model
from torchreid_xres.sr import FRONT_ENDS, build_front_end


def of(model, *shape, depth=1):
    return complexity(model, torch.rand(*shape), depth)


def test_products_of_activations_stand_beside_the_layers():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(6, 4)
            self.mix = nn.Conv1d(4, 4, 1)

        def forward(self, x):  # (N, L, 6)
            x = self.embed(x)
            return self.mix((x @ x.transpose(1, 2) @ x).transpose(1, 2))

    found = of(Attention(), 2, 5, 6)
    assert found.in_layers == 2 * 5 * 6 * 4 + 2 * 5 * 4 * 4
    assert found.products == 2 * (5 * 4 * 5) * 2


def by_name(found):
    return {part.name: (part.parameters, part.unused, part.multiply_adds) for part in found.parts}


def convolutions_by_loop(model, image):
    """Every convolution and linear layer that runs, from its own sizes: outputs x inputs of one output."""
    total = 0

    def add(layer, _, out):
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kh, kw = layer.kernel_size
            total += out.numel() * kh * kw * layer.in_channels // layer.groups
        else:
            total += out.numel() * layer.in_features

    handles = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    with torch.no_grad():
        model.eval()(image)
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(
    "layer, shape, multiply_adds",
    [
        (nn.Conv2d(3, 8, 5, stride=2, padding=2), (2, 3, 12, 8), 2 * 8 * (6 * 4) * 3 * 25),
        (nn.Conv2d(12, 6, 3, padding=1, groups=3), (1, 12, 7, 5), 6 * (7 * 5) * 4 * 9),
        (nn.Conv2d(16, 16, 3, padding=1, groups=16), (1, 16, 7, 5), 16 * (7 * 5) * 9),
        (nn.Conv2d(4, 4, 3, dilation=2), (1, 4, 9, 9), 4 * (5 * 5) * 4 * 9),
        # transposed: each input pixel meets the whole kernel
        (nn.ConvTranspose2d(4, 6, 9, stride=3, padding=4), (1, 4, 5, 5), 4 * (5 * 5) * 6 * 81),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, groups=2), (1, 4, 5, 5), 4 * (5 * 5) * 3 * 16),
        (nn.Linear(10, 7), (3, 4, 10), 3 * 4 * 10 * 7),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)), (1, 4, 8, 8), 0),
    ],
)
def test_single_layers_by_hand(layer, shape, multiply_adds):
    found = of(layer, *shape)
    assert found.multiply_adds == multiply_adds
    assert found.parameters == sum(p.numel() for p in layer.parameters())


class Attention(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.qkv, self.fused = nn.Linear(24, 72), fused

    def forward(self, x):  # (N, L, 24)
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 6)).permute(2, 0, 3, 1, 4)  # three of (N, 4 heads, L, 6)
        if self.fused:
            return F.scaled_dot_product_attention(q, k, v)
        return (q @ k.mT / 6**0.5).softmax(-1) @ v


@pytest.mark.parametrize("fused", [True, False])
def test_attention_by_hand(fused):
    n, length, width = 2, 10, 24
    counted = by_name(of(Attention(fused), n, length, width))
    assert counted["qkv"][2] == n * length * width * 3 * width
    assert counted["(itself)"][2] == n * 2 * length * length * width  # scores, then the sum of the values


@pytest.mark.parametrize("training", [True, False])
def test_an_encoder_layer_of_torch_is_counted_in_spite_of_its_fast_path(training):
    layer = nn.TransformerEncoderLayer(24, 4, 48, batch_first=True).train(training)
    n, length, width = 2, 10, 24
    assert of(layer, n, length, width).multiply_adds == (
        n * length * (4 * width * width + 2 * width * 48) + n * 2 * length * length * width
    )
    assert torch.backends.mha.get_fastpath_enabled()
    assert layer.training is training


class Products(nn.Module):
    def forward(self, a):  # (6, 4)
        v = a[0]
        return a @ v, v @ v, torch.addmv(a[:, 0], a, v), torch.einsum("ik,jk->ij", a, a), a[None] @ a.t()[None]


def test_every_kind_of_product_counts():
    assert of(Products(), 6, 4).multiply_adds == 24 + 4 + 24 + 6 * 6 * 4 + 6 * 6 * 4


class Odd(nn.Module):
    """What papers and counters disagree on: a trunk used twice, a head of the training, tensors of the model's own."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.other = nn.ModuleList([self.trunk, nn.Linear(4, 4, bias=False)])
        self.weight = nn.Parameter(torch.rand(5, 4))
        self.classifier = nn.Linear(5, 9)
        self.register_buffer("table", torch.zeros(1000))

    def forward(self, x):  # (N, 3, H, W)
        y = self.trunk(x) + self.other[0](x.flip(-1))
        z = F.linear(self.other[1](y.mean((2, 3))), self.weight)
        return self.classifier(z) if self.training else z

    def extract(self, batch):
        return self(batch["img"][batch["low"]])


def test_parts_add_up_and_shared_modules_count_once_but_run_twice():
    found = of(Odd(), 1, 3, 8, 6)
    assert by_name(found) == {
        "(itself)": (20, 0, 20),
        "trunk": (4 * 27 + 4, 0, 2 * 4 * 48 * 27),
        "other": (16, 0, 16),
        "classifier": (54, 54, 0),
    }
    assert found.parameters == sum(p.numel() for p in Odd().parameters())
    assert found.unused == 54


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_depth_changes_the_rows_and_not_the_sums(depth):
    found, whole = of(Odd(), 1, 3, 8, 6, depth=depth), of(Odd(), 1, 3, 8, 6)
    assert (found.parameters, found.unused, found.multiply_adds) == (whole.parameters, 54, whole.multiply_adds)
    names = {0: ["(itself)"], 1: ["(itself)", "trunk", "other", "classifier"]}
    deep = ["(itself)", "trunk.0", "other.1", "classifier"]
    assert [part.name for part in found.parts] == names.get(depth, deep)


def test_a_batch_goes_through_extract():
    model, batch = Odd(), {"img": torch.rand(3, 3, 8, 6), "low": torch.tensor([True, False, True])}
    assert complexity(model, batch).multiply_adds == 2 * of(model, 1, 3, 8, 6).multiply_adds
    with pytest.raises(TypeError, match="Linear has no extract"):
        complexity(nn.Linear(2, 2), batch)


def test_the_model_is_left_as_it_was():
    model = Odd()
    model.trunk.eval()
    of(model, 1, 3, 8, 6)
    latency(model, torch.rand(1, 3, 8, 6), runs=2, warmup=0)
    assert model.training and model.classifier.training and not model.trunk.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(RuntimeError):
        of(model, 1, 4, 8, 6)
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_memory_is_the_largest_sum_of_living_tensors():
    image = 4 * 32 * 32  # bytes of one channel
    chain = nn.Sequential(*(nn.Conv2d(c, d, 1) for c, d in ((2, 8), (8, 16), (16, 1))))
    # the input all the time, beside it the two sides of the middle layer
    assert of(chain, 1, 2, 32, 32).tensor_bytes == (2 + 8 + 16) * image
    view = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 32, 32)))
    assert of(view, 1, 2, 32, 32).tensor_bytes == 2 * image
    in_place = nn.Sequential(nn.ReLU(inplace=True), nn.ReLU(inplace=True))
    assert of(in_place, 1, 2, 32, 32).tensor_bytes == 2 * image


def test_memory_while_each_part_runs():
    image = 4 * 32 * 32  # bytes of one channel

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Conv2d(2, 16, 1)
            self.thin = nn.Conv2d(16, 1, 1)

        def forward(self, x):
            return self.thin(self.wide(x)) + 1

    found = {part.name: part.tensor_bytes for part in of(Pair(), 1, 2, 32, 32).parts}
    # The input stays throughout; the wide map is alive while the thin one is made.
    assert found == {"wide": (2 + 16) * image, "thin": (2 + 16 + 1) * image}


def test_resnet50_by_loop_and_as_published():
    model = host.build_model("resnet50", num_classes=751, pretrained=False)
    found = of(model, 1, 3, 256, 128)
    assert found.multiply_adds == convolutions_by_loop(model, torch.rand(1, 3, 256, 128))
    assert found.multiply_adds == pytest.approx(2.669e9, rel=1e-3)
    assert found.parameters == 23_508_032 + 2048 * 751 + 751  # without and with the classifier
    assert found.unused == 2048 * 751 + 751


def test_vdsr_by_hand():
    # 20 layers of 3x3 on the luminance of the target grid: 1 -> 64, 18 times 64 -> 64, 64 -> 1
    found = complexity(build_front_end("vdsr"), (torch.rand(1, 3, 64, 32), (256, 128)))
    assert found.multiply_adds == 256 * 128 * found.parameters
    assert found.parameters == 664_704


@pytest.mark.slow
@pytest.mark.parametrize(
    "build, giga",
    [
        (lambda: host.build_model("osnet_x1_0", num_classes=0, pretrained=False), 0.979),
        (lambda: pytest.importorskip("timm").create_model("hrnet_w32", num_classes=0), 5.825),
    ],
)
def test_networks_at_256x128_as_other_counters_have_it(build, giga):
    model = build()
    found = of(model, 1, 3, 256, 128)
    assert found.multiply_adds == pytest.approx(giga * 1e9, rel=1e-3)
    assert found.multiply_adds == convolutions_by_loop(model, torch.rand(1, 3, 256, 128))


@pytest.mark.slow
@pytest.mark.parametrize("arch, mega, giga", [("RCAN", 15.59, 32.60), ("SwinIR", 11.90, 26.78), ("SPAN", 2.24, 1.59)])
def test_front_ends_of_spandrel_as_other_counters_have_it(arch, mega, giga):
    pytest.importorskip("spandrel")
    found = complexity(build_front_end("spandrel", arch=arch), (torch.rand(1, 3, 64, 32), (256, 128)))
    assert found.parameters == pytest.approx(mega * 1e6, rel=2e-3)
    assert found.multiply_adds == pytest.approx(giga * 1e9, rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FRONT_ENDS if not FRONT_ENDS[name].meta["info"].reads_weights])
def test_every_front_end_is_counted(name):
    front_end = build_front_end(name)
    found = complexity(front_end, (torch.rand(1, 3, 64, 32), (256, 128)))
    assert found.parameters == sum(p.numel() for p in front_end.parameters())
    # Every weight meets at least one pixel of the small image.
    assert found.multiply_adds >= 64 * 32 * found.parameters * 0.9
    assert found.unused == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_every_model_is_counted_at_its_papers_size(name):
    model = build_model(name, num_classes=10, pretrained=False)
    found = of(model, 1, 3, 256, 128)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.multiply_adds > 0 and found.tensor_bytes > 4 * 3 * 256 * 128


# Networks of a fixed input, by their own assertions.
SIZES = {"hacnn": (160, 64), "mudeep": (256, 128)}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(host.model_factory()) - set(MODELS)))
def test_every_model_of_the_zoo_is_counted(name):
    model = host.build_model(name, num_classes=10, pretrained=False, use_gpu=False)
    height, width = SIZES.get(name, (256, 128))
    image = torch.rand(1, 3, height, width)
    found = complexity(model, image)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.multiply_adds >= convolutions_by_loop(model, image) > 0


def test_tables():
    found = of(Odd(), 1, 3, 8, 6)
    lines = complexity_table(found).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == [
        "part", "parameters (M)", "of which unused (M)", "multiply-adds (G)", "share (%)", "tensors (MiB)",
    ]  # fmt: skip
    assert lines[-1].split("|")[1].strip() == "total" and lines[-1].split("|")[-3].strip() == "100.0"
    times = {"odd": latency(Odd(), torch.rand(1, 3, 8, 6), runs=2, warmup=0)}
    assert "latency (ms)" in comparison_table({"odd": found}, times)
    assert "latency" not in comparison_table({"odd": found})
    with pytest.raises(ValueError, match="not -1"):
        of(Odd(), 1, 3, 8, 6, depth=-1)
