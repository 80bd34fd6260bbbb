"""Fixtures shared by all tests are in ``tests/fixtures``; this names its modules."""

import gc
import os
from pathlib import Path

pytest_plugins = [
    "tests.fixtures.made_results",
    "tests.fixtures.needs",
    "tests.fixtures.random_inception",
    "tests.fixtures.small_datasets",
    "tests.fixtures.temp_study",
    "tests.fixtures.tracking_database",
]

# Looking through all that torch, MLflow and matplotlib have loaded for garbage took a tenth of the time.
gc.set_threshold(20_000, 20, 20)

# A process that a test starts must run the code beside these tests, whichever copy is installed.
_here = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([_here, *filter(None, [os.environ.get("PYTHONPATH")])])
