"""The papers' printed numbers beside ours."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.metrics.fidelity.sample_sets import between_sets, of_set
from harness.report.format import metric_name, number, signed
from harness.report.papers.matching import TOLERANCE, Pick, StudyFacts, matching, simplified
from harness.report.tables.table import Cell, Table
from harness.report.wording import clause, count
from harness.results.catalogue import TableSpec
from harness.study.find import study_folders

if TYPE_CHECKING:
    import pandas as pd

    from harness.results.schema import StudyResults


#: Real images of two of three folds in paper B.
TWO_FOLDS = 667


@dataclass(frozen=True)
class PublishedNumber:
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
    pick: Pick
    deviation: float = math.nan
    sets: tuple[float, ...] = ()


@dataclass(frozen=True)
class Counterpart:
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


def find_published(name: str) -> Path | None:
    """Return the CSV of published numbers called ``name``, or None."""
    found = [
        path
        for folder in study_folders()
        if (path := folder / "published" / (name if name.endswith(".csv") else f"{name}.csv")).is_file()
    ]
    return found[0] if found and "/" not in name else None


def _read_record(record: dict[str, str], ours: StudyFacts, every_real: int) -> PublishedNumber | None:
    """Turn a line of a published CSV into a number with the rule that finds ours; None for spread and single sets.

    Args:
        record: the line.
        ours: what decides which of our rows match.
        every_real: the most real images of any line.
    """
    if record.get("stat", "mean") != "mean":
        return None
    text = record["value"]
    digits = len(text.partition(".")[2]) if "E" not in text else 4
    hidden = {"metric", "value", "reduction", "params_millions", "stat"}
    labels = tuple((k, v) for k, v in record.items() if k not in hidden)
    metric, pick = matching(record, ours, every_real)
    return PublishedNumber(labels, metric, float(text), digits, pick)


def _ours(rows: pd.DataFrame, printed: PublishedNumber) -> Counterpart:
    """Return what we have of a printed number; several of our arms are never mixed."""
    own = printed.pick(rows)
    if own.empty:
        return Counterpart()
    # A run without a result may be one row that names no metric.
    own = own[own["metric"].fillna("").isin([printed.metric, ""])]
    if own.empty:
        return Counterpart()
    # When several generators or segmenters fit, the first declared one stands; the others are in the scores table.
    place = own[["dataset", "role", "segmenter", "recipe", "generator"]].fillna("")
    own = own[(place == place.iloc[0]).all(axis=1)]
    if own["value"].isna().any():
        return Counterpart(hole=f"incomplete {int(own['value'].notna().sum())}/{len(own)}")
    leak = "; ".join(dict.fromkeys(str(v) for v in own["leak"].dropna() if str(v)))
    value = float(own["value"].mean())
    if printed.metric == "sim":  # a share here, per cent in print
        value *= 100
    deviation, sets = _our_sets(rows, own, printed.metric)
    return Counterpart(value, "", leak, deviation, sets)


def _our_sets(rows: pd.DataFrame, own: pd.DataFrame, metric: str) -> tuple[float, tuple[float, ...]]:
    """Return the deviation between our sample sets and the number of each; NaN and none without them, or with folds."""
    if len(own) > 1 or not own["kind"].eq("fidelity").all():
        return math.nan, ()
    same = ["kind", "role", "generator", "cell", "fold", "reduction"]
    beside = rows[(rows[same].fillna("") == own[same].fillna("").iloc[0]).all(axis=1)]
    values = dict(zip(beside["metric"], beside["value"].astype(float), strict=True))
    numbers = itertools.takewhile(lambda n: of_set(metric, n) in values, itertools.count(1))
    return values.get(between_sets(metric), math.nan), tuple(values[of_set(metric, n)] for n in numbers)


def _read(path: Path, results: StudyResults) -> list[PublishedNumber]:
    """Read one CSV of published numbers."""
    with path.open(encoding="utf-8", newline="") as stream:
        records = list(csv.DictReader(stream))
    every_real = max((int(r["n_real"]) for r in records if r.get("n_real")), default=0)
    ours = StudyFacts.of(results)
    found = []
    for record in records:
        printed = _read_record(record, ours, every_real)
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


def differences_from_paper(results: StudyResults) -> str:
    """Return in one sentence how these runs differ from the published ones."""
    facts = results.facts
    profile = f"profile {results.profile}" if results.profile else "the study as declared"
    parts = [profile, f"protocol {facts.get('protocol', 'clean')}"]
    if facts.get("size"):
        parts.append(f"{facts['size']} px")
    if facts.get("budget"):
        parts.append(clause(str(facts["budget"])))
    if seeds := facts.get("seeds"):
        parts.append(f"{count(len(seeds), 'seed')} where the paper trains once")
    parts.extend(clause(note) for note in results.notes if "weights" in note.lower())
    return "How these runs differ from the paper's: " + "; ".join(parts) + "."


def _with_deviation(value: float, deviation: float, digits: int) -> str:
    """Print a mean with its deviation, or alone when it has none."""
    return number(value, digits) + ("" if math.isnan(deviation) else f" ± {number(deviation, digits)}")


def _record_of_sets(printed: PublishedNumber | None, ours: Counterpart, sets: int) -> dict[str, object]:
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


def _base_note(results: StudyResults) -> list[str]:
    """Return how many real images REAL and FAKE-N of paper B's Table 2 are of, where that is not as in the paper."""
    widest = StudyFacts.of(results).widest
    if abs(widest - TWO_FOLDS) <= TOLERANCE * TWO_FOLDS:
        return []
    return [f"REAL and FAKE-N here: of {widest} real images, where the paper has 666 or 667."]


def _side_by_side(
    results: StudyResults, printed: Sequence[PublishedNumber], metrics: list[str], name: str, stem: str
) -> Table:
    """Return one table: a row a condition of the paper, for each metric the paper's number, ours and the difference."""
    conditions: dict[tuple[tuple[str, str], ...], dict[str, PublishedNumber]] = {}
    for item in printed:
        conditions.setdefault(item.labels, {})[item.metric] = item
    rows, records, leaks = [], [], []
    theirs, our_sets = max((len(p.sets) for p in printed), default=0), 1
    for labels, numbers in conditions.items():
        cells = [Cell(value or "–") for _, value in labels]
        here = False
        for metric in metrics:
            one = numbers.get(metric)
            ours = _ours(results.rows, one) if one else Counterpart()
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
            *(_base_note(results) if "n_fake_per_real" in dict(next(iter(conditions), ())) else []),
        ],
        text_columns=len(heads) - 3 * len(metrics),
        records=records,
    )


PUBLISHED = TableSpec(
    "published",
    "Published numbers beside ours",
    "The papers' tables that the study names, ours beside each number with the difference.",
    lambda findings: published_tables(findings.results),
    place=70,
)
