"""Does jobs in forks of one process that has torch loaded, and kills them where it is told: forks.py, JSON lines.

A request is {"job": name, "args": [...], "watched": folder, "moment": number or null, "delay": seconds,
"signal": number}. The fork counts how often it opens, renames or removes a file in or below the watched folder; at
number ``moment``, and ``delay`` seconds later, it gets the signal. The reply is {"status", "events", "writes" (the
numbers of those that change something), "result", "output"}.
"""

import json
import logging
import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import tiny_jobs  # noqa: F401  (its network)
from scripts import script

from torchreid_xres.config import load_config
from torchreid_xres.files import write_text
from torchreid_xres.inference import Extractor
from torchreid_xres.jobs.fresh import set_aside, settle
from torchreid_xres.jobs.job import run_job
from torchreid_xres.search import Gallery


def run(config):
    """Training, restoring: whatever the configuration says."""
    return run_job(load_config(config))


def index(trained, gallery, images):
    done = vars(Gallery(gallery, Extractor(trained, batch_size=2)).update(images))
    return {name: value for name, value in done.items() if name != "tree"}


def start_over(folder):
    """A job in the place of an old one (see test_fresh.py), without networks."""
    folder = Path(folder)
    settle(folder)
    with set_aside(folder, ["split0/old", "split0/both"], ["split0/both", "split0/new/stage"]):
        for name in ("config.yaml", "stages.json", "split0/both/run.json", "split0/both/last.pth.tar"):
            write_text("new", folder / name)
        write_text("new", folder / "split0" / "new" / "stage" / "last.pth.tar")


def settled(folder):
    settle(Path(folder))


def tool(name, *args):
    """A program of the project, as its command line says."""
    return script(Path(__file__).parents[2] / "tools" / f"{name}.py").main(list(args))


JOBS = {"tool": tool, "run": run, "index": index, "start_over": start_over, "settle": settled}


EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")


class Watch:
    """Counts, and kills this process when the time has come."""

    def __init__(self, folder, moment, delay, number):
        self.folder, self.moment, self.delay, self.signal = folder, moment, delay, number
        self.events, self.writes = 0, []
        sys.addaudithook(self)

    def __call__(self, event, args):
        if event not in EVENTS or not str(args[0]).startswith(self.folder):
            return
        if event != "open" or (isinstance(args[1], str) and args[1][:1] in "wax") or args[2] & os.O_CREAT:
            self.writes.append(self.events)
        if self.events == self.moment:
            if not self.delay:
                os.kill(os.getpid(), self.signal)
            threading.Thread(target=self._later, daemon=True).start()
        self.events += 1

    def _later(self):
        time.sleep(self.delay)
        os.kill(os.getpid(), self.signal)


def child(request, reply, output):
    os.dup2(output, 1)
    os.dup2(output, 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    watch = Watch(request["watched"], request.get("moment"), request.get("delay", 0), request["signal"])
    status, result = 0, None
    try:
        result = JOBS[request["job"]](*request["args"])
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    Path(reply).write_text(json.dumps({"events": watch.events, "writes": watch.writes, "result": result}))
    os._exit(status)


def main():
    assert threading.active_count() == 1, "a fork would lose the other threads, and what they hold"
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    print("ready", file=answers)
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as own, open(os.path.join(own, "output"), "w+b") as output:
            reply = Path(own, "reply")
            pid = os.fork()
            if not pid:
                child(json.loads(line), reply, output.fileno())
            _, status = os.waitpid(pid, 0)
            answer = json.loads(reply.read_text()) if reply.is_file() and reply.stat().st_size else {}
            output.seek(0)
            answer |= {"status": os.waitstatus_to_exitcode(status), "output": output.read().decode(errors="replace")}
            print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
