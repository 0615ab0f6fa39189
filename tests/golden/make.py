"""Write the golden values of every registered model and front end anew: ``python tests/golden/make.py``.

To be run where a change of the numbers is meant, with any torch of the supported range, on any processor; ``git diff``
shows what moved. The values are those of double precision; at the end the command says how far single precision is from
them here, the largest first. A value that is far is ill-conditioned: choose other inputs rather than a wide tolerance.
The files are read by ``tests/test_every_model.py`` and ``tests/sr/test_front_ends.py``, which also compute the numbers.
"""

import os
import sys
from pathlib import Path

import pytest

WALKS = ("test_every_model.py", "sr/test_front_ends.py")


class Gaps:
    @staticmethod
    def pytest_terminal_summary(terminalreporter):
        """Say how far single precision is from double."""
        from golden_values import gaps

        terminalreporter.section("single from double precision, relative")
        for name, gap in sorted(gaps.items(), key=lambda pair: -pair[1])[:20]:
            terminalreporter.write_line(f"{gap:.1e}  {name}")


if __name__ == "__main__":
    os.environ["XRES_WRITE_GOLDEN"] = "1"
    tests = Path(__file__).parents[1]
    sys.exit(pytest.main(["-q", "-k", "golden", *(str(tests / file) for file in WALKS)], plugins=[Gaps]))
