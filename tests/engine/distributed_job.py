"""Run configurations, alone or under torchrun, and keep each step's losses: distributed_job.py CASES OUT.

CASES is JSON, {name: {dotted key: value}}. OUT gets {name: {"steps": [losses], "records": [record]}}. Networks keep
their batch normalisation as it is: on CPUs it knows its own share only.
"""

import json
import sys

from torch import nn

from torchreid_xres.config import load_config
from torchreid_xres.engine import distributed
from torchreid_xres.engine.job import run_job
from torchreid_xres.engine.logs import logged_to
from torchreid_xres.engine.run import Run


def frozen(module):
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
        module.train = lambda mode=True: module


def main(cases, out):
    found = {}
    real = Run.engine

    def watched(run):
        engine = real(run)
        engine.model.apply(frozen)
        step = engine.forward_backward

        def kept(data):
            steps.append(step(data))
            return steps[-1]

        engine.forward_backward = kept
        return engine

    Run.engine = watched
    with open(cases, encoding="utf-8") as file:
        wanted = json.load(file)
    with distributed.processes(use_gpu=False):
        for name, keys in wanted.items():
            steps = []
            cfg = load_config(None, [part for pair in keys.items() for part in pair])
            with logged_to(cfg.data.save_dir, "train"):
                found[name] = {"records": run_job(cfg), "steps": steps}
        if distributed.is_main():
            with open(out, "w", encoding="utf-8") as file:
                json.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
