"""The worked examples of CONTRIBUTING.md: each is one file of a project, and is seen wherever its kind is seen."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "CONTRIBUTING.md"
SETTINGS = (
    "fidelity.metrics=[mask-area, brightness-gap]",
    "evaluate.metrics=[iou, missed]",
    "stages=[{kind: bright-pixels, above: 100}]",
    "seeds=2",
    "report.figures=[spread-bars, comparison]",
)
ASKED = ("--profile", "short", *(part for setting in SETTINGS for part in ("--set", setting)))


def examples() -> list[str]:
    """The Python blocks of the document, in their order."""
    return re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)


@pytest.fixture
def extended(temp_study: Any) -> Any:
    """A project with every example as an extension of its own."""
    folder = temp_study.project / "extensions"
    folder.mkdir()
    for number, text in enumerate(examples()):
        (folder / f"example{number}.py").write_text(text)
    return temp_study


def rows(study: Any) -> list[dict[str, str]]:
    with (study.project / "reports" / "twelve-short" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_kind_has_an_example_of_at_most_a_screen() -> None:
    found = examples()
    assert len(found) == 6
    assert all(text.count("\n") <= 40 for text in found)


def test_the_lists_of_the_command_line_show_each(extended: Any) -> None:
    metrics = extended.command("metrics", "list").out
    assert "brightness-gap" in metrics
    assert "missed" in metrics
    report = extended.command("report", "list").out
    assert "spread" in report
    assert "spread-bars" in report
    plugins = extended.command("plugin", "list").out
    assert "plain" in plugins
    assert "bright-pixels" in plugins


def test_one_run_shows_each_in_results_tables_page_and_mlflow(extended: Any) -> None:
    plain = ("--executor", "plain", "--only", "tiny * real=4 * seed=0")
    assert extended.command("study", "run", "twelve", *plain, *ASKED).code == 0
    answer = extended.command("study", "run", "twelve", "--executor", "in-process", "--json", *ASKED)
    assert answer.code == 0, answer.err
    assert answer.json["stored"] >= 3
    found = {(row["kind"], row["metric"]) for row in rows(extended) if row["value"]}
    assert {("fidelity", "brightness-gap"), ("fidelity", "brightness")} <= found
    assert ("segmentation", "missed") in found
    assert ("bright-pixels", "bright-pixels") in found
    folder = extended.project / "reports" / "twelve-short"
    assert "Brightness gap" in (folder / "tables" / "fidelity.md").read_text()
    assert "Missed" in (folder / "tables" / "scores-micro.md").read_text()
    assert (folder / "tables" / "spread.tex").read_text()
    assert (folder / "figures" / "spread-bars.pdf").stat().st_size > 1000
    for page in ("report.md", "report.html"):
        text = (folder / page).read_text()
        assert "Brightness gap" in text
        assert "Missed" in text
        assert "Spread over runs" in text
        assert "How far runs lie apart" in text
    assert {"brightness-gap", "missed micro", "bright-pixels"} <= logged(extended.project)


def logged(project: Path) -> set[str]:
    """Names of the metrics that MLflow has."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return {name for run in client.search_runs(experiments, max_results=500) for name in run.data.metrics}
