"""``harness data``: import, list, look at, check, split and export datasets."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.data.sources import FOLDER, SOURCES
from harness.errors import DataError, DeclarationError

if TYPE_CHECKING:
    from harness.data.datasets import Dataset
    from harness.data.splits import Split

app = typer.Typer(help="Import, list, check, split and export datasets.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output and nothing else.")]
Name = Annotated[str, typer.Argument(help="Dataset, as 'harness data list' names it.")]


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _progress(verb: str) -> Callable[[int, int], None]:
    """Return a progress callback: one line that renews itself on a terminal, plain lines every tenth when piped."""
    terminal = sys.stderr.isatty()

    def report(done: int, total: int) -> None:
        if terminal:
            print(f"\r{verb} {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif total >= 50 and (done == total or done % max(1, total // 10) == 0):
            print(f"{verb} {done}/{total}", file=sys.stderr, flush=True)

    return report


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=1, ensure_ascii=False))


def _describe(dataset: Dataset) -> dict[str, Any]:
    fractions = sorted(entry.polyp_fraction for entry in dataset.entries)
    shapes = [(entry.width, entry.height) for entry in dataset.entries]
    return {
        "name": dataset.name,
        "title": dataset.title,
        "licence": dataset.licence,
        "citation": dataset.citation,
        "source": dataset.source,
        "folder": str(dataset.folder),
        "fingerprint": dataset.fingerprint,
        "pairs": len(dataset),
        "groups": len({entry.group for entry in dataset.entries}),
        "smallest_size": min(shapes, key=math.prod),
        "largest_size": max(shapes, key=math.prod),
        "polyp_fraction": {
            "mean": round(sum(fractions) / len(fractions), 6),
            "median": fractions[len(fractions) // 2],
            "smallest": fractions[0],
            "largest": fractions[-1],
        },
        "without_polyp": sum(fraction == 0 for fraction in fractions),
        "near_duplicates": [[pair.first, pair.second, pair.correlation] for pair in dataset.near_duplicates],
        "made_from": len(frozenset().union(*dataset.lineages)),
    }


def _print_description(facts: dict[str, Any]) -> None:
    fraction = facts["polyp_fraction"]
    print(f"{facts['name']}: {facts['title']}")
    print(f"  {facts['pairs']} pairs in {facts['groups']} groups, {facts['without_polyp']} without a polyp")
    print(f"  {'x'.join(map(str, facts['smallest_size']))} to {'x'.join(map(str, facts['largest_size']))} pixels")
    print(
        f"  polyp pixels: mean {fraction['mean']:.1%}, median {fraction['median']:.1%}, "
        f"from {fraction['smallest']:.2%} to {fraction['largest']:.1%}"
    )
    if facts["made_from"]:
        print(f"  made by a generator, from {facts['made_from']} real images")
    for first, second, score in facts["near_duplicates"]:
        print(f"  same frame: {first} and {second} (correlation {score:.3f})")
    print(f"  licence: {facts['licence']}\n  cite: {facts['citation']}")
    print(f"  fingerprint {facts['fingerprint']}\n  in {facts['folder']}")


@app.command("import")
def import_command(
    origin: Annotated[Path, typer.Option("--from", help="Zip or folder with the images and masks; only read.")],
    source: Annotated[
        str | None, typer.Argument(help=f"{', '.join(SOURCES)}, or {FOLDER}; left out, what --name says, or {FOLDER}.")
    ] = None,
    name: Annotated[str | None, typer.Option(help=f"Name of the dataset; needed for {FOLDER}.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the images inside the origin.")] = None,
    masks: Annotated[str | None, typer.Option(help="Folder of the masks inside the origin.")] = None,
    groups: Annotated[Path | None, typer.Option(help="CSV with the columns id and group (patient, video).")] = None,
    as_json: AsJson = False,
) -> None:
    """Import a zip or folder; every file is checked, and nothing is half-imported."""
    from harness.data.importing import import_dataset

    source = source or (name if name in SOURCES else FOLDER)
    dataset = import_dataset(source, origin, name, images, masks, groups, _progress("checked"), _say)
    facts = _describe(dataset)
    if as_json:
        _print_json(facts)
    else:
        _print_description(facts)


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the datasets that are there, and how to get the others."""
    from dataclasses import asdict

    from harness.data.datasets import available

    summaries = available()
    if as_json:
        _print_json([asdict(summary) for summary in summaries])
        return
    width = max(len(summary.name) for summary in summaries)
    for summary in summaries:
        pairs = "any" if summary.pairs is None else str(summary.pairs)
        state = "ready" if summary.imported else f"not imported; {summary.how}"
        print(f"{summary.name:{width}}  {pairs:>6} pairs  {summary.title}: {state}")


@app.command("show")
def show_command(name: Name, as_json: AsJson = False) -> None:
    """Show what a dataset holds."""
    from harness.data.datasets import open_dataset

    facts = _describe(open_dataset(name))
    if as_json:
        _print_json(facts)
    else:
        _print_description(facts)


@app.command("check")
def check_command(name: Name, as_json: AsJson = False) -> None:
    """Check every file again: checksums, decoding, sizes, near-duplicates. Exit code 1 when something is wrong."""
    from harness.data.checking import check_dataset
    from harness.data.datasets import open_dataset

    dataset = open_dataset(name)
    problems = check_dataset(dataset, _progress("checked"))
    facts = _describe(dataset)
    if as_json:
        _print_json(
            {"name": name, "pairs": len(dataset), "problems": problems, "near_duplicates": facts["near_duplicates"]}
        )
    if problems:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DataError([f"{name} has {count}; import it again.", *problems])
    if not as_json:
        duplicates = len(facts["near_duplicates"])
        print(f"{name}: {len(dataset)} pairs are sound; {duplicates} pairs of near-duplicate frames share groups.")


@app.command("split")
def split_command(
    name: Name,
    named: Annotated[str | None, typer.Option(help="A published split: cpd or cpd-300.")] = None,
    kfold: Annotated[int | None, typer.Option(help="Number of folds.")] = None,
    holdout: Annotated[float | None, typer.Option(help="Share of all images to report on.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="A manifest that was written with --out.")] = None,
    select: Annotated[
        float | None, typer.Option(help="Share to select on: of all images (holdout), of the rest (kfold).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the shuffle.")] = 0,
    protocol: Annotated[str, typer.Option(help="clean, or published: keeps groups that straddle roles.")] = "clean",
    count: Annotated[int | None, typer.Option(help="Images of the phantom.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the manifest to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Split a dataset into the roles fit, select and report, and show or write the result."""
    from harness.data.datasets import open_dataset
    from harness.data.splits import make_splits, write_manifest

    declaration = _declaration(named, kfold, holdout, manifest, select)
    dataset = open_dataset(name, **({} if count is None else {"count": count}))
    splits = make_splits(dataset, declaration, seed, protocol)  # type: ignore[arg-type]
    if out:
        write_manifest(splits, out)
        _say(f"Wrote {out}.")
    facts = [_split_facts(dataset, split) for split in splits]
    if as_json:
        _print_json({"dataset": name, "splits": facts})
    else:
        for fact in facts:
            _print_split(fact)


def _declaration(
    named: str | None, kfold: int | None, holdout: float | None, manifest: Path | None, select: float | None
) -> dict[str, Any]:
    given = {"--named": named, "--kfold": kfold, "--holdout": holdout, "--manifest": manifest}
    chosen = [option for option, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise DeclarationError(f"Give exactly one of {', '.join(given)}, not {' and '.join(chosen) or 'none'}.")
    share = {} if select is None else {"select": select}
    if chosen == ["--holdout"]:
        return {"holdout": {"report": holdout, **share}}
    if chosen == ["--kfold"]:
        return {"kfold": kfold, **share}
    if share:
        raise DeclarationError(f"--select goes with --holdout or --kfold, not with {chosen[0]}.")
    return {"named": named} if named is not None else {"manifest": str(manifest)}


def _split_facts(dataset: Dataset, split: Split) -> dict[str, Any]:
    from harness.data.splits import ROLES

    entries = {entry.id: entry for entry in dataset.entries}
    roles = {}
    for role in ROLES:
        ids = split.ids(role)
        roles[role] = {
            "images": len(ids),
            "groups": len({entries[name].group for name in ids}),
            "polyp_fraction": round(sum(entries[name].polyp_fraction for name in ids) / len(ids), 6),
            "without_polyp": sum(entries[name].polyp_fraction == 0 for name in ids),
        }
    return {
        "name": split.name,
        "digest": split.digest,
        "roles": roles,
        "dropped": dict(split.dropped),
        "notes": list(split.notes),
    }


def _print_split(facts: dict[str, Any]) -> None:
    print(facts["name"])
    for role, numbers in facts["roles"].items():
        print(
            f"  {role:7} {numbers['images']:6} images in {numbers['groups']:6} groups, polyp pixels "
            f"{numbers['polyp_fraction']:.1%}, "
            f"{numbers['without_polyp']} without a polyp"
        )
    for note in facts["notes"]:
        print(f"  {note}")
    for name, reason in facts["dropped"].items():
        print(f"  dropped {name}: {reason}")
    print(f"  digest {facts['digest']}")


@app.command("export")
def export_command(
    name: Name,
    out: Annotated[Path, typer.Option(help="New folder, or new zip when it ends in .zip.")],
    count: Annotated[int | None, typer.Option(help="Images of the phantom.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset's files (images, masks, groups.csv) so that they can be imported again elsewhere."""
    from harness.data.checking import export_dataset
    from harness.data.datasets import open_dataset

    dataset = open_dataset(name, **({} if count is None else {"count": count}))
    export_dataset(dataset, out, _progress("wrote"))
    if as_json:
        _print_json({"name": name, "pairs": len(dataset), "out": str(out)})
    else:
        print(f"Wrote {len(dataset)} pairs of {name} to {out}.")
