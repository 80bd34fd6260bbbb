"""The sentences of a report: captions, methods, the answer in plain words. Built from facts only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.metrics.spec import segmentation_metric
from harness.report.format import REDUCTIONS, interval, metric_name, number, p_value, signed

if TYPE_CHECKING:
    from harness.results.schema import Comparison, StudyResults
    from harness.stats import ArmKey, Effect
    from harness.stats.study import Sweep, Worth
    from harness.stats.verdicts import Mark


@dataclass(frozen=True)
class Recipe:
    """What a recipe is made of, as the results table says."""

    label: str
    arm: str
    real: int
    synthetic: int
    generator: str
    n_fit: int = 0

    @property
    def base(self) -> int:
        """The real images that it stands on: its own or, without any, those that its generators were fitted on."""
        return self.real or self.n_fit


def recipes(results: StudyResults) -> dict[str, Recipe]:
    """Return the recipes of the segmentation rows by label."""
    rows = results.rows[results.rows["kind"] == "segmentation"].drop_duplicates("recipe")
    return {
        str(r.recipe): Recipe(
            str(r.recipe),
            _text(r.arm),
            _count(r.real),
            _count(r.synthetic),
            _text(r.generator),
            _count(r.n_fit),
        )
        for r in rows.itertuples()
    }


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value)


def _count(value: object) -> int:
    text = _text(value)
    return round(float(text)) if text else 0


def percent(share: float) -> str:
    """Return a share in per cent, without digits that say nothing: ``95 %``, ``98.2 %``."""
    return f"{100 * share:.3g} %"


def count(number_of: int, noun: str) -> str:
    """Return ``1 seed`` or ``3 seeds``."""
    return f"{number_of} {noun}" if number_of == 1 else f"{number_of} {noun}s"


def completeness(results: StudyResults) -> str:
    """Return how much of the study has a result."""
    if results.done == results.total:
        return f"complete {results.done}/{results.total}"
    return f"incomplete {results.done}/{results.total}"


def _data(results: StudyResults) -> str:
    """Return the clause that says which data: split, roles, size."""
    facts = results.facts
    data = str(facts.get("dataset", "")) or "the dataset"
    if facts.get("split"):
        digest = f", digest {str(facts['split_digest'])[:12]}" if facts.get("split_digest") else ""
        data += f" (split {facts['split']}{digest})"
    roles = facts.get("roles") or {}
    if roles:
        data += " with " + ", ".join(f"{n} {role}" for role, n in roles.items()) + " images"
    if facts.get("size"):
        data += f" at {facts['size']} px"
    return data


def setting(results: StudyResults) -> str:
    """Return the clauses that every caption shares: data, split, repetitions, budget, selection, completeness."""
    facts = results.facts
    clauses = [_data(results)]
    seeds = facts.get("seeds") or []
    repeats = [count(len(seeds), "training seed")] if seeds else []
    if int(facts.get("folds") or 0) > 1:
        repeats.append(count(int(facts["folds"]), "fold"))
    if repeats:
        clauses.append("mean over " + " and ".join(repeats))
    for name in ("budget", "selection"):
        if facts.get(name):
            clauses.append(clause(str(facts[name])))
    clauses.extend(_protocol(results))
    clauses.extend(clause(str(e)) for e in facts.get("exclusions", []))
    clauses.append(completeness(results))
    return "; ".join(clauses)


def generator_setting(results: StudyResults, done: int, total: int, *, averaged: bool = False) -> str:
    """Return the clauses that captions about generators share: data, split, folds, completeness.

    Args:
        results: the study's results.
        done: how many measurements have a result.
        total: how many were planned.
        averaged: whether numbers are means over folds.
    """
    folds = int(results.facts.get("folds") or 0)
    repeats = [f"mean over {count(folds, 'fold')}"] if averaged and folds > 1 else []
    complete = f"{'complete' if done == total else 'incomplete'} {done}/{total}"
    return "; ".join([_data(results), *repeats, *_protocol(results), complete])


def _protocol(results: StudyResults) -> list[str]:
    """Return the clause that a protocol needs that is not the clean one."""
    protocol = str(results.facts.get("protocol", "clean"))
    return [] if protocol == "clean" else [f"protocol {protocol}, which lets models see what they are scored on"]


def clause(sentence: str) -> str:
    """Turn a sentence into a clause of a longer one."""
    text = sentence.strip().rstrip(".")
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text


def sentence_case(clause: str) -> str:
    """Return a clause with a capital at its beginning."""
    return clause[:1].upper() + clause[1:]


def score_caption(results: StudyResults, reduction: str) -> str:
    """Return the caption of a table of scores."""
    how = REDUCTIONS.get(reduction, "")
    empty = f", zero division {results.facts['zero_division']}" if "zero_division" in results.facts else ""
    return f"Segmentation scores ({reduction}{': ' + how if how else ''}{empty}) {intervals_caption(results)}"


def intervals_caption(results: StudyResults) -> str:
    """Return what captions of scores say of their intervals, and of the study."""
    return f"with 95 % intervals (half widths) over images, clustered by group, and training runs; {setting(results)}."


def comparison_caption(results: StudyResults, comparison: Comparison, effects: Sequence[Effect]) -> str:
    """Return the caption of the table of one family of comparisons."""
    how = REDUCTIONS.get(comparison.reduction, "")
    tested = sum(effect.p == effect.p for effect in effects)
    margin = ""
    if comparison.margin == comparison.margin:
        margin = f"; differences below {number(comparison.margin)} do not matter"
    return (
        f"Difference in {metric_name(comparison.metric)} ({comparison.reduction}{': ' + how if how else ''}) "
        f"{comparison.name}, paired by image and run, with its {percent(1 - comparison.level)} interval over images, "
        f"clustered by group, and runs (Obuchowski and Rockette, Hillis); intervals are simultaneous and p values "
        f"adjusted for "
        f"{count(tested, 'comparison')} (Bonferroni){margin}; {setting(results)}."
    )


def shows_any(effect: Effect) -> bool:
    """Say whether a comparison could have found any effect that two scores can have; two runs often cannot."""
    return not effect.detectable > segmentation_metric(effect.metric).span


def detectable(effect: Effect) -> str:
    """Return the smallest effect that a comparison could have found as it stands in tables; ``none`` when none could
    be."""
    return number(effect.detectable) if shows_any(effect) else "none"


def describe(effect: Effect) -> str:
    """Return one comparison as a sentence."""
    key = effect.key
    where = f"{key.segmenter}, {key.recipe} against {effect.baseline}"
    metric = metric_name(effect.metric)
    if effect.verdict == "not comparable":
        shown = f" ({metric} {signed(effect.difference)})" if effect.difference == effect.difference else ""
        return f"{where}: not comparable{shown}: {effect.reason}."
    measured = (
        f"{metric} {signed(effect.difference)} {interval(effect.low, effect.high, sign=True)}, "
        f"p {_equals(p_value(effect.p_adjusted))}"
    )
    if effect.verdict == "no evidence either way":
        seen = f"could have seen ±{detectable(effect)} or more"
        if not shows_any(effect):
            seen = "so few runs cannot show any effect"
        return f"{where}: no evidence either way ({measured}; {seen}){speaks(effect)}."
    if effect.verdict == "no relevant difference":
        measured += f"; smaller than {number(effect.margin)}"
    return f"{where}: {effect.verdict} ({measured}){speaks(effect)}."


def speaks(effect: Effect) -> str:
    """Return what a verdict speaks for and what marks it, as the end of a sentence; nothing when that is not known."""
    clauses = [clause for clause in (effect.over, effect.mark) if clause]
    return "".join(f", {clause}" for clause in clauses)


def describe_marks(marks: Mapping[ArmKey, Mark]) -> list[str]:
    """Return a sentence for each kind of mark that arms have by how their segmenters were trained."""
    openings = {
        "did not learn": "Segmenters did not learn: no verdict rests on them as a baseline",
        "undertrained": "Segmenters are undertrained: longer training may change their scores and verdicts",
    }
    lines, several = [], len({key[:2] for key in marks}) > 1
    for kind, opening in openings.items():
        arms = [
            f"{key.segmenter}, {key.recipe}{f' on {key.dataset} ({key.role})' if several else ''}: {mark.why}"
            for key, mark in marks.items()
            if mark.kind == kind
        ]
        if arms:
            more = f"; and {len(arms) - 5} more" if len(arms) > 5 else ""
            lines.append(f"{opening} ({'; '.join(arms[:5])}{more}).")
    return lines


def _equals(text: str) -> str:
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def answer(
    results: StudyResults,
    effects: list[Effect],
    further: Sequence[Effect] = (),
    sweeps: Sequence[Sweep] = (),
    worths: Sequence[Worth] = (),
) -> list[str]:
    """Return the answers to the three questions, in plain words, from the verdicts alone.

    Args:
        results: the study's.
        effects: of the primary family.
        further: of the others.
        sweeps: what sweeps over numbers of synthetic images say as a whole.
        worths: what synthetic images are worth in annotated ones.
    """
    if not results.segmenters:
        return ["This study measures generators: no segmenter learns from what they make, so there is no verdict."]
    if not effects and not further:
        return ["This study compares nothing: no recipe has a baseline, so there is no verdict."]
    known = recipes(results)
    synthetic = [e for e in effects if e.key.recipe in known and known[e.key.recipe].arm in ("synthetic", "mixed")]
    baselines = set(results.comparison.baselines.values())
    controls = [
        e
        for e in (*effects, *further)
        if e.key.recipe in known and known[e.key.recipe].arm == "control" and (e in effects or e.baseline in baselines)
    ]
    others = [e for e in effects if e not in synthetic and e not in controls]
    lines = []
    if synthetic:
        lines.extend(_does_it_help(synthetic))
        lines.extend(_by_generator(synthetic, known))
    largest = {(one.key[:3], one.generator, one.equivalent.base): one for one in worths}
    if amounts := [*map(describe_sweep, sweeps), *map(describe_worth, largest.values())]:
        lines += ["How much do you need?", *amounts]
    if others:
        lines.append("Other recipes: " + _tally(others) + ".")
    if controls:
        lines.append("Control arms (same steps, no new information): " + _tally(controls) + "." + _warning(controls))
    return lines + look(results, effects)


def enough(sweep: Sweep) -> str:
    """Return how many synthetic images are enough as it stands in tables; a dash where no trend was found."""
    if not sweep.trend.found or sweep.curve.gain[0] <= 0:
        return "–"
    value, low, high = (round(n) for n in sweep.curve.enough)
    largest = sweep.trend.counts[-1]
    return f"{value if value < largest else f'> {largest}'} [{low}, {high if high < largest else f'> {largest}'}]"


def worth(one: Worth) -> str:
    """Return how many annotated images an arm's synthetic ones are worth, as it stands in tables."""
    value, low, high = one.equivalent.extra
    open_value, open_low, open_high = one.equivalent.open

    def shown(extra: float, is_open: bool, up: bool) -> str:
        return f"{('> ' if up else '< ') if is_open else ''}{signed(round(extra), 0)}"

    point = shown(value, open_value, value > 0)
    return f"{point} [{shown(low, open_low, False)}, {shown(high, open_high, True)}]"


def describe_sweep(sweep: Sweep) -> str:
    """Return what a sweep says as a whole, as a sentence."""
    where = f"{sweep.place[2]}, {sweep.generator} beside {sweep.base} real images"
    p = f"p {_equals(p_value(sweep.trend.p_adjusted))}"
    if not sweep.trend.found:
        return f"{where}: no evidence that more is better or worse (trend over {len(sweep.recipes)} numbers, {p})."
    gain, low, high = sweep.curve.gain
    if sweep.trend.estimate.value < 0:
        return f"{where}: the more, the worse (trend {p}; {signed(gain)} {interval(low, high, sign=True)} at the end)."
    return (
        f"{where}: the more, the better (trend {p}; {signed(gain)} {interval(low, high, sign=True)} at the end); "
        f"enough: {enough(sweep)} images."
    )


def describe_worth(one: Worth) -> str:
    """Return what an arm's synthetic images are worth, as a sentence."""
    return (
        f"{one.key.segmenter}: {one.synthetic} images of {one.generator} beside {one.equivalent.base} real ones are "
        f"worth {worth(one)} annotated images."
    )


def look(results: StudyResults, effects: Sequence[Effect]) -> list[str]:
    """Return at which look a study stands that adds replicates until its primary comparisons are decided."""
    looks, place = results.facts.get("looks"), results.facts.get("look")
    if looks is None or place is None:
        return []
    open_ones = sum(e.verdict == "no evidence either way" for e in effects)
    where = f"Look {place + 1} of {len(looks)}, after {looks[place]} replicates"
    if not open_ones:
        return [f"{where}: every primary comparison is decided, so no more replicates are added."]
    if place + 1 == len(looks):
        return [f"{where}: {open_ones} of {count(len(effects), 'primary comparison')} are not decided by the most."]
    return [f"{where}: {open_ones} of {count(len(effects), 'primary comparison')} are open; next {looks[place + 1]}."]


def _tally(effects: list[Effect]) -> str:
    """Return how many comparisons came to each verdict."""
    verdicts = ("helps", "hurts", "no relevant difference", "no evidence either way", "not comparable")
    counts = {v: sum(e.verdict == v for e in effects) for v in verdicts}
    return ", ".join(f"{v} in {n}" for v, n in counts.items() if n) + f" of {count(len(effects), 'comparison')}"


def _does_it_help(effects: list[Effect]) -> list[str]:
    """Return the first answer: a short line, then what it stands on."""
    seen = {e.verdict for e in effects}
    if seen == {"not comparable"}:
        word = "Cannot be said"
    elif "helps" in seen and "hurts" in seen:
        word = "Sometimes, and sometimes it hurts"
    elif "helps" in seen:
        word = "Yes, in some arms" if len(seen) > 1 else "Yes"
    elif "hurts" in seen:
        word = "No, it hurts in some arms" if len(seen) > 1 else "No, it hurts"
    elif seen <= {"no relevant difference", "not comparable"}:
        word = "No: it makes no difference that matters"
        word += " where it can be compared" if "not comparable" in seen else ""
    elif "no relevant difference" in seen:
        word = "No evidence that it does; in some arms it makes no difference that matters"
    else:
        word = "No evidence that it does, or that it harms"
    tally = _tally(effects)
    text = f"{tally[0].upper()}{tally[1:]}."
    text += _what_could_be_found([e for e in effects if e.verdict == "no evidence either way"])
    if reasons := list(dict.fromkeys(e.reason for e in effects if e.verdict == "not comparable")):
        text += " Not comparable: " + "; ".join(reasons[:3]) + ("; …" if len(reasons) > 3 else "") + "."
    beside = list(dict.fromkeys(e.over for e in effects if e.over and not e.reason))
    if early := [e for e in effects if "undertrained" in e.mark]:
        beside.append("undertrained" if len(early) == len(effects) else "undertrained in some arms")
        text += f" Undertrained in {count(len(early), 'comparison')}: longer training may change the verdict."
    if failed := [e for e in effects if "did not learn" in e.mark]:
        text += (
            f" In {count(len(failed), 'comparison')} the segmenters of the baseline learned, those of the arm did not."
        )
    if beside:
        word += f" ({'; '.join(beside)})"
    return [f"Does synthetic data help? {word}.", text]


def _what_could_be_found(nothing_found: list[Effect]) -> str:
    """Return how large an effect must be to be found, of comparisons that found none."""
    text = ""
    if sizes := [e.detectable for e in nothing_found if shows_any(e)]:
        low, high = number(min(sizes)), number(max(sizes))
        span = low if low == high else f"{low} to {high}"
        text += f" Where nothing was found, a true effect of {span} would have been found in 80 % of repetitions."
    if blind := len(nothing_found) - len(sizes):
        text += (
            f" In {count(blind, 'comparison')} the runs are too few to show any effect, however large: "
            "declare more replicates."
        )
    return text


def _by_generator(effects: list[Effect], known: dict[str, Recipe]) -> list[str]:
    """Return which generator helps and the smallest amount that did."""
    lines = []
    for generator in dict.fromkeys(known[e.key.recipe].generator for e in effects):
        own = [e for e in effects if known[e.key.recipe].generator == generator]
        text = f"{generator or 'unnamed generator'}: {_tally(own)}."
        helpful = [e for e in own if e.verdict == "helps"]
        if helpful:
            least = min(helpful, key=lambda e: known[e.key.recipe].synthetic)
            text += f" Smallest amount that helped: {known[least.key.recipe].synthetic} images."
        lines.append(text)
    return lines


def _warning(controls: list[Effect]) -> str:
    """Return what a control that helps means."""
    if any(e.verdict == "helps" for e in controls):
        return " A control helps by itself, so a gain of the same size is not owed to synthetic information."
    return ""
