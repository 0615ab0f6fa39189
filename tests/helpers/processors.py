"""Run tests as other processors would: ``python tests/helpers/processors.py [arguments of pytest]``.

Without arguments the fast suite runs once for each of :data:`COMBINATIONS` that this machine can imitate.
``MALLOC_PERTURB_`` fills memory that nobody has written; it acts with glibc only.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
CAPABILITIES = ("DEFAULT", "AVX2", "AVX512")  # as torch names them, each with those before it
# Name -> what of torch's own kernels it needs, oneDNN's instructions, threads, and the byte for unwritten memory.
COMBINATIONS = {
    "sse41": ("DEFAULT", "SSE41", 1, 128),
    "avx2": ("AVX2", "AVX2", 2, 1),
    "avx512": ("AVX512", "AVX512_CORE", 1, 1),
    "avx512_bf16": ("AVX512", "AVX512_CORE_BF16", 2, 128),
    "whole": ("AVX512", "DEFAULT", 1, 1),
}


def capability():
    """Return what torch's own kernels use here."""
    return torch.backends.cpu.get_cpu_capability()


def possible():
    """Return the names of the combinations that this machine can imitate; none on processors of another family."""
    if capability() not in CAPABILITIES:
        return []
    has = CAPABILITIES[: CAPABILITIES.index(capability()) + 1]
    return [name for name, (needed, *_) in COMBINATIONS.items() if needed in has]


def run_as(name, *arguments):
    """Run pytest from the root of the project in a combination and return the finished process."""
    needed, instructions, threads, byte = COMBINATIONS[name]
    environment = {
        "ATEN_CPU_CAPABILITY": needed.lower(), "ONEDNN_MAX_CPU_ISA": instructions, "OMP_NUM_THREADS": str(threads),
        "MALLOC_PERTURB_": str(byte), "GOMP_SPINCOUNT": "0",  # threads that wait for each other leave the cores alone
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=os.environ | environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def main(arguments):
    failed = []
    for name in possible():
        start = time.perf_counter()
        done = run_as(name, *(arguments or ["-q", "-m", "not slow"]))
        if done.returncode:
            failed.append(name)
            print(done.stdout)
        last = done.stdout.strip().splitlines()[-1:]
        print(f"{name}: {' '.join(last)} ({time.perf_counter() - start:.0f} s)", flush=True)
    return f"failed: {', '.join(failed)}" if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
