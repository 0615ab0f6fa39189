"""The host's zoo in the memory layout that this package trains in."""

import pytest
import torch

from torchreid_xres import host
from torchreid_xres.host_mends import bare_host
from torchreid_xres.models import MODELS

models = host.torchreid.models
HACNN = (160, 64)


def answers(name, size=(256, 128)):
    """Let a network of the zoo train and describe two images whose channels come last; whether it can."""
    layout = {"memory_format": torch.channels_last}
    model = models.build_model(name, 3, pretrained=False, use_gpu=False).to(**layout)
    images = torch.rand(2, 3, *size).to(**layout)
    with torch.no_grad():
        model.train()(images)
        return model.eval()(images)


@pytest.mark.slow
@pytest.mark.mend("zoo-layout")
@pytest.mark.parametrize("name", ["pcb_p4", "pcb_p6", "mudeep"])
def test_maps_whose_channels_come_last(name):
    with bare_host(), pytest.raises(RuntimeError, match="view size is not compatible"):
        answers(name)
    assert answers(name).dim() == 2


@pytest.mark.slow
def test_every_network_of_the_zoo_takes_every_layout():
    zoo = set(vars(models)["__model_factory"]) - set(MODELS)
    assert len(zoo) > 45
    for name in sorted(zoo):
        assert answers(name, HACNN if name == "hacnn" else (256, 128)).dim() == 2, name
