"""From a plan and the store to rows: every number once, holes, references, and what figures are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from harness.engine.collect import collect
from harness.engine.graph import Reference
from harness.engine.plan import build_plan
from harness.results.schema import COLUMNS
from harness.store.results import Store
from harness.study.loaded import LoadedStudy
from harness.study.schema import Study
from harness.study.yaml_document import Document

METRICS = ["mask-area", "memorisation"]

#: What a fidelity stage stores: numbers, and beside them words and flags that are no numbers.
MASK_AREA = {
    "mask-area": 0.01, "mean-area-real": 0.15, "empty-masks": 2, "n_real": 12, "n_synthetic": 8, "network": "",
    "mode": "", "notes": "A note.",
}  # fmt: skip
MEMORISATION = {
    "memorisation": 0.6, "copied": 0.1, "copied-p-value": 0.2, "exact-copies": 0, "copies": True,
    "reference": "held-out", "n_real": 11, "n_synthetic": 8, "network": "pixels-32", "mode": "", "notes": "",
}  # fmt: skip
BOTH = {"mask-area": MASK_AREA, "memorisation": MEMORISATION}


@pytest.fixture
def plan(temp_study):
    """Two folds, one generator that sees what each recipe does (4 or all real pairs), checkpoints selected."""
    pairs = {"plugin": f"{temp_study.plugins}:Painter", "select": {"by": "thumbnail-distance", "samples": 8}}
    value = {
        "dataset": {"name": "phantom", "size": 16, "options": {"count": 48}, "split": {"kfold": 2}},
        "generators": {"paint": {"pairs": pairs, "sees": "recipe"}},
        "segmenters": [{"plugin": f"{temp_study.plugins}:Tiny"}],
        "train": [{"real": 4, "synthetic": {"paint": 8}}, {"real": "all", "synthetic": {"paint": 8}}],
        "budget": {"steps": 4},
        "controls": [],
        "fidelity": {"metrics": METRICS},
    }
    return build_plan(LoadedStudy("tiny", "", Study.model_validate(value), Document(value)))


def commit(plan: Any, key: str, values: dict[str, Any], **arrays: dict[str, np.ndarray]) -> None:
    """Store a result by hand, with its files."""
    store, stage = Store(), plan.stages[key]
    folder = store.work_folder(key)
    folder.mkdir(parents=True)
    for name, content in arrays.items():
        (folder / name).parent.mkdir(exist_ok=True)
        np.savez(folder / f"{name}.npz", **content)
    record = {"kind": stage.kind, "label": stage.label, "key": key, "parts": stage.parts, "values": values}
    store.commit(stage.kind, key, {**record, "commit": "", "device": "CPU", "versions": {}})


def samples_of(*steps: int) -> dict[str, dict[str, np.ndarray]]:
    """Two samples of each checkpoint, as a selection keeps them."""
    few = {"images": np.zeros((2, 4, 4, 3), np.uint8), "masks": np.zeros((2, 4, 4), np.uint8)}
    return {f"shown/{step}": few for step in steps}


def pool(plan: Any, fold: int, real: int | None) -> Any:
    (found,) = [p for p in plan.pools if (p.fold, p.n_fit, p.control) == (fold, real, False)]
    return found


def rows_of(plan: Any, kind: str, **columns: Any) -> list[dict[str, Any]]:
    rows = collect(plan, Store()).rows
    assert list(rows.columns) == list(COLUMNS)
    records = rows[rows["kind"] == kind].to_dict("records")
    return [r for r in records if all(r[name] == value for name, value in columns.items())]


def numbers(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    """Values by metric and network; fails when one stands twice."""
    found = {(r["metric"], r["reduction"]): r["value"] for r in rows}
    assert len(found) == len(rows)
    return found


def test_every_number_is_a_row_and_nothing_else_is(plan):
    one = pool(plan, 0, 4)
    commit(plan, one.fidelity, {"measured": BOTH})
    rows = rows_of(plan, "fidelity", fold=0, cell="paint on 4 real")
    assert numbers(rows) == {
        ("mask-area", ""): 0.01, ("empty-masks", ""): 2, ("mean-area-real", ""): 0.15, ("n_real", ""): 12,
        ("memorisation", "pixels-32"): 0.6, ("copied", "pixels-32"): 0.1, ("copied-p-value", "pixels-32"): 0.2,
        ("exact-copies", "pixels-32"): 0, ("n_real", "pixels-32"): 11,
    }  # fmt: skip
    for row in rows:
        facts = {"generator": "paint", "arm": "synthetic", "real": 4, "synthetic": 8, "dataset": "phantom"}
        facts |= {"role": "fit", "images": 8, "status": "done", "stage": one.fidelity, "seed": "", "step": ""}
        assert {name: row[name] for name in facts} == facts
    assert [row["metric"] for row in rows if row["metric"] in METRICS] == METRICS


def test_a_stage_without_a_result_is_one_empty_row_a_metric(plan):
    one = pool(plan, 1, None)
    rows = rows_of(plan, "fidelity", fold=1, cell="paint")
    assert [row["metric"] for row in rows] == METRICS
    assert all(np.isnan(row["value"]) and row["status"] == "left" and row["images"] == 0 for row in rows)
    Store().record_failure(one.fidelity, {"status": "failed", "reason": "No paint."})
    assert {row["status"] for row in rows_of(plan, "fidelity", fold=1, cell="paint")} == {"failed"}


def test_what_a_metric_brings_along_stands_once(plan):
    """FID comes with a KID; when KID is measured too, its own numbers stand."""
    study = plan.loaded.study
    declared = study.fidelity.model_copy(update={"metrics": ("fid", "kid")})
    plan.loaded = replace(plan.loaded, study=study.model_copy(update={"fidelity": declared}))
    about = {"network": "inception", "n_real": 12, "n_synthetic": 8}
    fid = {"fid": 50.0, "fid-corrected": None, "kid": 0.5, "kid-deviation": 0.25, **about}
    kid = {"kid": 0.04, "kid-deviation": 0.01, "subset-size": 8, **about}
    commit(plan, pool(plan, 0, 4).fidelity, {"measured": {"fid": fid, "kid": kid}})
    commit(plan, pool(plan, 0, None).fidelity, {"measured": {"fid": fid}})
    found = numbers(rows_of(plan, "fidelity", fold=0, cell="paint on 4 real"))
    assert {name for name, _ in found} == {"fid", "fid-corrected", "kid", "kid-deviation", "subset-size", "n_real"}
    assert (found["kid", "inception"], found["kid-deviation", "inception"]) == (0.04, 0.01)
    assert np.isnan(found["fid-corrected", "inception"])
    alone = numbers(rows_of(plan, "fidelity", fold=0, cell="paint"))
    assert (alone["kid", "inception"], alone["kid-deviation", "inception"]) == (0.5, 0.25)


def test_real_images_of_another_role_are_rows_of_their_own(plan):
    key = "f" * 64
    plan.stages[key] = replace(plan.stages[pool(plan, 1, None).fidelity], key=key, inputs={})
    plan.references = [Reference("report", 1, key, 7)]
    rows = rows_of(plan, "fidelity", generator="real (report)")
    assert [(r["metric"], r["status"]) for r in rows] == [(name, "left") for name in METRICS]
    commit(plan, key, {"measured": BOTH}, areas={"real": np.array([0.1]), "synthetic": np.array([0.2, 0.3])})
    rows = rows_of(plan, "fidelity", generator="real (report)")
    assert numbers(rows)["mask-area", ""] == 0.01
    for row in rows:
        facts = {"arm": "real", "fold": 1, "real": 7, "synthetic": 0, "role": "fit", "cell": "real (report)"}
        assert {name: row[name] for name in facts} == facts
    (measured,) = collect(plan, Store()).measured
    assert (measured.cell, measured.fold, measured.arm) == ("real (report)", 1, "real")
    assert measured.areas.tolist() == [0.2, 0.3]


def test_selection_rows_say_what_was_chosen_and_why_others_cannot_be(plan):
    ((part, key),) = pool(plan, 0, 4).selections
    rows = [
        {"step": 1, "thumbnail-distance": 3.0, "problem": "empty masks"},
        {"step": 2, "thumbnail-distance": float("nan"), "problem": "its thumbnail-distance is not a number"},
        {"step": 4, "thumbnail-distance": 2.0, "problem": ""},
        {"step": 5, "thumbnail-distance": 2.5, "problem": ""},
    ]
    values = {"step": 4, "rows": rows, "seen": [], "network": "pixels-8", "samples": 8}
    commit(plan, key, values, **samples_of(1, 2, 4, 5))
    found = rows_of(plan, "selection", cell=f"paint on 4 real {part}", fold=0)
    assert [(r["step"], r["reduction"]) for r in found] == [
        (1, "empty masks"), (2, "its thumbnail-distance is not a number"), (4, "selected"), (5, ""),
    ]  # fmt: skip
    assert [r["value"] for r in found][2:] == [2.0, 2.5]
    assert {r["images"] for r in found} == {8}
    assert collect(plan, Store()).selection_networks == {f"paint on 4 real {part}": "pixels-8"}
    (left,) = rows_of(plan, "selection", cell=f"paint {part}", fold=0)
    assert (left["step"], left["reduction"], left["status"]) == ("", "", "left")


def test_figures_get_the_arrays_of_the_stage(plan):
    picture = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    closest = {
        "synthetic": picture, "real": picture[::-1], "distance": np.array([0.5, 2.0]),
        "synthetic_ids": np.array(["a", "b"]), "real_ids": np.array(["x", "y"]),
    }  # fmt: skip
    diversity = {
        "real": np.ones((1, 4, 4), np.uint8), "mean": np.full((1, 4, 4), 0.5), "deviation": np.full((1, 4, 4), 0.25),
        "ids": np.array(["x"]), "count": np.array([10]),
    }  # fmt: skip
    areas = {"real": np.array([0.1, 0.2]), "synthetic": np.array([0.3])}
    key = pool(plan, 0, None).fidelity
    commit(plan, key, {"measured": BOTH}, areas=areas, closest=closest, diversity=diversity)
    (found,) = collect(plan, Store()).measured
    assert (found.cell, found.fold, found.arm, found.reference, found.copies) == (
        "paint", 0, "synthetic", "held-out", True,
    )  # fmt: skip
    assert (found.real_areas.tolist(), found.areas.tolist()) == ([0.1, 0.2], [0.3])
    np.testing.assert_array_equal(found.closest.synthetic, picture)
    np.testing.assert_array_equal(found.closest.real, picture[::-1])
    assert (found.closest.synthetic_ids, found.closest.real_ids) == (("a", "b"), ("x", "y"))
    assert (found.diversity.counts, found.diversity.ids) == ((10,), ("x",))
    assert found.diversity.mean.max() == 0.5
    assert found.diversity.deviation.max() == 0.25


@pytest.mark.parametrize("copies", [True, False, None])
def test_whether_images_are_copies_is_what_memorisation_says(plan, copies):
    values = {"memorisation": 0.5} if copies is None else {"memorisation": 0.5, "copies": copies}
    commit(plan, pool(plan, 0, None).fidelity, {"measured": {"mask-area": MASK_AREA, "memorisation": values}})
    (found,) = collect(plan, Store()).measured
    assert found.copies is copies
    assert found.closest is found.diversity is found.areas is None


def test_a_report_can_be_made_of_what_was_collected(plan, tmp_path):
    from harness.report.render import render

    commit(plan, pool(plan, 0, None).fidelity, {"measured": BOTH})
    ((_, key),) = pool(plan, 0, None).selections
    rows = [{"step": 1, "thumbnail-distance": 3.0, "problem": ""}]
    commit(plan, key, {"step": 1, "rows": rows, "seen": [], "network": "pixels-8"}, **samples_of(1))
    folder = render(collect(plan, Store()), tmp_path / "report").parent
    masks = (folder / "tables" / "fidelity-masks.md").read_text()
    row = next(line for line in masks.splitlines() if line.startswith("| paint‡ |"))
    assert "| incomplete 1/2 |" in row
    memorisation = (folder / "tables" / "memorisation.md").read_text()
    fitted = [len(split.ids("fit")) for split in plan.splits]
    assert f"| paint | {fitted[0]} | 0 | 8 | 0.6000 | 0.1000 | 0.200 | 0 | held-out | **copies** |" in memorisation
    assert f"| paint | {fitted[1]} | 1 | – | left |" in memorisation
    assert (folder / "tables" / "selection-paint-on-4-real-pairs.tex").is_file()
