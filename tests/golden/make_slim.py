"""Write the goldens of `networks.py` with the real TF-slim; run once, and again when a case is added.

python -m venv slim && slim/bin/pip install -r tests/oracles/requirements-slim.txt
slim/bin/python tests/golden/make_slim.py [NAME ...]
"""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from oracles.slim_reference import write_reference  # noqa: I001  (it puts src/ on the path)
from golden.networks import CASES, FOLDER

if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        write_reference(name, CASES[name], FOLDER)
