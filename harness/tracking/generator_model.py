"""A fitted generator as an MLflow model: ``mlflow.pyfunc.load_model(uri).predict(table)``.

This file is stored beside the checkpoint and run when the model is loaded ("models from code"), so nothing is
pickled. It needs the harness and the generator's plugin to be installed.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel


class GeneratorModel(PythonModel):
    """Samples pairs for the seeds in a table.

    Columns: ``seed``; optionally ``n``, to make the first n of the pool that the seed names instead of one pair from
    the seed itself; and ``mask``, (H, W) in {0, 1}, for a generator that makes images for given masks.
    """

    def load_context(self, context):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Open the checkpoint."""
        from harness.engine.fitted_generator import FittedGenerator

        self.fitted = FittedGenerator.load(Path(context.artifacts["generator"]))

    def predict(self, context, model_input: pd.DataFrame, params=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """Return a dict a pair: ``seed``, ``image`` uint8 (H, W, 3) or None, ``mask`` uint8 (H, W), ``lineage``."""
        import numpy as np

        from harness.learning.devices import choose_device

        table = pd.DataFrame(model_input)
        if "seed" not in table:
            raise ValueError(
                f"The table needs a column 'seed', and may have 'n' and 'mask'; it has {list(table.columns)}."
            )
        seeds: list[int] = []
        masks: list[Any] = []
        for row in table.to_dict("records"):
            many = row.get("n") is not None and not pd.isna(row["n"])
            drawn = self.fitted.pool_seeds(int(row["seed"]), int(row["n"])).tolist() if many else [int(row["seed"])]
            seeds += drawn
            masks += [row.get("mask")] * len(drawn)
        given = None if "mask" not in table else np.stack([np.asarray(mask, np.uint8) for mask in masks])
        made = self.fitted.sample(np.asarray(seeds, np.int64), choose_device("auto"), given)
        lineage = self.fitted.lineage(made)
        return [
            {
                "seed": seed,
                "image": None if made.images is None else made.images[i],
                "mask": made.masks[i],
                "lineage": sorted(lineage[i]),
            }
            for i, seed in enumerate(seeds)
        ]


mlflow.models.set_model(GeneratorModel())
