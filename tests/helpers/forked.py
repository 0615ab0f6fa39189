"""Programs in processes of their own, forked from a server that has the libraries loaded: their start takes seconds."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path


def python(*command, cwd, timeout=900, **environment):
    """Do what ``python *command`` does in a folder, and return what became of it.

    Args:
        *command: ``-c`` and code, or a script; and its arguments.
        cwd: the folder.
        timeout: in seconds.
        **environment: variables on top of this process's own.
    """
    command = [*map(str, command)]
    if "forkserver" not in multiprocessing.get_all_start_methods():
        how = {"capture_output": True, "text": True, "timeout": timeout, "cwd": cwd}
        return subprocess.run([sys.executable, *command], env=os.environ | environment, **how)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torchreid_xres"])
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder, name) for name in ("out", "err")]
        process = context.Process(target=_run, args=(command, cwd, os.environ | environment, streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(command, timeout)
        said = [stream.read_text(encoding="utf-8", errors="backslashreplace") for stream in streams]
    return subprocess.CompletedProcess(command, process.exitcode, *said)


def _run(command, cwd, environment, streams):
    multiprocessing.set_start_method(None, force=True)  # a new program's own, not the one that this process came by
    for number, stream in enumerate(streams, 1):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(compile(command[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
