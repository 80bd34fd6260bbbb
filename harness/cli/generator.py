"""``harness generator``: list generators, fit one on its own, and sample from a fitted one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from harness.engine.fitted_generator import FittedGenerator
    from harness.study.loaded import LoadedStudy

app = typer.Typer(help="List generators, fit one, sample from a fitted one.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command("list")
def list_generators(as_json: Json = False) -> None:
    """List the generators: what each needs, makes and costs."""
    from harness.errors import PluginError
    from harness.plugins.registry import load_plugin, registry

    rows: list[dict[str, Any]] = []
    for (kind, name), entry in sorted(registry().items()):
        if kind != "generators":
            continue
        row: dict[str, Any] = {"name": name, "origin": entry.origin, "summary": entry.summary}
        try:
            found = load_plugin("generators", name)
        except PluginError as error:
            rows.append({**row, "problem": str(error)})
            continue
        card = found.card
        row["summary"] = entry.summary or (found.__doc__ or "").strip().partition("\n")[0]
        row |= {"version": found.version, "needs": card.needs, "makes": card.makes, "learns": card.learns}
        row |= {"control": card.control, "one-model-a-pair": card.one_model_a_pair}
        row |= {"sizes": list(card.sizes), "minimum": card.minimum}
        rows.append({**row, "weights": list(card.weights), "licence": card.licence, "cost": card.cost})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        print(f"{row['name']:{width}}  {row['summary']}")
        if "problem" in row:
            print(f"{'':{width}}  cannot be used: {row['problem']}")
            continue
        sizes = f"{', '.join(map(str, row['sizes']))} px" if row["sizes"] else "any size"
        facts = [f"needs {row['needs']}", f"makes {row['makes']}", sizes, f"at least {row['minimum']} pairs"]
        facts += ["one model a pair"] if row["one-model-a-pair"] else []
        facts += ["a control: brings no new information"] if row["control"] else []
        facts += [f"weights {', '.join(row['weights'])}"] if row["weights"] else []
        facts += [word for word in (row["licence"], row["cost"]) if word]
        print(f"{'':{width}}  {'; '.join(facts)}")


@app.command()
def fit(
    plugin: Annotated[str, typer.Argument(help="Name of a generator, or path/to/file.py:Class.")],
    data: Annotated[str, typer.Option("--data", help="Dataset to fit it on, such as phantom or kvasir-seg.")],
    size: Annotated[int, typer.Option(help="Side of the images, pixels.")] = 64,
    settings: Annotated[list[str] | None, typer.Option("--set", help="PARAMETER=VALUE of the generator.")] = None,
    real: Annotated[int | None, typer.Option(help="Fit on the first so many real pairs; all when left out.")] = None,
    split: Annotated[
        str | None, typer.Option(help="As dataset.split in a study, such as cpd; only its fit role is seen.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of everything the fit draws at random.")] = 0,
    executor: Annotated[str, typer.Option(help="local (a process of its own), in-process, or one of yours.")] = "local",
    track: Annotated[bool, typer.Option("--track/--no-track", help="Mirror the fit to MLflow.")] = True,
    as_json: Json = False,
) -> None:
    """Fit one generator on the fit role of a dataset, or resume a stopped fit. The result is kept in the store."""
    from harness.cli.running import note_plan, run_shown
    from harness.engine.executors import make_executor
    from harness.engine.plan import plan_fit
    from harness.engine.stages.fit import FitStage
    from harness.errors import HarnessError
    from harness.store.results import Store

    runner = make_executor(executor, 1)
    loaded = declare_fit(plugin, data, size, settings or [], real, split, seed)
    plan, key = plan_fit(loaded)
    store = Store()
    note_plan(plan, store, f"{loaded.name}-{key[:12]}", keep=True)
    summary, _ = run_shown(plan, store, runner, stages=len(plan.stages), track=track)
    result = store.find(FitStage.name, key)
    if result is None:
        reasons = [f["reason"] for f in summary.failures.values() if f["status"] != "skipped"]
        raise HarnessError(f"{plugin} could not be fitted: {'; '.join(reasons)}")
    fitted = FitStage.read(result)
    if as_json:
        facts = {"key": key, "label": fitted.label, "checkpoints": fitted.steps, "folder": str(result.folder)}
        print(json.dumps({**facts, "real": fitted.n_pairs, "stored": not summary.done}, indent=2))
        return
    how = "was fitted already" if key in summary.stored_before else f"fitted in {result.record['seconds']:.0f} s"
    print(f"{plugin} {how} on {fitted.n_pairs} real pairs; checkpoints at {', '.join(map(str, fitted.steps))}.")
    print(f"Key: {key}")
    print(f"Sample from it: harness generator sample --from {key[:12]} -n 100 --out samples")


def declare_fit(
    plugin: str, data: str, size: int, settings: list[str], real: int | None, split: str | None, seed: int
) -> LoadedStudy:
    """Return a study that fits one generator and trains nothing.

    Raises:
        DeclarationError: an option or a parameter of the plugin is not allowed.
        PluginError: there is no such generator.
    """
    from pydantic import ValidationError

    from harness.engine.check import check_plugins, check_study, describe_errors
    from harness.errors import DeclarationError
    from harness.plugins.registry import load_plugin
    from harness.study.loaded import LoadedStudy
    from harness.study.schema import Study
    from harness.study.yaml_document import Document, Location, Origin, apply_setting

    found = load_plugin("generators", plugin)
    name, part = found.name, found.card.makes
    uses = {part: {"plugin": plugin}}
    if part == "images":
        # A pipeline has masks where it has images; the fit of an image maker does not depend on them.
        uses["masks"] = {"plugin": "real-masks"}
    generator = {**uses, "seed": seed, "sees": "all" if real is None else real}
    origins: dict[Location, Origin] = {(): Origin("harness generator fit", 0, 0)}
    document = Document({"dataset": {"name": data, "size": size}, "generators": {name: generator}}, origins)
    for setting in settings:
        document = apply_setting(document, f"generators.{name}.{part}.{setting}")
    if split is not None:
        document = apply_setting(document, f"dataset.split={split}")
    problems = check_plugins(document)
    try:
        study = Study.model_validate(document.value)
    except ValidationError as error:
        raise DeclarationError(list(dict.fromkeys([*describe_errors(error, document), *problems]))) from error
    problems += check_study(study, document)
    if problems:
        raise DeclarationError(list(dict.fromkeys(problems)))
    return LoadedStudy(f"generator-{name}", "", study, document)


@app.command()
def sample(
    source: Annotated[
        str,
        typer.Option(
            "--from", help="Start of the store key or label of a fit, an MLflow run id, or a model's address."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="New or empty folder to write to.")],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="How many.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the pool; the first n are the same for every n.")] = 0,
    checkpoint: Annotated[
        int | None, typer.Option(help="Step to sample from; the selected or last one if left out.")
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            help="Folder or zip of masks, dataset or stored result, for a generator that makes images for given masks."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    as_json: Json = False,
) -> None:
    """Sample pairs from a fitted generator: images/, masks/ and manifest.json, with the lineage of every pair."""
    from harness.engine.sampling import write_samples
    from harness.errors import DeclarationError
    from harness.learning.devices import choose_device

    folder = out.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DeclarationError(f"--out {out} is not empty; name a new folder.")
    fitted = open_fitted(source, checkpoint)
    given, behind = (None, None) if masks is None else _given_masks(masks, fitted.real.size)
    progress = None if as_json or not sys.stderr.isatty() else _show
    manifest = write_samples(fitted, count, seed, folder, choose_device(device), given, behind, progress)
    if as_json:
        facts = {name: manifest[name] for name in ("fit", "generator", "checkpoint")}
        print(json.dumps({**facts, "count": count, "folder": str(folder)}, indent=2))
        return
    print(f"{count} samples of {fitted.label!r} at step {fitted.checkpoint.step} in {folder}")


def open_fitted(source: str, step: int | None) -> FittedGenerator:
    """Open the generator that a user names: by a stage in the store, an MLflow run of one, or the address of a model.

    Raises:
        DeclarationError: nothing, or more than one thing, is called so.
        HarnessError: it is there but cannot be sampled from.
    """
    from harness.engine.sampling import SAMPLED_FROM, find_fitted, fits_called
    from harness.errors import HarnessError
    from harness.store.results import Store

    store = Store()
    if re.match(r"[a-z][a-z0-9+.-]*:/", source):
        return _open_model(source, step)
    if not re.fullmatch(r"[0-9a-f]{32}", source) or fits_called(source, store):
        return find_fitted(source, step, store)
    from harness.tracking.models import stage_of_run

    kind, key, models = stage_of_run(source)
    if kind not in SAMPLED_FROM:
        raise HarnessError(f"The MLflow run {source} mirrors a {kind} stage; take the run of a fit.")
    found = store.find(kind, key)
    if found is not None:
        return find_fitted(found.key, step, store)
    if not models:
        raise HarnessError(
            f"The {kind} result {key[:12]} is not in the store, and its MLflow run {source} has no model."
        )
    return _open_model(models[0], step)


def _open_model(address: str, step: int | None) -> FittedGenerator:
    from harness.errors import DeclarationError
    from harness.tracking.models import open_model

    fitted = open_model(address)
    if step is not None and step != fitted.checkpoint.step:
        raise DeclarationError(
            f"--checkpoint {step}: the model {address} holds only step {fitted.checkpoint.step}; name the fit's key."
        )
    return fitted


def _given_masks(where: str, size: tuple[int, int]) -> tuple[NDArray[np.uint8], tuple[frozenset[str], ...] | None]:
    """Return the masks of a place, uint8 (N, H, W) in {0, 1}, which must have ``size`` (height and width).

    Beside them, what each was made from, where that is known.
    """
    from harness.engine.places import read_masks
    from harness.errors import DeclarationError

    found = read_masks(where, size[0])
    masks = found.masks
    if masks.shape[1:] != size:
        height, width = masks.shape[1:]
        raise DeclarationError(
            f"--masks {where}: they have {width} x {height} pixels; the generator makes {size[1]} x {size[0]}."
        )
    return masks, found.lineage


def _show(done: int, total: int) -> None:
    print(f"\r{done}/{total} images", end="\n" if done >= total else "", file=sys.stderr, flush=True)
