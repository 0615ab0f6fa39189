import torch

from torchreid_xres.jobs.job import own_runs


def test_all_but_natural_low_images_are_reconstructed(tiny_config, tmp_path):
    engine = own_runs(tiny_config(), 0, tmp_path)[0].engine()
    engine.set_model_mode("eval")
    data = next(iter(engine.train_loader))
    low = torch.zeros(len(data["pid"]), dtype=torch.bool)
    low[:3] = True
    data = {**data, "low": low, "rate_lr": torch.ones(len(low))}  # the first are low by nature, the others pairs at 1
    with torch.no_grad():
        output = engine.model(data["img_lr"], data["img_hr"])
        expected = (output.restored[3:] - output.original[3:]).abs().mean()
        found = engine.losses(data)["sr"]
        none = engine.losses({**data, "low": low | True})["sr"]
    torch.testing.assert_close(found, expected)
    assert expected > 0 and none == 0
