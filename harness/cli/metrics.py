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

app = typer.Typer(help="Metrics on folders, zips, datasets and stored results.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Real = Annotated[str, typer.Argument(help="Real pictures: a folder, a zip, a dataset's name, or a stored result.")]
Synthetic = Annotated[str, typer.Argument(help="Synthetic pictures, likewise.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1, mps.")]
Network = Annotated[
    str, typer.Option(help="fid-inception, fid-inception-64|192|768, or a segmentation encoder such as resnet34.")
]
Mode = Annotated[str, typer.Option(help="How pictures are resized: clean, or legacy for old papers' numbers.")]


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
    from harness.metrics import networks
    from harness.metrics.features import features
    from harness.metrics.pictures import read_images

    wanted = networks.mode_named(mode)
    where = _device(device)
    sets = [read_images(real), read_images(synthetic)]
    for name, found in zip((real, synthetic), sets, strict=True):
        if len(found) < 2:
            raise DataError(f"{name} holds one picture; a distribution needs at least two.")
    chosen = networks.network_named(network, wanted)

    def progress(done: int, total: int) -> None:
        typer.echo(f"features {done}/{total}", err=True)

    a, b = (features(found.images, chosen, device=where, mode=wanted, progress=progress) for found in sets)
    facts = {"n_real": len(sets[0]), "n_synthetic": len(sets[1]), "network": chosen.name, "mode": mode}
    return a, b, facts


@app.command()
def segmentation(predicted: Path, true: Path, as_json: AsJson = False) -> None:
    """IoU, F1, accuracy, precision, recall and Dice loss of predicted masks against true ones, matched by name."""
    from harness.metrics.segmentation import compare_folders

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
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Fréchet Inception Distance (clean-fid's procedure); with another network, a Fréchet distance named after it."""
    from harness.metrics.frechet import frechet_distance

    a, b, facts = _features(real, synthetic, network, mode, device)
    name = "fid" if network == "fid-inception" else "frechet-distance"
    smallest = min(len(a), len(b))
    small = f"Biased upwards below 2048 images (here {smallest}): compare only at equal numbers of images."
    note = small if smallest < 2048 else ""
    _emit({name: frechet_distance(a, b), **facts, "notes": note}, as_json)


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
    from harness.metrics.kid import kernel_distance

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
    from harness.metrics.prdc import prdc as compute

    a, b, facts = _features(real, synthetic, network, mode, device)
    found = compute(a, b, neighbours=neighbours)
    four = {name: getattr(found, name) for name in ("precision", "recall", "density", "coverage")}
    _emit({**four, "neighbours": neighbours, **facts}, as_json)


@app.command()
def sifid(real: Real, synthetic: Synthetic, device: Device = "auto", as_json: AsJson = False) -> None:
    """Single Image FID of each synthetic picture against the real one of its name (NAME or NAME_NUMBER)."""
    from harness.metrics.pictures import matched, read_images
    from harness.metrics.sifid import NETWORK, single_image_distances

    originals, made = read_images(real), read_images(synthetic)
    pairs = matched(originals, made)
    distances = single_image_distances(
        [originals.images[i] for i, _ in pairs], [made.images[j] for _, j in pairs], device=_device(device)
    )
    values = {"sifid": float(distances.mean()), "sifid-deviation": float(distances.std())}
    counts = {"n_real": len(originals), "n_synthetic": len(made)}
    _emit({**values, **counts, "network": NETWORK, "mode": "native size"}, as_json)


@app.command()
def sim(real: Real, synthetic: Synthetic, as_json: AsJson = False) -> None:
    """SIM of masks: mean share of pixels equal to the most similar real mask, beside what shows how it can be gamed."""
    from harness.metrics.pictures import read_masks
    from harness.metrics.sim import similarity

    (real_names, real_masks), (names, masks) = read_masks(real), read_masks(synthetic)
    found = similarity(real_masks, masks)
    references = {"all-black": found.black, "real-leave-one-out": found.leave_one_out}
    _emit({"sim": found.value, **references, "n_real": len(real_names), "n_synthetic": len(names)}, as_json)


@app.command("mask-area")
def mask_area(real: Real, synthetic: Synthetic, as_json: AsJson = False) -> None:
    """Wasserstein distance between the polyp areas of masks (shares of the image), and their histograms."""
    from harness.metrics import masks as statistics
    from harness.metrics.pictures import read_masks

    (_, a), (_, b) = read_masks(real), read_masks(synthetic)
    histograms = {
        "histogram-real": statistics.area_histogram(a).tolist(),
        "histogram-synthetic": statistics.area_histogram(b).tolist(),
    }
    parts = {
        "mean-components-real": float(statistics.components(a).mean()),
        "mean-components-synthetic": float(statistics.components(b).mean()),
    }
    counts = {"n_real": len(a), "n_synthetic": len(b)}
    _emit({"mask-area": statistics.area_distance(a, b), **parts, **histograms, **counts}, as_json)


@app.command()
def memorisation(
    real: Annotated[str, typer.Argument(help="The training pictures of the generator.")],
    synthetic: Synthetic,
    held_out: Annotated[str | None, typer.Option(help="Real pictures that the generator has not seen.")] = None,
    as_json: AsJson = False,
) -> None:
    """How close synthetic pictures lie to the training ones, against how close unseen real ones do."""
    from harness.metrics.memorisation import DESCRIPTION, describe
    from harness.metrics.memorisation import memorisation as compare
    from harness.metrics.pictures import read_images

    training, made = read_images(real), read_images(synthetic)
    others = None if held_out is None else describe(read_images(held_out).images)
    found = compare(describe(training.images), describe(made.images), others)
    closest = [
        {"synthetic": made.names[i], "real": training.names[j], "distance": float(found.distances[i])}
        for i, j in found.closest_pairs()
    ]
    shares = {"memorisation": found.closer, "copied": found.copied, "copied-p-value": found.p_value}
    flag = {**shares, "exact-copies": found.exact, "copies": found.copies}
    counts = {"n_real": len(training), "n_synthetic": len(made), "network": DESCRIPTION, "reference": found.reference}
    _emit({**flag, **counts, "closest": closest}, as_json)
