import math

from torch.utils.tensorboard import SummaryWriter

from torchreid_xres.report.training import training_lines


def test_losses_of_a_training_that_was_stopped_and_went_on(tmp_path):
    for start, stop, value in ((0, 4, 1.0), (2, 6, 2.0)):
        with SummaryWriter(str(tmp_path)) as writer:
            for step in range(start, stop):
                writer.add_scalar("Train/loss", math.nan if step == 5 else value, step)
                writer.add_scalar("Train/time", 1.0, step)
            writer.add_scalar("Test/folder/rank1", 0.5, stop)
    lines = training_lines(tmp_path)
    assert list(lines) == ["loss"]
    # A step that was repeated counts as it was the last time; what is not a number cannot be drawn.
    assert [step for step, _ in lines["loss"]] == [0, 1, 2, 3, 4]
    assert dict(lines["loss"])[0] == 1.0 and dict(lines["loss"])[4] == 2.0


def test_a_folder_without_events(tmp_path):
    assert training_lines(tmp_path) == {}
