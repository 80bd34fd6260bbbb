"""What stages import, loaded once in the server that their processes are forked from. No device is touched here."""

import gc
import os
import warnings

from harness.home import threads

# Before numpy and torch are loaded: every stage computes with the same number of threads, whatever runs beside it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = str(threads())

# Nothing of what is imported here is ever garbage: looking for some takes a quarter of the time, and the looks of
# stages would copy the memory that they share.
gc.disable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import numpy  # noqa: F401
    import PIL.Image  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import segmentation_models_pytorch  # noqa: F401
    import torch
    import torch._dynamo  # noqa: F401  (the first optimiser of a process imports it: seconds)
gc.freeze()
gc.enable()
