"""A report as files: what is in it, that it is the same twice, and that a person is told what is missing."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from harness.errors import HarnessError
from harness.report.render import render
from harness.report.tables.table import Cell, Table, escape_latex
from harness.results.schema import COLUMNS

RECIPES = {"real=100": 0.0, "real=100,dcgan=300": 0.10}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def words(results, folder: Path, *tables: str) -> Path:
    """Render without figures, which take most of the time, and with the named tables alone where some are named."""
    return render(replace(results, figures=["none"], tables=list(tables)), folder).parent


@pytest.fixture(scope="module")
def report(full_study, tmp_path_factory) -> Path:
    """A report with everything; tests must not change it."""
    return render(full_study, tmp_path_factory.mktemp("reports") / "simulated").parent


def test_a_report_has_all_its_files(report):
    files = set(content(report))
    assert {"report.md", "report.html", "results.csv"} <= files
    for table in ("scores-micro", "scores-micro-imagewise", "comparison", "fidelity"):
        assert {f"tables/{table}.{ending}" for ending in ("md", "tex", "csv")} <= files
    for figure in ("ratio", "comparison", "samples", "predictions-0", "selection"):
        assert {f"figures/{figure}.{ending}" for ending in ("png", "pdf")} <= files
    assert not list(report.parent.glob(".*"))


def test_rendering_twice_gives_the_same_bytes(full_study, report, tmp_path):
    again = render(full_study, tmp_path / "other" / "simulated").parent
    assert content(report) == content(again)


def test_rendering_replaces_an_earlier_report(full_study, tmp_path):
    report = words(full_study, tmp_path / "r", "comparison")
    (report / "stale.txt").write_text("old")
    words(replace(full_study, title="A new title"), report, "comparison")
    assert not (report / "stale.txt").exists()
    assert "A new title" in (report / "report.md").read_text()


def test_a_folder_that_is_no_report_is_left_alone(full_study, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(HarnessError, match="is not a report"):
        render(full_study, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_rendering_keeps_the_earlier_report(full_study, tmp_path):
    report = words(full_study, tmp_path / "r", "comparison")
    before = content(report)
    broken = replace(full_study, images=full_study.images.drop(columns="seed"))
    with pytest.raises(KeyError):
        words(broken, report, "comparison")
    assert content(report) == before
    assert not list(report.parent.glob(".*"))


def test_results_csv_is_the_table_in_its_order(full_study, report):
    written = pd.read_csv(report / "results.csv")
    assert list(written.columns) == list(COLUMNS)
    assert list(written["cell"]) == list(full_study.rows["cell"])
    pd.testing.assert_series_equal(
        written["value"], full_study.rows["value"].astype(float), rtol=1e-9, check_names=False
    )


def test_verdict_comes_first_and_in_words(report):
    text = (report / "report.md").read_text()
    assert text.index("Does synthetic data help? Yes") < text.index("## Tables")
    assert "unetplusplus, real=100,dcgan=300 against real=100: helps" in text
    assert "Smallest amount that helped: 300 images" in text
    assert "*no evidence either way* means" in text


def test_a_study_of_copies_says_no_evidence(study, tmp_path):
    page = (words(study({"real=100": 0.0, "real=100,dcgan=300": 0.0}), tmp_path / "r") / "report.md").read_text()
    assert "No evidence that it does" in page
    assert "would have been found in 80 % of repetitions" in page


def test_holes_are_marked_and_never_averaged(full_study, lose, tmp_path):
    folder = words(lose(full_study, "real=100,dcgan=300", 2), tmp_path / "r")
    for name in ("report.md", "report.html", "tables/scores-micro.tex", "tables/scores-micro-imagewise.md"):
        text = (folder / name).read_text()
        assert "incomplete 2/3" in text, name
        assert "incomplete 23/24" in text, name
    assert "CUDA ran out of memory" in (folder / "report.html").read_text()
    with (folder / "tables" / "scores-micro.csv").open() as stream:
        holes = [r for r in csv.DictReader(stream) if r["runs"] == "2"]
    assert holes
    assert all(r["mean"] == r["low"] == "" for r in holes)


def test_every_leaked_number_carries_its_mark(study, tmp_path):
    results = study(RECIPES, leaks={"real=100,dcgan=300": "dcgan saw 3 report images"})
    folder = words(results, tmp_path / "r")
    row = next(r for r in (folder / "tables/scores-micro.md").read_text().splitlines() if "dcgan=300" in r)
    assert row.count("†") == 6
    for name in ("report.html", "report.md", "tables/scores-micro.tex", "tables/comparison.md"):
        text = (folder / name).read_text()
        assert "dcgan saw 3 report images" in text, name
    assert r"$\dagger$" in (folder / "tables/comparison.tex").read_text()
    assert "**" not in row  # a leaked number is never the best


def test_the_best_is_bold_and_ties_are_marked(study, tmp_path):
    results = study({"real=100": 0.0, "real=100,dcgan=100": 0.15, "real=100,dcgan=300": 0.151})
    lines = (words(results, tmp_path / "r") / "tables/scores-micro-imagewise.md").read_text().splitlines()
    iou = {line.split("|")[2].strip(): line.split("|")[4].strip() for line in lines if "real=" in line}
    marked = sorted(iou, key=lambda recipe: ("**" in iou[recipe], "≈" in iou[recipe]))
    assert marked[0] == "real=100"
    assert "**" in iou[marked[2]]
    assert "≈" in iou[marked[1]] or "**" in iou[marked[1]]


class Loads(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [v for k, v in attrs if k in ("src", "href", "srcset", "data") and v]


def test_the_page_loads_nothing_from_elsewhere(report):
    text = (report / "report.html").read_text()
    loads = Loads()
    loads.feed(text)
    assert loads.found
    assert all(v.startswith("data:image/png;base64,") for v in loads.found)
    assert "url(" not in text
    assert "@import" not in text


def test_names_cannot_inject_markup(study, tmp_path):
    results = replace(study(RECIPES), title="<script>alert(1)</script>", notes=["a & b <i>"], figures=["ratio"])
    text = render(results, tmp_path / "r").read_text()
    assert "<script>" not in text
    assert "a &amp; b &lt;i&gt;" in text


def test_only_declared_tables_and_figures_are_made(full_study, tmp_path):
    files = set(content(render(replace(full_study, tables=["comparison"], figures=["ratio"]), tmp_path / "r").parent))
    assert {f for f in files if f.endswith(".tex")} == {"tables/comparison.tex"}
    assert {f for f in files if f.endswith(".pdf")} == {"figures/ratio.pdf"}


def test_a_study_without_any_result_still_reports(study, tmp_path):
    results = study(RECIPES)
    rows = results.rows.groupby(["recipe", "seed"], as_index=False).head(1)
    rows = rows.assign(value=float("nan"), metric="", reduction="", status="left")
    empty = replace(results, rows=rows, images=results.images.iloc[:0], done=0)
    text = (words(empty, tmp_path / "r") / "report.md").read_text()
    assert "incomplete 0/6" in text
    assert "Cannot be said" in text


def test_figures_are_as_wide_as_a_column(report):
    for path in (report / "figures").glob("*.png"):
        with Image.open(path) as picture:
            assert abs(picture.width / 220 - 3.5) < 0.01, path
    for path in (report / "figures").glob("*.pdf"):
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", path.read_bytes())
        assert box is not None
        assert float(box[1]) == pytest.approx(3.5 * 72)


def test_published_numbers_stand_beside_ours(study, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    results = study({"real=100": 0.0, "real=100,diffusion=300": 0.1}, published=["a_table3_micro"])
    folder = words(results, tmp_path / "r", "published")
    with (folder / "tables/published-a_table3_micro-1.csv").open() as stream:
        found = {(r["n_real"], r["n_syn"], r["model"], r["metric"]): r for r in csv.DictReader(stream)}
    row = found["100", "300", "UNet++", "iou"]
    rows = results.rows
    own = rows[
        (rows["recipe"] == "real=100,diffusion=300") & (rows["metric"] == "iou") & (rows["reduction"] == "micro")
    ]
    assert row["paper"] == "0.7309"
    assert float(row["ours"]) == pytest.approx(own["value"].mean())
    assert float(row["difference"]) == pytest.approx(own["value"].mean() - 0.7309)
    assert found["700", "1000", "FPN", "iou"]["ours"] == ""
    assert "How these runs differ from the paper's" in (folder / "report.md").read_text()


def test_another_generator_is_not_set_beside_the_published_one(study, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    results = study({"real=100": 0.0, "real=100,dcgan=300": 0.1}, published=["a_table3_micro"])
    folder = words(results, tmp_path / "r", "published")
    with (folder / "tables/published-a_table3_micro-1.csv").open() as stream:
        found = {(r["n_real"], r["n_syn"], r["model"], r["metric"]): r for r in csv.DictReader(stream)}
    assert found["100", "0", "UNet++", "iou"]["ours"] != ""
    assert found["100", "300", "UNet++", "iou"]["ours"] == ""


def test_a_published_file_that_does_not_exist_is_said_and_loses_nothing(study, tmp_path):
    page = (words(study(RECIPES, published=["a_tabel3"]), tmp_path / "r", "published") / "report.md").read_text()
    assert "There is no studies/published/a_tabel3.csv" in page


@pytest.mark.parametrize("name", ["a_table1_mask_fid_sim", "a_table2_polyp_fid", "b_table1_sifid", "b_table4_fid_gans"])
def test_published_generator_tables_match_by_step_or_name(study, name, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    results = study(RECIPES)
    base = dict.fromkeys(COLUMNS) | {"status": "done", "leak": "", "dataset": "phantom", "role": "fit"}
    selected = {"kind": "selection", "generator": "diffusion", "metric": "fid", "value": 90.0}
    extra = [
        base | selected | {"cell": "diffusion masks", "step": 200_000},
        base | selected | {"cell": "diffusion images", "step": 15_368},
        base | {"kind": "fidelity", "generator": "singan-seg", "metric": "sifid", "synthetic": 1000, "value": 0.4},
        base
        | {"kind": "fidelity", "generator": "dcgan", "metric": "fid", "real": 700, "synthetic": 1000, "value": 250.0},
    ]
    rows = pd.concat([results.rows, pd.DataFrame(extra, columns=list(COLUMNS))], ignore_index=True)
    folder = words(replace(results, rows=rows, published=[name]), tmp_path / "r", "published")
    with (folder / f"tables/published-{name}.csv").open() as stream:
        ours = [float(r["ours"]) for r in csv.DictReader(stream) if r["ours"]]
    assert ours == [{"a": 90.0, "b_table1": 0.4, "b_table4": 250.0}.get(name[:8], 90.0)]


def test_latex_escapes_everything():
    assert escape_latex(r"a_b & 50% {x} #1 ~^\ <2>") == (
        r"a\_b \& 50\% \{x\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{} $<$2$>$"
    )


def test_markdown_cells_cannot_break_a_table():
    table = Table("t", "T", "C.", ["a|b", "c"], [[Cell("x|y", bold=True), Cell("1", mark="†")]])
    assert table.markdown().splitlines()[-1] == "| **x\\|y** | 1† |"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_tables_compile_with_booktabs_alone(full_study, lose, tmp_path):
    awkward = replace(lose(full_study, "real=100,dcgan=300", 2), title="50% & more_things #1")
    awkward = replace(awkward, facts=awkward.facts | {"split": r"my_split {50%} \ ~ ^ $ & é 漢"})
    folder = words(awkward, tmp_path / "r")
    inputs = "\n".join(rf"\input{{{path.name}}}" for path in sorted((folder / "tables").glob("*.tex")))
    (folder / "tables" / "all.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n" + inputs + "\n\\end{document}\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=folder / "tables",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_a_wide_table_may_break_between_parts_and_not_inside_them(full_study, tmp_path):
    page = render(full_study, tmp_path / "r").read_text()
    body = page[page.index("<h2>Tables") : page.index("<h2>Figures")]
    assert '<td class="left">real=100,<wbr>dcgan=300</td>' in body
    assert re.search(r"<td class=\"\">[+−]0\.\d{3} \[[+−]0\.\d{3},&nbsp;[+−]0\.\d{3}\]</td>", body)
    assert re.search(r"0\.\d{3} ±\u00a00\.\d{3}", body)
    assert " ± " not in body.replace("KID ± its", "")
