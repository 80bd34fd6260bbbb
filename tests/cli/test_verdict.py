"""``harness verdict`` through the real command line."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from harness.cli import main
from harness.stats import verdict


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        {"segmenter": "unet", "arm": arm, "replicate": f"0{r}", "image": i, "value": 0.6 + shift + rng.normal(0, 0.02)}
        for arm, shift in (("real", 0.0), ("made", 0.1), ("NA", 0.0))
        for r in range(3)
        for i in range(40)
    ]
    return pd.DataFrame(rows)


def said(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["verdict", *map(str, arguments)])
    assert stopped.value.code in (0, None), capsys.readouterr().err
    return str(capsys.readouterr().out)


def test_json_is_what_python_says(table, tmp_path, capsys):
    table.to_csv(tmp_path / "scores.csv", index=False)
    found = json.loads(said(capsys, tmp_path / "scores.csv", "--margin", 0.05, "--json"))
    expected = verdict(table, margin=0.05)
    assert [e["verdict"] for e in found["effects"]] == ["helps", "no relevant difference"]
    assert [e["arm"] for e in found["effects"]] == ["made", "NA"]
    names = ["segmenter", "arm", "baseline", "difference", "low", "high", "p", "p_adjusted", "detectable", "verdict"]
    for effect, row in zip(found["effects"], expected.to_dict("records"), strict=True):
        for name in names:
            wanted = row[name] if isinstance(row[name], str) else pytest.approx(row[name], rel=1e-9)
            assert effect[name] == wanted


def test_people_read_a_table(table, tmp_path, capsys):
    table.to_csv(tmp_path / "scores.csv", index=False)
    lines = said(capsys, tmp_path / "scores.csv").splitlines()
    assert lines[0].split()[:2] == ["segmenter", "arm"]
    assert "helps (over trainings)" in lines[1]
    assert "every image counts as independent" in lines[-1]


def test_each_file_is_a_family_of_its_own(table, tmp_path, capsys):
    for name in ("a.csv", "b.csv"):
        table.to_csv(tmp_path / name, index=False)
    both = json.loads(said(capsys, tmp_path / "a.csv", tmp_path / "b.csv", "--json"))["effects"]
    alone = json.loads(said(capsys, tmp_path / "a.csv", "--json"))["effects"]
    assert [e["p_adjusted"] for e in both] == [e["p_adjusted"] for e in alone] * 2
    assert both[0]["file"].endswith("a.csv")


def test_a_value_that_is_missing_is_no_score_and_a_word_is_a_mistake(table, tmp_path, capsys):
    text = table.assign(value=table["value"].astype(object).where(table.index % 40 != 3, ""))
    text.to_csv(tmp_path / "scores.csv", index=False)
    said(capsys, tmp_path / "scores.csv")
    table.assign(value="high").to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(SystemExit):
        main(["verdict", str(tmp_path / "scores.csv")])
    assert "scores.csv: Row 2 has the value 'high'" in capsys.readouterr().err


def test_spaces_in_headers_do_not_matter_and_semicolons_are_named(table, tmp_path, capsys):
    table.rename(columns={"value": " value "}).to_csv(tmp_path / "scores.csv", index=False)
    said(capsys, tmp_path / "scores.csv")
    table.to_csv(tmp_path / "scores.csv", index=False, sep=";")
    with pytest.raises(SystemExit):
        main(["verdict", str(tmp_path / "scores.csv")])
    assert "separate them by commas" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b"a,b\n1,2,3,4\n"])
def test_what_is_no_table_is_said_in_one_sentence(content, tmp_path, capsys):
    path = tmp_path / "scores.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["verdict", str(path)])
    assert stopped.value.code == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
