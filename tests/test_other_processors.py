"""The numeric core as another processor would compute it; ``tests/helpers/processors.py`` runs any tests so."""

import pytest
import torch
from processors import COMBINATIONS, capability, possible, run_as

CORE = ("tests/losses", "tests/test_every_model.py", "tests/sr/test_front_ends.py")
FEW = "losses or golden and (sr_reid or osnet or vpfa)"
MOST = "losses or golden and not hrnet_reid and not psh_rnet"  # without the largest


@pytest.mark.skipif(not possible(), reason="this processor's family has no instruction sets to leave out")
@pytest.mark.parametrize("chosen", [FEW, pytest.param(MOST, marks=pytest.mark.slow)], ids=["few", "most"])
def test_another_processor_has_the_same_golden_values_and_losses(chosen):
    other = "sse41" if capability() != "DEFAULT" else possible()[-1]
    done = run_as(other, *CORE, "-k", chosen)
    assert done.returncode == 0, done.stdout
    needed, _, threads, _ = COMBINATIONS[other]
    assert f"torch {torch.__version__}, {needed}, {threads} thread" in done.stdout
