"""The catalogue: a table and a figure of one file each, seen in the list, in studies, and in the report."""

from __future__ import annotations

from dataclasses import replace
from subprocess import run
from sys import executable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.data.pairs import PairSet
from harness.errors import PluginError
from harness.report.render import render
from harness.results import catalogue
from harness.results.schema import MadeFrom

FIGURE = '''
"""How far the runs of each arm lie apart, as bars."""

from harness.results import FigureSpec, Panel


def draw(findings):
    from matplotlib.figure import Figure

    arms = [score for score in findings.primary if score.complete]
    if not arms:
        return
    figure = Figure(figsize=(3.5, 0.3 * len(arms) + 0.7), layout="constrained")
    axis = figure.subplots()
    axis.barh([f"{s.key.segmenter}, {s.key.recipe}" for s in arms], [s.spread for s in arms])
    axis.set_xlabel("Standard deviation between runs")
    yield Panel(figure)


SPREAD = FigureSpec("spread", "How far runs lie apart", "A bar an arm; one run has none.", draw, place=35)
'''

TABLE = '''
"""The best run of each arm."""

from harness.report.tables.table import Cell, Table
from harness.results import TableSpec


def build(findings):
    rows = findings.results.rows
    own = rows[(rows["kind"] == "segmentation") & (rows["metric"] == "iou") & (rows["reduction"] == "micro")]
    best = own.groupby("recipe", sort=False)["value"].max()
    yield Table(
        "best-run",
        "The best run of each arm",
        "Not to be reported: it is the best of several.",
        ["Training set", "IoU"],
        [[Cell(recipe), Cell(f"{value:.3f}")] for recipe, value in best.items()],
    )


BEST = TableSpec("best-run", "The best run of each arm", "IoU, micro.", build, place=25)
'''


def add(project: Any, name: str, text: str) -> str:
    (project / "extensions").mkdir(exist_ok=True)
    path = project / "extensions" / f"{name}.py"
    path.write_text(text)
    return str(path)


def test_a_figure_and_a_table_of_one_file_each_are_in_the_list_in_studies_and_in_the_report(temp_study: Any) -> None:
    paths = {name: add(temp_study.project, name, text) for name, text in (("spread", FIGURE), ("best_run", TABLE))}

    listed: Any = temp_study.command("report", "list", "--json").json
    for kind, name, file, before in (
        ("figures", "spread", "spread", "comparison"),
        ("tables", "best-run", "best_run", "scores-by-size"),
    ):
        names = [one["name"] for one in listed[kind]]
        assert names.index(name) == names.index(before) + 1
        (found,) = [one for one in listed[kind] if one["name"] == name]
        assert found["origin"] == paths[file]
        assert {one["origin"] for one in listed[kind] if one is not found} == {"built-in"}
    printed = temp_study.command("report", "list").out
    (line,) = [line for line in printed.splitlines() if "How far runs lie apart" in line]
    assert line.split()[0] == "spread"
    assert line.endswith(paths["spread"])

    declared = temp_study.file.read_text().replace(", figures: [variations]", "")
    temp_study.file.write_text(
        declared.replace("report: {", "report: {figures: [spraed, comparison], tables: [best-runs], ")
    )
    wrong = temp_study.command("study", "show", "twelve")
    assert wrong.code == 2
    assert "report.figures.0: there is no 'spraed'; did you mean 'spread'?" in wrong.err
    assert "report.tables.0: there is no 'best-runs'; did you mean 'best-run'?" in wrong.err

    temp_study.file.write_text(
        declared.replace("report: {", "report: {figures: [spread, comparison], tables: [best-run, scores], ")
    )
    answer = temp_study.run("-p", "short")
    assert answer.code == 0, answer.err
    folder = temp_study.project / "reports" / "twelve-short"
    assert {path.name for path in (folder / "figures").glob("spread*")} == {"spread.png", "spread.pdf"}
    assert {path.name for path in (folder / "tables").glob("best-run*")} == {
        f"best-run.{e}" for e in ("md", "tex", "csv")
    }
    with Image.open(folder / "figures" / "spread.png") as picture:
        assert abs(picture.width / 220 - 3.5) < 0.01
    for page in ("report.html", "report.md"):
        text = (folder / page).read_text()
        assert (
            text.index("Scores, micro-imagewise") < text.index("The best run of each arm") < text.index("How far runs")
        )
        assert "A bar an arm; one run has none." in text
        assert "paint=8" in text[text.index("The best run of each arm") :]


def test_without_a_choice_an_extension_is_in_every_report_and_again_the_same(
    harness_home: Any, study: Any, tmp_path: Any
) -> None:
    add(harness_home, "spread", FIGURE)
    results = replace(study({"real=100": 0.0, "real=100,dcgan=300": 0.1}), tables=["none"])
    folders = [render(results, tmp_path / side).parent / "figures" for side in "ab"]
    names = {path.name for path in folders[0].iterdir()}
    assert {"spread.png", "spread.pdf", "ratio.png"} <= names
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            FIGURE.replace("score.complete", "score.compleet"),
            r"'spread' of .* cannot be made: AttributeError: .*compleet",
        ),
        (FIGURE.replace("yield Panel(figure)", "yield figure"), "'spread' of .* cannot be made: AttributeError"),
        (TABLE.replace('["Training set", "IoU"]', '["Training set"]'), "'best-run' of .* cannot be made: ValueError"),
        (TABLE.replace("    yield Table(", "    return Table("), "'best-run' of .* cannot be made: TypeError"),
    ],
)
def test_a_mistake_in_an_extension_is_one_sentence_that_names_its_file(
    harness_home: Any, full_study: Any, tmp_path: Any, text: str, said: str
) -> None:
    path = add(harness_home, "own", text)
    with pytest.raises(PluginError, match=said) as error:
        render(replace(full_study, figures=["spread"], tables=["best-run"]), tmp_path / "r")
    assert path in str(error.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("built_in", "named"), [("ratio", "'ratio'"), ("comparison", "'comparison'")])
def test_a_name_that_is_taken_is_refused(harness_home: Any, built_in: str, named: str) -> None:
    add(harness_home, "own", FIGURE.replace('"spread"', f'"{built_in}"'))
    with pytest.raises(PluginError, match=f"Two of a kind .* are called {named}"):
        catalogue.figures()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (FIGURE.replace("    yield Panel(figure)", "    yield Panel(figure)\n    yield Panel(figure)"), "spread"),
        (TABLE.replace('    yield Table(\n        "best-run"', '    yield Table(\n        "comparison"'), "comparison"),
    ],
)
def test_files_of_one_name_are_refused(
    harness_home: Any, full_study: Any, tmp_path: Any, text: str, named: str
) -> None:
    add(harness_home, "twice", text)
    with pytest.raises(PluginError, match=f"called '{named}'"):
        render(replace(full_study, figures=["spread"], tables=["comparison", "best-run"]), tmp_path / "r")


def test_figures_of_one_place_alternate_by_the_numbers_of_their_panels(study: Any, tmp_path: Any) -> None:
    grey = PairSet.real(np.full((2, 8, 8, 3), 90, np.uint8), np.ones((2, 8, 8), np.uint8), ["a", "b"])
    made = [MadeFrom(name, grey.first(1), grey, grey) for name in ("one", "other")]
    results = replace(study({"real=100": 0.0}), made=made, figures=["refinement", "sources"], tables=["none"])
    page = (render(results, tmp_path / "r").parent / "report.md").read_text()
    files = ["sources-0", "refinement-0", "sources-1", "refinement-1"]
    assert sorted(files, key=lambda name: page.index(f"figures/{name}.png")) == files


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.results import catalogue; assert catalogue.tables() and catalogue.figures(); "
        "print(sorted({'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    done = run([executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
