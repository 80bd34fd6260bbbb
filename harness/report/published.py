"""The papers' printed numbers beside ours."""

from __future__ import annotations

import csv
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.metrics.sample_sets import between_sets, of_set
from harness.report.names import metric_name, number, signed
from harness.report.table import Cell, Table
from harness.report.wording import differences_from_paper
from harness.study_file import study_folders

if TYPE_CHECKING:
    import pandas as pd

    from harness.results import StudyResults

METRICS = {
    "iou": "iou", "f1": "f1", "f-score": "f1", "acc": "accuracy", "accuracy": "accuracy", "prec": "precision",
    "precision": "precision", "recall": "recall", "dice loss": "dice-loss", "fid": "fid", "sim_percent": "sim",
}  # fmt: skip

#: Style-transfer column of paper B to how a generator's name ends.
STYLES = {"none": "", "1:1": "st-1-1", "1:1000": "st"}


@dataclass(frozen=True)
class Printed:
    """One number that a paper prints.

    Attributes:
        labels: the columns that name its row in the paper's table.
        metric: our name of the metric.
        value: as printed.
        digits: decimals printed.
        pick: chooses the rows of our results that measure the same thing.
        deviation: standard deviation between sample sets, as printed; NaN when there is none.
        sets: the number of each sample set, as printed.
    """

    labels: tuple[tuple[str, str], ...]
    metric: str
    value: float
    digits: int
    pick: Callable[[pd.DataFrame], pd.DataFrame]
    deviation: float = math.nan
    sets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ours:
    """What we have of one printed number.

    Attributes:
        value: our mean; NaN when there is none.
        hole: how much of it is missing, in words; empty when nothing is, or nothing was to be measured.
        leak: what was seen.
        deviation: standard deviation between our sample sets; NaN when there is one set, or several folds.
        sets: the number of each of our sample sets.
    """

    value: float = math.nan
    hole: str = ""
    leak: str = ""
    deviation: float = math.nan
    sets: tuple[float, ...] = ()


@cache
def simplified(name: str) -> str:
    """Return a name without what spelling varies: case, dashes, ``+`` for ``plus``."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "plus"))


def find_published(name: str) -> Path | None:
    """Return the CSV of published numbers called ``name``, or None."""
    found = [
        path
        for folder in study_folders()
        if (path := folder / "published" / (name if name.endswith(".csv") else f"{name}.csv")).is_file()
    ]
    return found[0] if found and "/" not in name else None


def _segmentation(rows: pd.DataFrame, reduction: str) -> pd.DataFrame:
    """Return our segmentation rows of one reduction that are not control arms."""
    return rows[(rows["kind"] == "segmentation") & (rows["reduction"] == reduction) & (rows["arm"] != "control")]


def _same(column: pd.Series, name: str) -> pd.Series:
    """Return which names start with ``name``, spelling aside (``UNet++`` and ``unetplusplus-resnet34``)."""
    return column.fillna("").map(lambda own: simplified(str(own)).startswith(simplified(name))).astype(bool)


def _pick_ratio(record: dict[str, str], every_real: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Match paper A's Tables 3 and 4 by counts, segmenter and reduction; its 700 are all its real images."""
    real, synthetic = int(record["n_real"]), int(record["n_syn"])

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = _segmentation(rows, record["reduction"])
        # The paper's synthetic images come from its diffusion pipeline; another generator's are no match.
        theirs = own["generator"].fillna("").map(lambda name: "diffusion" in simplified(str(name)))
        own = own[theirs | (own["synthetic"].fillna(0) == 0)]
        counted = own["real"] == real
        if real == every_real:
            counted = counted | own["recipe"].fillna("").str.startswith("real=all")
        return own[counted & (own["synthetic"].fillna(0) == synthetic) & _same(own["segmenter"], record["model"])]

    return pick


def _styled(generator: str, style: str) -> bool:
    """Say whether a generator is SinGAN with the given style transfer."""
    name = simplified(generator)
    ending = {"none": "", "1:1": "st11", "1:1000": "st"}[style]
    stem = name.removeprefix("singan").removeprefix("seg")
    return name.startswith("singan") and stem in ({ending, "st11000", "st1000"} if ending == "st" else {ending})


def _pick_real_or_fake(record: dict[str, str], fit_images: int) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Match paper B's Tables 2 and 3: real only, or synthetic only with so many images."""
    real_only = (record.get("train_data") or record.get("data", "")).lower() == "real"
    style = record.get("style_transfer_cw_sw", "1:1000")
    if "n_images" in record:
        amount: int | None = int(record["n_images"])
    else:
        amount = None if real_only else int(record["n_fake_per_real"]) * fit_images

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = _segmentation(rows, "micro-imagewise")
        if real_only:
            own = own[(own["arm"] == "real")]
            return own[own["real"] == amount] if amount is not None else own[own["recipe"] == "real=all"]
        own = own[(own["arm"] == "synthetic") & own["generator"].fillna("").map(lambda g: _styled(str(g), style))]
        near = (own["synthetic"] - (amount or 0)).abs() <= 0.02 * max(amount or 1, 1)
        return own[near]

    return pick


def _pick_fidelity(
    generator: str, metric: str, amount: int | None, style: str | None, sets: int
) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Match a generator's fidelity by name and number of images in a set; without a result, by what it will have."""

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows[(rows["kind"] == "fidelity") & (rows["metric"] == metric)]
        if style is not None:
            own = own[own["generator"].fillna("").map(lambda g: _styled(str(g), style)).astype(bool)]
        else:
            own = own[_same(own["generator"], generator)]
        measured = own["images"].astype(float).fillna(0)
        size = measured.where(measured > 0, own["synthetic"].astype(float) / sets)
        return own[size == amount] if amount is not None else own

    return pick


def _pick_step(step: int, metric: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Match a checkpoint by its step."""

    def pick(rows: pd.DataFrame) -> pd.DataFrame:
        own = rows[(rows["kind"] == "selection") & (rows["metric"] == metric)]
        return own[own["step"].astype(float) == step] if len(own) else own

    return pick


def _read_record(record: dict[str, str], every_real: int, fit_images: int, sets: int) -> Printed | None:
    """Turn a line of a published CSV into a number with the rule that finds ours; None for spread and single sets.

    Args:
        record: the line.
        every_real: the most real images of any line.
        fit_images: ours.
        sets: how many sample sets of a generator ours measures.
    """
    text = record["value"]
    digits = len(text.partition(".")[2]) if "E" not in text else 4
    metric = METRICS.get(record.get("metric", "").lower(), "")
    hidden = {"metric", "value", "reduction", "params_millions", "stat"}
    labels = tuple((k, v) for k, v in record.items() if k not in hidden)
    if record.get("stat", "mean") != "mean":
        return None
    if "n_syn" in record:
        pick = _pick_ratio(record, every_real)
    elif "train_data" in record or "n_real_base" in record:
        pick = _pick_real_or_fake(record, fit_images)
    elif "iteration" in record or "epoch" in record:
        pick = _pick_step(int(record.get("iteration") or record["epoch"]), metric)
    elif "gan" in record:
        metric, style = "fid", {"SinGAN-Seg": "none", "SinGAN-Seg-ST": "1:1000"}.get(record["gan"])
        pick = _pick_fidelity(record["gan"], metric, int(record["n_synthetic"]), style, sets)
    else:
        metric, weight = "sifid", record.get("style_weight", "")
        style = {"": "none", "1": "1:1", "1000": "1:1000"}.get(weight)
        pick = _pick_fidelity(record["dataset"], metric, None, style, sets)
    return Printed(labels, metric, float(text), digits, pick)


def _ours(rows: pd.DataFrame, printed: Printed) -> Ours:
    """Return what we have of a printed number; several of our arms are never mixed."""
    own = printed.pick(rows)
    if own.empty:
        return Ours()
    own = own[(own["metric"] == printed.metric) | own["value"].isna()]
    if own.empty:
        return Ours()
    # When several generators or segmenters fit, the first declared one stands; the others are in the scores table.
    place = own[["dataset", "role", "segmenter", "recipe", "generator"]].fillna("")
    own = own[(place == place.iloc[0]).all(axis=1)]
    if own["value"].isna().any():
        return Ours(hole=f"incomplete {int(own['value'].notna().sum())}/{len(own)}")
    leak = "; ".join(dict.fromkeys(str(v) for v in own["leak"].dropna() if str(v)))
    value = float(own["value"].mean())
    if printed.metric == "sim" and value <= 1:
        value *= 100
    deviation, sets = _our_sets(rows, own, printed.metric)
    return Ours(value, "", leak, deviation, sets)


def _our_sets(rows: pd.DataFrame, own: pd.DataFrame, metric: str) -> tuple[float, tuple[float, ...]]:
    """Return the deviation between our sample sets and the number of each; NaN and none without them, or with folds."""
    if len(own) > 1 or not own["kind"].eq("fidelity").all():
        return math.nan, ()
    same = ["kind", "role", "generator", "cell", "fold", "reduction"]
    beside = rows[(rows[same].fillna("") == own[same].fillna("").iloc[0]).all(axis=1)]
    values = dict(zip(beside["metric"], beside["value"].astype(float), strict=True))
    numbers = itertools.takewhile(lambda n: of_set(metric, n) in values, itertools.count(1))
    return values.get(between_sets(metric), math.nan), tuple(values[of_set(metric, n)] for n in numbers)


def _read(path: Path, results: StudyResults) -> list[Printed]:
    """Read one CSV of published numbers."""
    with path.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    every_real = max((int(r["n_real"]) for r in records if r.get("n_real")), default=0)
    fit_images = int((results.facts.get("roles") or {}).get("fit", 0))
    sets = int(results.facts.get("sample_sets") or 1)
    found = []
    for record in records:
        printed = _read_record(record, every_real, fit_images, sets)
        if printed is not None:
            alike = [other for other in records if "stat" in other and _alike(other, record)]
            beside = {other["stat"]: float(other["value"]) for other in alike}
            own = tuple(value for stat, value in beside.items() if stat.startswith("set"))
            found.append(replace(printed, deviation=beside.get("sd", math.nan), sets=own))
    return found


def _alike(first: dict[str, str], second: dict[str, str]) -> bool:
    """Say whether two lines are of one number: its mean, its deviation or one of its sets."""
    return all(value == second[name] for name, value in first.items() if name not in ("stat", "value"))


def published_tables(results: StudyResults) -> list[Table]:
    """Return the published tables that the study names, ours beside each number with the difference.

    A named CSV that is not in ``studies/published`` gives a table that says so, so that no report is lost to a typing
    error.
    """
    tables: list[Table] = []
    for name in results.published:
        path = find_published(name)
        stem = name.removesuffix(".csv")
        if path is None:
            missing = f"There is no studies/published/{stem}.csv; correct report.published in the study."
            tables.append(
                Table(f"published-{simplified(stem)}", f"Published numbers, {stem}", missing, ["Missing"], [])
            )
            continue
        printed = _read(path, results)
        metrics = list(dict.fromkeys(p.metric for p in printed))
        # Three numbers a metric: more than three metrics do not fit the width of a page.
        parts = -(-len(metrics) // 3)
        chunks = [metrics[i * len(metrics) // parts : (i + 1) * len(metrics) // parts] for i in range(parts)]
        for index, chunk in enumerate(chunks):
            suffix = f"-{index + 1}" if len(chunks) > 1 else ""
            own = [p for p in printed if p.metric in chunk]
            tables.append(_side_by_side(results, own, chunk, f"published-{stem}{suffix}", stem))
    return tables


def _with_deviation(value: float, deviation: float, digits: int) -> str:
    """Print a mean with its deviation, or alone when it has none."""
    return number(value, digits) + ("" if math.isnan(deviation) else f" ± {number(deviation, digits)}")


def _record_of_sets(printed: Printed | None, ours: Ours, sets: int) -> dict[str, object]:
    """Return both deviations and, of so many sets, the paper's number beside ours, as plain values."""
    record: dict[str, object] = {
        "paper_deviation": printed.deviation if printed else math.nan,
        "ours_deviation": ours.deviation,
    }
    for position in range(sets):
        for side, values in (("paper", printed.sets if printed else ()), ("ours", ours.sets)):
            record[f"{side}_set_{position + 1}"] = values[position] if position < len(values) else math.nan
    return record


def _sets_note(theirs: int, ours: int) -> list[str]:
    """Return what ± stands on, when the paper has several sample sets."""
    if not theirs:
        return []
    own = f"{ours} here; the CSV holds each set" if ours > 1 else "one set here, which has none"
    return [f"Mean ± standard deviation (n − 1) between sets of samples: {theirs} in the paper, {own}."]


def _side_by_side(results: StudyResults, printed: Sequence[Printed], metrics: list[str], name: str, stem: str) -> Table:
    """Return one table: a row a condition of the paper, for each metric the paper's number, ours and the difference."""
    conditions: dict[tuple[tuple[str, str], ...], dict[str, Printed]] = {}
    for item in printed:
        conditions.setdefault(item.labels, {})[item.metric] = item
    rows, records, leaks = [], [], []
    theirs, our_sets = max((len(p.sets) for p in printed), default=0), 1
    for labels, numbers in conditions.items():
        cells = [Cell(value or "–") for _, value in labels]
        here = False
        for metric in metrics:
            one = numbers.get(metric)
            ours = _ours(results.rows, one) if one else Ours()
            here = here or ours.value == ours.value or bool(ours.hole)
            leaks += [ours.leak] if ours.leak and ours.leak not in leaks else []
            paper, digits = (one.value, min(one.digits, 4)) if one else (math.nan, 3)
            cells += [
                Cell(_with_deviation(paper, one.deviation if one else math.nan, digits)),
                Cell(ours.hole or _with_deviation(ours.value, ours.deviation, digits), mark="†" if ours.leak else ""),
                Cell(signed(ours.value - paper, digits)),
            ]
            found = {"metric": metric, "paper": paper, "ours": ours.value, "difference": ours.value - paper}
            records.append(
                {**dict(labels), **found, "leak": ours.leak, **(_record_of_sets(one, ours, theirs) if theirs else {})}
            )
            our_sets = max(our_sets, len(ours.sets))
        rows += [cells] if here else []
    heads = [label.replace("_", " ") for label, _ in next(iter(conditions), ())]
    for metric in metrics:
        heads += [f"{metric_name(metric)}, paper", "ours", "difference"]
    return Table(
        name,
        f"Beside the paper, {stem}",
        f"Published numbers ({stem}) beside ours: {len(rows)} of the paper's {len(conditions)} rows were measured "
        f"here, the CSV holds all of them. {differences_from_paper(results)}",
        heads,
        rows,
        notes=[
            *(f"† leak: something that made this number had seen what it is scored on: {leak}." for leak in leaks),
            *_sets_note(theirs if rows else 0, our_sets),
        ],
        text_columns=len(heads) - 3 * len(metrics),
        records=records,
    )
