"""What a training leaves for TensorBoard, read back as TensorBoard reads it."""

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchreid_xres.engine.board import restored_grid
from torchreid_xres.jobs.job import own_runs, run_job
from torchreid_xres.models.layers import Normalization
from torchreid_xres.models.restored import restored_view


def events(cfg, model):
    found = EventAccumulator(str(Path(cfg.data.save_dir) / "split0" / model), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def built(cfg):
    run = own_runs(cfg, 0, Path(cfg.data.save_dir))[0]
    manager = run.datamanager()
    return run._model(manager.num_train_pids).eval(), manager.test_loader["folder"]["query"].dataset


def cells(grid, columns, size, padding=2):
    """Take a grid apart: (rows, columns, 3, H, W)."""
    height, width = size
    rows = (grid.shape[-2] - padding) // (height + padding)
    return torch.stack(
        [
            torch.stack(
                [
                    grid[:, top : top + height, left : left + width]
                    for left in range(padding, columns * (width + padding), width + padding)
                ]
            )
            for top in range(padding, rows * (height + padding), height + padding)
        ]
    )


def test_a_training_shows_losses_rates_accuracy_and_restored_images(tiny_config):
    cfg = tiny_config(test__eval_freq=1)
    (record,) = run_job(cfg)
    found = events(cfg, "sr_reid")
    scalars = found.Tags()["scalars"]
    assert {"Train/loss", "Train/lr", "Test/folder/rank1", "Test/folder/mAP"} <= set(scalars)
    assert [event.value for event in found.Scalars("Train/lr")] == pytest.approx([cfg.train.lr] * 6)
    last = {name: found.Scalars(f"Test/folder/{name}")[-1] for name in ("rank1", "mAP")}
    assert {name: event.value * 100 for name, event in last.items()} == pytest.approx(
        {name: record[name] for name in last}, abs=1e-3
    )
    assert [event.step for event in found.Scalars("Test/folder/mAP")] == [0, 1]

    images = found.Images("Test/folder/restored")
    assert [event.step for event in images] == [0, 1]
    first, second = (np.asarray(PIL.Image.open(io.BytesIO(event.encoded_image_string))) for event in images)
    assert first.shape == (4 * (32 + 2) + 2, 3 * (16 + 2) + 2, 3)
    middle = slice(2 + 18, 2 + 18 + 16)
    assert (first[:, middle] != second[:, middle]).any(), "the front end was trained in between"
    assert (np.delete(first, range(20, 36), 1) == np.delete(second, range(20, 36), 1)).all()


def test_a_network_without_a_front_end_shows_none(tiny_config):
    cfg = tiny_config(model__name="tiny_net", data__pairs=False, train__max_epoch=1)
    run_job(cfg)
    found = events(cfg, "tiny_net").Tags()
    assert "Test/folder/mAP" in found["scalars"] and found["images"] == []


def test_the_columns_are_low_restored_and_original(tiny_config):
    model, queries = built(tiny_config(data__norm_mean=[0.3, 0.4, 0.5], data__norm_std=[0.2, 0.3, 0.4]))
    low, restored, original = cells(restored_grid(model, queries, 4), 3, (32, 16)).unbind(1)
    normalize = Normalization([0.3, 0.4, 0.5], [0.2, 0.3, 0.4])
    paths = [path for path, *_ in queries.query]
    seen = torch.stack([normalize.undo(queries[i]["img"])[0] for i in range(len(queries))])
    captured = torch.stack([normalize.undo(queries.transform(queries.read(path)))[0] for path in paths])
    found = set()
    for row in range(4):
        place = int((seen - low[row]).abs().amax((1, 2, 3)).argmin())
        found.add(queries[place]["rate"])
        torch.testing.assert_close(low[row], seen[place])
        torch.testing.assert_close(original[row], captured[place])
        item = queries[place]
        batch = {"img": item["img"][None], "low": torch.tensor([True]), "rate": torch.tensor([item["rate"]])}
        view = restored_view(model, batch | {"size": item["size"][None], "role": ["query"]}, normalize)
        torch.testing.assert_close(restored[row], view[0])
    assert found == {2.0, 3.0, 4.0}, "every rate is shown"


def test_low_resolution_of_the_files_own_has_no_original(tiny_config):
    cfg = tiny_config(**{"data__options__folder": {"synthetic": False, "lr_camera": "1"}})
    model, queries = built(cfg)
    assert restored_grid(model, queries, 3).shape == (3, 3 * 34 + 2, 2 * 18 + 2)


def test_no_low_query_no_grid(tiny_config):
    cfg = tiny_config(**{"data__options__folder": {"synthetic": False}})
    assert restored_grid(*built(cfg)) is None


@pytest.mark.parametrize("count", [1, 50])
def test_there_are_no_more_rows_than_queries(tiny_config, count):
    model, queries = built(tiny_config())
    low = sum(queries.rate_of[path] != 1 for path, *_ in queries.query)
    assert restored_grid(model, queries, count).shape[1] == min(count, low) * 34 + 2
