"""Studies simulated from a known model, so that reports and verdicts can be checked against the truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.data.pairs import PairSet
from harness.results import (
    COLUMNS,
    ClosestPairs,
    Comparison,
    Failure,
    MaskDiversity,
    Measured,
    Pipeline,
    Plugged,
    PredictionGrid,
    StudyResults,
)

METRICS = ("iou", "f1", "accuracy", "precision", "recall")


def image_scores(tp, fp, fn, tn) -> dict[str, np.ndarray]:
    return {
        "iou": tp / (tp + fp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "accuracy": (tp + tn) / (tp + fp + fn + tn),
        "precision": tp / np.maximum(tp + fp, 1),
        "recall": tp / (tp + fn),
        "dice-loss": 1 - 2 * tp / (2 * tp + fp + fn),
    }


def recipe_facts(recipe: str) -> dict[str, Any]:
    parts = dict(part.split("=") for part in recipe.split(","))
    real, sees = parts.pop("real", "0"), parts.pop("sees", None)
    generator = "+".join(parts)
    control = generator in ("real-repeated", "resample", "copy-paste")
    arm = "control" if control else "real" if not parts else "mixed" if real != "0" else "synthetic"
    return {
        "arm": arm,
        "real": 700 if real == "all" else int(real),
        "seen": "" if not parts else int(sees or 700),
        "synthetic": sum(int(v) for v in parts.values()),
        "generator": generator,
    }


def transfer(content: float, style: float) -> Plugged:
    return Plugged("style-transfer", {"content": content, "style": style, "steps": 1000})


#: How the generators that simulated studies name make their pairs.
PIPELINES = {
    name: Pipeline((Plugged(name),)) for name in ("dcgan", "progan", "fastgan", "singan-seg", "copy-paste")
} | {
    "diffusion": Pipeline((Plugged("mask-ddpm"), Plugged("mask-ldm"))),
    "even": Pipeline((Plugged("singan-seg"),), (transfer(1, 1),)),
    "strong": Pipeline((Plugged("singan-seg"),), (transfer(1, 1000),)),
    "stronger": Pipeline((Plugged("singan-seg"),), (transfer(1, 100_000),)),
    "coloured": Pipeline((Plugged("singan-seg"),), (Plugged("colour-transfer", {"strength": 0.5}),)),
}


def simulate(
    effects: dict[str, float],
    *,
    segmenters: tuple[str, ...] = ("unetplusplus",),
    seeds: int = 3,
    folds: int = 1,
    images: int = 60,
    group_size: int = 2,
    run_noise: float = 0.004,
    image_noise: float = 0.03,
    leaks: dict[str, str] | None = None,
    random: int = 0,
    **changes: Any,
) -> StudyResults:
    """A study whose arms differ in mean IoU by ``effects`` (recipe -> shift; the first recipe is the control)."""
    rng = np.random.default_rng(random)
    rows, tables = [], []
    for segmenter in segmenters:
        difficulty = {f: rng.beta(8, 3, images) for f in range(folds)}
        for recipe, shift in effects.items():
            for fold in range(folds):
                for seed in range(seeds):
                    level = difficulty[fold] + shift + rng.normal(0, run_noise) + rng.normal(0, image_noise, images)
                    truth = np.full(images, 1000.0)
                    iou = np.clip(level, 0.02, 0.99)
                    tp = np.round(truth * iou)
                    fp = np.round((truth - tp) * 0.4)
                    fn, tn = truth - tp, 8000 - fp
                    cell = {"segmenter": segmenter, "recipe": recipe, "seed": seed, "fold": fold}
                    where = {"dataset": "phantom", "role": "report"}
                    scores = image_scores(tp, fp, fn, tn)
                    names = [f"phantom/{fold}-{i:03d}" for i in range(images)]
                    groups = [f"{fold}-{i // group_size}" for i in range(images)]
                    tables.append(
                        pd.DataFrame(
                            cell
                            | where
                            | {"image": names, "group": groups, "tp": tp, "fp": fp, "fn": fn, "tn": tn}
                            | scores
                        )
                    )
                    micro = image_scores(*(np.array(c.sum()) for c in (tp, fp, fn, tn)))
                    for metric in METRICS:
                        for reduction, value in (
                            ("micro-imagewise", scores[metric].mean()),
                            ("micro", float(micro[metric])),
                        ):
                            rows.append(
                                cell
                                | where
                                | recipe_facts(recipe)
                                | {
                                    "kind": "segmentation",
                                    "study": "simulated",
                                    "profile": "",
                                    "protocol": "clean",
                                    "cell": f"{segmenter} * {recipe}",
                                    "metric": metric,
                                    "reduction": reduction,
                                    "value": value,
                                    "images": images,
                                    "status": "done",
                                    "leak": (leaks or {}).get(recipe, ""),
                                    "stage": f"{len(rows):064x}",
                                }
                            )
    recipes = list(effects)
    cells = len(segmenters) * len(recipes) * seeds * folds
    generators = list(dict.fromkeys(recipe_facts(r)["generator"] for r in recipes if "," in r))
    arguments: dict[str, Any] = {
        "name": "simulated",
        "title": "A simulated study",
        "profile": "",
        "rows": pd.DataFrame(rows, columns=list(COLUMNS)),
        "images": pd.concat(tables, ignore_index=True),
        "comparison": Comparison(dict.fromkeys(recipes[1:], recipes[0])),
        "recipes": recipes,
        "segmenters": list(segmenters),
        "generators": generators,
        "done": cells,
        "total": cells,
        "facts": {
            "dataset": "phantom",
            "split": "holdout",
            "split_digest": "0123456789abcdef",
            "roles": {"fit": 700, "select": 101, "report": images},
            "folds": folds,
            "seeds": list(range(seeds)),
            "budget": "Every arm was trained for 4000 optimiser steps.",
            "selection": "The checkpoint with the best IoU on the select role is scored.",
            "protocol": "clean",
            "size": 64,
            "zero_division": 1.0,
        },
        "pipelines": PIPELINES,
    }
    return StudyResults(**(arguments | changes))


def without(results: StudyResults, recipe: str, seed: int, status: str = "failed") -> StudyResults:
    """The same study with one cell lost: one row without a number, as the engine writes it."""
    from dataclasses import replace

    rows = results.rows
    gone = (rows["recipe"] == recipe) & (rows["seed"] == seed) & (rows["segmenter"] == results.segmenters[0])
    hole = rows[gone].iloc[[0]].assign(metric="", reduction="", value=float("nan"), images=float("nan"), status=status)
    images = results.images
    lost = (images["recipe"] == recipe) & (images["seed"] == seed) & (images["segmenter"] == results.segmenters[0])
    label = f"{results.segmenters[0]} * {recipe} seed {seed}"
    return replace(
        results,
        rows=pd.concat([rows[~gone], hole], ignore_index=True),
        images=images[~lost],
        done=results.done - 1,
        failures=[Failure("ab" * 32, label, status, "CUDA ran out of memory with a batch of 8.")],
    )


@pytest.fixture
def study() -> Callable[..., StudyResults]:
    return simulate


@pytest.fixture
def lose() -> Callable[..., StudyResults]:
    return without


def pair_set(name: str, count: int = 6, size: int = 32) -> PairSet:
    rng = np.random.default_rng(len(name))
    images = rng.integers(60, 200, (count, size, size, 3), dtype=np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    masks[:, 8:20, 10:24] = 1
    return PairSet.real(images, masks, [f"{name}/{i}" for i in range(count)])


@pytest.fixture(scope="session")
def full_study() -> StudyResults:
    """Everything that a report can hold: two generators, a control, a leak-free hole, fidelity, selection, pictures."""
    effects = {"real=100": 0.0, "real=100,dcgan=100": 0.0, "real=100,dcgan=300": 0.1, "real=100,copy-paste=300": 0.0}
    results = simulate(effects, segmenters=("unetplusplus", "fpn"), images=40)
    base = dict.fromkeys(COLUMNS, "") | {
        "study": "simulated",
        "protocol": "clean",
        "dataset": "phantom",
        "status": "done",
    }
    extra = [
        base
        | {"kind": "fidelity", "cell": name, "generator": name, "synthetic": 300, "role": "fit", "metric": metric}
        | {"reduction": "inception, clean", "value": value, "images": 300}
        for name, metric, value in (("dcgan", "fid", 181.25), ("dcgan", "kid", 0.0412), ("copy-paste", "fid", 33.5))
    ]
    extra += [
        base
        | {"kind": "selection", "cell": "dcgan", "generator": "dcgan", "role": "select", "metric": "fid", "step": step}
        | {"value": 300 - step / 10, "images": 101}
        for step in (0, 500, 1000)
    ]
    extra_rows = pd.DataFrame(extra, columns=list(COLUMNS)).replace("", None).assign(leak="")
    rows = pd.concat([results.rows, extra_rows], ignore_index=True)
    real, synthetic = pair_set("real"), {"dcgan": pair_set("dcgan"), "copy-paste": pair_set("copy-paste", 4)}
    grid = PredictionGrid(
        "unetplusplus",
        real.images,
        real.masks,
        {recipe: np.roll(real.masks, shift, axis=1) for shift, recipe in enumerate(effects)},
        real.ids,
    )
    from dataclasses import replace

    return replace(
        results, rows=rows, real=real, synthetic=synthetic, predictions=[grid], notes=["Encoder weights are random."]
    )


FID_NETWORK = "inception-clean"

#: For each network, quantities of one generator in one fold as the collector writes them.
GOOD = {
    FID_NETWORK: {
        "fid": 60.0, "fid-corrected": 41.0, "fid-corrected-low": 38.0, "fid-corrected-high": 44.0, "kid": 0.031,
        "kid-deviation": 0.002, "prdc": 0.5, "precision": 0.7, "recall": 0.4, "density": 0.8, "coverage": 0.5,
        "neighbours": 5.0, "n_real": 700.0,
    },
    "inception-pool-1": {"sifid": 0.35, "n_real": 700.0},
    "tf_efficientnet_lite0": {"frechet-distance": 12.5, "n_real": 700.0},
    "pixels-8": {"thumbnail-distance": 1.25, "n_real": 700.0},
    "": {
        "sim": 0.9312, "sim-black": 0.8421, "sim-real": 0.9544, "mask-area": 0.012, "mean-area-real": 0.153,
        "mean-area-synthetic": 0.161, "mean-components-real": 1.1, "mean-components-synthetic": 1.25,
        "empty-masks": 3.0, "n_real": 700.0,
    },
    "pixels-32": {
        "memorisation": 0.52, "copied": 0.01, "copied-p-value": 0.61, "exact-copies": 0.0, "n_real": 700.0,
    },
}  # fmt: skip


def generator_rows(
    name: str, changes: dict[str, float] | None = None, *, images: int = 300, **columns: Any
) -> list[dict[str, Any]]:
    """The fidelity rows of one generator in one fold: ``GOOD`` with some quantities changed."""
    base = dict.fromkeys(COLUMNS, "") | {"kind": "fidelity", "study": "simulated", "protocol": "clean"}
    base |= {
        "cell": name,
        "generator": name,
        "arm": "synthetic",
        "real": 700,
        "seen": 700,
        "synthetic": images,
        "fold": 0,
    }
    base |= {"dataset": "phantom", "role": "fit", "status": "done", "images": images, **columns}
    return [
        base | {"metric": metric, "reduction": network, "value": (changes or {}).get(metric, value)}
        for network, quantities in GOOD.items()
        for metric, value in quantities.items()
    ]


def checkpoint_rows(
    cell: str, points: dict[int, dict[str, float]], chosen: int, problems: dict[int, str] | None = None, fold: int = 0
) -> list[dict[str, Any]]:
    """The selection rows of one part of a generator in one fold."""
    base = dict.fromkeys(COLUMNS, "") | {"kind": "selection", "cell": cell, "generator": cell.split()[0], "fold": fold}
    base |= {"dataset": "phantom", "role": "select", "images": 64, "status": "done"}
    return [
        base
        | {"step": step, "metric": metric, "value": value}
        | {"reduction": "selected" if step == chosen else (problems or {}).get(step, "")}
        for step, values in points.items()
        for metric, value in values.items()
    ]


def evidence(name: str, fold: int = 0, **changes: Any) -> Measured:
    """What the figures show of one generator: areas, closest pairs and masks made from one."""
    rng = np.random.default_rng(len(name) + fold)
    pictures = pair_set(name, 7)
    near = np.clip(pictures.images.astype(int) + rng.integers(-9, 9, pictures.images.shape), 0, 255).astype(np.uint8)
    closest = ClosestPairs(
        pictures.images, near, np.linspace(1.5, 9.0, 7), pictures.ids, tuple(f"train/{i}" for i in range(7))
    )
    mean = np.stack([np.roll(pictures.masks[0], shift, axis=1) for shift in range(4)]).mean(axis=0)
    spread = np.sqrt(mean * (1 - mean))
    diversity = MaskDiversity(
        pictures.masks[:5], np.stack([mean] * 5), np.stack([spread] * 5), (10, 10, 9, 10, 10), pictures.ids[:5]
    )
    facts: dict[str, Any] = {
        "arm": "synthetic", "reference": "held-out", "copies": False, "real_areas": rng.beta(2, 10, 700),
        "areas": rng.beta(2, 8, 300), "closest": closest, "diversity": diversity,
    }  # fmt: skip
    return Measured(name, fold, **(facts | changes))


def with_rows(results: StudyResults, rows: list[dict[str, Any]]) -> StudyResults:
    """The same study with more rows."""
    from dataclasses import replace

    more = pd.DataFrame(rows, columns=list(COLUMNS)).replace("", None).assign(leak="")
    return replace(results, rows=pd.concat([results.rows, more], ignore_index=True))


@pytest.fixture
def measured_study(study: Callable[..., StudyResults]) -> StudyResults:
    """Two generators measured on equal numbers of images, one on more, real report images, and two selections."""
    from dataclasses import replace

    reference = {"fid": 30.0, "fid-corrected": 2.0, "kid": 0.001, "sim": 0.95, "mask-area": 0.004}
    rows = generator_rows("dcgan")
    rows += generator_rows(
        "fastgan", {"fid": 55.0, "kid": 0.033, "fid-corrected": 42.0, "sim": 0.92, "exact-copies": 4}
    )
    rows += generator_rows("diffusion", {"fid": 50.0}, images=1000)
    rows += generator_rows("real (report)", reference, images=300, arm="real", real=300, synthetic=0)
    rows += checkpoint_rows(
        "diffusion masks",
        {
            0: {"fid": 140.14, "sim": 0.8822},
            50_000: {"fid": float("nan"), "sim": 0.8946},
            200_000: {"fid": 87.83, "sim": 0.9165},
        },
        200_000,
        {50_000: "empty masks"},
    )
    rows += checkpoint_rows("diffusion images", {88: {"fid": 119.34}, 135: {"fid": 104.78}}, 135)
    results = with_rows(study({"real=100": 0.0, "real=100,dcgan=300": 0.1}), rows)
    return replace(
        results,
        generators=["dcgan", "fastgan", "diffusion"],
        measured=[
            evidence("real (report)", arm="real", diversity=None),
            evidence("dcgan"),
            evidence("fastgan", copies=True, diversity=None),
            evidence("diffusion", diversity=None),
        ],
        selection_networks={"diffusion masks": FID_NETWORK, "diffusion images": FID_NETWORK},
    )


@pytest.fixture
def fidelity_rows() -> Callable[..., list[dict[str, Any]]]:
    return generator_rows


@pytest.fixture
def selection_rows() -> Callable[..., list[dict[str, Any]]]:
    return checkpoint_rows


@pytest.fixture
def measured_of() -> Callable[..., Measured]:
    return evidence


@pytest.fixture
def add_rows() -> Callable[..., StudyResults]:
    return with_rows
