"""What a training left for TensorBoard in its folder, as lines."""

from __future__ import annotations

import math
from pathlib import Path

from torchreid_xres.report.lines import Points

_EVENTS = "events.out.tfevents.*"
_NOT_LOSSES = {"time", "data"}  # the host's stop-watches


def training_lines(folder: str | Path) -> dict[str, Points]:
    """Return the losses, accuracy and learning rate of a training over its steps.

    Args:
        folder: of the run.

    Returns:
        Name as the engine gave it -> points (step, value); empty if the folder holds no events. What is not finite is
        left out.
    """
    folder = Path(folder)
    if not any(folder.glob(_EVENTS)):
        return {}
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # takes a second to import

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # 0: all of them
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        part, _, name = tag.partition("/")
        if part == "Train" and name not in _NOT_LOSSES:
            steps = {event.step: event.value for event in events.Scalars(tag) if math.isfinite(event.value)}
            if steps:  # of a step that was repeated after a stop the last value counts
                found[name] = sorted(steps.items())
    return found
