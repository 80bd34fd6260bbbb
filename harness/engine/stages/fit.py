"""The ``fit`` stage: trains a generator on real pairs of the fit role, and has its checkpoints scored as they come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.engine.graph import Plan
from harness.engine.kind import StageKind
from harness.engine.stages.checkpoints import FitResult
from harness.engine.stages.running import RunningStage
from harness.engine.stages.score_ahead import score_ahead
from harness.errors import HarnessError
from harness.learning.work_folder import recorded_checkpoints, run_fit
from harness.plugins.registry import load_plugin
from harness.store.results import Result
from harness.study.schema import GeneratorUse

if TYPE_CHECKING:
    from harness.plugins.contract import Checkpoint


class FitStage(StageKind[FitResult]):
    """Trains a generator."""

    name: ClassVar[str] = "fit"
    large: ClassVar[bool] = True
    resumable: ClassVar[bool] = True
    real_pairs: ClassVar[str] = "real"

    @classmethod
    def add(cls, plan: Plan, use: GeneratorUse, label: str, fold: int, n_fit: int | None, seed: int, order: int) -> str:
        """Add the fit of one plugin on so many real pairs (None: all) of an order to a plan; return its key."""
        plugin = load_plugin("generators", use.plugin).create(**use.values())
        parameters = {"real": n_fit, "order-seed": order}
        inputs = {"dataset": (plan.datasets[fold],)}
        steps = float(getattr(plugin.parameters, "steps", None) or 1)
        models = plan.n_fit(n_fit, fold) if plugin.card.one_model_a_pair else 1
        label = f"fit {label}"
        return plan.add(cls, label, parameters, inputs, plugin=plugin, use=use, seed=seed, amount=steps * models)

    @classmethod
    def run(cls, stage: RunningStage) -> dict[str, Any]:
        """Fit the generator, or take a killed fit up where it was."""
        generator = stage.plugin("generators")
        pairs = stage.dataset.first(stage.parameters["real"], stage.parameters["order-seed"])
        if len(pairs) < generator.card.minimum:
            raise HarnessError(
                f"{generator.name} needs at least {generator.card.minimum} real pairs, got {len(pairs)}."
            )
        stage.context.geometry = stage.dataset.source["geometry"]
        ahead = True

        def score(checkpoint: Checkpoint) -> None:
            nonlocal ahead
            ahead = ahead and score_ahead(stage, checkpoint, pairs)

        checkpoints = run_fit(generator, pairs, stage.context, score)
        return {"real": len(pairs), "checkpoints": [checkpoint.step for checkpoint in checkpoints]}

    @classmethod
    def read(cls, result: Result) -> FitResult:
        """Open the checkpoints."""
        given = result.record["parts"]["parameters"]
        checkpoints, label = recorded_checkpoints(result.folder), result.record["label"]
        return FitResult(result.key, label, checkpoints, result.values["real"], given["real"], given["order-seed"])

    @classmethod
    def claims(cls, result: Result) -> list[frozenset[str] | None]:
        """Return what each checkpoint says that it has seen."""
        return [checkpoint.seen for checkpoint in recorded_checkpoints(result.folder)]

    @classmethod
    def claims_less(cls, result: Result) -> bool:
        """Whether a checkpoint says that it has seen less than the fit was given."""
        return any(seen is not None and len(seen) < result.values["real"] for seen in cls.claims(result))

    @classmethod
    def files(cls, result: Result) -> list[Path]:
        """Return the folders of the checkpoints."""
        return [checkpoint.folder for checkpoint in recorded_checkpoints(result.folder)]
