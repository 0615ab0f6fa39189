"""Networks taken apart: sizes, weights from a file, and what is said where there are none."""

import pytest
import torch
import torchvision

from torchreid_xres.models.staged_trunk import staged_trunk


@pytest.mark.parametrize(("name", "last"), [("resnet18", 512), ("resnet50", 2048), ("osnet_x0_25", 128)])
def test_trunks_end_at_a_sixteenth(name, last):
    trunk = staged_trunk(name, pretrained=False)
    x = trunk.stem(torch.zeros(1, 3, 64, 32))
    assert x.shape == (1, trunk.channels[0], 16, 8)
    for stage, channels in zip(trunk.stages, trunk.channels[1:], strict=True):
        x = stage.eval()(x)
        assert x.shape[1] == channels
    assert x.shape == (1, last, 4, 2)


def test_a_trunk_starts_from_a_file_under_the_networks_own_names(tmp_path):
    whole = torchvision.models.resnet18(weights=None)
    torch.save(whole.state_dict(), tmp_path / "resnet18.pth")
    trunk = staged_trunk("resnet18", pretrained=True, weights=str(tmp_path / "resnet18.pth"))
    assert torch.equal(trunk.stages[3][1].conv2.weight, whole.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match="no trunk 'vgg16'; there are: resnet18"):
        staged_trunk("vgg16")


def test_weights_that_cannot_be_had_are_said_so(monkeypatch, caplog):
    real = torchvision.models.get_model

    def offline(name, weights=None):
        if weights:
            raise OSError("no route to host")
        return real(name, weights=None)

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    assert staged_trunk("resnet18", pretrained=True).channels[-1] == 512
    assert "no ImageNet weights for resnet18 could be had (no route to host)" in caplog.text
