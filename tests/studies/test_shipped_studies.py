"""The studies that ship: every profile is a valid declaration, smoke plans on built-in images, paper is paper B's."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.engine.load import load_study
from harness.engine.plan import build_plan
from harness.study.expand import expand_recipes
from harness.study.recipes import Recipe
from harness.study.yaml_document import read_document

STUDIES = Path(__file__).parents[2] / "studies"
NAMES = sorted(path.stem for path in STUDIES.glob("*.yaml"))


def profiles(name: str) -> list[str]:
    return ["", *read_document(STUDIES / f"{name}.yaml").value.get("profiles", {})]


@pytest.mark.parametrize(("name", "profile"), [(name, profile) for name in NAMES for profile in profiles(name)])
def test_every_profile_of_every_study_is_valid_and_smoke_needs_only_built_in_images(name: str, profile: str) -> None:
    loaded = load_study(name, profile)
    assert loaded.study.title
    assert expand_recipes(loaded.study) or loaded.study.fidelity
    if profile == "smoke" and loaded.study.dataset.name == "phantom":
        plan = build_plan(loaded)
        assert plan.cells or plan.pools
        assert not loaded.study.report.published


def made(name: str, profile: str = "paper") -> dict[str, tuple[str, list[tuple[float, float]]]]:
    """For each generator of a study its plugin, and the content and style of what refines it."""
    declared = load_study(name, profile).study.generators.items()
    return {
        generator: (use.pairs.plugin, [(r.values()["content"], r.values()["style"]) for r in use.refine])
        for generator, use in declared
        if use.pairs is not None
    }


SINGAN = {
    "singan": ("singan-seg", []),
    "singan-st-1-1": ("singan-seg", [(1, 1)]),
    "singan-st": ("singan-seg", [(1, 1000)]),
}


def test_table_1_has_its_three_variants_of_the_same_models() -> None:
    assert made("style-transfer") == SINGAN
    declared = load_study("style-transfer", "paper").study
    assert len({use.pairs.model_dump_json() for use in declared.generators.values() if use.pairs}) == 1
    assert declared.fidelity is not None
    assert (declared.fidelity.samples, declared.fidelity.sets) == (1000, 5)
    assert "sifid" in declared.fidelity.metrics


def test_table_2_has_every_row_once() -> None:
    """REAL, and FAKE-1 to FAKE-5 of each variant: so many for each real image that its models were made of."""
    assert made("real-versus-synthetic") == SINGAN
    recipes = expand_recipes(load_study("real-versus-synthetic", "paper").study)
    real, *synthetic = recipes
    assert real == Recipe(None)
    assert {(r.n_fit, *r.synthetic[0]) for r in synthetic} == {
        (664, name, many * 664) for name in SINGAN for many in range(1, 6)
    }
    assert len(synthetic) == 15


def test_table_3_and_table_5_have_every_row() -> None:
    assert made("small-data") == {name: SINGAN[name] for name in ("singan", "singan-st")} | {"fastgan": ("fastgan", [])}
    study = load_study("small-data", "paper").study
    recipes = set(expand_recipes(study))
    for n in range(5, 51, 5):
        assert Recipe(n) in recipes
        assert Recipe(n, (("singan-st", 10 * n),)) in recipes
        for name in ("singan", "singan-st", "fastgan"):
            assert Recipe(0, ((name, 10 * n),), n_fit=n) in recipes
    assert len(recipes) == 50
    assert study.fidelity is not None
    assert (study.fidelity.samples, study.fidelity.sets, study.fidelity.against) == ("seen", 5, "seen")
