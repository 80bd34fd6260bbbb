"""The tables of how much: what sweeps over numbers of synthetic images say, and what these are worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from harness.metrics.spec import segmentation_metric
from harness.report.format import interval, metric_name, number, p_value, signed
from harness.report.tables.table import Cell, Table
from harness.report.wording import enough, setting, worth
from harness.results.catalogue import TableSpec
from harness.stats.study import evaluated

if TYPE_CHECKING:
    from harness.report.findings import Findings


def sweep_tables(findings: Findings) -> Iterator[Table]:
    """Return the table of sweeps, if the study has any."""
    results, sweeps = findings.results, findings.sweeps
    if not sweeps:
        return
    several = len(evaluated(results)) > 1
    digits = segmentation_metric(results.comparison.metric).digits
    rows, records = [], []
    for sweep in sweeps:
        gain, low, high = sweep.curve.gain
        counts = [str(count) for count in sweep.trend.counts]
        rows.append(
            [
                *([Cell(f"{sweep.place[0]} ({sweep.place[1]})")] if several else []),
                Cell(sweep.place[2]),
                Cell(f"{sweep.generator} beside {sweep.base} real"),
                Cell(", ".join(counts) if len(counts) < 6 else f"{counts[0]} to {counts[-1]} ({len(counts)})"),
                Cell(p_value(sweep.trend.p_adjusted)),
                Cell(f"{signed(gain, digits)} {interval(low, high, digits, sign=True)}"),
                Cell(enough(sweep)),
            ]
        )
        records.append(
            {
                **dict(zip(("dataset", "role", "segmenter"), sweep.place, strict=True)),
                **{"generator": sweep.generator, "real": sweep.base, "counts": " ".join(counts)},
                **{"trend": sweep.trend.estimate.value, "p": sweep.trend.p, "p_adjusted": sweep.trend.p_adjusted},
                **dict(zip(("gain", "gain_low", "gain_high"), sweep.curve.gain, strict=True)),
                **dict(zip(("enough", "enough_low", "enough_high"), sweep.curve.enough, strict=True)),
            }
        )
    margin = results.comparison.margin
    left = f"less than {number(margin)}" if margin == margin else "less than 5 % of the whole gain"
    yield Table(
        "sweep",
        f"How much is enough, {metric_name(results.comparison.metric)}",
        f"Whether {metric_name(results.comparison.metric)} rises or falls with the number of synthetic images (one "
        "test for trend a sweep, adjusted for all of them), the gain of the largest number on a curve towards a level, "
        f"with its 95 % interval, and the number after which {left} is left to gain; {setting(results)}.",
        [
            *(["Scored on"] if several else []),
            *["Segmenter", "Generator", "Numbers", "p (trend)", "Gain", "Enough"],
        ],
        rows,
        notes=["–: no rise was found, so no number is enough."] if any(enough(s) == "–" for s in sweeps) else [],
        text_columns=4 if several else 3,
        records=records,
    )


def worth_tables(findings: Findings) -> Iterator[Table]:
    """Return the table of what synthetic images are worth in annotated ones, if the study has a learning curve."""
    results = findings.results
    if not findings.worths:
        return
    several = len(evaluated(results)) > 1
    rows = [
        [
            *([Cell(f"{one.key.dataset} ({one.key.role})")] if several else []),
            *[Cell(one.key.segmenter), Cell(one.key.recipe), Cell(str(one.equivalent.base)), Cell(worth(one))],
        ]
        for one in findings.worths
    ]
    records = [
        {
            **one.key._asdict(),
            **{"generator": one.generator, "synthetic": one.synthetic, "real": one.equivalent.base},
            **dict(zip(("extra", "extra_low", "extra_high"), one.equivalent.extra, strict=True)),
            **dict(zip(("extra_open", "low_open", "high_open"), one.equivalent.open, strict=True)),
        }
        for one in findings.worths
    ]
    yield Table(
        "real-image-equivalent",
        "What synthetic images are worth in annotated ones",
        "How many annotated images more than it has would bring a training set without synthetic ones to the same "
        f"{metric_name(results.comparison.metric)}, by the learning curve of this study's own training sets of real "
        f"images, with 95 % intervals; {setting(results)}.",
        [*(["Scored on"] if several else []), "Segmenter", "Training set", "Real", "Worth"],
        rows,
        notes=["> and <: beyond the numbers of real images that this study trained on."],
        text_columns=3 if several else 2,
        records=records,
    )


SWEEP = TableSpec(
    "sweep",
    "How much is enough",
    "Trend, gain and sufficient number of synthetic images, by all points of a sweep together.",
    sweep_tables,
    place=12,
)

WORTH = TableSpec(
    "real-image-equivalent",
    "What synthetic images are worth in annotated ones",
    "By the learning curve of the study's own training sets of real images.",
    worth_tables,
    place=14,
)
