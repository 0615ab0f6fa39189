"""HRNet-ReID and PS-HRNet's student: lengths, pooling, what each mode returns."""

import pytest
import torch

import torchreid_xres  # noqa: F401 (registers)
from torchreid_xres import host
from torchreid_xres.models import build_model
from torchreid_xres.models.hrnet_reid import HRNetReIDOutput

SMALL = {"pretrained": False, "backbone": "hrnet_w18_small"}
TINY_SR = {"sr_options": {"depth": 3, "features": 4, "squeezed": 2}}


def test_sequences_have_the_papers_lengths_at_the_papers_size():
    model = build_model("psh_rnet", num_classes=751, pretrained=False).eval()
    with torch.no_grad():
        out = model(torch.zeros(1, 3, 256, 128), full=True)
        assert model(torch.zeros(1, 3, 256, 128)).shape == (1, 6656)
    assert [seq.shape[1] for seq in out.reid.seqs] == [2048, 1024, 2048, 1024, 6144]
    assert out.reid.embedding.shape == (1, 512) and out.reid.logits.shape == (1, 751)
    assert out.restored.shape == (1, 3, 256, 128)
    # 43.394 M as the published code instantiates it, less the 8.302 M of ImageNet head that it never uses.
    assert sum(p.numel() for p in model.parameters()) == 35_091_831
    assert sum(p.numel() for p in model.front_end.parameters()) == 677_448


def slow_pool(x, n, share):
    """Equation 6 for one map (C, H, W) whose sides n divides."""
    _, height, width = x.shape
    out = []
    for channel in x.tolist():
        for i in range(n):
            for j in range(n):
                rows = range(i * height // n, (i + 1) * height // n)
                cells = [channel[a][b] for a in rows for b in range(j * width // n, (j + 1) * width // n)]
                out.append(sum(cells) / len(cells) + share * max(cells))
    return torch.tensor(out)


@pytest.mark.parametrize(("pooling", "share"), [("both", (0.5, 0.2, 0.2, 0.2)), ("avg", (0, 0, 0, 0))])
def test_sequences_are_equation_6(pooling, share):
    model = build_model("hrnet_reid", pooling=pooling, **SMALL).eval()
    img = torch.randn(1, 3, 128, 64)
    with torch.no_grad():
        maps = model.backbone(img)
        seqs = model(img, full=True).seqs
    for x, n, s, seq in zip(maps, (4, 2, 2, 1), share, seqs[:4], strict=True):
        torch.testing.assert_close(seq[0], slow_pool(x[0], n, s), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seqs[4], torch.cat(seqs[:4], dim=1))


def test_max_pooling_alone_keeps_the_largest():
    model = build_model("hrnet_reid", pooling="max", **SMALL).eval()
    with torch.no_grad():
        maps, seqs = model.backbone(img := torch.randn(1, 3, 64, 32)), model(img, full=True).seqs
    torch.testing.assert_close(seqs[3], maps[3].amax(dim=(2, 3)))


def test_the_imagenet_head_folds_the_branches_as_the_classifier_of_hrnet_does():
    model = build_model("hrnet_reid", num_classes=5, head="imagenet", **SMALL).eval()
    img = torch.randn(2, 3, 64, 32)
    net = model.backbone
    with torch.no_grad():
        branches = net.stages(net.act2(net.bn2(net.conv2(net.act1(net.bn1(net.conv1(img)))))))
        folded = net.incre_modules[0](branches[0])
        for widened, down, branch in zip(net.incre_modules[1:], net.downsamp_modules, branches[1:], strict=True):
            folded = widened(branch) + down(folded)
        expected = net.final_layer(folded).mean(dim=(2, 3))
        output = model(img, full=True)
        torch.testing.assert_close(model(img), expected)
        torch.testing.assert_close(output.logits, expected @ model.classifier.weight.T + model.classifier.bias)
    assert expected.shape == (2, 2048) and output.embedding is None and len(output.seqs) == 1
    logits, feature = build_model("hrnet_reid", num_classes=5, head="imagenet", loss="triplet", **SMALL).train()(img)
    assert logits.shape == (2, 5) and feature.shape == (2, 2048)
    with pytest.raises(ValueError, match="no head 'resnet'; allowed: reid, imagenet"):
        build_model("hrnet_reid", head="resnet", **SMALL)


@pytest.mark.parametrize("name", ["hrnet_reid", "psh_rnet"])
def test_the_hosts_engines_get_what_they_expect(name):
    img = torch.randn(2, 3, 64, 32)
    options = TINY_SR if name == "psh_rnet" else {}
    logits = build_model(name, num_classes=5, loss="softmax", **SMALL, **options).train()(img)
    assert logits.shape == (2, 5)
    logits, features = build_model(name, num_classes=5, loss="triplet", **SMALL, **options).train()(img)
    assert logits.shape == (2, 5) and features.shape == (2, 6144)
    assert build_model(name, **SMALL, **options).train()(img).shape == (2, 6656)


def test_every_parameter_of_the_student_gets_a_gradient():
    model = build_model("psh_rnet", num_classes=5, **SMALL, **TINY_SR)
    out = model(torch.randn(4, 3, 64, 32), full=True)
    assert isinstance(out.reid, HRNetReIDOutput)
    (out.reid.logits.logsumexp(1).mean() + out.restored.abs().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_sides_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="multiples of 32, not 160x80"):
        build_model("hrnet_reid", **SMALL)(torch.zeros(2, 3, 160, 80))
    with pytest.raises(ValueError, match="no pooling 'sum'; allowed: both, avg, max"):
        build_model("hrnet_reid", pooling="sum", **SMALL)


def test_weights_that_cannot_be_had_are_said_so(monkeypatch, caplog):
    import timm

    real = timm.create_model

    def offline(*args, pretrained=False, **kwargs):
        if pretrained:
            raise OSError("no route to host")
        return real(*args, pretrained=pretrained, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    model = build_model("hrnet_reid", pretrained=True, backbone="hrnet_w18_small")
    assert "no ImageNet weights for hrnet_w18_small could be had (no route to host)" in caplog.text
    assert model.feature_dim == 6144


def test_the_backbone_starts_from_a_file(tmp_path):
    import timm

    sizes = {"features_only": True, "feature_location": "incre", "out_indices": (1, 2, 3, 4)}
    trained = timm.create_model("hrnet_w18_small", pretrained=False, **sizes)
    torch.save(trained.state_dict(), tmp_path / "hrnet.pth")
    model = build_model("hrnet_reid", **SMALL | {"pretrained": True}, backbone_weights=tmp_path / "hrnet.pth")
    torch.testing.assert_close(model.backbone.conv1.weight, trained.conv1.weight)


def test_built_through_the_host():
    model = host.build_model("hrnet_reid", num_classes=3, pretrained=False)
    assert model.classifier.out_features == 3
