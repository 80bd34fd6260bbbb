"""``harness store``: keep the disk in hand, and see why something is computed again."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


@app.command()
def du(as_json: Json = False) -> None:
    """Show how much the results of each kind take."""
    from harness.store.cache import cached_files
    from harness.store.results import Store

    totals: dict[str, list[int]] = {}
    for result in Store().results():
        totals.setdefault(result.record["kind"], []).append(_size(result.folder))
    features = [path.stat().st_size for path in cached_files()]
    if features:
        totals["features"] = features
    rows = {kind: {"results": len(sizes), "bytes": sum(sizes)} for kind, sizes in sorted(totals.items())}
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for kind, row in rows.items():
        print(f"{kind:9} {row['results']:5} results  {_megabytes(row['bytes'])}")
    results, size = (sum(row[name] for row in rows.values()) for name in ("results", "bytes"))
    print(f"{'in all':9} {results:5} results  {_megabytes(size)}")


@app.command()
def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it only say what would go.")] = False,
    unused_days: Annotated[
        int, typer.Option(min=0, help="Features of pictures go when nothing has read them for so many days.")
    ] = 30,
    as_json: Json = False,
) -> None:
    """Delete results that no study's last run needs, and work that nobody continues; without --yes only say so.

    Features of pictures belong to no study: those that nothing has read for a while go too.
    """
    from harness.store.cache import cached_files
    from harness.store.results import Store

    doomed = Store().garbage()
    oldest = time.time() - unused_days * 86400
    unused = [file for file in cached_files() if file.stat().st_mtime <= oldest]
    size = sum(_size(folder) for folder in doomed) + sum(file.stat().st_size for file in unused)
    if yes:
        for folder in doomed:
            shutil.rmtree(folder)
        for file in unused:
            file.unlink(missing_ok=True)
    if as_json:
        went = {"folders": [str(folder) for folder in doomed], "features": [str(file) for file in unused]}
        print(json.dumps({**went, "bytes": size, "deleted": yes}, indent=2))
        return
    verb, more = ("Deleted", "") if yes else ("Would delete", " Add --yes to do it." if doomed or unused else "")
    print(f"{verb} {len(doomed)} folders and {len(unused)} files of features, {_megabytes(size)}.{more}")


@app.command()
def verify(as_json: Json = False) -> None:
    """Check that each stored result's key is the digest of its parts, and that its files are there."""
    from harness.engine.stages import kinds
    from harness.store.results import Store, digest

    known = kinds()
    broken = {}
    count = 0
    for result in Store().results():
        count += 1
        if digest(result.record["parts"]) != result.key:
            broken[str(result.folder)] = "its key is not the digest of its parts"
        elif result.record["kind"] in known:
            files = known[result.record["kind"]].thing.files(result)
            missing = [str(file.relative_to(result.folder)) for file in files if not file.exists()]
            if missing:
                broken[str(result.folder)] = f"it lacks {', '.join(missing)}"
    if as_json:
        print(json.dumps({"results": count, "broken": broken}, indent=2))
    else:
        for folder, problem in broken.items():
            print(f"{folder}: {problem}; delete the folder and run the study again.")
        print(f"{count} results, {len(broken)} broken.")
    if broken:
        raise typer.Exit(1)


@app.command()
def explain(
    stage: Annotated[str, typer.Argument(help="Label of a stage, or the start of its key.")], as_json: Json = False
) -> None:
    """Say which part of a stage's key differs from the nearest stored result."""
    from harness.engine.key_diff import differences, find_stage, nearest_result
    from harness.store.results import Store

    store = Store()
    key, planned = find_stage(store, stage)
    stored = store.find(planned["kind"], key)
    other = None if stored else nearest_result(store, planned)
    changed = differences(planned["parts"], other.record["parts"]) if other else {}
    if as_json:
        document = {"key": key, "label": planned["label"], "stored": stored is not None}
        print(json.dumps({**document, "nearest": other.key if other else None, "differences": changed}, indent=2))
        return
    if stored:
        print(f"{planned['label']} is stored ({key[:12]}); nothing differs.")
    elif other is None:
        print(f"{planned['label']} is not stored, and no {planned['kind']} result is; it has never run here.")
    else:
        print(
            f"{planned['label']} is not stored. Nearest is {other.record['label']} ({other.key[:12]}); it differs in:"
        )
        for part, (now, before) in changed.items():
            print(f"  {part}: {before!r} -> {now!r}")
