import pytest
import torch

from torchreid_xres.losses.multi_scale_reconstruction import multi_scale_reconstruction


def test_equations_1_to_4_by_loops():
    n, versions, shape = 3, 4, (3, 5, 4)
    # images[i][v] is version v (x_1/4, x_1/3, x_1/2, x_h) of the n images after network i
    images = [[torch.rand(n, *shape) for _ in range(versions)] for _ in range(3)]
    targets = [torch.rand(n, *shape) for _ in range(3)]  # x_1/3, x_1/2, x_h
    expected = []
    for i in range(3):
        total = 0.0
        for version in images[i]:
            errors = [
                float((version[k, c, y, x] - targets[i][k, c, y, x]) ** 2)
                for k in range(n) for c in range(3) for y in range(5) for x in range(4)
            ]  # fmt: skip
            total += sum(errors) / len(errors)
        expected.append(total)
    found = multi_scale_reconstruction([torch.cat(scale) for scale in images], targets)
    torch.testing.assert_close(found, torch.tensor(expected))
    assert float(found.sum()) == pytest.approx(sum(expected), rel=1e-5)


def test_gradients_reach_every_version_and_no_target():
    images, target = torch.rand(8, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 4, 4)
    multi_scale_reconstruction([images], [target]).sum().backward()
    assert (images.grad.flatten(1).abs().sum(1) > 0).all() and not target.requires_grad


def test_half_precision_is_summed_in_float32():
    images = torch.full((4, 3, 64, 64), 1.01).bfloat16()
    found = multi_scale_reconstruction([images], [torch.zeros(1, 3, 64, 64)])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0], 4 * images[0, 0, 0, 0].float().square())


def test_what_is_no_version_of_a_target_is_refused():
    with pytest.raises(ValueError, match="no versions"):
        multi_scale_reconstruction([torch.zeros(5, 3, 4, 4)], [torch.zeros(2, 3, 4, 4)])
    with pytest.raises(ValueError, match="no versions"):
        multi_scale_reconstruction([torch.zeros(4, 3, 4, 2)], [torch.zeros(2, 3, 4, 4)])
    with pytest.raises(ValueError, match="2 scales need a target each, not 1"):
        multi_scale_reconstruction([torch.zeros(2, 3, 4, 4)] * 2, [torch.zeros(2, 3, 4, 4)])
