"""Attention to faces and the group fusion against loops written from KGNet's Equation 4."""

import math

import pytest
import torch
from torch.nn import functional as F

from torchreid_xres.keypoints import FACES3, FACES3_DISJOINT, FACES4, gaussian_maps
from torchreid_xres.keypoints.attention import GroupFusion, KeypointAlignment, face_attention


def slow_attention(maps, faces):
    """Softmax over the faces of the sums D_k of maps that peak at 1, at the maps' own size."""
    n, _, height, width = maps.shape
    maps = torch.stack([torch.stack([one / max(one.max(), 0.05) for one in image]) for image in maps])
    out = torch.zeros(n, len(faces), height, width)
    for i in range(n):
        for y in range(height):
            for x in range(width):
                sums = [sum(float(maps[i, point, y, x]) for point in points) for points in faces.values()]
                total = sum(math.exp(s) for s in sums)
                for k, s in enumerate(sums):
                    out[i, k, y, x] = math.exp(s) / total
    return out


@pytest.mark.parametrize("faces", [FACES4, FACES3, FACES3_DISJOINT])
def test_attention_is_the_softmax_over_faces(faces):
    maps = torch.rand(2, 20, 5, 4)
    torch.testing.assert_close(face_attention(maps, (5, 4), faces), slow_attention(maps, faces))


@pytest.mark.parametrize("size", [(16, 16), (32, 32), (128, 128)])
def test_attention_sums_to_one_at_every_size_and_peaks_at_the_face(size):
    points = torch.full((1, 20, 2), -1.0)
    points[0, FACES4["back"][-1]] = torch.tensor([0.75, 0.25])  # the rear plate
    attention = face_attention(gaussian_maps(points, (32, 32)) * (points[..., :1, None] >= 0), size)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(1, *size))
    back = attention[0, list(FACES4).index("back")]
    y, x = divmod(int(back.argmax()), size[1])
    assert abs((x + 0.5) / size[1] - 0.75) < 0.04 and abs((y + 0.5) / size[0] - 0.25) < 0.04
    assert back.max() > 0.3 and back[-1, 0] == pytest.approx(0.25)


def test_maps_shrink_by_averages_before_the_softmax():
    maps = torch.rand(1, 20, 4, 4)
    maps = maps / maps.amax(dim=(2, 3), keepdim=True)
    small = maps.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean(dim=(3, 5))
    sums = [small[0, list(points)].sum(dim=0) for points in FACES4.values()]
    torch.testing.assert_close(face_attention(maps, (2, 2)), torch.stack(sums).softmax(dim=0)[None])


def test_a_network_that_is_unsure_still_says_where_the_faces_are():
    points = torch.full((1, 20, 2), -1.0)
    points[0, FACES4["back"][-1]] = torch.tensor([0.75, 0.25])
    sure = gaussian_maps(points, (32, 32)) * (points[..., :1, None] >= 0)
    torch.testing.assert_close(face_attention(0.2 * sure, (32, 32)), face_attention(sure, (32, 32)))
    assert face_attention(0.2 * sure, (32, 32)).max() > 0.45  # of 0.25 where nothing is known
    assert face_attention(0.01 * sure, (32, 32)).max() < 0.3  # next to nothing stays little


def slow_features(fusion, x):
    """Each group on its own: its rows of the 1x1 convolution, then its kernels of every block."""
    c, slices = x.shape[1], []
    for k in range(fusion.groups):
        rows = slice(k * c, (k + 1) * c)
        g = F.leaky_relu(F.conv2d(x, fusion.expand.weight[rows], fusion.expand.bias[rows]), 0.2)
        for block in fusion.blocks:
            h = F.conv2d(g, block.first.weight[rows], block.first.bias[rows], padding=1)
            g = g + F.conv2d(F.leaky_relu(h, 0.2), block.second.weight[rows], block.second.bias[rows], padding=1)
        slices.append(g)
    return slices


def test_fusion_is_equation_4_with_features_of_each_group():
    fusion, x = GroupFusion(5, groups=4, blocks=2), torch.randn(2, 5, 6, 7)
    attention = torch.randn(2, 4, 6, 7).softmax(dim=1)
    expected = sum(g * attention[:, k : k + 1] for k, g in enumerate(slow_features(fusion, x)))
    torch.testing.assert_close(fusion(x, attention), expected, rtol=1e-4, atol=1e-5)


def test_permuting_the_groups_changes_the_fusion():
    fusion, x = GroupFusion(5, groups=4, blocks=1), torch.randn(1, 5, 6, 6)
    attention = (3 * torch.randn(1, 4, 6, 6)).softmax(dim=1)
    changed = (fusion(x, attention) - fusion(x, attention[:, [1, 0, 2, 3]])).abs()
    assert changed.mean() > 0.1 * fusion(x, attention).abs().mean()


def test_with_the_same_features_for_every_group_keypoints_would_do_nothing():
    """Why the literal Equation 4 is not enough: the attention maps sum to one."""
    fusion, x = GroupFusion(5, groups=4, blocks=1), torch.randn(1, 5, 6, 6)
    for weight in fusion.parameters():
        weight.data = weight.data.chunk(4)[0].repeat(4, *[1] * (weight.dim() - 1))
    a, b = (torch.randn(1, 4, 6, 6).softmax(dim=1) for _ in range(2))
    torch.testing.assert_close(fusion(x, a), fusion(x, b))


def test_the_papers_fusions_have_the_parameters_of_dic():
    assert sum(p.numel() for p in GroupFusion(64, groups=4, blocks=7).parameters()) == 2_084_608
    assert sum(p.numel() for p in KeypointAlignment().parameters()) == 2_052


def shaken(module):
    """The module with weights that do something: untrained, the alignment changes next to nothing."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module


@pytest.mark.parametrize("paired", [False, True])
def test_alignment_adds_the_weighed_features_to_the_image(paired):
    net, x = shaken(KeypointAlignment(blocks=2, paired=paired)), torch.rand(2, 3, 6, 6)
    attention = torch.randn(2, 3, 6, 6).softmax(dim=1)
    groups = slow_features(net.fusion, x)
    expected = x.clone()
    for k in range(3):
        if paired:  # the k-th map with the k-th channel
            expected[:, k] += attention[:, k] * groups[0][:, k]
        else:
            expected += attention[:, k : k + 1] * groups[k]
    torch.testing.assert_close(net(x, attention), expected, rtol=1e-4, atol=1e-5)
    assert (net(x, attention) - net(x, attention[:, [2, 1, 0]])).abs().max() > 0.1


@pytest.mark.parametrize("paired", [False, True])
def test_every_weight_of_a_fresh_alignment_gets_a_gradient(paired):
    net = KeypointAlignment(paired=paired)
    net(torch.rand(1, 3, 8, 8), torch.randn(1, 3, 8, 8).softmax(dim=1)).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []
