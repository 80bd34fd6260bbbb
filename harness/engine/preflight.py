"""What a study needs and this machine lacks, said before anything runs."""

from __future__ import annotations

from harness.engine.graph import Plan
from harness.errors import HarnessError
from harness.plugins.contract import Kind
from harness.plugins.registry import load_plugin
from harness.study.schema import PluginUse


def missing_weights(plan: Plan) -> list[str]:
    """Return a sentence for each network's weights, and whatever else, that plugins need and this machine lacks."""
    from harness.metrics.spec import fidelity_metric

    study, document = plan.loaded.study, plan.loaded.document
    needed: dict[str, tuple[str | int, ...]] = {}
    for i, segmenter in enumerate(study.segmenters):
        for name in load_plugin("segmenters", segmenter.plugin).create(**segmenter.values()).weights():
            needed.setdefault(name, ("segmenters", i))
    if study.fidelity and (judge := study.fidelity.segmenter):
        for name in load_plugin("segmenters", judge.plugin).create(**judge.values()).weights():
            needed.setdefault(name, ("fidelity", "segmenter"))
    for generator, declared in study.generators.items():
        for part, use in declared.uses():
            place = ("generators", generator, part)
            chosen_by = use.select.metrics() if use.select else ()
            names = [name for metric in chosen_by for name in fidelity_metric(metric).needs_weights]
            for name in (*load_plugin("generators", use.plugin).create(**use.values()).weights(), *names):
                needed.setdefault(name, place)
        for i, refine in enumerate(declared.refine):
            for name in load_plugin("refiners", refine.plugin).create(**refine.values()).weights():
                needed.setdefault(name, ("generators", generator, "refine", i))
    for i, metric in enumerate(study.fidelity.metrics if study.fidelity else ()):
        for name in fidelity_metric(metric).needs_weights:
            needed.setdefault(name, ("fidelity", "metrics", i))
    at_random = "random weights (encoder_weights: random)"
    return (
        _lacking(plan)
        + _missing_networks(plan)
        + [
            f"{document.origin(place)}: {'.'.join(map(str, place))}: needs the weights {name}, which are not on this "
            f"machine; get them with `harness weights fetch {name}` or `harness weights add {name} FILE`, or declare "
            f"{at_random if place[0] == 'segmenters' or place[1] == 'segmenter' else 'another plugin or metric'}"
            for name, place in needed.items()
            if not _is_here(name)
        ]
    )


def _lacking(plan: Plan) -> list[str]:
    """Return what the generators and refiners of a study say that they lack on this machine."""
    document, problems = plan.loaded.document, list[str]()
    for name, declared in plan.loaded.study.generators.items():
        uses: list[tuple[tuple[str | int, ...], Kind, PluginUse]]
        uses = [(("generators", name, part), "generators", use) for part, use in declared.uses()]
        uses += [(("generators", name, "refine", i), "refiners", use) for i, use in enumerate(declared.refine)]
        for place, kind, use in uses:
            where = f"{document.origin(place)}: {'.'.join(map(str, place))}"
            plugin = load_plugin(kind, use.plugin).create(**use.values())
            problems += [f"{where}: {sentence}" for sentence in plugin.missing_requirements()]
    return problems


def _missing_networks(plan: Plan) -> list[str]:
    """Return a sentence for each feature network of ``frechet-distance`` that cannot be had here."""
    from harness.metrics.features.networks import network_named

    study, document = plan.loaded.study, plan.loaded.document
    named: dict[tuple[str | int, ...], str | None] = {("fidelity",): study.fidelity.network if study.fidelity else None}
    for generator, declared in study.generators.items():
        for part, use in declared.uses():
            named["generators", generator, part, "select"] = use.select.network if use.select else None
    problems = []
    for place, name in named.items():
        try:
            if name:
                network_named(name)
        except HarnessError as error:
            where = (*place, "network")
            problems.append(f"{document.origin(where)}: {'.'.join(map(str, where))}: {error}")
    return problems


def _is_here(weights: str) -> bool:
    """Whether weights are on this machine; those that the catalogue does not know are not."""
    from harness.errors import WeightsError
    from harness.weights.locate import find

    try:
        return find(weights) is not None
    except WeightsError:
        return False
