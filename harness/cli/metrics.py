"""``harness metrics``: any metric on folders, zips, datasets and stored stage results.

A command a metric, made from what the metric says of itself, so that one of an extension has a command too.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from harness.errors import DataError, DeclarationError, nearest

if TYPE_CHECKING:
    import torch

    from harness.data.pairs import PairSet
    from harness.learning.judge import TrainedSegmenter
    from harness.metrics.inputs.pictures import Pictures
    from harness.metrics.spec import Arrays, FidelityMetric, SegmentationMetric
    from harness.plugins.contract import Segmenter

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_PLACE = "a folder, a zip, a dataset (NAME, NAME:ROLE, NAME:SPLIT:ROLE), or a stored result's folder or key"
Real = Annotated[str, typer.Argument(help=f"Real pictures: {_PLACE}.")]
Training = Annotated[str, typer.Argument(help=f"The training pictures of the generator: {_PLACE}.")]
Synthetic = Annotated[str, typer.Argument(help="Synthetic pictures, likewise.")]
Predicted = Annotated[str, typer.Argument(help=f"Predicted masks: {_PLACE}.")]
Truth = Annotated[str, typer.Argument(help="True masks of the same names, likewise.")]
Tolerance = Annotated[
    float | None,
    typer.Option(min=0, help="How far apart outlines may lie that agree: pixels, or below 1 a share of the side."),
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Network = Annotated[
    str,
    typer.Option(
        help="fid-inception, fid-inception-64|192|768, a segmentation encoder such as resnet34, torchvision:NAME, "
        "timm:NAME (each also with @FILE of weights), or path/to/file.py:Class."
    ),
]
Mode = Annotated[str, typer.Option(help="How pictures are resized: clean, or legacy for old papers' numbers.")]
Check = Annotated[bool, typer.Option(help="Compute the number by its authors' program too, and say the difference.")]
HeldOut = Annotated[str | None, typer.Option(help="Real pictures that the generator has not seen.")]
Figures = Annotated[Path | None, typer.Option(help="Folder to draw the figures of the measurement into.")]
Size = Annotated[int, typer.Option(min=16, max=1024, help="Side that all pairs are brought to, pixels.")]
SegmenterName = Annotated[str, typer.Option(help="Segmenter plugin to train on the real pairs, or file.py:Class.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of the segmenter.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps of its training.")]
Trained = Annotated[str, typer.Option(help="Instead: start of the key of a stored train result to use.")]


class _Metrics(TyperGroup):
    """Commands that stand here, and one a metric."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return every name, metrics last."""
        from harness.metrics.spec import fidelity_metrics, segmentation_metrics

        return [*super().list_commands(ctx), *fidelity_metrics(), *segmentation_metrics()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name, or by another name of its metric.

        Raises:
            DeclarationError: there is none; names the nearest.
        """
        from harness.metrics.spec import fidelity_metrics, segmentation_metric, segmentation_names

        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        fidelity, scores = fidelity_metrics(), segmentation_names()
        if cmd_name in fidelity:
            return _command(cmd_name, fidelity[cmd_name].definition, *_measuring(fidelity[cmd_name]))
        if cmd_name in scores:
            score = segmentation_metric(cmd_name)
            return _command(score.name, score.definition, *_scoring(score))
        names = [*super().list_commands(ctx), *fidelity, *scores]
        raise DeclarationError(f"There is no metric {cmd_name!r}{nearest(cmd_name, names)}; see harness metrics list.")


app = typer.Typer(cls=_Metrics, help="Metrics on folders, zips, datasets and stored results.", no_args_is_help=True)


def _command(name: str, definition: str, work: Callable[..., None], options: Mapping[str, tuple[Any, Any]]) -> Any:
    """Return a command that calls ``work`` with its options: by name, what typer is told of each and its default."""

    def run(**given: Any) -> None:
        work(**given)

    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(n, kind, default=d, annotation=told) for n, (told, d) in options.items()]
    run.__dict__["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {name: told for name, (told, _) in options.items()}
    one = typer.Typer(add_completion=False)
    one.command(name, help=definition)(run)
    return typer.main.get_command(one)


def _emit(document: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(_without_nan(document), indent=2))
        return
    for name, value in document.items():
        if value != "":
            print(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")


def _without_nan(value: Any) -> Any:
    """Replace what JSON has no word for (NaN, infinity) by null."""
    if isinstance(value, Mapping):
        return {name: _without_nan(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DeclarationError(
            f"--device {name} cannot be used: {str(error).splitlines()[0]}; use cpu or auto."
        ) from None
    return torch.device(name)


@app.command("list")
def list_metrics(as_json: AsJson = False) -> None:
    """List every metric: what it looks at, which way is better, what it needs, where it comes from."""
    from harness.metrics.spec import FidelityMetric, found_fidelity, found_segmentation, segmentation_names

    segmentation_names()
    rows: list[dict[str, Any]] = []
    for kind, found in (("fidelity", found_fidelity()), ("segmentation", found_segmentation())):
        for one in found.values():
            spec = one.thing
            rows.append(
                {
                    "kind": kind,
                    "name": one.name,
                    "aliases": list(getattr(spec, "aliases", ())),
                    "label": spec.label,
                    "better": spec.better,
                    "needs": _needs(spec) if isinstance(spec, FidelityMetric) else [],
                    "definition": spec.definition,
                    "source": spec.source,
                    "origin": one.origin,
                }
            )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from tabulate import tabulate

    table = [
        [row["kind"], ", ".join([row["name"], *row["aliases"]]), row["better"] or "–", ", ".join(row["needs"]) or "–",
         row["origin"], row["definition"]]
        for row in rows
    ]  # fmt: skip
    print(tabulate(table, ["kind", "name", "better", "needs", "from", "what it is"], tablefmt="plain"))


def _needs(metric: FidelityMetric) -> list[str]:
    """Return what a metric asks, in words."""
    asked = {
        "a feature network": metric.needs_network,
        "a trained segmenter": metric.needs_segmenter,
        "images made from one real image each": metric.needs_lineage,
    }
    words = [f"weights {name}" for name in metric.needs_weights] + [word for word, needed in asked.items() if needed]
    return words + ([f"{metric.fewest} pairs a side"] if metric.fewest > 1 else [])


@app.command()
def segmentation(predicted: Predicted, true: Truth, tolerance: Tolerance = None, as_json: AsJson = False) -> None:
    """Every score of predicted masks against true ones, matched by name."""
    from harness.metrics.spec import segmentation_metrics

    _score(list(segmentation_metrics().values()), predicted, true, tolerance, as_json)


def _scoring(metric: SegmentationMetric) -> tuple[Callable[..., None], dict[str, tuple[Any, Any]]]:
    """Return what a command of one score does, and its options."""
    required = inspect.Parameter.empty
    options: dict[str, tuple[Any, Any]] = {
        "predicted": (Predicted, required), "true": (Truth, required), "tolerance": (Tolerance, None),
        "as_json": (AsJson, False),
    }  # fmt: skip
    return partial(_score, [metric]), options


def _score(
    metrics: list[SegmentationMetric], predicted: str, true: str, tolerance: float | None, as_json: bool
) -> None:
    """Print the scores of predicted masks."""
    from harness.engine.places import read_predictions
    from harness.metrics.segmentation.scores import fractions_of_any_size, reduce_all
    from harness.study.schema import Evaluate

    declared = Evaluate() if tolerance is None else Evaluate(tolerance=tolerance)
    found = fractions_of_any_size(*read_predictions(predicted, true), metrics, declared.tolerance)
    scores = reduce_all(metrics, found)
    if as_json:
        print(json.dumps(_without_nan(scores), indent=2))
        return
    for name, reductions in scores.items():
        print(f"{name}: " + ", ".join(f"{value:.4f} ({reduction})" for reduction, value in reductions.items()))


def _measuring(metric: FidelityMetric) -> tuple[Callable[..., None], dict[str, tuple[Any, Any]]]:
    """Return what the command of a fidelity metric does, and its options: those that the metric reads.

    Keyword arguments of the metric's own are options too.
    """
    required = inspect.Parameter.empty
    options: dict[str, tuple[Any, Any]] = {
        "real": (Training if metric.against_fitted else Real, required),
        "synthetic": (Synthetic, required),
    }
    own = {p.name: p for p in inspect.signature(metric.compute).parameters.values() if p.kind is p.KEYWORD_ONLY}
    options |= {name: (type(p.default), p.default) for name, p in own.items()}
    if metric.network or metric.needs_network:
        options |= {"network": (Network, metric.network or required), "mode": (Mode, "clean")}
    if metric.published is not None:
        options["check"] = (Check, False)
    if metric.against_fitted:
        options["held_out"] = (HeldOut, None)
    if metric.needs_segmenter:
        options |= {"segmenter": (SegmenterName, ""), "settings": (Settings, None), "steps": (Steps, 500)}
        options["trained"] = (Trained, "")
    if metric.on == "pairs":
        options["size"] = (Size, 128)
    if metric.draws or metric.needs_segmenter:
        told = (
            "Of the training, and of which real pairs are held out." if metric.needs_segmenter else "Of what it draws."
        )
        options["seed"] = (Annotated[int, typer.Option(min=0, help=told)], 0)
    if metric.evidence is not None:
        options["figures"] = (Figures, None)
    options |= {"device": (Device, "auto"), "as_json": (AsJson, False)}
    return partial(_measure, metric, tuple(own)), options


def _measure(
    metric: FidelityMetric,
    own: tuple[str, ...],
    *,
    real: str,
    synthetic: str,
    device: str,
    as_json: bool,
    network: str = "",
    mode: str = "clean",
    check: bool = False,
    held_out: str | None = None,
    size: int = 128,
    seed: int = 0,
    figures: Path | None = None,
    **rest: Any,
) -> None:
    """Measure as the ``fidelity`` stage does, and print what it tells."""
    from harness.metrics.features.feature_network import mode_named
    from harness.metrics.fidelity.measure import evidence, measure
    from harness.metrics.spec import Sets, fidelity_metric

    if network != metric.network and metric.other_network:
        if check:
            raise DeclarationError(
                f"--check is for {metric.name}, with its own network; leave out --network, or --check."
            )
        metric = fidelity_metric(metric.other_network)
    told = {name: rest.pop(name) for name in own}
    wanted, where = mode_named(mode), _device(device)
    # Pictures that are too few for a number are a mistake here, which the metric itself words best.
    asked = replace(metric, compute=partial(metric.compute, **told), network=network, fewest=0)
    if metric.needs_segmenter:
        _emit(_judged(asked, real, synthetic, size, seed, where, **rest), as_json)
        return
    originals, made = _read_both(metric, real, synthetic, size)
    for place, side in ((real, originals), (synthetic, made)):
        if len(side) == 1 and metric.fewest > 1:
            raise DataError(f"{place} holds one picture; a distribution needs at least two.")
    others = None if held_out is None else _read_both(metric, held_out, held_out, size)[0]
    sets = Sets(originals, made, where, None, others, seed, network, wanted, progress=_say_features)
    document: dict[str, Any] = {**measure([asked], sets)[metric.name]}
    if check and metric.published is not None:
        value, theirs = document[metric.name], metric.published(sets)
        document |= theirs | {f"{name}-difference": value - float(other) for name, other in theirs.items()}
    kept = evidence([asked], sets)
    if figures is not None:
        _draw(kept, document, synthetic, figures)
    _emit({**document, **_told(kept)}, as_json)


def _read_both(
    metric: FidelityMetric, real: str, synthetic: str, size: int
) -> tuple[Pictures | PairSet, Pictures | PairSet]:
    """Read what a metric looks at."""
    from harness.engine.places import read_both_masks, read_images, read_pairs
    from harness.metrics.inputs.pictures import with_sources

    if metric.on == "pairs":
        return read_pairs(real, size), read_pairs(synthetic, size)
    if metric.on == "masks":
        return read_both_masks(real, synthetic)
    originals, made = read_images(real), read_images(synthetic)
    return originals, with_sources(originals, made) if metric.needs_lineage else made


def _say_features(done: int, total: int) -> None:
    if done == total or done // 100 > (done - 8) // 100:
        typer.echo(f"features {done}/{total}", err=True)


def _told(kept: Mapping[str, Arrays]) -> dict[str, Any]:
    """Return what of a measurement's evidence can be said in words."""
    from harness.metrics.fidelity.masks import area_histogram

    told: dict[str, Any] = {}
    if areas := kept.get("areas"):
        told |= {f"histogram-{side}": area_histogram(shares).tolist() for side, shares in areas.items()}
    if closest := kept.get("closest"):
        rows = zip(closest["synthetic_ids"], closest["real_ids"], closest["distance"], strict=True)
        told["closest"] = [{"synthetic": str(a), "real": str(b), "distance": float(d)} for a, b, d in rows][:8]
    return told


def _draw(kept: Mapping[str, Arrays], document: Mapping[str, Any], synthetic: str, folder: Path) -> None:
    """Draw the figures of what a metric keeps for them."""
    from harness.report.figures import conditioning, fidelity
    from harness.report.figures.style import save
    from harness.results.schema import ClosestMasks, ClosestPairs, MaskDiversity, Measured

    folder.mkdir(parents=True, exist_ok=True)
    areas = kept.get("areas", {})
    shown = Measured(
        synthetic,
        0,
        copies=document.get("copies"),
        real_areas=areas.get("real"),
        areas=areas.get("synthetic"),
        closest=ClosestPairs.of(kept.get("closest", {})),
        diversity=MaskDiversity.of(kept.get("diversity")),
        closest_masks=ClosestMasks.of(kept.get("closest-masks", {})),
    )
    save(fidelity.mask_areas_figure([shown]), folder / "mask-areas")
    save(fidelity.mask_diversity_figure(shown), folder / "mask-diversity")
    save(fidelity.closest_figure(shown), folder / "closest")
    save(conditioning.closest_masks_figure(shown), folder / "closest-masks")


def _judged(
    metric: FidelityMetric,
    real: str,
    synthetic: str,
    size: int,
    seed: int,
    device: torch.device,
    *,
    segmenter: str,
    settings: list[str] | None,
    steps: int,
    trained: str,
) -> dict[str, Any]:
    """Measure by a segmenter that is trained on real pairs: seven tenths of them train it, one chooses its checkpoint,
    and two show how far the number can go.

    Without a segmenter named it is a U-Net with a pretrained encoder, or a small network where its weights are missing.
    """
    import tempfile

    from harness.engine.places import read_pairs
    from harness.metrics.fidelity.measure import measure
    from harness.metrics.spec import Sets

    if trained and (segmenter or settings):
        raise DeclarationError("--trained brings its own segmenter; leave out --segmenter and --set, or --trained.")
    pairs, made = read_pairs(real, size), read_pairs(synthetic, size)
    with tempfile.TemporaryDirectory() as folder:
        if trained:
            judge, held_out, facts = _stored_segmenter(trained, pairs, device)
        else:
            judge, held_out, facts = _trained_segmenter(segmenter, settings or [], pairs, steps, seed, device, folder)
        found, ceiling = (
            measure([metric], Sets(held_out, side, device, seed=seed, segmenter=judge))[metric.name]
            for side in (made, held_out)
        )
    notes = " ".join(str(word) for word in (found.pop("notes"), facts.pop("notes")) if word)
    own = [quantity.name for quantity in metric.quantities if quantity.name in ceiling]
    beside = {f"{metric.name}-real{name.removeprefix(metric.name)}": ceiling[name] for name in own}
    return {**found, **beside, "size": size, **facts, "notes": notes}


def _trained_segmenter(
    plugin: str, settings: list[str], real: PairSet, steps: int, seed: int, device: torch.device, folder: str
) -> tuple[TrainedSegmenter, PairSet, dict[str, Any]]:
    """Train a segmenter; return it, the real pairs that it has not seen, and what is said of its training."""
    from harness.learning.judge import train_on

    judge, named = _declared_segmenter(plugin, settings)

    def progress(done: int, total: int, unit: str) -> None:
        if done == total or done % 50 == 0:
            typer.echo(f"training {done}/{total} {unit}", err=True)

    training = train_on(real, judge, steps=steps, seed=seed, device=device, folder=Path(folder), progress=progress)
    facts = {
        "segmenter": named,
        "trained-on": training.trained_on,
        "steps": steps,
        "best-step": training.outcome.best_step,
        "selection-iou": training.outcome.best_score,
        "notes": " ".join(judge.notes()),
    }
    return training.segmenter, training.held_out, facts


def _declared_segmenter(plugin: str, settings: list[str]) -> tuple[Segmenter, dict[str, Any]]:
    """Return a segmenter as the options declare it, or the default one, and how it is declared.

    Raises:
        DeclarationError: a parameter is not allowed.
        PluginError: there is no such segmenter.
    """
    from pydantic import ValidationError

    from harness.engine.check import describe_errors
    from harness.plugins.registry import load_plugin
    from harness.study.yaml_document import Document, Origin, apply_setting
    from harness.weights.locate import find

    declared: dict[str, Any] = {"plugin": plugin or "smp"}
    if not plugin:
        declared |= {"arch": "Unet", "encoder": "tu-tf_efficientnet_lite0"}
        if find("efficientnet-lite0-imagenet") is None:
            declared |= {"encoder": "tu-lcnet_050", "encoder_weights": "random"}
    document = Document({"segmenter": declared}, {(): Origin("harness metrics agreement", 0, 0)})
    for setting in settings:
        document = apply_setting(document, f"segmenter.{setting}")
    use = dict(document.value["segmenter"])
    found = load_plugin("segmenters", use["plugin"])
    try:
        return found.create(**{key: value for key, value in use.items() if key != "plugin"}), use
    except ValidationError as error:
        raise DeclarationError(describe_errors(error, document, ("segmenter",), found.Parameters)) from None


def _stored_segmenter(
    key: str, real: PairSet, device: torch.device
) -> tuple[TrainedSegmenter, PairSet, dict[str, Any]]:
    """Return the segmenter of a stored train result, the real pairs that it has not seen, and what is said of it.

    Raises:
        DataError: no train result, or several, have a key that starts so; or it has seen all real pairs.
    """
    from harness.engine.stages.train import TrainStage
    from harness.learning.judge import TrainedSegmenter
    from harness.plugins.registry import load_plugin
    from harness.store.results import Store

    found = [r for r in Store().results() if r.record["kind"] == "train" and r.key.startswith(key)]
    if len(found) != 1:
        raise DataError(f"{len(found)} stored train results have keys that start with {key!r}; give the key of one.")
    (result,) = found
    attached = result.record["runtime"]
    judge = load_plugin("segmenters", attached["target"]).create(**attached["plugin-parameters"])
    trained = TrainStage.read(result)
    unseen = [name for name in real.ids if name not in trained.seen]
    if not unseen:
        raise DataError(
            f"The segmenter {key!r} has seen all {len(real)} real pairs, so they do not show how far agreement can go; "
            "give pairs that it has not seen, such as DATASET:report."
        )
    facts = {
        "segmenter": {"plugin": attached["target"], **attached["plugin-parameters"]},
        "trained-on": trained.n_pairs,
        "steps": trained.steps,
        "best-step": trained.best_step,
        "selection-iou": trained.best_score,
        "notes": f"Trained as {result.record['label']!r}.",
    }
    return TrainedSegmenter.load(judge, trained.weights, device), real.select(unseen), facts
