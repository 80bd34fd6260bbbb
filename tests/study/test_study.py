"""What a declaration may say, how it expands, and how each mistake is reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.load import load_study
from harness.errors import DeclarationError
from harness.study.expand import expand_recipes
from harness.study.find import list_studies
from harness.study.recipes import Recipe
from harness.study.schema import Study
from harness.study.yaml_document import Document, apply_setting, read_document

BASE = """
title: t
dataset: {name: phantom, size: 64}
generators:
  cp: {pairs: {plugin: copy-paste}}
segmenters:
  - {plugin: smp, arch: FPN, encoder_weights: random}
train:
  - {real: 10}
  - {real: 10, synthetic: {cp: 20}}
"""


def write(folder: Path, text: str, name: str = "s") -> str:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(DeclarationError) as caught:
        load_study(write(folder, text))
    return caught.value.problems


def test_every_mistake_is_reported_at_once_with_its_place(tmp_path: Path) -> None:
    text = BASE.replace("size: 64", "siez: 64").replace("arch: FPN", "arch: FPNN").replace("title: t", "titel: t")
    first = problems(tmp_path, text)
    assert any(":2:1: titel: unknown key 'titel'; did you mean 'title'?" in line for line in first)
    assert any(":3:26: dataset.siez: unknown key 'siez'; did you mean 'size'?" in line for line in first)
    assert any(":7:19: segmenters.0.arch:" in line and "'FPN'" in line for line in first)
    second = problems(tmp_path, BASE.replace("arch: FPN", "arch: FPNN").replace("cp: 20", "cpp: 20"))
    assert any(":7:19: segmenters.0.arch:" in line for line in second)
    assert any(":10:28: train.1.synthetic.cpp: no generator 'cpp'; did you mean 'cp'?" in line for line in second)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("plugin: copy-paste", "plugin: copypaste"), "There is no generator 'copypaste'; did you mean 'copy-paste'?"),
        (("plugin: copy-paste", "plugin: copy-paste, feather: wide"), "generators.cp.pairs.feather:"),
        (("{real: 10}", "{real: -1}"), "train.0.real"),
        (("{real: 10}", "{}"), "train.0: describes an empty training set"),
        (("train:", "compare: {against: {real: 11}}\ntrain:"), "no training set 'real=11'; did you mean 'real=10'?"),
        (("train:", "compare: {metric: iou}\ntrain:"), "no metric 'iou'"),
        (("train:", "budget: {steps: 5, epochs: 5}\ntrain:"), "say either steps or epochs"),
        (("train:", "seeds: 0\ntrain:"), "at least 1 seed"),
        (("train:", "protocol: dirty\ntrain:"), "'dirty' is not allowed; allowed: clean, published"),
        (("train:", "fidelity: {metrics: [fidd]}\ntrain:"), "no fidelity metric 'fidd'; did you mean 'fid'?"),
        (("cp: {pairs", "real: {pairs"), "'real' cannot be a name"),
        (("cp: {pairs", "sees: {pairs"), "'sees' cannot be a name"),
        (("cp: {pairs", "a=b: {pairs"), "'a=b' cannot be a name"),
        (("{real: 10}", "{real: 10, sees: 5}"), ":9:16: train.0.sees: is for generators that are declared with sees:"),
        (
            ("{cp: 20}}", "{cp: 20}, sees: 5}"),
            "train.1.sees: is for generators that are declared with sees: recipe, and",
        ),
        (("{cp: 20}}", "{cp: 20}, sees: 0}"), "train.1.sees.0: input should be greater than or equal to 1, got 0"),
        (
            ("cp: 20", "cp: {per-real: 2}"),
            ":10:28: train.1.synthetic.cp: per-real needs the number of real pairs that cp",
        ),
        (
            ("cp: 20", "cp: {per-real: -2}"),
            "train.1.synthetic.cp.per-real.0: input should be greater than or equal to 0",
        ),
        (("cp: 20", "cp: {per-real: 2, most: 3}"), "train.1.synthetic.cp.most: unknown key 'most'; allowed: per-real"),
        (("cp: 20", "cp: {per-reel: 2}"), ":10:28: train.1.synthetic.cp: say a number, a list, a range"),
        (("cp: 20", "cp: -2"), "train.1.synthetic.cp.0: input should be greater than or equal to 0, got -2"),
        (
            ("train:", "fidelity: {against: sene}\ntrain:"),
            "fidelity.against: 'sene' is not allowed; did you mean 'seen'?",
        ),
        (
            ("train:", "fidelity: {samples: sene}\ntrain:"),
            "fidelity.samples: 'sene' is not allowed; did you mean 'seen'?",
        ),
        (("train:", "compare: {against: {sees: 5, synthetic: {cp: 20}}}\ntrain:"), "no training set 'sees=5,cp=20'"),
        (("train:", "seeds: [1, 1]\ntrain:"), "1 stands twice"),
        (
            ("train:", "controls: [resample, copy-past]\ntrain:"),
            "8:22: controls.1: there is no control 'copy-past'; did you mean 'copy-paste'?; there are: real-repeated,",
        ),
        (
            ("train:", "controls: {arms: [phantom]}\ntrain:"),
            "controls.arms.0: phantom is a generator that does not say",
        ),
        (("train:", "profiles: {smoke: 5}\ntrain:"), "profiles.smoke: must be a mapping"),
        (("plugin: copy-paste", "plugin: copy-paste, 1: 2"), "1 is not a parameter's name"),
        (
            ("size: 64", "size: 64, split: {kfold: 3, named: cpd}"),
            "say exactly one of named, kfold, holdout or manifest",
        ),
        (("cp: {pairs: {plugin: copy-paste}}", "cp: {images: {plugin: copy-paste}}"), "say either pairs"),
        (
            ("  - {plugin: smp", "  - {plugin: smp, arch: FPN, encoder_weights: random}\n  - {plugin: smp"),
            "is called 'fpn' like",
        ),
    ],
)
def test_mistakes_say_what_is_wrong_and_what_is_allowed(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    lines = problems(tmp_path, BASE.replace(*change, 1))
    assert any(said in line for line in lines), lines


def test_syntax_and_duplicate_keys_carry_their_line(tmp_path: Path) -> None:
    assert ":3:" in problems(tmp_path, "title: a\ndataset: {name: b}\ndataset: {name: c}\n")[0]
    assert "mapping" in problems(tmp_path, "- a\n- b\n")[0]


def test_yaml_is_1_2_so_that_numbers_stay_numbers(tmp_path: Path) -> None:
    text = BASE.replace("encoder_weights: random", "encoder_weights: random, learning_rate: 1e-4")
    loaded = load_study(write(tmp_path, text))
    assert loaded.study.segmenters[0].values()["learning_rate"] == 1e-4


def test_extends_profiles_and_settings_override_in_that_order(tmp_path: Path) -> None:
    write(tmp_path, BASE + "seeds: 5\nprofiles:\n  smoke: {seeds: 2, dataset: {size: 32}}\n", "base")
    child = write(tmp_path, "extends: base\ntitle: child\n", "child")
    assert load_study(child).study.seeds == (0, 1, 2, 3, 4)
    smoke = load_study(child, "smoke")
    assert (smoke.study.seeds, smoke.study.dataset.size, smoke.study.title) == ((0, 1), 32, "child")
    assert load_study(child, "smoke", ("seeds=1", "train.0.real=7")).study.seeds == (0,)
    with pytest.raises(DeclarationError, match="no profile 'smok'; did you mean 'smoke'"):
        load_study(child, "smok")


def test_mistakes_in_what_is_extended_name_that_file(tmp_path: Path) -> None:
    write(tmp_path, BASE.replace("size: 64", "size: big"), "base")
    with pytest.raises(DeclarationError, match=r"base.yaml:3:"):
        load_study(write(tmp_path, "extends: base\n", "child"))
    with pytest.raises(DeclarationError, match="extends itself"):
        load_study(write(tmp_path, "extends: loop\n", "loop"))


@pytest.mark.parametrize(
    ("setting", "said"),
    [("seeds", "PATH=VALUE"), ("train.9.real=1", "not a position"), ("title.x=1", "has no parts"), ("a=[", "not YAML")],
)
def test_bad_settings_say_why(tmp_path: Path, setting: str, said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        load_study(write(tmp_path, BASE), None, (setting,))


def study_of(train: list[dict[str, object]], **rest: object) -> Study:
    generators = {"a": {"pairs": {"plugin": "x"}}, "b": {"pairs": {"plugin": "x"}}}
    return Study.model_validate({"dataset": {"name": "phantom"}, "generators": generators, "train": train, **rest})


def test_ranges_and_lists_expand_to_every_combination_once() -> None:
    train = [{"real": [5, "all"], "synthetic": {"a": {"from": 0, "to": 4, "step": 2}}}, {"real": 5}]
    labels = [recipe.label for recipe in expand_recipes(study_of(train, controls=[]))]
    assert labels == ["real=5", "real=5,a=2", "real=5,a=4", "real=all", "real=all,a=2", "real=all,a=4"]


def test_controls_match_the_synthetic_count_of_each_number_of_real_pairs() -> None:
    train = [
        {"real": 5, "synthetic": {"a": [2, 4], "b": 1}},
        {"real": 7, "synthetic": {"b": 3}},
        {"synthetic": {"a": 9}},
    ]
    largest = [r.label for r in expand_recipes(study_of(train, controls=["resample"])) if r.control]
    assert largest == ["real=5,control:resample=5", "real=7,control:resample=3"]
    each = study_of(train, controls={"arms": ["resample"], "at": "each"})
    assert [r.synthetic_count for r in expand_recipes(each) if r.control] == [3, 5, 3]


def seeing(train: list[dict[str, object]], **rest: object) -> Study:
    """Return a study whose generator a sees what the recipe says, b all of the fit role, and c the first 7."""
    generators = {
        name: {"pairs": {"plugin": "x"}, "sees": sees} for name, sees in (("a", "recipe"), ("b", "all"), ("c", 7))
    }
    declared = {"dataset": {"name": "phantom"}, "generators": generators, "train": train, "controls": [], **rest}
    return Study.model_validate(declared)


@pytest.mark.parametrize(
    ("entry", "labels"),
    [
        ({"sees": [5, 10], "synthetic": {"a": 50}}, ["sees=5,a=50", "sees=10,a=50"]),
        ({"sees": [5, 10], "synthetic": {"a": {"per-real": 10}}}, ["sees=5,a=50", "sees=10,a=100"]),
        ({"sees": 5, "synthetic": {"a": {"per-real": [1, 2]}}}, ["sees=5,a=5", "sees=5,a=10"]),
        ({"sees": {"from": 5, "to": 9, "step": 2}, "synthetic": {"a": 1}}, ["sees=5,a=1", "sees=7,a=1", "sees=9,a=1"]),
        ({"sees": 2, "synthetic": {"a": {"per-real": {"from": 1, "to": 2}}}}, ["sees=2,a=2", "sees=2,a=4"]),
        # The recipe's own real pairs are what its generators see unless it says otherwise.
        ({"real": [5, 10], "synthetic": {"a": {"per-real": 2}}}, ["real=5,a=10", "real=10,a=20"]),
        ({"real": 5, "sees": [5, 10], "synthetic": {"a": {"per-real": 2}}}, ["real=5,a=10", "real=5,sees=10,a=20"]),
        # Generators that do not ask the recipe see what they are declared to.
        ({"sees": 5, "synthetic": {"a": 1, "b": 2}}, ["sees=5,a=1,b=2"]),
        ({"sees": 5, "synthetic": {"a": {"per-real": 2}, "c": {"per-real": 2}}}, ["sees=5,a=10,c=14"]),
        ({"real": "all", "synthetic": {"c": {"per-real": 2}}}, ["real=all,c=14"]),
        # Without synthetic pairs there is nothing that sees.
        ({"real": 5, "sees": 10, "synthetic": {"a": [0, 1], "b": [0, 1]}},
         ["real=5", "real=5,b=1", "real=5,sees=10,a=1", "real=5,sees=10,a=1,b=1"]),
    ],
)  # fmt: skip
def test_recipes_say_what_their_generators_see(entry: dict[str, object], labels: list[str]) -> None:
    recipes = expand_recipes(seeing([entry]))
    assert [recipe.label for recipe in recipes] == labels
    assert len(set(recipes)) == len(labels)


def test_a_generator_is_fitted_on_what_it_is_declared_to_see() -> None:
    a, b, c = seeing([]).generators.values()
    assert [a.n_fit(recipe) for recipe in (Recipe(5), Recipe(0), Recipe(None))] == [5, None, None]
    assert [a.n_fit(Recipe(real, n_fit=3)) for real in (5, 0, None)] == [3, 3, 3]
    assert [(b.n_fit(recipe), c.n_fit(recipe)) for recipe in (Recipe(5), Recipe(0, n_fit=3))] == [(None, 7)] * 2


def test_what_is_seen_tells_recipes_apart_and_brings_no_controls() -> None:
    train = [{"sees": [2, 3], "synthetic": {"a": 6}}, {"real": 4, "sees": 3, "synthetic": {"a": 6}}]
    recipes = expand_recipes(seeing(train, controls=["resample"]))
    assert [recipe.label for recipe in recipes] == [
        "sees=2,a=6", "sees=3,a=6", "real=4,sees=3,a=6", "real=4,control:resample=6",
    ]  # fmt: skip
    assert [recipe.n_fit for recipe in recipes] == [2, 3, 3, None]


def test_the_control_arm_may_be_named_by_what_it_sees() -> None:
    study = seeing([], compare={"against": {"real": 4, "sees": 3, "synthetic": {"a": 6, "b": 0}}})
    assert study.compare.against is not None
    assert study.compare.against.recipe() == Recipe(4, (("a", 6),), n_fit=3)
    equal = seeing([], compare={"against": {"real": 4, "sees": 4, "synthetic": {"a": 6}}}).compare.against
    assert equal is not None
    assert equal.recipe() == Recipe(4, (("a", 6),))


def test_what_is_shown_of_a_study_can_be_read_again() -> None:
    study = seeing([{"sees": [5, 10], "synthetic": {"a": {"per-real": 10}, "b": 3}}], fidelity={"samples": "seen"})
    shown = study.model_dump(mode="json", exclude_none=True)
    assert shown["train"][0]["synthetic"] == {"a": {"per-real": [10]}, "b": [3]}
    assert Study.model_validate(shown) == study


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9))
def test_a_range_is_what_python_says_it_is(first: int, length: int, step: int) -> None:
    study = study_of(
        [{"real": {"from": first, "to": first + length, "step": step}, "synthetic": {"a": 1}}], controls=[]
    )
    assert [r.real for r in expand_recipes(study)] == list(range(first, first + length + 1, step))


@given(
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.lists(st.integers(), max_size=3)), max_size=3)
)
def test_merging_a_document_over_itself_changes_nothing(value: dict[str, object]) -> None:
    assert Document(value).merged(Document(value)).value == value


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=3), st.integers())
def test_a_setting_is_read_back_at_its_path(path: list[str], value: int) -> None:
    document = apply_setting(Document({}), f"{'.'.join(path)}={value}")
    found: object = document.value
    for key in path:
        found = found[key]  # type: ignore[index]
    assert found == value


def test_recipe_labels_tell_all_from_counts() -> None:
    assert Recipe(None, (("a", 3),)).label == "real=all,a=3"
    assert Recipe(0, (("a", 3), ("b", 1))).label == "a=3,b=1"


@pytest.mark.parametrize("name", sorted(list_studies()))
def test_every_study_that_ships_is_valid_in_each_of_its_profiles(name: str) -> None:
    profiles = read_document(list_studies()[name]).value.get("profiles") or {}
    for profile in (None, *profiles):
        assert load_study(name, profile).study.title
