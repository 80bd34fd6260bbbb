"""What a generator, a refiner and a segmenter are.

A plugin is one class. Its constructor takes one validated ``Parameters`` object, so that a study's errors can name the
parameter; listing plugins imports none of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from pytorch_lightning import LightningModule

    from harness.data.pairs import PairSet


Kind = Literal["generators", "refiners", "segmenters"]
KINDS: tuple[Kind, ...] = ("generators", "refiners", "segmenters")


class Parameters(BaseModel):
    """Base of every plugin's parameters: unknown names are errors, values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedParameters(Parameters):
    """Parameters of a plugin that can also do as a paper's code does, whose values ``as_published`` holds."""

    #: What the published code does where the sound defaults differ.
    as_published: ClassVar[dict[str, Any]] = {}

    setting: Literal["sound", "as-published"] = Field(
        "sound", description="group of defaults: 'as-published' follows the paper's code with its defects"
    )

    @model_validator(mode="before")
    @classmethod
    def _apply_setting(cls, values: Any) -> Any:
        """Fill in the published values under 'as-published'; what a study says itself wins."""
        if isinstance(values, dict) and values.get("setting") == "as-published":
            return {**cls.as_published, **values}
        return values


@dataclass(frozen=True)
class Card:
    """What a generator needs, what it makes and roughly what it costs, known before a device is touched.

    Attributes:
        needs: ``pairs``, or ``masks`` only; for people, since a fit is given all its pairs, whatever it needs.
        makes: ``pairs``, ``masks``, or ``images`` (for given masks).
        one_model_a_pair: whether a fit trains a model of its own for each pair, and each item is made from one real
            pair. A seed then names that pair: the one at ``seed % n`` of the ``n`` in ``context.pairs``, which is the
            item's only source. The engine deals the seeds so that the pairs take turns, and one fit serves pools on
            fewer of its pairs.
        weights: names in ``harness weights`` that it cannot work without.
        licence: of those weights, when it binds the user.
        sizes: image sides in pixels it can make; empty when any.
        minimum: the fewest training pairs it accepts.
        learns: False when nothing is trained: it rearranges real pairs (``resample``) or draws by a rule (``noise``).
        control: whether its pairs hold nothing that the real ones do not, so that an arm with them is a control
            (``controls`` in a study names it). Such an arm takes it with its default parameters.
        cost: one phrase for people, such as ``minutes on a CPU at 64 px``.
    """

    needs: Literal["pairs", "masks"] = "pairs"
    makes: Literal["pairs", "masks", "images"] = "pairs"
    one_model_a_pair: bool = False
    weights: tuple[str, ...] = ()
    licence: str = ""
    sizes: tuple[int, ...] = ()
    minimum: int = 1
    learns: bool = True
    control: bool = False
    cost: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A state of a generator that can be sampled from.

    Attributes:
        step: optimiser steps (or images) done; unique within a fit and increasing.
        folder: where its files are; nothing outside this folder belongs to it.
        seen: real ids this checkpoint has seen, when fewer than all that the fit was given.
    """

    step: int
    folder: Path
    seen: frozenset[str] | None = None


@dataclass(frozen=True)
class Sample:
    """What a generator or refiner returns; the engine adds ids and lineage and makes a ``PairSet`` of it.

    Attributes:
        masks: uint8 (N, H, W) in {0, 1}.
        images: uint8 (N, H, W, 3), or None from a generator that makes masks only.
        sources: for each pair, the real ids it was made from, when fewer than all that the fit has seen. The engine
            refuses ids that the fit was not given.
    """

    masks: NDArray[np.uint8]
    images: NDArray[np.uint8] | None = None
    sources: tuple[tuple[str, ...], ...] | None = None


class FitContext(Protocol):
    """What the engine gives a fit: where to compute, what to report to, and its saved state.

    Everything a fit draws at random comes from ``seed``. A fit saves its state when ``should_save()`` says so and
    starts by asking ``restore_state()``; interrupted and resumed it must end at the same result as uninterrupted.
    """

    device: torch.device
    seed: int
    #: How the study makes squares of frames: for what a fit reads from files itself.
    geometry: Literal["squash", "crop"]

    def checkpoint_folder(self, step: int) -> Path:
        """Return a fresh empty folder for the checkpoint at ``step``."""
        ...

    def log(self, step: int, **values: float) -> None:
        """Record metrics at a step (dashes for underscores); they become curves in MLflow."""
        ...

    def log_images(self, name: str, step: int, images: NDArray[np.uint8]) -> None:
        """Record a grid of uint8 (N, H, W, 3) images."""
        ...

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Report progress; cheap enough to call at every step."""
        ...

    def note(self, sentence: str) -> None:
        """Record a sentence that every report on this result must show (random weights, a fallback)."""
        ...

    def should_save(self) -> bool:
        """Say whether it is time to save the training state (every half minute or so)."""
        ...

    def save_state(self, state: dict[str, Any]) -> None:
        """Save the training state atomically: tensors, numbers, strings, lists and dicts of them."""
        ...

    def restore_state(self) -> dict[str, Any] | None:
        """Return the last saved state on the CPU, or None at a fresh start."""
        ...


@dataclass(frozen=True)
class SampleContext:
    """What the engine gives to ``sample`` and ``refine``.

    Attributes:
        device: where to compute.
        pairs: the real pairs the generator was fitted on. Of one model a pair, those to sample from,
            which all have a model in the checkpoint: as many as the fit had, or fewer.
        batch_size: how many to make at once; must not change any image.
    """

    device: torch.device
    pairs: PairSet
    batch_size: int = 64


class Plugin(ABC):
    """Base of all plugins.

    Attributes:
        name: kebab-case, equal to the file name with dashes for a built-in.
        version: change it when results change for a reason that the code alone does not show.
    """

    name: ClassVar[str]
    version: ClassVar[str] = "1"
    Parameters: ClassVar[type[Parameters]] = Parameters

    def __init__(self, parameters: Any = None) -> None:
        self.parameters = parameters if parameters is not None else self.Parameters()

    @classmethod
    def create(cls, **values: Any) -> Any:
        """Build the plugin from plain parameter values.

        Raises:
            pydantic.ValidationError: a value is not allowed.
        """
        return cls(cls.Parameters(**values))

    def weights(self) -> tuple[str, ...]:
        """Return the names in ``harness weights`` that this plugin, as declared, cannot work without."""
        return ()

    def environment_key(self) -> dict[str, str]:
        """Return what this machine has that results of this plugin, as declared, depend on: it becomes part of keys.

        For a plugin that works with the best of several weights; what it took belongs in ``context.note`` too.
        """
        return {}

    def missing_requirements(self) -> list[str]:
        """Return a sentence for each thing that this plugin, as declared, needs and this machine does not have.

        A study is refused with them before anything runs; weights (:meth:`weights`) need not be among them.
        """
        return []

    @classmethod
    def example(cls) -> dict[str, Any]:
        """Return parameter values for a run of a second, which ``harness plugin check`` uses."""
        return {}


class Generator(Plugin):
    """Makes synthetic pairs, masks, or images for given masks.

    Attributes:
        card: what it needs and makes.
        sampling: names of parameters that ``fit`` does not read: generators that differ in these only share their fit.
    """

    card: ClassVar[Card] = Card()
    sampling: ClassVar[frozenset[str]] = frozenset()

    def weights(self) -> tuple[str, ...]:
        """Return the weights on the card."""
        return self.card.weights

    def devices(self) -> int:
        """Return how many devices of one machine a fit, as declared, computes on.

        An executor leases that many accelerators to the fit, which sees them as the first ones. Without accelerators
        it leases as many cores.
        """
        return 1

    def turns(self, checkpoint: Checkpoint, pairs: PairSet) -> int:
        """Return of how many things the items of a pool are made in turn; 1 when the seed alone decides.

        Item *i* of a pool gets a seed of which the remainder, divided by this, is the remainder of ``i``; all else in
        it is random. A generator that takes number ``seed % n`` of ``n`` masks so uses each once before any twice.

        Args:
            checkpoint: that is sampled.
            pairs: as in ``SampleContext``.
        """
        return len(pairs) if self.card.one_model_a_pair else 1

    @abstractmethod
    def fit(self, pairs: PairSet, context: FitContext) -> Iterator[Checkpoint]:
        """Train on real pairs (all of one size) and yield checkpoints in order, the last one last.

        A generator that makes masks uses ``pairs.masks`` only. One that does not learn yields one checkpoint at step 0.
        """

    @abstractmethod
    def sample(
        self,
        checkpoint: Checkpoint,
        seeds: NDArray[np.int64],
        context: SampleContext,
        masks: NDArray[np.uint8] | None = None,
    ) -> Sample:
        """Make one image or mask for each seed.

        Pure: item *i* depends on the checkpoint, ``seeds[i]`` and ``masks[i]`` only, not on the others or the batch
        size.

        Args:
            checkpoint: one that ``fit`` yielded.
            seeds: int64 (N,).
            context: device and the real pairs of the fit.
            masks: uint8 (N, H, W) in {0, 1} when the card says ``makes='images'``.
        """


class Refiner(Plugin):
    """Maps synthetic pairs to better ones, with access to the real pair that each was made from."""

    card: ClassVar[Card] = Card(learns=False)

    @abstractmethod
    def refine(self, synthetic: PairSet, sources: PairSet, seeds: NDArray[np.int64], context: SampleContext) -> Sample:
        """Refine N pairs.

        Args:
            synthetic: N pairs.
            sources: N real pairs; ``sources[i]`` is the one that ``synthetic[i]`` was made from (when it was made
                from many, one of them, drawn by ``seeds[i]``). They become part of the lineage.
            seeds: int64 (N,).
            context: device and the real pairs of the fit.
        """

    def notes(self) -> list[str]:
        """Return sentences that every report must show, such as which network it took for want of another."""
        return []


class Segmenter(Plugin):
    """Builds Lightning modules; the engine owns the data, the loop and the evaluation."""

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name in tables and cell labels, such as ``unetplusplus``."""

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Training images a step."""

    @abstractmethod
    def module(self, steps: int) -> LightningModule:
        """Build an untrained module, initialised from the global torch seed, that will train for ``steps`` steps.

        ``forward`` maps float32 (N, 3, H, W) in [0, 1] to logits (N, 1, H, W). ``training_step`` takes a batch
        ``(images, masks)`` of float32 (N, 3, H, W) in [0, 1] and float32 (N, 1, H, W) in {0, 1} and the number of the
        step from 0, augments the batch, and returns the loss. ``configure_optimizers`` returns one optimiser, alone or
        with schedules, as Lightning takes them (:class:`harness.learning.optimisation.Optimisation`).
        """

    def bare_module(self) -> LightningModule:
        """Build the module for trained weights to be loaded into, without fetching pretrained ones."""
        return self.module(1)

    def notes(self) -> list[str]:
        """Return sentences that every report must show, such as random encoder weights."""
        return []
