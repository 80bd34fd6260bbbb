"""The two pages of a report, ``report.md`` and the self-contained ``report.html``."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report.format import REDUCTIONS, metric_name, number
from harness.report.papers.tables import differences_from_paper
from harness.report.tables.fidelity import describe_copies
from harness.report.wording import (
    answer,
    completeness,
    count,
    describe,
    describe_marks,
    generator_setting,
    setting,
)
from harness.stats.verdicts import RULES

if TYPE_CHECKING:
    from harness.report.findings import Findings
    from harness.report.tables.table import Table
    from harness.results.schema import StudyResults
    from harness.stats import Effect, Score


@dataclass(frozen=True)
class FigureFile:
    """A figure that was drawn: its file name without ending, what it shows, and its PNG in base64."""

    name: str
    title: str
    caption: str
    data: str

    @classmethod
    def read(cls, stem: Path, title: str, caption: str) -> FigureFile:
        """Read the PNG that was written."""
        data = base64.b64encode(stem.with_suffix(".png").read_bytes()).decode("ascii")
        return cls(stem.name, title, caption, data)


def _alarms(findings: Findings) -> list[str]:
    """Return what must be read before any number: holes, leaks, segmenters that did not learn, single runs."""
    results, listed = findings.results, findings.primary
    lines = []
    if results.done != results.total:
        lines.append(f"{completeness(results)[0].upper()}{completeness(results)[1:]} cells: numbers below have holes.")
    rows = results.rows
    leaks = dict.fromkeys(str(v) for v in rows["leak"].dropna() if str(v))
    lines.extend(f"Leak, marked † in every table: {leak}." for leak in leaks)
    lines.extend(describe_marks(findings.marks))
    lines.extend(describe_copies(results))
    lines.extend(f"{f.label}: {f.status}. {f.reason}" for f in results.failures[:5])
    if len(results.failures) > 5:
        lines.append(f"{len(results.failures) - 5} more failures are listed at the end.")
    lines.extend(f"{c[0].upper()}{c[1:]}." for c in dict.fromkeys(s.caveat for s in listed if s.complete and s.caveat))
    return lines


def _facts(results: StudyResults) -> list[tuple[str, str]]:
    """Return the facts as a list for reading, in a fixed order, each as a line of text."""
    facts: dict[str, Any] = {"study": results.name, "profile": results.profile or "as declared", **results.facts}
    names = {
        "split_digest": "split digest",
        "zero_division": "zero division",
        "sample_sets": "sample sets",
        "size_limits": "polyp sizes up to",
    }
    return [(names.get(k, k), _line(v)) for k, v in facts.items() if v not in (None, "", [], {})]


def _line(value: object) -> str:
    """Return a fact as one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_line(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_line(v) for v in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _methods(results: StudyResults, listed: list[Score], effects: list[Effect]) -> str:
    """Return a paragraph for a methods section."""
    if not results.segmenters:
        done, planned = _measurements(results)
        text = generator_setting(results, done, planned, averaged=False)
        return f"{text[0].upper()}{text[1:]}. No segmenter was trained on synthetic images."
    comparison = results.comparison
    how = REDUCTIONS.get(comparison.reduction, "")
    images = max((s.images for s in listed), default=0)
    groups = max((s.groups for s in listed), default=0)
    tested = sum(e.p == e.p for e in effects)
    text = f"{setting(results)}. The primary metric is {metric_name(comparison.metric)} ({comparison.reduction}"
    text += f": {how})" if how else ")"
    text += f", on {count(images, 'image')} in {count(groups, 'group')}. " if images else ". "
    text += (
        "Intervals (95 %) are over images, clustered by group, and over runs, by the estimator of Obuchowski and "
        "Rockette with Hillis' degrees of freedom: what runs do is pooled over the arms of a segmenter. "
    )
    if effects:
        overs = list(dict.fromkeys(e.over for e in effects if e.over and not e.reason))
        text += (
            f"Arms are compared {comparison.name}, paired by image and run; intervals of differences are simultaneous "
            f"and p values adjusted for {count(tested, 'comparison')} (Bonferroni). "
        )
        if comparison.margin == comparison.margin:
            text += f"Differences below {number(comparison.margin)} do not matter (two one-sided tests). "
        if overs:
            text += f"Verdicts speak {'; '.join(overs)}. "
        text += "No number is the best of several runs."
    return text[0].upper() + text[1:]


def _measurements(results: StudyResults) -> tuple[int, int]:
    """Return how many measurements of generators have a result, and how many are planned."""
    rows = results.rows[results.rows["kind"] == "fidelity"]
    done = rows[rows["status"] == "done"]
    return done["stage"].nunique(), rows["stage"].nunique()


def pages(findings: Findings, tables: list[Table], figures: list[FigureFile]) -> dict[str, str]:
    """Return the text of ``report.md`` and ``report.html``.

    Args:
        findings: what was found.
        tables: in the order in which they stand.
        figures: already drawn, in the order in which they stand.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    results, effects = findings.results, findings.effects
    profile = f", profile {results.profile}" if results.profile else ""
    protocol = f", protocol {results.facts['protocol']}" if results.facts.get("protocol") else ""
    cells = f"; {completeness(results)} cells" if results.segmenters else ""
    content = {
        "title": results.title or results.name,
        "subtitle": f"Study {results.name}{profile}{protocol}{cells}.",
        "answer": answer(
            results,
            effects,
            [e for _, further in findings.secondary for e in further],
            findings.sweeps,
            findings.worths,
        ),
        "alarms": _alarms(findings),
        "sentences": [describe(e) for e in [*effects, *(e for _, further in findings.secondary for e in further)]],
        "rules": RULES,
        "tables": tables,
        "figures": figures,
        "methods": _methods(results, findings.primary, effects),
        "facts": _facts(results),
        "difference": differences_from_paper(results) if results.published else "",
        "notes": [*findings.notes, *results.notes],
        "failures": results.failures,
    }
    written = {}
    for name in ("report.md", "report.html"):
        environment = Environment(
            loader=PackageLoader("harness.report"),
            autoescape=name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        written[name] = environment.get_template(f"{name}.j2").render(content).rstrip() + "\n"
    return written
