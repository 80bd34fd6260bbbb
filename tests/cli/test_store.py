"""``harness store``: explain, accept-code, gc, verify and du through the real command line."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import numpy as np
import pytest

CELL = ("--only", "tiny * real=4 * seed=0")


def edit(study: Any, old: str, new: str) -> None:
    """Change the plugins' file, and make sure that it is read again."""
    import sys

    text = study.plugins.read_text()
    assert old in text
    study.plugins.write_text(text.replace(old, new))
    status = study.plugins.stat()
    os.utime(study.plugins, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    for name in [name for name in sys.modules if name.startswith("harness_plugin_plugins")]:
        del sys.modules[name]


def test_explain_names_the_part_that_differs(finished_study: Any) -> None:
    label = "train tiny * real=4 * seed=0"
    assert finished_study.command("store", "explain", label, "--json").json["stored"] is True
    assert finished_study.command("study", "plan", "twelve", "--set", "segmenters.0.rate=0.25").code == 0
    said = finished_study.command("store", "explain", label, "--json").json
    assert said["stored"] is False
    assert said["differences"] == {"plugin-parameters.rate": [0.25, 0.5]}
    assert finished_study.command("store", "explain", "train tiny * reel=4").code == 2


def test_changed_code_runs_again_unless_accepted_and_comments_do_not_count(finished_study: Any) -> None:
    edit(finished_study, '"""One 1x1 convolution."""', '"""A 1x1 convolution."""  # a comment')
    assert finished_study.run(*CELL, "--json").json["ran"] == 0
    edit(finished_study, "images - 0.5", "images - 0.25")
    accepted = finished_study.run(*CELL, "--json", "--accept-code")
    assert accepted.json["ran"] == 0
    # Accepted once, it stands for the new code from then on; new code after that runs.
    assert finished_study.run(*CELL, "--json").json["ran"] == 0
    edit(finished_study, "images - 0.25", "images - 0.75")
    assert finished_study.run(*CELL, "--json").json["ran"] == 2


def test_garbage_is_what_no_last_plan_needs_and_goes_only_when_told(temp_study: Any) -> None:
    assert temp_study.run(*CELL).code == 0
    assert temp_study.command("store", "gc", "--json").json["folders"] == []
    assert temp_study.run(*CELL, "--set", "segmenters.0.rate=0.25").code == 0
    doomed = temp_study.command("store", "gc", "--json").json
    assert (len(doomed["folders"]), doomed["deleted"]) == (2, False)
    assert temp_study.command("store", "gc", "--yes").code == 0
    assert temp_study.run(*CELL, "--json", "--set", "segmenters.0.rate=0.25").json["ran"] == 0
    assert temp_study.run(*CELL, "--json").json["ran"] == 2


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("dataset", "split.json"),
        ("fit", "checkpoints/2"),
        ("select", "shown/1.npz"),
        ("sample", "pairs/images.npy"),
        ("refine", "provenance.json"),
        ("train", "checkpoints/2/weights.safetensors"),
        ("evaluate", "predictions.npy"),
    ],
)
def test_verify_finds_what_each_kind_cannot_do_without(finished_study: Any, kind: str, file: str) -> None:
    results = finished_study.project / ".harness" / "store" / "results"
    stored = len(list(results.glob("*/*/result.json")))
    assert finished_study.command("store", "verify", "--json").json == {"results": stored, "broken": {}}
    gone = next((results / kind).glob(f"*/{file}"))
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()
    answer = finished_study.command("store", "verify")
    assert answer.code == 1
    assert f"it lacks {file}; delete the folder" in answer.out


def test_du_counts_results_by_kind(finished_study: Any) -> None:
    told = finished_study.command("store", "du", "--json").json
    # One generator, refined, and one control, each with a pool a replicate; 5 training sets and 2 replicates
    assert {kind: row["results"] for kind, row in told.items() if kind != "features"} == {
        "dataset": 1, "fit": 2, "select": 1, "sample": 4, "refine": 2, "train": 10, "evaluate": 10, "trivial": 1,
        "fidelity": 2,
    }  # fmt: skip


def test_features_that_nothing_reads_go_and_those_in_use_stay(temp_study: Any) -> None:
    from harness.store.cache import cached, cached_path

    def array() -> np.ndarray:
        return np.zeros((2, 3), np.float32)

    for name in ("old", "used"):
        cached("network", name, array)
        long_ago = time.time() - 40 * 86400
        os.utime(cached_path("network", name), (long_ago, long_ago))
    cached("network", "used", array)
    told = temp_study.command("store", "gc", "--json").json
    assert told["features"] == [str(cached_path("network", "old"))]
    assert cached_path("network", "old").exists()
    assert "Deleted 0 folders and 1 files of features" in temp_study.command("store", "gc", "--yes").out
    assert not cached_path("network", "old").exists()
    assert cached_path("network", "used").exists()
    assert temp_study.command("store", "gc", "--unused-days", "0", "--json").json["features"]


NAMES_ONE = (
    "return Sample(masks=np.stack(made), images=np.stack(images), sources=((context.pairs.ids[0],),) * len(made))"
)
NAMES_TWO = NAMES_ONE.replace("(context.pairs.ids[0],)", "tuple(context.pairs.ids[:2])")
KEEPS_ALL = "return Sample(masks=np.stack(made), images=np.stack(images))"


def paint(study: Any, *options: str) -> Any:
    """Run a segmenter on samples of a generator alone: no selection and no refiner has seen all real pairs."""
    alone = f'generators={{paint: {{pairs: {{plugin: "{study.plugins}:Painter"}}}}}}'
    return study.run("--only", "tiny * real=4,paint=8 * seed=0", "--json", "--set", alone, *options)


def ran_anew(study: Any) -> list[str]:
    """Run with ``--accept-code`` and return the kinds of stages that ran."""
    results = study.project / ".harness" / "store" / "results"
    before = set(results.glob("*/*"))
    assert paint(study, "--accept-code").code == 0
    return sorted(path.parent.name for path in set(results.glob("*/*")) - before)


def test_accepted_pools_are_those_that_owe_something_to_all_they_were_given(temp_study: Any) -> None:
    assert paint(temp_study).code == 0
    edit(temp_study, "draw.normal(0, 5, image.shape)", "draw.normal(0, 6, image.shape)")
    assert ran_anew(temp_study) == []


def test_a_narrow_lineage_is_stated_anew_and_what_learned_from_it_stands_where_it_is_the_same(temp_study: Any) -> None:
    edit(temp_study, KEEPS_ALL, NAMES_TWO)
    assert paint(temp_study).code == 0
    edit(temp_study, "draw.normal(0, 5, image.shape)", "draw.normal(0, 6, image.shape)")
    again = ran_anew(temp_study)
    assert "sample" in again
    assert "train" not in again
    edit(temp_study, NAMES_TWO, NAMES_ONE)
    assert "train" not in ran_anew(temp_study)


@pytest.mark.parametrize("corrected", [NAMES_TWO, KEEPS_ALL])
def test_a_lineage_that_was_corrected_is_never_kept(temp_study: Any, corrected: str) -> None:
    edit(temp_study, KEEPS_ALL, NAMES_ONE)
    assert paint(temp_study).code == 0
    edit(temp_study, NAMES_ONE, corrected)
    assert {"sample", "train", "evaluate"} <= set(ran_anew(temp_study))


def test_a_checkpoint_that_claims_to_have_seen_less_is_fitted_again(temp_study: Any) -> None:
    edit(temp_study, "yield Checkpoint(step, folder)", "yield Checkpoint(step, folder, frozenset(pairs.ids[:1]))")
    assert paint(temp_study).code == 0
    edit(temp_study, "frozenset(pairs.ids[:1])", "frozenset(pairs.ids[:2])")
    assert {"fit", "sample", "train"} <= set(ran_anew(temp_study))
