import pytest
import torch

from torchreid_xres import host
from torchreid_xres.keypoints import StackedHourglass
from torchreid_xres.keypoints.hourglass import Hourglass
from torchreid_xres.models import build_model

TINY = {"stacks": 2, "depth": 2, "width": 8}


def test_shapes_in_training_and_evaluation():
    model = StackedHourglass(**TINY)
    outputs = model(torch.randn(2, 3, 64, 32))
    assert [tuple(maps.shape) for maps in outputs] == [(2, 20, 16, 8)] * 2
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 3, 64, 32)).shape == (2, 20, 16, 8)


def test_evaluation_gives_the_last_stack():
    model, img = StackedHourglass(**TINY).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        last = model(img)
        model.training = True  # of the outermost module only: batch norm stays as it is
        every = model(img)
    assert torch.equal(last, every[-1]) and not torch.equal(last, every[0])


def test_size_of_the_default():
    """Three stacks of 256 channels: what is left of 64.1 M parameters beside KGNet's other parts."""
    model = StackedHourglass()
    assert sum(p.numel() for p in model.parameters()) == 9_707_388
    assert len(model.heads) == 3


@pytest.mark.slow
def test_the_default_takes_a_step_and_evaluates():
    model = StackedHourglass()
    sum(maps.square().sum() for maps in model(torch.randn(2, 3, 128, 128))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        assert model.eval()(torch.randn(1, 3, 128, 128)).shape == (1, 20, 32, 32)


@pytest.mark.parametrize("stacks, depth, width", [(1, 1, 4), (3, 3, 12)])
def test_every_parameter_gets_a_gradient(stacks, depth, width):
    model = StackedHourglass(stacks, depth, width)
    sum((maps - 1).square().sum() for maps in model(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_each_stack_refines_the_one_before():
    """The last maps depend on the first stack's maps, not on its features alone."""
    model, img = StackedHourglass(**TINY).eval(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = model(img)
        model.heads[0].bias += 1
        assert not torch.allclose(model(img), before)


def test_an_hourglass_goes_down_depth_times():
    sizes = []
    hourglass = Hourglass(3, 4)
    for module in hourglass.modules():
        if isinstance(module, torch.nn.MaxPool2d):
            module.register_forward_hook(lambda m, args, out: sizes.append(out.shape[-1]))
    assert hourglass(torch.randn(1, 4, 16, 16)).shape == (1, 4, 16, 16)
    assert sizes == [8, 4, 2]


def test_it_sees_the_whole_picture():
    model = StackedHourglass(stacks=1, depth=4, width=8).eval()
    img = torch.randn(1, 3, 128, 128, requires_grad=True)
    model(img)[0, :, 0, 0].sum().backward()
    assert img.grad[..., -16:, -16:].abs().sum() > 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stacks": 0}, "stacks of a stacked hourglass is at least 1, not 0"),
        ({"depth": 0}, "depth of a stacked hourglass is at least 1"),
        ({"width": 10}, "multiple of 4, not 10"),
        ({"targets": "gauss"}, "'gauss'; there are: gaussian, binary"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StackedHourglass(**{**TINY, **options})


def test_a_picture_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"multiples of 16, not \(40, 32\)"):
        StackedHourglass(**TINY)(torch.randn(1, 3, 40, 32))


def test_the_factories_build_it():
    model = build_model("hourglass_vehicle20", num_classes=7, loss="triplet", targets="binary", **TINY)
    assert model.targets == "binary" and len(model.heads) == 2
    assert isinstance(host.build_model("hourglass_vehicle20", pretrained=False, use_gpu=False), StackedHourglass)
