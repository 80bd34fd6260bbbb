"""The declaration of a study: what YAML may say, and every mistake in it with file, line and what is allowed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from harness.study.recipes import Recipe
from harness.study.replicates import Draw, Factor, draws

ROLES = ("fit", "select", "report")
#: ``real-repeated``, or the name of a generator that says that it is a control.
Control = str
CONTROLS: tuple[Control, ...] = ("real-repeated", "resample", "copy-paste")


class Section(BaseModel):
    """Base of every part of a declaration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [item for i, item in enumerate(value) if item in value[:i]]
    if twice:
        raise ValueError(f"{twice[0]!r} stands twice")
    return value


class Holdout(Section):
    """Fractions of the images (whole groups) that are held out."""

    report: float = Field(0.3, gt=0, lt=1)
    select: float = Field(0.1, gt=0, lt=1)


class Split(Section):
    """How images get their roles: a named list, k folds, a holdout, or an exported manifest."""

    named: str | None = None
    kfold: int | None = Field(None, ge=2)
    select: float | None = Field(None, ge=0, lt=1)
    holdout: Holdout | None = None
    manifest: str | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Split:
        ways = [way for way in ("named", "kfold", "holdout", "manifest") if getattr(self, way) is not None]
        if len(ways) != 1:
            raise ValueError(
                f"say exactly one of named, kfold, holdout or manifest, got {' and '.join(ways) or 'none'}"
            )
        if self.select is not None and self.kfold is None:
            raise ValueError(
                "select beside the way of splitting belongs to kfold; for a holdout write {holdout: {select: 0.1}}"
            )
        return self

    def declaration(self) -> dict[str, Any]:
        """Return what ``harness.data.splits.make_splits`` takes."""
        if self.kfold is not None:
            return {"kfold": self.kfold, "select": 0.15 if self.select is None else self.select}
        return self.model_dump(exclude_none=True)


def _named_split(value: Any) -> Any:
    return {"named": value} if isinstance(value, str) else value


class DatasetDeclaration(Section):
    """Which images, at which size, split how."""

    name: str
    size: int = Field(256, ge=16, le=1024, description="side of the square images, pixels")
    geometry: Literal["squash", "crop"] = Field(
        "squash", description="how a frame becomes a square, shared by every stage"
    )
    split: Annotated[Split, BeforeValidator(_named_split)] = Split(holdout=Holdout())
    seed: int = Field(0, ge=0, description="of the split")
    order: int | None = Field(
        None, ge=0, description="seed of the order that subsets are taken in; that of the split when left out"
    )
    options: dict[str, int | float | str] = Field(
        default_factory=dict, description="of the source, such as count for phantom"
    )


class Selection(Section):
    """How a checkpoint is chosen."""

    by: str = Field(description="fidelity metric")
    then: str | None = Field(None, description="fidelity metric that breaks ties")
    among: tuple[int, ...] | None = Field(None, description="checkpoint steps to consider; all when left out")
    samples: int = Field(200, ge=2, description="how many images are sampled from each checkpoint")
    against: Literal["fit", "select"] = Field("fit", description="role whose real images are the reference")
    network: str | None = Field(None, description="feature network of frechet-distance")

    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that checkpoints are scored by."""
        return (self.by, self.then) if self.then else (self.by,)


class PluginUse(BaseModel):
    """A plugin with its parameters; the plugin itself validates those."""

    model_config = ConfigDict(extra="allow", frozen=True)

    plugin: str

    def values(self) -> dict[str, Any]:
        """Return the parameters as written."""
        return dict(self.model_extra or {})


class GeneratorUse(PluginUse):
    """A generator plugin, and how its checkpoint is chosen (the last one when left out)."""

    select: Selection | None = None


class SegmenterUse(PluginUse):
    """A segmenter plugin; ``name`` tells two of one architecture apart."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")


class Variations(Section):
    """Several images for each of the first masks, beside the pool: they show what a mask leaves open."""

    masks: int = Field(10, ge=1, description="how many of the first masks that are not empty")
    images: int = Field(5, ge=2, description="images for each, by seeds of their own")


class GeneratorDeclaration(Section):
    """A pipeline: a plugin that makes pairs, or masks first and then an image for each; or masks alone, to measure."""

    pairs: GeneratorUse | None = None
    masks: GeneratorUse | None = None
    images: GeneratorUse | None = None
    images_per_mask: int = Field(
        1, ge=1, description="images that are made for each mask: image i is made for mask i // images_per_mask"
    )
    variations: Variations | None = Field(
        None, description="several images for each of the first masks, for the figure variations; none when left out"
    )
    refine: tuple[PluginUse, ...] = ()
    sees: int | Literal["all", "recipe"] = Field(
        "all",
        description="real pairs it is fitted on: all of the fit role, the first n, or what the recipe says",
    )
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _pipeline(self) -> GeneratorDeclaration:
        if (self.pairs is None) == (self.masks is None):
            raise ValueError(
                "say either pairs: {plugin: ...}, or masks: {plugin: ...} with images: {plugin: ...}, or masks alone "
                "to measure masks"
            )
        if self.pairs is not None and self.images is not None:
            raise ValueError("images are made for masks, and pairs have both; take one of the two out")
        if self.images is None and self.images_per_mask > 1:
            alone = "pairs bring a mask each" if self.pairs is not None else "masks alone have no images"
            raise ValueError(f"images_per_mask is for masks with images, and {alone}; take it out")
        if self.images is None and self.variations:
            raise ValueError("variations are of images made for masks; add images: {plugin: ...}, or take it out")
        if self.makes == "masks" and self.refine:
            raise ValueError("refine needs images, and masks alone have none; add images: {plugin: ...}")
        if isinstance(self.sees, int) and self.sees < 1:
            raise ValueError(f"sees must be at least 1, got {self.sees}")
        return self

    @property
    def makes(self) -> Literal["pairs", "masks"]:
        """What comes out at its end: pairs, or masks alone, which no segmenter can train on."""
        return "masks" if self.pairs is None and self.images is None else "pairs"

    def uses(self) -> list[tuple[str, GeneratorUse]]:
        """Return the plugins of the pipeline in order, each with its part (``pairs``, ``masks`` or ``images``)."""
        parts = [("pairs", self.pairs), ("masks", self.masks), ("images", self.images)]
        return [(part, use) for part, use in parts if use is not None]

    def n_fit(self, recipe: Recipe) -> int | None:
        """Return how many real pairs it is fitted on where a recipe takes from it; None for all of the fit role."""
        if self.sees == "recipe":
            return recipe.n_fit or recipe.real or None
        return None if self.sees == "all" else self.sees


def _counts(value: Any) -> Any:
    """Normalise a count, a list of counts, or ``{from, to, step}`` into a list."""
    if isinstance(value, dict):
        unknown = sorted(set(map(str, value)) - {"from", "to", "step"})
        if unknown or not {"from", "to"} <= set(value):
            raise ValueError(f"a range is {{from: A, to: B, step: C}}, got {value}")
        first, last, step = value["from"], value["to"], value.get("step", 1)
        if not all(isinstance(n, int) for n in (first, last, step)) or step < 1 or last < first:
            raise ValueError(f"a range needs whole numbers with from <= to and step >= 1, got {value}")
        return list(range(first, last + 1, step))
    return value if isinstance(value, list) else [value]


Count = Annotated[int, Field(ge=0)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_counts)]
RealCounts = Annotated[tuple[Count | Literal["all"], ...], BeforeValidator(_counts)]
SeenCounts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_counts)]


class PerReal(Section):
    """So many synthetic pairs for each real pair that their generator is fitted on."""

    model_config = ConfigDict(serialize_by_alias=True)

    per_real: Counts = Field(alias="per-real")


def _plain_or_each(value: Any) -> str:
    """Tell a number for each real pair from plain counts, for pydantic."""
    each = isinstance(value, PerReal) or (isinstance(value, dict) and "per-real" in value)
    return "each" if each else "plain"


def _one_of_these_ways(value: Any) -> Any:
    if isinstance(value, dict) and not {"from", "to"} & set(value):
        ranged = "a range {from: A, to: B, step: C}"
        raise ValueError(f"say a number, a list, {ranged}, or {{per-real: N}} for N of each real pair, got {value}")
    return value


SyntheticCounts = Annotated[
    Annotated[Counts, BeforeValidator(_one_of_these_ways), Tag("plain")] | Annotated[PerReal, Tag("each")],
    Discriminator(_plain_or_each),
]


class TrainingSets(Section):
    """Recipes for training sets; ranges and lists expand to every combination."""

    real: RealCounts = (0,)
    sees: SeenCounts | None = Field(
        None, description="real pairs that generators with sees: recipe are fitted on, when those are not `real`"
    )
    synthetic: dict[str, SyntheticCounts] = Field(default_factory=dict)

    def counts(self, generator: str) -> Counts:
        """Return how many synthetic pairs of a generator are declared, in all or for each real pair."""
        declared = self.synthetic[generator]
        return declared.per_real if isinstance(declared, PerReal) else declared


class Budget(Section):
    """How long a segmenter trains: equal optimiser steps for every recipe, or epochs (more data is then more steps)."""

    steps: int | None = Field(None, ge=1)
    epochs: int | None = Field(None, ge=1)
    validations: int = Field(10, ge=1, description="how often the select role is scored; the best checkpoint is kept")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say either steps or epochs")
        return self


class Controls(Section):
    """Control arms that bring no new information, and at which synthetic counts they run."""

    arms: Annotated[tuple[Control, ...], AfterValidator(_distinct)] = CONTROLS
    at: Literal["largest", "each"] = "largest"


def _control_list(value: Any) -> Any:
    return {"arms": value} if isinstance(value, list) else value


class RecipeMatch(Section):
    """One recipe, named by its counts."""

    real: int | Literal["all"] = 0
    sees: int | None = Field(None, ge=1)
    synthetic: dict[str, Count] = Field(default_factory=dict)

    def recipe(self) -> Recipe:
        """Return the recipe that is meant."""
        real = None if self.real == "all" else self.real
        pairs = tuple((name, count) for name, count in self.synthetic.items() if count)
        return Recipe(real, pairs, n_fit=None if self.sees == real else self.sees)


class Rival(RecipeMatch):
    """What each recipe is compared with: one recipe, or a control or a generator at the same counts."""

    control: Control | None = Field(None, description="the control arm with as many images beside as many real ones")
    generator: str | None = Field(None, description="the recipe with as many images of this generator")

    @model_validator(mode="after")
    def _one_rival(self) -> Rival:
        named = [
            bool(self.control),
            bool(self.generator),
            self.real != 0 or self.sees is not None or bool(self.synthetic),
        ]
        if sum(named) > 1:
            raise ValueError("say one of a recipe (real, sees, synthetic), a control, or a generator")
        return self


class Compare(Section):
    """What is compared with what: each recipe with one other, by one metric, as one family."""

    vary: Literal["train"] = "train"
    against: Rival | None = Field(
        None,
        description="baseline; by default the same real pairs without synthetic ones, or, where a recipe has none, "
        "those that its generators see",
    )
    margin: float | None = Field(
        None, gt=0, description="difference in the metric below which nothing matters; says *no relevant difference*"
    )
    metric: str = Field("iou-imagewise", description="METRIC-imagewise or METRIC-micro")

    @property
    def primary(self) -> tuple[str, str]:
        """Metric and reduction as they stand in the results table."""
        metric, _, reduction = self.metric.rpartition("-")
        return metric, "micro-imagewise" if reduction == "imagewise" else "micro"


def _one_or_several(value: Any) -> str:
    """Tell a list of comparisons from a single one, for pydantic."""
    return "several" if isinstance(value, (list, tuple)) else "one"


class Evaluate(Section):
    """What is scored, and what an empty denominator counts."""

    on: Annotated[tuple[str, ...], AfterValidator(_distinct)] = ("report",)
    metrics: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_distinct)] | None = Field(
        None, description="scores to compute; all built-in ones when left out"
    )
    zero_division: Literal[0, 1, "nan"] = Field(1, description="score of an image when a metric divides by zero")
    tolerance: float = Field(
        0.02,
        ge=0,
        description="how far apart two outlines may lie that agree (surface-dice): pixels from 1 on, below 1 a share "
        "of the image's side",
    )


class Fidelity(Section):
    """How generators are measured, besides by what they do for segmenters."""

    metrics: Annotated[tuple[str, ...], AfterValidator(_distinct)] = ("thumbnail-distance", "mask-area", "sim")
    samples: Annotated[int, Field(ge=2)] | Literal["seen"] | None = Field(
        None,
        description="first so many of the pool, or as many as its generator was fitted on; all when left out",
    )
    sets: int = Field(
        1, ge=1, description="sets of so many samples, each measured on its own; their mean and deviation are reported"
    )
    against: Literal["fit", "select", "report", "seen"] = Field(
        "fit", description="role whose real images are the reference, or those that each generator was fitted on"
    )
    references: Annotated[tuple[Literal["select", "report"], ...], AfterValidator(_distinct)] = Field(
        ("report",), description="roles whose real images are measured like synthetic ones: the floor they reach"
    )
    network: str | None = Field(None, description="feature network of frechet-distance")
    segmenter: SegmenterUse | None = Field(
        None, description="trained on all real pairs of the fit role for agreement; the study's first when left out"
    )
    budget: Budget | None = Field(None, description="how long that segmenter trains; as the study's when left out")

    @model_validator(mode="after")
    def _sized_sets(self) -> Fidelity:
        if self.sets > 1 and self.samples is None:
            raise ValueError(f"{self.sets} sets need samples, the size of each; add it, such as samples: 1000")
        return self

    def size(self, n_fit: int) -> int | None:
        """Return how many pairs of a pool one set has; None when it takes what there is.

        Args:
            n_fit: real pairs that the pool's generator was fitted on.
        """
        return n_fit if self.samples == "seen" else self.samples


class ReportDeclaration(Section):
    """Which tables and figures; all that apply when left out. ``published`` names printed tables to set beside ours."""

    tables: tuple[str, ...] = ()
    figures: tuple[str, ...] = ()
    published: tuple[str, ...] = ()
    predictions: int = Field(6, ge=0, description="report images shown with predictions")


def _seed_list(value: Any) -> Any:
    if value == []:
        raise ValueError("at least 1 seed is needed")
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError(f"at least 1 seed is needed, got {value}")
        return list(range(value))
    return value


class Replicates(Section):
    """How often everything is repeated, and what each repetition draws anew."""

    count: int = Field(3, ge=1)
    of: Annotated[tuple[Factor, ...], Field(min_length=1), AfterValidator(_distinct)] = Field(
        ("training", "pool"),
        description="the segmenter's training, the synthetic images sampled from a generator, the choice of real "
        "images, the generator's fit; with fold, replicate r is scored on fold r alone",
    )
    share: dict[Factor, Annotated[int, Field(ge=2)]] = Field(
        default_factory=dict, description="how many replicates in turn share a draw, such as {fit: 3}"
    )

    @model_validator(mode="after")
    def _shared_is_drawn(self) -> Replicates:
        for factor in self.share:
            if factor not in self.of:
                raise ValueError(f"share: {factor} is not among of: {', '.join(self.of)}, so all replicates share it")
            if factor in ("training", "fold"):
                raise ValueError(f"{factor} cannot be shared by some replicates; say pool, subset or fit")
        return self


class Decide(Section):
    """Add replicates until every primary comparison is decided, looking only so often."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    margin: float = Field(gt=0, description="difference in the primary metric below which nothing matters")
    at_most: int = Field(12, ge=2, alias="at-most", description="replicates, whatever is undecided then")
    looks: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)] = Field(
        (3, 6, 12), description="numbers of replicates after which verdicts are asked for; the last is at-most"
    )

    @model_validator(mode="after")
    def _rising(self) -> Decide:
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"looks rise from one to the next, got {list(self.looks)}")
        if self.looks[-1] != self.at_most:
            raise ValueError(f"the last look is at-most replicates, got {self.looks[-1]} and {self.at_most}")
        return self


def _replicate_count(value: Any) -> Any:
    return {"count": value} if isinstance(value, int) and not isinstance(value, bool) else value


def _speakable(names: dict[str, Any]) -> dict[str, Any]:
    """Refuse names that labels and ``--only`` could not tell apart from their own syntax."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name) or name in ("real", "sees"):
            raise ValueError(
                f"{name!r} cannot be a name: use letters, digits, '-', '_', '.' and '+', and neither 'real' nor 'sees'"
            )
    return names


class StageUse(BaseModel):
    """A stage of a kind that a study asks for itself, with its parameters; the kind validates those."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str

    def values(self) -> dict[str, Any]:
        """Return the parameters as written."""
        return dict(self.model_extra or {})


class Study(Section):
    """A whole declaration."""

    title: str = ""
    dataset: DatasetDeclaration
    generators: Annotated[dict[str, GeneratorDeclaration], AfterValidator(_speakable)] = Field(default_factory=dict)
    segmenters: tuple[SegmenterUse, ...] = ()
    train: tuple[TrainingSets, ...] = ()
    budget: Budget = Budget(steps=4000)
    controls: Annotated[Controls, BeforeValidator(_control_list)] = Controls()
    protocol: Literal["clean", "published"] = "clean"
    seeds: Annotated[tuple[Count, ...], BeforeValidator(_seed_list), AfterValidator(_distinct)] | None = Field(
        None, description="a replicate each, by number or as a list; the same as replicates, for seeds of one's own"
    )
    replicates: Annotated[Replicates, BeforeValidator(_replicate_count)] | None = None
    decide: Decide | None = Field(None, description="replicates are added until what is asked for is decided")
    compare: Annotated[
        Annotated[Compare, Tag("one")] | Annotated[tuple[Compare, ...], Field(min_length=1), Tag("several")],
        Discriminator(_one_or_several),
    ] = Field(Compare(), description="the primary comparison, and in a list those after it")
    evaluate: Evaluate = Evaluate()
    fidelity: Fidelity | None = None
    stages: tuple[StageUse, ...] = Field((), description="stages of further kinds, such as an extension's")
    report: ReportDeclaration = ReportDeclaration()

    @model_validator(mode="after")
    def _one_way_to_repeat(self) -> Study:
        if self.seeds is not None and self.replicates is not None:
            raise ValueError("say either replicates or seeds; a profile takes one away with seeds: null")
        counted = self.replicates is not None and "count" in self.replicates.model_fields_set
        if self.decide and (self.seeds is not None or counted):
            raise ValueError("decide says itself how many replicates there are; take seeds and replicates: count away")
        for factor, together in self.repeats.share.items():
            for number in self.decide.looks if self.decide else (self.repeats.count,):
                if number % together:
                    raise ValueError(
                        f"replicates: share: {factor}: {together} does not divide {number} replicates, so that some "
                        "draws would count more than others; take a multiple"
                    )
        if self.replicates and "fold" in self.replicates.of and self.dataset.split.kfold is None:
            raise ValueError("replicates: fold varies only where there are folds; add split: {kfold: 5} to the dataset")
        return self

    @property
    def comparisons(self) -> tuple[Compare, ...]:
        """What is compared with what; the first is the primary comparison."""
        return (self.compare,) if isinstance(self.compare, Compare) else self.compare

    @property
    def primary(self) -> Compare:
        """The primary comparison."""
        return self.comparisons[0]

    @property
    def repeats(self) -> Replicates:
        """How often everything is repeated, whichever way it was said."""
        return self.replicates or Replicates(count=3 if self.seeds is None else len(self.seeds))

    def at_look(self, place: int) -> Study:
        """Return the study as it stands at one of its looks; one that does not decide has a single look."""
        if self.decide is None:
            return self
        repeats = (self.replicates or Replicates()).model_copy(update={"count": self.decide.looks[place]})
        return self.model_copy(update={"replicates": repeats})

    @property
    def look(self) -> int | None:
        """Which look the study stands at, from 0; None for one that does not decide."""
        if self.decide is None or self.repeats.count not in self.decide.looks:
            return None
        return self.decide.looks.index(self.repeats.count)

    @property
    def replicate_seeds(self) -> tuple[int, ...]:
        """A seed for each replicate, the first of them also for what is done once."""
        return tuple(range(self.repeats.count)) if self.seeds is None else self.seeds

    def draws(self, folds: int) -> list[Draw]:
        """Return every replicate of every fold, with what each of them draws anew."""
        return draws(self.replicate_seeds, self.repeats.of, self.repeats.share, folds)

    def first_draw(self, fold: int) -> Draw:
        """Return what is drawn for things that are done once in a fold."""
        return Draw(self.replicate_seeds[0], self.replicate_seeds[0], fold=fold)

    def order(self) -> int:
        """Return the seed of the order that subsets are taken in, of those who have no draw of their own."""
        return self.dataset.seed if self.dataset.order is None else self.dataset.order
