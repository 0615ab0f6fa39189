"""Run configurations, alone or under torchrun, and keep what happens: distributed_job.py CASES OUT.

CASES is JSON, {name: {"keys": {dotted key: value}, "stop": epoch}}; a run with ``stop`` is interrupted in that epoch
and goes on. OUT gets {name: {"steps": [losses], "records": [record], "shares": [identities of each process, each step],
"draws": [random numbers of each process]}}. Networks keep their batch normalisation, which knows its own share only on
CPUs, and drop nothing out. All is computed in double precision: that batches are cut in two changes the order of sums,
which training in single precision makes visible.
"""

import json
import sys

import tiny_jobs  # noqa: F401  (its network)
import torch
from doubles import cast, everything_in_double
from torch import distributed as dist
from torch import nn

from torchreid_xres.config import load_config
from torchreid_xres.devices import distributed, parallel
from torchreid_xres.jobs.job import run_job
from torchreid_xres.jobs.logs import logged_to
from torchreid_xres.jobs.run import Run


class StopHereError(Exception):
    pass


def calmed(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
        module.train = lambda mode=True: module
    if isinstance(module, nn.Dropout):
        module.p = 0.0


class Watch:
    """Looks on while jobs run; in one process or in all."""

    def __init__(self):
        self.steps, self.shares, self.draws, self.stop = [], [], [], None

    def __enter__(self):
        self.real = Run.engine, parallel.SharedLoader._whole
        Run.engine = lambda run: self.engine(self.real[0](run))
        parallel.SharedLoader._whole = lambda loader, part: self.whole(loader, part)
        return self

    def __exit__(self, *_):
        Run.engine, parallel.SharedLoader._whole = self.real

    def engine(self, engine):
        engine.model.apply(calmed)
        step, extract = engine.forward_backward, engine.extract

        def kept(data):
            if self.stop == engine.epoch:
                self.stop = None
                raise StopHereError
            self.steps.append(step(cast(data, torch.float64)))
            return self.steps[-1]

        engine.forward_backward = kept
        engine.extract = lambda batch: extract(cast(batch, torch.float64))
        return engine

    def whole(self, loader, part):
        self.shares.append(part["pid"].tolist())
        with distributed.own_draws():
            self.draws.append(float(torch.rand(())))
        return self.real[1](loader, part)

    def found(self, records):
        sides = {"shares": self.shares, "draws": self.draws}
        every = [sides]
        if distributed.active():
            every = [None] * distributed.world()
            dist.all_gather_object(every, sides)
        return {"records": records, "steps": self.steps} | {key: [one[key] for one in every] for key in sides}


def main(cases, out):
    found = {}
    with open(cases, encoding="utf-8") as file:
        wanted = json.load(file)
    with everything_in_double(), distributed.processes(use_gpu=False):
        for name, case in wanted.items():
            cfg = load_config(None, [part for pair in case["keys"].items() for part in pair])
            with Watch() as watch, logged_to(cfg.data.save_dir, "train"):
                watch.stop = case.get("stop")
                try:
                    records = run_job(cfg)
                except StopHereError:
                    torch.rand(7)  # a new process would not have the same state either
                    records = run_job(cfg)
                found[name] = watch.found(records)
        if distributed.is_main():
            with open(out, "w", encoding="utf-8") as file:
                json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
