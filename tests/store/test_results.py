"""The store: keys, atomic commits, claims that outlive no process, failures that are never results."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.store.results import CLAIM_EXPIRES, Store, canonical, digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_equal_values_have_equal_digests_whatever_the_order_of_keys(value: object) -> None:
    again = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert digest(again) == digest(value)


@given(JSON, JSON)
def test_different_values_have_different_digests(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (canonical(one) == canonical(other))


#: Claims a stage once told to, says whether it got it, and lives until its input ends.
CLAIM = """
import sys
from pathlib import Path
from harness.store.results import Store
sys.stdin.readline()
print(Store(Path(sys.argv[1])).claim('k'), flush=True)
sys.stdin.read()
"""


def commit(store: Store, key: str, **record: object) -> None:
    folder = store.work_folder(key)
    folder.mkdir(parents=True)
    (folder / "file.txt").write_text(key)
    store.commit("fit", key, {"kind": "fit", "key_without_code": f"i-{key}", "parts": {}, **record})


def test_a_result_is_there_after_its_commit_and_not_before(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.work_folder("k").mkdir(parents=True)
    (store.work_folder("k") / "result.json").write_text("{}")
    assert store.find("fit", "k") is None
    (store.work_folder("k") / "result.json").unlink()
    store.work_folder("k").rmdir()
    store.record_failure("k", {"status": "failed", "reason": "x"})
    commit(store, "k", values={"a": 1}, notes=["n"])
    found = store.find("fit", "k")
    assert found is not None
    assert (found.values, found.notes, (found.folder / "file.txt").read_text()) == ({"a": 1}, ["n"], "k")
    assert not store.work_folder("k").exists()
    assert store.failure("k") is None
    assert [result.key for result in store.results()] == ["k"]


def test_a_record_from_before_two_of_its_fields_were_renamed_is_read_as_one_of_today(tmp_path: Path) -> None:
    """``--accept-code`` promises that results stand, in stores that were there before too."""
    store = Store(tmp_path)
    commit(store, "k", runtime={"target": "dcgan"}, values={"a": 1})
    record = store.result_folder("fit", "k") / "result.json"
    today = json.loads(record.read_text())
    names = {"runtime": "attachments", "key_without_code": "identity"}
    record.write_text(json.dumps({names.get(name, name): value for name, value in today.items()}))
    found = store.find("fit", "k")
    assert found is not None
    assert [found.record, *(result.record for result in store.results())] == [today, today]
    assert store.accept("new", "i-k", "fit") == "k"
    accepted = store.find("fit", "new")
    assert accepted is not None
    assert accepted.record == today


def test_the_first_of_two_commits_stands(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, "k", values={"first": True})
    commit(store, "k", values={"first": False})
    found = store.find("fit", "k")
    assert found is not None
    assert found.values == {"first": True}
    assert not store.work_folder("k").exists()


def test_a_living_owner_keeps_its_claim_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    owner.stdin.write("go\n")
    owner.stdin.flush()
    assert owner.stdout.readline().strip() == "True"
    store = Store(tmp_path)
    assert not store.claim("k")
    holder = store.claimed_by("k")
    assert holder is not None
    assert holder["pid"] == owner.pid
    owner.kill()
    owner.wait()
    assert store.claimed_by("k") is None
    assert store.claim("k")
    store.release("k")
    assert not (tmp_path / "claims" / "k.json").exists()


def test_a_claim_of_a_reused_process_number_is_dead(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "claims").mkdir()
    claim = {"host": socket.gethostname(), "pid": os.getppid(), "started": 12345.0, "claimed": 0}
    (tmp_path / "claims" / "k.json").write_text(json.dumps(claim))
    assert store.claimed_by("k") is None


def test_a_claim_of_another_machine_lives_while_it_shows_signs_of_life(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "claims").mkdir()
    path = tmp_path / "claims" / "k.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": None, "claimed": 0}))
    assert not store.claim("k")
    old = path.stat().st_mtime - CLAIM_EXPIRES - 1
    os.utime(path, (old, old))
    assert store.claim("k")


def test_many_processes_claim_one_stage_once(tmp_path: Path) -> None:
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    for owner in owners:
        assert owner.stdin is not None
        owner.stdin.write("go\n")
        owner.stdin.flush()
    answers = [owner.stdout.readline().strip() for owner in owners if owner.stdout]
    for owner in owners:
        owner.kill()
        owner.wait()
    assert sorted(answers) == ["False"] * 5 + ["True"]


def test_accepting_code_lets_an_older_result_stand_for_a_new_key(tmp_path: Path) -> None:
    store = Store(tmp_path)
    commit(store, "old", key_without_code="same")
    assert store.find("fit", "new") is None
    assert store.accept("new", "other", "fit") is None
    assert store.accept("new", "same", "fit") == "old"
    found = store.find("fit", "new")
    assert found is not None
    assert found.key == "old"


@pytest.mark.parametrize("torn", ["", '{"kind": "fi', "not json"])
def test_a_torn_record_is_no_result(tmp_path: Path, torn: str) -> None:
    store = Store(tmp_path)
    store.result_folder("fit", "k").mkdir(parents=True)
    (store.result_folder("fit", "k") / "result.json").write_text(torn)
    assert store.find("fit", "k") is None
    assert list(store.results()) == []


def test_garbage_is_what_no_kept_plan_needs_and_nobody_works_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in ("needed", "older", "doomed"):
        commit(store, key)
    store.record_plan("study", {"needed": {}, "today": {}, "continued": {}}, keep=True)
    store.record_plan("study", {"doomed": {}}, keep=False)
    assert store.accept("today", "i-older", "fit") == "older"
    for key in ("continued", "claimed", "left"):
        store.work_folder(key).mkdir(parents=True)
    assert store.claim("claimed")
    assert store.garbage() == [store.result_folder("fit", "doomed"), store.work_folder("left")]


def test_planned_stages_are_those_of_every_studys_last_plan_the_newest_last(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for age, (name, stages) in enumerate([("b", {"x": {"label": "old"}}), ("a", {"x": {"label": "new"}, "y": {}})]):
        store.record_plan(name, stages, keep=False)
        os.utime(tmp_path / "planned" / f"{name}.json", (age, age))
    assert store.planned() == {"x": {"label": "new"}, "y": {}}
    store.record_plan("a", {}, keep=False)
    assert store.planned() == {"x": {"label": "old"}}


def test_progress_is_told_to_other_processes_while_a_stage_runs(tmp_path: Path) -> None:
    assert Store(tmp_path).progress("k") is None
    with Store(tmp_path).showing_progress("k") as report:
        assert Store(tmp_path).progress("k") is None
        report(3, 8, "steps")
        assert Store(tmp_path).progress("k") == (3, 8, "steps")
    assert Store(tmp_path).progress("k") is None
