import time

import pytest
import torch
from torch import nn

from torchreid_xres.comparison.complexity import complexity, complexity_table
from torchreid_xres.comparison.latency import latency, latency_by_part
from torchreid_xres.comparison.parts import part_names, parts_followed


class Busy(nn.Module):
    """Takes at least so many milliseconds of the processor."""

    def __init__(self, milliseconds):
        super().__init__()
        self.seconds = milliseconds / 1e3

    def forward(self, x):
        end = time.process_time() + self.seconds
        while time.process_time() < end:
            pass
        return x


class Net(nn.Module):
    """Parts that call each other's insides, and work of its own."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(Busy(2), Busy(2))
        self.second = nn.Sequential(Busy(8), nn.Linear(4, 4))
        self.never = Busy(1)
        self.own = [Busy(4)]  # in a list: no part

    def forward(self, x):
        x = self.own[0](self.second[0](self.first(x)))
        return self.second[1](x)


def test_latency_says_how_it_was_measured():
    model, calls = nn.Linear(4, 4), []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    took = latency(model, torch.rand(2, 4), runs=7, warmup=3)
    assert calls == [False] * 10
    assert 0 < took.lower <= took.median <= took.upper
    assert (took.runs, took.warmup, took.threads, took.device) == (7, 3, torch.get_num_threads(), "cpu")
    assert "ms median, quartiles" in str(took)
    assert str(took).endswith("7 runs after 3 to warm up, 1 thread(s), cpu, processor clock")
    with pytest.raises(ValueError, match="at least 2 runs, not 1"):
        latency(model, torch.rand(2, 4), runs=1)


def test_one_thread_counts_the_processors_time_only():
    class Sleeps(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return x

    assert latency(Sleeps(), torch.zeros(1), runs=3, warmup=0).median < 0.01


def test_each_moment_belongs_to_one_part():
    model = Net()
    found = latency_by_part(model, torch.rand(1, 4), runs=5, warmup=1)
    assert list(found) == ["(itself)", "first", "second"], "a part that does not run has no time"
    milliseconds = {part: 1e3 * took.median for part, took in found.items()}
    for part, least in {"(itself)": 4, "first": 4, "second": 8}.items():
        assert least <= milliseconds[part] < least + 2, part
    whole = 1e3 * latency(model, torch.rand(1, 4), runs=5, warmup=1).median
    assert sum(milliseconds.values()) == pytest.approx(whole, rel=0.2)
    deep = latency_by_part(model, torch.rand(1, 4), depth=2, runs=3, warmup=0)
    assert {"first.0", "first.1", "second.0", "second.1"} < set(deep)
    assert 1e3 * deep["second.0"].median >= 8 > 1e3 * deep["second.1"].median
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with pytest.raises(ValueError, match="not -1"):
        latency_by_part(model, torch.rand(1, 4), depth=-1)


def test_parts_are_settled_when_they_change():
    model, seen = Net(), []
    with parts_followed(model, 1, seen.append):
        model(torch.rand(1, 4))
    # What was the model's own before and between, and each part once: the two modules of ``first`` are one part.
    assert seen == ["", "first", "", "second", "", "second", ""]


def test_names_of_parts():
    assert part_names(Net(), 0) == {"": "(itself)"}
    assert list(part_names(Net(), 1).values()) == ["(itself)", "first", "second", "never"]
    assert part_names(Net(), 2)["first"] == "first.(itself)"


def test_times_stand_in_the_table():
    model, x = Net(), torch.rand(1, 4)
    times = latency_by_part(model, x, runs=2, warmup=0) | {"": latency(model, x, runs=2, warmup=0)}
    lines = complexity_table(complexity(model, x), times).splitlines()
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines}
    assert cells["part"][-2:] == ["latency (ms)", "quartiles (ms)"]
    assert float(cells["total"][-2]) > float(cells["second"][-2]) >= 8
    assert " to " in cells["second"][-1]
