"""Fixtures shared by all tests are in ``tests/fixtures``; this names its modules."""

import gc
import multiprocessing.context
import os
from multiprocessing.forkserver import set_forkserver_preload
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

# Python has one server to fork processes from, with what its first user asked for. In tests it has what any needs.
_needed = ["harness.engine.preload", "generators.several_devices"]
if not Path("/dev/nvidiactl").exists():
    # It asks for GPUs when it is imported; no process could be forked to use one after that.
    _needed += ["diffusers.models.unets.unet_2d", "diffusers.models.autoencoders.vq_model"]
set_forkserver_preload(_needed)
multiprocessing.context.BaseContext.set_forkserver_preload = lambda self, names: None  # type: ignore[method-assign]

# A process that a test starts must run the code beside these tests, whichever copy is installed.
_here = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join([_here, *filter(None, [os.environ.get("PYTHONPATH")])])
