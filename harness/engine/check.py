"""Every mistake in a declaration at once, with file, line, value and what is allowed."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ValidationError

from harness.engine.controls import problem_of
from harness.engine.stages.declared import declared_kinds
from harness.errors import HarnessError, nearest
from harness.plugins.contract import Generator, Kind
from harness.plugins.registry import load_plugin, registry
from harness.study.expand import expand_recipes
from harness.study.find import study_folders
from harness.study.recipes import Recipe
from harness.study.schema import ROLES, Compare, GeneratorUse, PerReal, PluginUse, Study, TrainingSets
from harness.study.yaml_document import Document, Location


def _model_at(model: Any, location: Location) -> type[BaseModel] | None:
    """Find the model that a location leads to, looking through options, lists and dicts."""
    origin, arguments = typing.get_origin(model), typing.get_args(model)
    if origin in (typing.Union, types.UnionType, Annotated):
        return next((hit for a in arguments if (hit := _model_at(a, location))), None)
    if not location:
        return model if isinstance(model, type) and issubclass(model, BaseModel) else None
    if isinstance(model, type) and issubclass(model, BaseModel):
        found = model.model_fields.get(str(location[0]))
        return _model_at(found.annotation, location[1:]) if found else None
    if origin in (tuple, list):
        return _model_at(arguments[0], location[1:])
    return _model_at(arguments[1], location[1:]) if origin is dict else None


def describe_errors(error: ValidationError, document: Document, prefix: Location = (), model: Any = Study) -> list[str]:
    """Turn pydantic's errors into lines of ``file:line:column: path: what is wrong``."""
    lines = []
    for detail in error.errors():
        raw = tuple(detail["loc"])
        relative = tuple(key for i, key in enumerate(raw) if not _is_tag(document, (*prefix, *raw[:i]), key))
        location = (*prefix, *relative)
        named = ".".join(map(str, location)) or "study"
        lines.append(f"{document.origin(location)}: {named}: {_describe(detail, relative, model)}")
    return list(dict.fromkeys(lines))


def _is_tag(document: Document, parent: Location, key: str | int) -> bool:
    """Tell pydantic's own union tags (such as ``literal['all']``) in a location from keys of the document."""
    return (
        isinstance(key, str)
        and (
            key.startswith(("literal[", "function-"))
            or key in ("int", "constrained-int", "plain", "each", "one", "several")
        )
        and ((*parent, key) not in document.origins)
    )


def _describe(detail: Any, relative: Location, model: Any) -> str:
    kind, value = detail["type"], detail.get("input")
    shown = repr(value) if len(repr(value)) < 60 else repr(value)[:57] + "..."
    if kind == "extra_forbidden":
        owner = _model_at(model, relative[:-1]) or model
        allowed = [field.alias or name for name, field in owner.model_fields.items()]
        key = str(relative[-1])
        return f"unknown key {key!r}{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
    if kind == "missing":
        return "is required and missing"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "literal_error":
        allowed = [part.strip().strip("'") for part in detail["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{shown} is not allowed{nearest(str(value), allowed)}; allowed: {', '.join(allowed)}"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{message}, got {shown}"


def _plugin_uses(value: dict[str, Any]) -> Iterator[tuple[Kind, Location, Any]]:
    """Yield every use of a plugin in a document, however malformed the rest is."""
    generators = value.get("generators")
    for name, declared in (generators if isinstance(generators, dict) else {}).items():
        parts = declared if isinstance(declared, dict) else {}
        for part in ("pairs", "masks", "images"):
            yield "generators", ("generators", name, part), parts.get(part)
        refine = parts.get("refine")
        for i, use in enumerate(refine if isinstance(refine, list) else []):
            yield "refiners", ("generators", name, "refine", i), use
    segmenters = value.get("segmenters")
    for i, use in enumerate(segmenters if isinstance(segmenters, list) else []):
        yield "segmenters", ("segmenters", i), use
    fidelity = value.get("fidelity")
    if isinstance(fidelity, dict):
        yield "segmenters", ("fidelity", "segmenter"), fidelity.get("segmenter")


def check_plugins(document: Document) -> list[str]:
    """Check that every plugin exists and takes the parameters it is given.

    Raises:
        PluginError: an extension cannot be imported.
    """
    registry()  # raises here for an extension that cannot be imported: no use of a plugin is to blame for it
    own = {"generators": {"plugin", "select"}, "refiners": {"plugin"}, "segmenters": {"plugin", "name"}}
    problems: list[str] = []
    for kind, location, use in _plugin_uses(document.value):
        if not isinstance(use, dict) or not isinstance(use.get("plugin"), str):
            continue
        unnamed = [key for key in use if not isinstance(key, str)]
        if unnamed:
            named = f"{document.origin((*location, unnamed[0]))}: {'.'.join(map(str, location))}"
            problems.append(f"{named}: {unnamed[0]!r} is not a parameter's name")
            continue
        try:
            found = load_plugin(kind, use["plugin"])
        except HarnessError as error:
            where = (*location, "plugin")
            problems.append(f"{document.origin(where)}: {'.'.join(map(str, where))}: {error}")
            continue
        try:
            found.create(**{key: item for key, item in use.items() if key not in own[kind]})
        except ValidationError as error:
            problems += describe_errors(error, document, location, found.Parameters)
    return problems + list(_stage_problems(document))


def _stage_problems(document: Document) -> Iterator[str]:
    """Say which stages that a study asks for are of no known kind, or take other parameters."""
    uses = document.value.get("stages")
    for i, use in enumerate(uses if isinstance(uses, list) else []):
        if not isinstance(use, dict) or not isinstance(use.get("kind"), str):
            continue
        known = declared_kinds()
        if use["kind"] not in known:
            there = f"there are: {', '.join(known)}" if known else "an extension brings such kinds, and there is none"
            place = ("stages", i, "kind")
            yield (
                f"{document.origin(place)}: stages.{i}.kind: no kind of stage {use['kind']!r} can be declared"
                f"{nearest(use['kind'], list(known))}; {there}"
            )
            continue
        parameters = known[use["kind"]].Parameters
        try:
            parameters(**{str(key): item for key, item in use.items() if key != "kind"})
        except ValidationError as error:
            yield from describe_errors(error, document, ("stages", i), parameters)


def check_study(study: Study, document: Document) -> list[str]:
    """Check what one field alone cannot show: names that must agree, and what fits what. Plugins are sound already."""
    problems: list[str] = []

    def report(location: Location, sentence: str) -> None:
        problems.append(f"{document.origin(location)}: {'.'.join(map(str, location))}: {sentence}")

    for name, declared in study.generators.items():
        for part, use in declared.uses():
            _check_card(part, use, study, ("generators", name, part), report)
    _check_segmenters(study, report)
    _check_controls(study, document, report)
    _check_recipes(study, report)
    _check_metrics(study, report)
    _check_scores(study, report)
    _check_decision(study, report)
    _check_report(study, report)
    return problems


def _created(kind: Kind, use: PluginUse) -> Any:
    """Return a plugin as declared, or None when it is not sound (``check_plugins`` says why)."""
    try:
        return load_plugin(kind, use.plugin).create(**use.values())
    except (HarnessError, ValidationError):
        return None


def _check_card(part: str, use: GeneratorUse, study: Study, location: Location, report: Any) -> None:
    """Refuse a plugin that cannot do what its place in the pipeline asks."""
    made: Generator | None = _created("generators", use)
    if made is None:
        return
    if made.card.makes != part:
        report((*location, "plugin"), f"{use.plugin} makes {made.card.makes}, not {part}")
    if made.card.sizes and study.dataset.size not in made.card.sizes:
        sizes = ", ".join(map(str, made.card.sizes))
        report(
            (*location, "plugin"), f"{use.plugin} makes images of {sizes} px, but dataset.size is {study.dataset.size}"
        )


def _check_controls(study: Study, document: Document, report: Any) -> None:
    place: Location = ("controls",) if isinstance(document.value.get("controls"), list) else ("controls", "arms")
    for i, arm in enumerate(study.controls.arms):
        problem = problem_of(arm)
        if problem:
            report((*place, i), problem)


def _a_segmenter() -> str:
    """Return how a study may name a segmenter: one of those that there are."""
    return f"{{plugin: {' or '.join(name for kind, name in registry() if kind == 'segmenters')}}}"


def _check_segmenters(study: Study, report: Any) -> None:
    labels: dict[str, int] = {}
    for i, use in enumerate(study.segmenters):
        made = _created("segmenters", use)
        label = use.name or (made.label if made is not None else f"segmenter {i}")
        if label in labels:
            report(
                ("segmenters", i),
                f"is called {label!r} like segmenter {labels[label]}; give one of them a name: of its own",
            )
        labels.setdefault(label, i)
    if study.train and not study.segmenters:
        report(
            ("segmenters",),
            f"training sets are declared but no segmenter trains on them; add one: {_a_segmenter()}",
        )


def _check_recipes(study: Study, report: Any) -> None:
    for i, entry in enumerate(study.train):
        for name in entry.synthetic:
            if name not in study.generators:
                allowed = list(study.generators)
                report(
                    ("train", i, "synthetic", name),
                    f"no generator {name!r}{nearest(name, allowed)}; declared: {', '.join(allowed) or 'none'}",
                )
            elif study.generators[name].makes == "masks":
                report(
                    ("train", i, "synthetic", name),
                    f"{name} makes masks alone, and a segmenter trains on images; give it images: {{plugin: ...}} too, "
                    "or measure it and leave it out of train",
                )
    recipes = expand_recipes(study)
    for i, entry in enumerate(study.train):
        if 0 in entry.real and (not entry.synthetic or any(0 in entry.counts(name) for name in entry.synthetic)):
            report(("train", i), "describes an empty training set; say how many real or synthetic pairs")
        _check_what_is_seen(study, i, entry, report)
    for place, compare in _compared(study):
        _check_rival(study, recipes, place, compare, report)
    if "report" not in study.evaluate.on and study.train and not any(o not in ROLES for o in study.evaluate.on):
        report(
            ("evaluate", "on"),
            f"scores only {', '.join(study.evaluate.on)}; the report role is where results come from",
        )


def _check_decision(study: Study, report: Any) -> None:
    """Check that a study that decides has one margin."""
    if study.decide and study.primary.margin not in (None, study.decide.margin):
        sentence = f"the primary comparison says margin: {study.primary.margin:g}; say it in one place"
        report(("decide", "margin"), sentence)


def _compared(study: Study) -> Iterator[tuple[Location, Compare]]:
    """Yield each comparison with its place in the declaration."""
    alone = isinstance(study.compare, Compare)
    for i, compare in enumerate(study.comparisons):
        yield ("compare",) if alone else ("compare", i), compare


def _check_rival(study: Study, recipes: list[Recipe], place: Location, compare: Compare, report: Any) -> None:
    """Check that there is what recipes are compared with."""
    against = compare.against
    if against is None:
        return
    where = (*place, "against")
    if against.control:
        if against.control not in study.controls.arms:
            report(where, f"no control {against.control!r} in this study; declared: {', '.join(study.controls.arms)}")
    elif against.generator:
        if against.generator not in study.generators:
            allowed = list(study.generators)
            known = f"declared: {', '.join(allowed) or 'none'}"
            report(where, f"no generator {against.generator!r}{nearest(against.generator, allowed)}; {known}")
    elif against.recipe() not in recipes:
        wanted = against.recipe().label
        report(
            where,
            f"no training set {wanted!r}{nearest(wanted, [r.label for r in recipes])}; "
            f"there are: {', '.join(r.label for r in recipes if not r.control)}",
        )


def _check_what_is_seen(study: Study, i: int, entry: TrainingSets, report: Any) -> None:
    """Check that ``sees`` is read by a generator of its entry, and that each number for a real pair has a number."""
    known = [name for name in entry.synthetic if name in study.generators]
    if entry.sees and not any(study.generators[name].sees == "recipe" for name in known):
        named = f"of {', '.join(known)} none is" if known else "this entry has none"
        sentence = f"is for generators that are declared with sees: recipe, and {named}; declare one so, or take it out"
        report(("train", i, "sees"), sentence)
    for name in known:
        declared = study.generators[name]
        counted = declared.sees != "all" and (declared.sees != "recipe" or entry.sees or not {0, "all"} & {*entry.real})
        if isinstance(entry.synthetic[name], PerReal) and not counted:
            report(
                ("train", i, "synthetic", name),
                f"per-real needs the number of real pairs that {name} sees, but it sees all of the fit role, of "
                "unknown size here; write sees: N and give the generator sees: recipe, or write the number of pairs",
            )


def _check_report(study: Study, report: Any) -> None:
    """Check the names of tables, figures and published numbers."""
    from harness.results.catalogue import figures, tables

    published = sorted({path.stem for folder in study_folders() for path in (folder / "published").glob("*.csv")})
    for key, names, allowed in (
        ("tables", study.report.tables, list(tables())),
        ("figures", study.report.figures, list(figures())),
        ("published", study.report.published, published),
    ):
        for i, name in enumerate(names):
            if name not in allowed:
                sentence = f"there is no {name!r}{nearest(name, allowed)}; allowed: {', '.join(allowed)}"
                report(("report", key, i), sentence)


def _check_metrics(study: Study, report: Any) -> None:
    """Check the names of fidelity metrics."""
    from harness.metrics.spec import fidelity_metrics

    known = fidelity_metrics()
    wanted: list[tuple[Location, str]] = []
    asking = [name for name, metric in known.items() if metric.needs_segmenter]
    for name, declared in study.generators.items():
        for part, use in declared.uses():
            if use.select:
                place = ("generators", name, part, "select")
                wanted += [((*place, key), m) for key, m in zip(("by", "then"), use.select.metrics(), strict=False)]
                _check_network(use.select.metrics(), use.select.network, place, report)
    if study.fidelity:
        wanted += [(("fidelity", "metrics", i), metric) for i, metric in enumerate(study.fidelity.metrics)]
        _check_network(study.fidelity.metrics, study.fidelity.network, ("fidelity",), report)
        _check_agreement(study, asking, report)
    for location, metric in wanted:
        allowed = [name for name in known if location[0] == "fidelity" or name not in asking]
        if metric in asking and metric not in allowed:
            report(location, f"{metric} cannot choose a checkpoint, since a selection has no segmenter; use another")
        elif metric not in allowed:
            report(location, f"no fidelity metric {metric!r}{nearest(metric, allowed)}; allowed: {', '.join(allowed)}")


def _check_scores(study: Study, report: Any) -> None:
    """Check the names of segmentation scores, and that what is compared is computed."""
    from harness.metrics.spec import scored_metrics, segmentation_metric, segmentation_names

    names = segmentation_names()
    unknown = [(i, name) for i, name in enumerate(study.evaluate.metrics or ()) if name not in names]
    for i, name in unknown:
        sentence = f"no segmentation metric {name!r}{nearest(name, list(names))}; allowed: {', '.join(names)}"
        report(("evaluate", "metrics", i), sentence)
    kinds = {name: ["imagewise", "micro"] if segmentation_metric(name).micro else ["imagewise"] for name in names}
    allowed = [f"{name}-{kind}" for name, found in kinds.items() for kind in found]
    for place, compare in _compared(study):
        wanted = compare.metric
        if wanted not in allowed:
            sentence = f"no metric {wanted!r}{nearest(wanted, allowed)}; allowed: {', '.join(allowed)}"
            report((*place, "metric"), sentence)
        elif not unknown and study.train:
            metric = segmentation_metric(compare.primary[0])
            if metric not in scored_metrics(study.evaluate.metrics):
                report((*place, "metric"), f"{metric.name} is not computed; add it to evaluate.metrics")


def with_own_names(study: Study) -> Study:
    """Return a sound study whose scores are called by their own names (``f1`` for ``dice``)."""
    from harness.metrics.spec import segmentation_names

    names = segmentation_names()
    named = []
    for one in study.comparisons:
        metric, _, kind = one.metric.rpartition("-")
        named.append(one.model_copy(update={"metric": f"{names[metric]}-{kind}"}))
    compare = named[0] if isinstance(study.compare, Compare) else tuple(named)
    scores = study.evaluate.metrics
    own = None if scores is None else tuple(dict.fromkeys(names[name] for name in scores))
    return study.model_copy(update={"compare": compare, "evaluate": study.evaluate.model_copy(update={"metrics": own})})


def _check_network(metrics: tuple[str, ...], network: str | None, location: Location, report: Any) -> None:
    """Check that a feature network stands where it is read, and nowhere else."""
    from harness.metrics.spec import fidelity_metrics

    asking = [name for name, metric in fidelity_metrics().items() if metric.needs_network]
    asked = [name for name in asking if name in metrics]
    if asked and not network:
        example = "network: tu-tf_efficientnet_lite0"
        report(location, f"{asked[0]} needs a feature network of yours; add one, such as {example}")
    if network and not asked:
        report(
            (*location, "network"),
            f"{network!r} is read by {' and '.join(asking)} only, which is not measured; add it, or take network out",
        )


def _check_agreement(study: Study, asking: list[str], report: Any) -> None:
    """Check that there is a segmenter where a metric asks one, and none that nothing asks."""
    declared = study.fidelity
    assert declared is not None
    asked = [(i, name) for i, name in enumerate(declared.metrics) if name in asking]
    for i, name in asked if not (declared.segmenter or study.segmenters) else []:
        report(
            ("fidelity", "metrics", i),
            f"{name} asks a segmenter that is trained on real pairs, and none is declared; add fidelity.segmenter, "
            f"such as {_a_segmenter()}",
        )
    for key in ("segmenter", "budget"):
        if getattr(declared, key) and not asked:
            sentence = f"is read by {' and '.join(asking)} only, which is not measured; add it, or take {key} out"
            report(("fidelity", key), sentence)
