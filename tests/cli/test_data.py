"""``harness data`` through its own commands, without the rest of the command line."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from harness.cli.data import app
from harness.data.sources import SOURCES
from harness.errors import DataError, DeclarationError, HarnessError

pytestmark = pytest.mark.usefixtures("home")


def run(*arguments: object) -> tuple[str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, HarnessError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_import_list_show_check_split_export(write_dataset, tmp_path):
    imported = json.loads(run("import", "folder", "--from", write_dataset(8), "--name", "mine", "--json")[0])
    assert (imported["name"], imported["pairs"], imported["groups"]) == ("mine", 8, 8)
    listed = json.loads(run("list", "--json")[0])
    assert [row["name"] for row in listed if row["imported"]] == ["phantom", "mine"]
    assert next(row for row in listed if row["name"] == "kvasir-seg")["how"].startswith(
        "harness data import kvasir-seg"
    )
    shown = json.loads(run("show", "mine", "--json")[0])
    assert shown == imported
    assert json.loads(run("check", "mine", "--json")[0])["problems"] == []
    manifest = tmp_path / "split.json"
    arguments = ("split", "mine", "--holdout", 0.3, "--select", 0.2, "--seed", 3, "--out", manifest, "--json")
    [split] = json.loads(run(*arguments)[0])["splits"]
    assert [split["roles"][role]["images"] for role in ("fit", "select", "report")] == [4, 2, 2]
    [again] = json.loads(run("split", "mine", "--manifest", manifest, "--json")[0])["splits"]
    assert again["digest"] == split["digest"]
    folds = json.loads(run("split", "mine", "--kfold", 3, "--json")[0])["splits"]
    assert len(folds) == 3
    assert json.loads(run("export", "mine", "--out", tmp_path / "out", "--json")[0])["pairs"] == 8
    assert len(list((tmp_path / "out/images").iterdir())) == 8


def test_a_source_is_known_by_the_name_alone_and_any_other_name_is_of_a_folder(write_dataset):
    told = {
        name: json.loads(run("import", "--from", write_dataset(8), "--name", name, "--json")[0])["title"]
        for name in ("mine", "etis-larib")
    }
    assert told["etis-larib"] == SOURCES["etis-larib"].title != told["mine"]
    assert all(name in " ".join(run("import", "--help")[0].split()) for name in SOURCES)
    with pytest.raises(DataError, match="needs a name"):
        run("import", "--from", write_dataset(3), "--name", "")


def test_text_says_what_a_person_needs(write_dataset):
    run("import", "folder", "--from", write_dataset(8), "--name", "mine")
    assert "mine" in run("list")[0]
    assert "8 pairs in 8 groups" in run("show", "mine")[0]
    assert "8 pairs are sound" in run("check", "mine")[0]
    assert "report" in run("split", "mine", "--holdout", 0.3, "--select", 0.2)[0]


def test_check_fails_when_a_file_changed(write_dataset, home):
    run("import", "folder", "--from", write_dataset(3), "--name", "mine")
    (home / "data/mine/images/frame1.png").write_bytes(b"gone")
    with pytest.raises(DataError, match="1 problem; import it again"):
        run("check", "mine")


@pytest.mark.parametrize(
    "arguments",
    [
        ("split", "phantom"),
        ("split", "phantom", "--kfold", 3, "--named", "cpd"),
        ("split", "x", "--named", "cpd", "--select", 0.1),
    ],
)
def test_a_split_is_declared_once(arguments):
    with pytest.raises(DeclarationError):
        run(*arguments)
