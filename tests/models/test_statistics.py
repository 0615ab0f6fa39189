"""Batch statistics that are measured anew."""

import pytest
import torch
from torch import nn

from torchreid_xres.models.statistics import measure_statistics


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 2, 3),
                         nn.BatchNorm2d(2))  # fmt: skip


def test_each_layer_is_measured_behind_measured_layers_and_nothing_else_changes():
    model, images = two_layers(), torch.rand(2, 8, 3, 9, 9) * 3 + 1
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert measure_statistics(model, model, images) == 2
    # The slow way, batch by batch: normalised by the batch's own figures, which are then averaged.
    means, variances = ([], []), ([], [])
    for batch in images:
        x = batch
        for layer in model:
            if isinstance(layer, nn.BatchNorm2d):
                place = 0 if layer.num_features == 4 else 1
                mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
                means[place].append(mean)
                variances[place].append(variance)
                x = (x - mean[:, None, None]) / torch.sqrt(x.var((0, 2, 3), correction=0) + layer.eps)[:, None, None]
                x = x * layer.weight[:, None, None] + layer.bias[:, None, None]
            elif not isinstance(layer, nn.Dropout):
                x = layer(x)
    for place, layer in enumerate((model[1], model[5])):
        assert torch.allclose(layer.running_mean, torch.stack(means[place]).mean(0), atol=1e-5)
        assert torch.allclose(layer.running_var, torch.stack(variances[place]).mean(0), atol=1e-5)
        assert layer.momentum == 0.1
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{n}.{what}" for n in (1, 5) for what in ("running_mean", "running_var", "num_batches_tracked")}
    assert not any(part.training for part in model.modules())


def test_a_layer_that_no_image_passes_stays_as_it_was():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen, self.training_alone = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.seen(x)

    model = Branched()
    nn.init.constant_(model.training_alone.running_mean, 7.0)
    assert measure_statistics(model, model, [torch.rand(4, 3, 5, 5)]) == 1
    assert model.training_alone.running_mean.tolist() == [7.0] * 3


@pytest.mark.parametrize("batches", [[torch.rand(2, 3, 8, 8)], []])
def test_what_cannot_be_measured_is_refused_and_stays(batches):
    model = nn.Conv2d(3, 2, 3) if batches else two_layers()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="has no batch normalisation to measure anew, or there is no image"):
        measure_statistics(model, model, batches)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_exposure_of_the_same_images_is_seen_as_the_same():
    """What AdaBN is for: what a camera does to all its images alike is gone."""
    model, images = two_layers(), torch.rand(32, 3, 12, 12)
    seen = []
    for exposed in (images, 0.5 * images + 0.7):
        measure_statistics(model, model, [exposed])
        seen.append(model(exposed))
    assert torch.allclose(*seen, atol=1e-2) and seen[0].std() > 0.3
