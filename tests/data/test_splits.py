from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from harness.data import splits
from harness.data.datasets import Dataset, fingerprint_of
from harness.data.entry import Entry
from harness.data.splits import ROLES, Split, make_splits, named_splits, read_manifest, subset_order, write_manifest
from harness.errors import DataError

PUBLISHED_TWINS = [
    ("cju77k828z46w0871r0avuoo9", "cju30bmab08bi0835mvlr6e0r"),
    ("cju886ryxnsl50801r93jai7q", "cju8amfdtqi4x09871tygrgqe"),
    ("cju5fydrud94708507vo6oy21", "cju7avvi51iox0817ym55y6tt"),
]


def dataset(groups: dict[str, str], name: str = "made") -> Dataset:
    entries = tuple(
        Entry(each, f"{each}.png", f"{each}-mask.png", 9, 9, 0.1, groups[each], "0" * 16, "0" * 64)
        for each in sorted(groups)
    )
    return Dataset(name, name, "", "", Path("nowhere"), entries, fingerprint_of(entries))


def kvasir(name: str = "kvasir-seg") -> Dataset:
    ids = [each for part in ("train", "val", "test") for each in splits._read_ids(part)]
    groups = {each: each for each in ids}
    for first, second in PUBLISHED_TWINS:
        groups[first] = groups[second] = min(first, second)
    return dataset(groups, name)


grouped = st.lists(st.integers(0, 25), min_size=20, max_size=80).map(
    lambda numbers: dataset({f"i{k:03d}": f"g{number}" for k, number in enumerate(numbers)})
)
seeds = st.integers(0, 5)


def check_partition(source: Dataset, split: Split) -> None:
    listed = [name for role in ROLES for name in split.ids(role)]
    assert sorted(listed) == sorted(source.ids)
    assert all(split.ids(role) for role in ROLES)
    roles_of = {}
    for entry in source.entries:
        assert roles_of.setdefault(entry.group, split.roles[entry.id]) == split.roles[entry.id]


@settings(max_examples=80, deadline=None)
@given(grouped, seeds)
def test_holdout_partitions_and_keeps_groups_together(source, seed):
    try:
        [split] = make_splits(source, {"holdout": {"report": 0.3, "select": 0.2}}, seed)
    except DataError:
        reject()  # a role would be empty, or there are too few groups
    check_partition(source, split)
    largest = max(Counter(entry.group for entry in source.entries).values())
    # Whole groups are passed over: a role may stay short of its share by less than one group, and never exceeds it.
    assert round(0.3 * len(source)) - largest < len(split.ids("report")) <= round(0.3 * len(source))


@settings(max_examples=80, deadline=None)
@given(grouped, seeds, st.integers(2, 5))
def test_kfold_reports_every_image_once_and_keeps_groups_together(source, seed, folds):
    try:
        made = make_splits(source, {"kfold": folds, "select": 0.2}, seed)
    except DataError:
        reject()  # a role would be empty, or there are too few groups
    assert len(made) == folds
    for split in made:
        check_partition(source, split)
    assert sorted(name for split in made for name in split.ids("report")) == sorted(source.ids)
    sizes = [len(split.ids("report")) for split in made]
    assert max(sizes) - min(sizes) <= max(Counter(entry.group for entry in source.entries).values())


@settings(max_examples=60, deadline=None)
@given(st.sets(st.text("abcdef/01", min_size=1, max_size=6), min_size=2, max_size=30), seeds, st.randoms())
def test_subsets_nest_whatever_the_order_and_the_rest(ids, seed, random):
    shuffled = list(ids)
    random.shuffle(shuffled)
    order = subset_order(shuffled, seed)
    assert order == subset_order(ids, seed)
    assert sorted(order) == sorted(ids)
    fewer = [name for name in ids if name != order[1]]
    assert subset_order(fewer, seed) == [order[0], *order[2:]]


def test_subset_order_is_a_fair_shuffle():
    ids = [f"i{k:02d}" for k in range(20)]
    firsts = Counter(subset_order(ids, seed)[0] for seed in range(2000))
    assert len(firsts) == 20
    assert max(firsts.values()) < 150
    assert subset_order(ids, 0) != subset_order(ids, 1)


def test_seed_decides_the_split_and_nothing_else_does():
    source = dataset({f"i{k}": f"g{k // 2}" for k in range(60)})
    declaration = {"holdout": {"report": 0.3, "select": 0.1}}
    assert make_splits(source, declaration, 4)[0].digest == make_splits(source, declaration, 4)[0].digest
    assert make_splits(source, declaration, 4)[0].digest != make_splits(source, declaration, 5)[0].digest


def test_cpd_has_the_papers_sizes():
    [published] = make_splits(kvasir(), {"named": "cpd"}, 0, "published")
    assert [len(published.ids(role)) for role in ROLES] == [700, 101, 199]
    assert published.dropped == {}
    assert published.notes == ()
    assert set(published.ids("report")) == set(splits._read_ids("test"))


def test_clean_cpd_drops_the_fit_side_of_each_twin_and_says_so():
    [split] = make_splits(kvasir(), {"named": "cpd"}, 0)
    assert [len(split.ids(role)) for role in ROLES] == [697, 101, 199]
    assert set(split.dropped) == {"cju30bmab08bi0835mvlr6e0r", "cju7avvi51iox0817ym55y6tt", "cju8amfdtqi4x09871tygrgqe"}
    assert "cju77k828z46w0871r0avuoo9, which is report" in split.dropped["cju30bmab08bi0835mvlr6e0r"]
    assert [note.split(" of split")[0] for note in split.notes] == ["Dropped 2 fit images", "Dropped 1 fit image"]


def test_cpd_300_reports_on_the_papers_300_and_is_fixed():
    made = [make_splits(kvasir(), {"named": "cpd-300"}, seed, "published")[0] for seed in (0, 7)]
    assert made[0].digest == made[1].digest
    assert [len(made[0].ids(role)) for role in ROLES] == [600, 100, 300]
    assert set(made[0].ids("report")) == {*splits._read_ids("test"), *splits._read_ids("val")}
    [clean] = make_splits(kvasir(), {"named": "cpd-300"}, 0)
    assert len(clean.ids("report")) == 300
    assert len(clean.ids("fit")) + len(clean.ids("select")) == 697
    assert set(clean.ids("select")) <= set(made[0].ids("select"))


def test_named_splits_work_on_hyperkvasir_by_id():
    [split] = make_splits(kvasir("hyperkvasir"), {"named": "cpd"}, 0)
    assert split.dataset == "hyperkvasir"


def test_straddling_select_gives_way_to_report_and_published_keeps_it(tmp_path):
    source = dataset({"a": "1", "b": "1", "c": "2", "d": "3", "e": "4", "f": "2"})
    roles = {"a": "report", "b": "select", "c": "fit", "d": "fit", "e": "select", "f": "select"}
    write_manifest([Split("made", source.fingerprint, "mine", roles, {}, ())], tmp_path / "m.json")
    declaration = {"manifest": str(tmp_path / "m.json")}
    [clean] = make_splits(source, declaration, 0)
    assert clean.dropped.keys() == {"b", "c"}
    assert clean.ids("select") == ("e", "f")
    assert make_splits(source, declaration, 0, "published")[0].roles == roles


def test_manifest_comes_back_whole(tmp_path):
    [split] = make_splits(kvasir(), {"named": "cpd"}, 0)
    assert Split.from_json(split.to_json()) == split
    folds = make_splits(kvasir(), {"kfold": 3}, 1)
    write_manifest(folds, tmp_path / "folds.json")
    assert read_manifest(tmp_path / "folds.json") == folds
    assert make_splits(kvasir(), {"manifest": str(tmp_path / "folds.json")}, 9) == folds
    assert len({fold.digest for fold in folds}) == 3


def test_changed_manifest_is_refused(tmp_path):
    [split] = make_splits(kvasir(), {"named": "cpd"}, 0)
    document = json.loads(split.to_json())
    document["roles"]["fit"].append(document["roles"]["report"].pop())
    with pytest.raises(DataError, match="checksum"):
        Split.from_json(json.dumps(document))
    for text in ("{}", "[]", "3", "no json"):
        with pytest.raises(DataError, match="not a split manifest"):
            Split.from_json(text)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(DataError, match=r"bad\.json is not JSON"):
        read_manifest(tmp_path / "bad.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_manifest(tmp_path / "none.json")


def test_manifest_of_another_dataset(tmp_path):
    write_manifest(make_splits(kvasir(), {"named": "cpd"}, 0), tmp_path / "m.json")
    with pytest.raises(DataError, match="997 images that made does not have"):
        make_splits(dataset({"a": "a", "b": "b", "c": "c"}), {"manifest": str(tmp_path / "m.json")}, 0)
    one_more = dataset({**{entry.id: entry.group for entry in kvasir().entries}, "new": "new"})
    [split] = make_splits(one_more, {"manifest": str(tmp_path / "m.json")}, 0)
    assert any("4 images of made are in no role" in note for note in split.notes)
    assert any("fingerprint" in note for note in split.notes)
    assert split.dataset_fingerprint == one_more.fingerprint


def test_digest_follows_content_not_wording():
    split = Split("d", "f", "name", {"a": "fit", "b": "report", "c": "select"}, {"x": "why"}, ())
    assert split.digest == Split("d", "f", "other", split.roles, {"x": "because"}, ("note",)).digest
    assert split.digest != Split("d", "f", "name", {**split.roles, "a": "select"}, {"x": "why"}, ()).digest
    assert split.digest != Split("d", "g", "name", split.roles, {"x": "why"}, ()).digest
    assert split.digest != Split("d", "f", "name", split.roles, {}, ()).digest


@pytest.mark.parametrize(
    ("declaration", "sentence"),
    [
        ({"named": "cdp"}, "did you mean 'cpd'"),
        ({"named": "cpd"}, "such as"),
        ({"holdout": {"report": 0.9, "select": 0.1}}, "leaves the role 'fit' empty"),
        ({"holdout": {"report": 0.01, "select": 0.1}}, "leaves the role 'report' empty"),
        ({"holdout": {"report": 1.5}}, "between 0 and 1"),
        ({"holdout": {"reprot": 0.5}}, "reprot"),
        ({"holdout": 0.3}, "declared as"),
        ({"kfold": 11}, "10 groups, fewer than the 11 folds"),
        ({"kfold": 1}, "at least 2"),
        ({"kfold": 3, "select": 0}, "select share"),
        ({"kfold": 3, "select": 0.01}, "leaves the role 'select' empty"),
        ({"folds": 3}, "'folds'"),
        ({"kfold": 3, "named": "cpd"}, "kfold and named"),
        ({}, "nothing"),
        ({"named": "cpd", "select": 0.1}, "'select'"),
    ],
)
def test_wrong_declarations_are_explained(declaration, sentence):
    with pytest.raises(DataError) as caught:
        make_splits(dataset({f"i{k}": f"g{k % 10}" for k in range(20)}), declaration, 0)
    assert sentence in str(caught.value)


def test_shipped_lists_are_the_published_ones():
    parts = {part: splits._read_ids(part) for part in ("train", "val", "test")}
    assert {part: len(ids) for part, ids in parts.items()} == {"train": 700, "val": 101, "test": 199}
    assert len({name for ids in parts.values() for name in ids}) == 1000
    assert named_splits() == ["cpd", "cpd-300"]
