"""Write the golden values of every registered model and front end anew: ``python tests/golden/make.py``.

To be run where a change of the numbers is meant, with any torch of the supported range; ``git diff`` shows what moved.
The files are read by ``tests/test_every_model.py`` and ``tests/sr/test_front_ends.py``, which also compute the numbers.
"""

import os
import sys
from pathlib import Path

import pytest

WALKS = ("test_every_model.py", "sr/test_front_ends.py")

if __name__ == "__main__":
    os.environ["XRES_WRITE_GOLDEN"] = "1"
    tests = Path(__file__).parents[1]
    sys.exit(pytest.main(["-q", "-k", "golden", *(str(tests / file) for file in WALKS)]))
