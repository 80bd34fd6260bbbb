"""Compare the ``results.csv`` of two reports: what changed, and what exists in one only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import DeclarationError
from harness.report.format import metric_with_reduction, number, signed
from harness.results.schema import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

#: What makes a number the same number in two reports.
KEY = [
    "kind", "dataset", "role", "segmenter", "recipe", "generator", "synthetic", "seed", "fold", "step", "metric",
    "reduction",
]  # fmt: skip


def _read(report: Path) -> pd.DataFrame:
    """Read a report's results with every key column as text."""
    import pandas as pd

    path = report / "results.csv" if report.is_dir() else report
    if not path.is_file():
        raise DeclarationError(f"There is no results.csv at {report}: give the folder of a rendered report.")
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys([*KEY, "status", "leak"], str), keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DeclarationError(
            f"{path} cannot be read as a results table: {error}; render the report again."
        ) from error
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DeclarationError(
            f"{path} is not a results table: it has no column {missing[0]!r}; render the report again."
        )
    table["value"] = pd.to_numeric(table["value"], errors="coerce")
    # Rows of one key (a failed cell has no metric) are numbered, so that a join never multiplies them.
    table["copy"] = table.groupby(KEY).cumcount()
    return table


def compare(first: Path, second: Path) -> tuple[pd.DataFrame, str]:
    """Join two reports number by number.

    Args:
        first: a report folder or a ``results.csv``.
        second: the other one.

    Returns:
        A table with the key columns, ``value_a``, ``value_b``, ``difference`` (b - a), ``status_a``, ``status_b`` and
        ``where`` (``both``, ``only a`` or ``only b``), in the order of the first report; and the same in words.

    Raises:
        DeclarationError: one of them has no readable ``results.csv``.
    """
    a, b = _read(first), _read(second)
    columns = [*KEY, "copy", "value", "status"]
    joined = a[columns].merge(
        b[columns], on=[*KEY, "copy"], how="outer", suffixes=("_a", "_b"), indicator="where", sort=False
    )
    order: dict[tuple[object, ...], int] = {}
    for row in (*a[[*KEY, "copy"]].to_numpy(), *b[[*KEY, "copy"]].to_numpy()):
        order.setdefault(tuple(row), len(order))
    rank = [order[tuple(row)] for row in joined[[*KEY, "copy"]].to_numpy()]
    joined = joined.assign(rank=rank).sort_values("rank").drop(columns=["rank", "copy"])
    joined["where"] = joined["where"].map({"both": "both", "left_only": "only a", "right_only": "only b"}).astype(str)
    joined["difference"] = joined["value_b"] - joined["value_a"]
    joined = joined[[*KEY, "value_a", "value_b", "difference", "status_a", "status_b", "where"]].reset_index(drop=True)
    return joined, _in_words(joined, first, second)


def _in_words(joined: pd.DataFrame, first: Path, second: Path) -> str:
    """Return a comparison for people: counts, then mean differences per arm, then what is in one only."""
    both = joined[joined["difference"].notna()]
    same = int((both["difference"] == 0).sum())
    lines = [f"a = {first}", f"b = {second}", f"{len(both)} numbers in both, {same} of them equal."]
    changed = both[both["difference"] != 0]
    arms = ["kind", "dataset", "role", "segmenter", "recipe", "generator", "metric", "reduction"]
    for key, part in changed.groupby(arms, sort=False):
        named = {name: str(value) for name, value in zip(arms, key, strict=True)}
        label = " * ".join(v for v in (named["segmenter"], named["recipe"]) if v) or named["generator"] or named["kind"]
        # The whole arm, so that a mean over seeds is not thinned to those that changed.
        whole = both[(both[arms] == list(named.values())).all(axis=1)]
        a, b = float(whole["value_a"].mean()), float(whole["value_b"].mean())
        lines.append(
            f"{label}, {metric_with_reduction(named['metric'], named['reduction'])}: {number(a, 4)} to {number(b, 4)} "
            f"({signed(b - a, 4)}; {len(part)} of {len(whole)} changed)"
        )
    for side in ("a", "b"):
        only = joined[joined["where"] == f"only {side}"]
        if len(only):
            cells = dict.fromkeys(
                " * ".join(filter(None, k)) for k in zip(only["segmenter"], only["recipe"], strict=True)
            )
            named_cells = ", ".join(c for c in cells if c) or "fidelity or selection"
            lines.append(f"Only in {side}: {len(only)} rows ({named_cells}).")
    holes = joined[(joined["where"] == "both") & (joined["value_a"].isna() != joined["value_b"].isna())]
    lines.extend(
        f"{row.segmenter} * {row.recipe} seed {row.seed}: {row.status_a} in a, {row.status_b} in b."
        for row in holes.itertuples()
    )
    return "\n".join(lines)
