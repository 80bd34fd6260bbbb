"""``harness metrics``: any metric on folders, zips, datasets and stored stage results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.errors import DataError, DeclarationError

if TYPE_CHECKING:
    import torch

    from harness.data.pairs import PairSet
    from harness.metrics.fidelity.agreement import TrainedSegmenter
    from harness.plugins.contract import Segmenter

app = typer.Typer(help="Metrics on folders, zips, datasets and stored results.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_PLACE = "a folder, a zip, a dataset (NAME, NAME:ROLE, NAME:SPLIT:ROLE), or a stored result's folder or key"
Real = Annotated[str, typer.Argument(help=f"Real pictures: {_PLACE}.")]
Synthetic = Annotated[str, typer.Argument(help="Synthetic pictures, likewise.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Network = Annotated[
    str,
    typer.Option(
        help="fid-inception, fid-inception-64|192|768, a segmentation encoder such as resnet34, torchvision:NAME, "
        "timm:NAME (each also with @FILE of weights), or path/to/file.py:Class."
    ),
]
Mode = Annotated[str, typer.Option(help="How pictures are resized: clean, or legacy for old papers' numbers.")]
Figures = Annotated[Path | None, typer.Option(help="Folder to draw the figures of the measurement into.")]


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


def _features(real: str, synthetic: str, network: str, mode: str, device: str) -> tuple[Any, Any, dict[str, Any]]:
    """Return features of both sides, and what belongs beside every number made from them."""
    from harness.metrics.features import networks
    from harness.metrics.features.extract import features
    from harness.metrics.inputs.places import read_images

    wanted = networks.mode_named(mode)
    where = _device(device)
    sets = [read_images(real), read_images(synthetic)]
    for name, found in zip((real, synthetic), sets, strict=True):
        if len(found) < 2:
            raise DataError(f"{name} holds one picture; a distribution needs at least two.")
    chosen = networks.network_named(network, wanted)

    def progress(done: int, total: int) -> None:
        if done == total or done // 100 > (done - 8) // 100:
            typer.echo(f"features {done}/{total}", err=True)

    a, b = (features(found.images, chosen, device=where, mode=wanted, progress=progress) for found in sets)
    facts = {"n_real": len(sets[0]), "n_synthetic": len(sets[1]), "network": chosen.name, "mode": mode}
    return a, b, facts


@app.command()
def segmentation(predicted: Path, true: Path, as_json: AsJson = False) -> None:
    """IoU, F1, accuracy, precision, recall and Dice loss of predicted masks against true ones, matched by name."""
    from harness.metrics.segmentation.scores import compare_folders

    scores = compare_folders(predicted, true)
    if as_json:
        print(json.dumps(_without_nan(scores), indent=2))
        return
    for name, reductions in scores.items():
        print(f"{name}: " + ", ".join(f"{value:.4f} ({reduction})" for reduction, value in reductions.items()))


@app.command()
def fid(
    real: Real,
    synthetic: Synthetic,
    network: Network = "fid-inception",
    mode: Mode = "clean",
    seed: Annotated[int, typer.Option(help="Of the subsets that KID and the correction draw.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fréchet Inception Distance (clean-fid's procedure); with another network, a Fréchet distance named after it.

    Below 2048 images, KID and a bias-corrected value stand beside it.
    """
    from harness.metrics.fidelity.frechet import frechet_distance
    from harness.metrics.fidelity.measure import beside_fid

    a, b, facts = _features(real, synthetic, network, mode, device)
    if network == "fid-inception":
        _emit({"fid": frechet_distance(a, b), **beside_fid(a, b, seed), **facts}, as_json)
    else:
        _emit({"frechet-distance": frechet_distance(a, b), **facts}, as_json)


@app.command("frechet-distance")
def frechet(
    real: Real,
    synthetic: Synthetic,
    network: Annotated[str, typer.Option(help="As for fid; it is named beside the number.")],
    mode: Mode = "clean",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fréchet distance of the features of a network of yours; no FID."""
    fid(real, synthetic, network, mode, 0, device, as_json)


@app.command()
def kid(
    real: Real,
    synthetic: Synthetic,
    network: Network = "fid-inception",
    mode: Mode = "clean",
    seed: int = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Kernel Inception Distance, unbiased, with its deviation over random subsets."""
    from harness.metrics.fidelity.kid import kernel_distance

    a, b, facts = _features(real, synthetic, network, mode, device)
    found = kernel_distance(a, b, seed=seed)
    values = {"kid": found.value, "kid-deviation": found.deviation, "subset-size": found.subset_size}
    _emit({**values, **facts}, as_json)


@app.command()
def prdc(
    real: Real,
    synthetic: Synthetic,
    neighbours: int = 5,
    network: Network = "fid-inception",
    mode: Mode = "clean",
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Precision, recall, density and coverage."""
    from harness.metrics.fidelity.prdc import prdc as compute

    a, b, facts = _features(real, synthetic, network, mode, device)
    found = compute(a, b, neighbours=neighbours)
    four = {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}
    _emit({**four, "neighbours": neighbours, **facts}, as_json)


@app.command()
def sifid(real: Real, synthetic: Synthetic, device: Device = "auto", as_json: AsJson = False) -> None:
    """Single Image FID of each synthetic picture against the real one it was made from.

    Stored results and sampled folders know their sources; other pictures are matched by name (NAME or NAME_NUMBER).
    """
    from harness.metrics.fidelity.sifid import NETWORK, single_image_distances
    from harness.metrics.inputs.places import matched, read_images

    originals, made = read_images(real), read_images(synthetic)
    distances = single_image_distances(
        originals.images, made.images, device=_device(device), pairs=matched(originals, made), cache=True
    )
    values = {"sifid": float(distances.mean()), "sifid-deviation": float(distances.std())}
    counts = {"n_real": len(originals), "n_synthetic": len(made)}
    _emit({**values, **counts, "network": NETWORK, "mode": "native size"}, as_json)


@app.command()
def sim(real: Real, synthetic: Synthetic, as_json: AsJson = False) -> None:
    """SIM of masks: mean share of pixels equal to the most similar real mask, beside what shows how it can be gamed."""
    from harness.metrics.fidelity.sim import similarity
    from harness.metrics.inputs.places import read_both_masks

    (real_names, real_masks), (names, masks) = read_both_masks(real, synthetic)
    found = similarity(real_masks, masks, cache=True)
    references = {"all-black": found.black, "real-leave-one-out": found.leave_one_out}
    _emit({"sim": found.value, **references, "n_real": len(real_names), "n_synthetic": len(names)}, as_json)


@app.command("mask-area")
def mask_area(real: Real, synthetic: Synthetic, figures: Figures = None, as_json: AsJson = False) -> None:
    """Wasserstein distance between the polyp areas of masks (shares of the image), their histograms and components.

    The figures are the histograms and, when the synthetic masks know the real ones they were made from, the mean and
    deviation of those made from one.
    """
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity import masks as statistics
    from harness.metrics.inputs.places import read_both_masks, read_images

    (real_names, a), (_, b) = read_both_masks(real, synthetic)
    sides = {"real": a, "synthetic": b}
    document: dict[str, Any] = {"mask-area": statistics.area_distance(a, b)}
    document |= {f"mean-area-{name}": float(statistics.areas(masks).mean()) for name, masks in sides.items()}
    document |= {f"mean-components-{name}": float(statistics.components(m).mean()) for name, m in sides.items()}
    document |= {f"empty-masks-{name}": int((statistics.areas(masks) == 0).sum()) for name, masks in sides.items()}
    document |= {f"histogram-{name}": statistics.area_histogram(masks).tolist() for name, masks in sides.items()}
    if figures is not None:
        from harness.report.figures.fidelity import mask_areas_figure, mask_diversity_figure
        from harness.report.figures.style import save
        from harness.results.schema import MaskDiversity, Measured

        figures.mkdir(parents=True, exist_ok=True)
        shares = figure_data.areas(a, b)
        lineage = read_images(synthetic).lineage
        of_source = figure_data.diversity(dict(zip(real_names, a, strict=True)), b, lineage) if lineage else None
        shown = Measured(
            synthetic, 0, real_areas=shares["real"], areas=shares["synthetic"], diversity=MaskDiversity.of(of_source)
        )
        save(mask_areas_figure([shown]), figures / "mask-areas")
        save(mask_diversity_figure(shown), figures / "mask-diversity")
    _emit({**document, "n_real": len(a), "n_synthetic": len(b)}, as_json)


@app.command()
def agreement(
    real: Real,
    synthetic: Synthetic,
    segmenter: Annotated[str, typer.Option(help="Segmenter plugin to train on the real pairs, or file.py:Class.")] = "",
    settings: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of the segmenter.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of its training.")] = 500,
    trained: Annotated[str, typer.Option(help="Instead: start of the key of a stored train result to use.")] = "",
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side that all pairs are brought to, pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Of the training, and of which real pairs are held out.")] = 0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Whether synthetic images and masks belong together, judged by a segmenter trained on real pairs.

    Seven tenths of the real pairs train it, one chooses its checkpoint, and two show how far agreement can go. Without
    --segmenter it is a U-Net with a pretrained encoder, or a small network where its weights are missing.
    """
    import tempfile

    from harness.metrics.fidelity.agreement import agreement as compare
    from harness.metrics.inputs.places import read_pairs

    if trained and (segmenter or settings):
        raise DeclarationError("--trained brings its own segmenter; leave out --segmenter and --set, or --trained.")
    where = _device(device)
    pairs, made = read_pairs(real, size), read_pairs(synthetic, size)
    with tempfile.TemporaryDirectory() as folder:
        if trained:
            judge, held_out, facts = _stored_segmenter(trained, pairs, where)
        else:
            judge, held_out, facts = _trained_segmenter(segmenter, settings or [], pairs, steps, seed, where, folder)
        found, ceiling = (compare(judge.predict(p.images), p.masks) for p in (made, held_out))
    values = {"agreement": found.value, "agreement-chance": found.chance, "agreement-pairs": found.pairs}
    beside = {"agreement-real": ceiling.value, "agreement-real-chance": ceiling.chance}
    counts = {"n_real": len(held_out), "n_synthetic": len(made)}
    _emit({**values, **beside, **counts, "network": judge.label, "size": size, **facts}, as_json)


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
    from harness.metrics.fidelity.agreement import TrainedSegmenter
    from harness.plugins.registry import load_plugin
    from harness.store.results import Store

    found = [r for r in Store().results() if r.record["kind"] == "train" and r.key.startswith(key)]
    if len(found) != 1:
        raise DataError(f"{len(found)} stored train results have keys that start with {key!r}; give the key of one.")
    (result,) = found
    attached = result.record["runtime"]
    judge = load_plugin("segmenters", attached["target"]).create(**attached["plugin-parameters"])
    seen = json.loads((result.folder / "seen.json").read_text())
    unseen = [name for name in real.ids if name not in seen]
    if not unseen:
        raise DataError(
            f"The segmenter {key!r} has seen all {len(real)} real pairs, so they do not show how far agreement can go; "
            "give pairs that it has not seen, such as DATASET:report."
        )
    facts = {
        "segmenter": {"plugin": attached["target"], **attached["plugin-parameters"]},
        "trained-on": result.values["training-pairs"],
        "steps": result.values["steps"],
        "best-step": result.values["best-step"],
        "selection-iou": result.values["best-score"],
        "notes": f"Trained as {result.record['label']!r}.",
    }
    weights = result.folder / result.values["weights"]
    return TrainedSegmenter.load(judge, weights, device), real.select(unseen), facts


@app.command()
def memorisation(
    real: Annotated[str, typer.Argument(help=f"The training pictures of the generator: {_PLACE}.")],
    synthetic: Synthetic,
    held_out: Annotated[str | None, typer.Option(help="Real pictures that the generator has not seen.")] = None,
    figures: Figures = None,
    as_json: AsJson = False,
) -> None:
    """How close synthetic pictures lie to the training ones, against how close unseen real ones do.

    The figure shows the closest pairs.
    """
    from harness.metrics.fidelity import figure_data
    from harness.metrics.fidelity.memorisation import DESCRIPTION, describe
    from harness.metrics.fidelity.memorisation import memorisation as compare
    from harness.metrics.fidelity.thumbnails import thumbnails
    from harness.metrics.inputs.places import read_images

    training, made = read_images(real), read_images(synthetic)
    others = None if held_out is None else describe(read_images(held_out).images, cache=True)
    found = compare(describe(training.images, cache=True), describe(made.images, cache=True), others)
    closest = [
        {"synthetic": made.names[i], "real": training.names[j], "distance": float(found.distances[i])}
        for i, j in found.closest_pairs()
    ]
    if figures is not None:
        from harness.report.figures.fidelity import closest_figure
        from harness.report.figures.style import save
        from harness.results.schema import ClosestPairs, Measured

        figures.mkdir(parents=True, exist_ok=True)
        sets = [
            (pictures.names, lambda at, p=pictures: thumbnails([p.images[int(i)] for i in at], 128).astype("uint8"))
            for pictures in (made, training)
        ]
        pairs = ClosestPairs.of(figure_data.closest(found.distances, found.nearest, sets[0], sets[1]))
        save(closest_figure(Measured(synthetic, 0, copies=found.copies, closest=pairs)), figures / "closest")
    shares = {"memorisation": found.closer, "copied": found.copied, "copied-p-value": found.p_value}
    flag = {**shares, "exact-copies": found.exact, "copies": found.copies}
    counts = {"n_real": len(training), "n_synthetic": len(made), "network": DESCRIPTION, "reference": found.reference}
    _emit({**flag, **counts, "closest": closest}, as_json)
