"""Pools of synthetic pairs: how their items are seeded, sampled and checked, and what a stage that makes one keeps.

``sample`` makes a pool, ``refine`` makes one of another, and ``select`` samples checkpoints likewise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.data.pairs import PairSet
from harness.engine.kind import StageKind
from harness.engine.stages.running import RunningStage
from harness.errors import HarnessError, PluginError
from harness.plugins.contract import Checkpoint, Generator, Sample
from harness.store.results import Result

#: Pairs sampled between two reports of progress.
_CHUNK = 256
_PAIRS, _SOURCES, _PROVENANCE, _MANIFEST = "pairs", "sources.json", "provenance.json", "manifest.json"


@dataclass(frozen=True)
class PoolResult:
    """A pool as it is stored; everything is read when it is asked for.

    Attributes:
        folder: of the result.
    """

    folder: Path

    @cached_property
    def pairs(self) -> PairSet:
        """The pairs; the lineage of each holds what anything used to make it has seen."""
        return PairSet.load(self.folder / _PAIRS)

    @cached_property
    def sources(self) -> tuple[frozenset[str], ...]:
        """What each pair was made from: its lineage without what only the choice of a checkpoint has seen."""
        path = self.folder / _SOURCES
        if not path.is_file():
            return self.pairs.lineage
        document = json.loads(path.read_text())
        distinct = [frozenset(one) for one in document["sources"]]
        return tuple(distinct[i] for i in document["source"])

    @cached_property
    def provenance(self) -> dict[str, list[str]]:
        """Real ids by how they were seen: ``fitted``, ``selected``, ``masks`` (behind the masks), ``refined``."""
        return dict(json.loads((self.folder / _PROVENANCE).read_text()))

    @cached_property
    def variations(self) -> dict[str, NDArray[Any]]:
        """Several images for each of the first masks (:func:`write_variations`); empty when none were asked for."""
        path = self.folder / _VARIATIONS
        if not path.is_file():
            return {}
        with np.load(path) as stored:
            return dict(stored)


class PoolStage(StageKind[PoolResult]):
    """What makes a pool, of which others read the first pairs only."""

    makes_pool: ClassVar[bool] = True
    #: What the provenance calls the real pairs that the plugin was given.
    given_as: ClassVar[str] = "fitted"

    @classmethod
    def read(cls, result: Result) -> PoolResult:
        """Open the pool."""
        return PoolResult(result.folder)

    @classmethod
    def claims(cls, result: Result) -> tuple[frozenset[str], ...]:
        """Return the lineage of each pair."""
        return cls.read(result).pairs.lineage

    @classmethod
    def claims_less(cls, result: Result) -> bool:
        """Whether a pair names fewer real ones as its sources than the plugin that made it was given."""
        pool = cls.read(result)
        given = frozenset(pool.provenance[cls.given_as])
        return any(not given <= lineage for lineage in set(pool.pairs.lineage))

    @classmethod
    def files(cls, result: Result) -> tuple[Path, ...]:
        """Return the files of the pairs and of their provenance."""
        return (*PairSet.files(result.folder / _PAIRS), result.folder / _PROVENANCE)


def write_pool(
    folder: Path,
    pairs: PairSet,
    sources: Sequence[frozenset[str]],
    provenance: Mapping[str, Sequence[str]],
) -> None:
    """Write what :class:`PoolResult` reads.

    Args:
        folder: of the stage.
        pairs: with their lineage.
        sources: what each was made from.
        provenance: real ids by how they were seen.
    """
    pairs.save(folder / _PAIRS)
    if tuple(sources) != pairs.lineage:
        distinct = list(dict.fromkeys(sources))
        position = {one: i for i, one in enumerate(distinct)}
        document = {"sources": [sorted(one) for one in distinct], "source": [position[one] for one in sources]}
        (folder / _SOURCES).write_text(json.dumps(document))
    (folder / _PROVENANCE).write_text(json.dumps({how: sorted(names) for how, names in provenance.items()}))


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write how to make each pair of a pool again, for people and for folders of samples; no stage reads it."""
    (folder / _MANIFEST).write_text(json.dumps(manifest))


_VARIATIONS = "variations.npz"


def write_variations(
    folder: Path, masks: NDArray[np.uint8], images: NDArray[np.uint8], seeds: NDArray[np.int64]
) -> None:
    """Keep ``V`` images for each of ``K`` masks beside a pool.

    Args:
        folder: of the stage.
        masks: uint8 (K, H, W) in {0, 1}.
        images: uint8 (K, V, H, W, 3).
        seeds: int64 (K, V).
    """
    np.savez(folder / _VARIATIONS, allow_pickle=False, masks=masks, images=images, seeds=seeds)


def item_seeds(seed: int, count: int, in_turn: int = 1) -> NDArray[np.int64]:
    """Return seeds of ``count`` items; the first n are the same however many are asked for.

    Args:
        seed: of the pool.
        count: how many.
        in_turn: things that the items are made from in turn (``Generator.turns``): item *i* gets a seed of which the
            remainder, divided by this, is ``i % in_turn``, and all else is random.

    Returns:
        int64 (count,), in [0, 2**62 + in_turn).
    """
    drawn = np.random.default_rng([seed, 0x5EED]).integers(0, 2**62, size=count, dtype=np.int64)
    return drawn - drawn % in_turn + np.arange(count) % in_turn


def pool_seeds(generator: Generator, checkpoint: Checkpoint, real: PairSet, seed: int, count: int) -> NDArray[np.int64]:
    """Return the seeds of the items of a pool (:func:`item_seeds`).

    A generator that has one model a pair makes an item from the pair at ``seed % n`` of the ``n``
    that it is given. Its seeds are dealt: the first k * n items of a pool are k from each pair. So are those of any
    generator that says that things take turns (``Generator.turns``).

    Args:
        generator: that makes them.
        checkpoint: that it is sampled at.
        real: the pairs that it is given, as :func:`sampled_pairs` returns them.
        seed: of the pool.
        count: how many.
    """
    return item_seeds(seed, count, generator.turns(checkpoint, real))


def sampled_pairs(generator: Generator, checkpoint: Checkpoint, real: PairSet) -> PairSet:
    """Return the real pairs that a generator is given to sample: of one model a pair, those that have a model.

    Raises:
        HarnessError: none has one.
    """
    if not generator.card.one_model_a_pair or checkpoint.seen is None or real.seen() <= checkpoint.seen:
        return real
    modelled = [name for name in real.ids if name in checkpoint.seen]
    if not modelled:
        raise HarnessError(
            f"Checkpoint {checkpoint.step} of {generator.name} has a model of none of the {len(real)} real pairs that "
            "are to be sampled from; take a later checkpoint."
        )
    return real.select(modelled)


def behind(generator: Generator, checkpoint: Checkpoint, real: PairSet) -> frozenset[str]:
    """Return what a pair owes something to that names no sources; of one model a pair, all that was sampled from."""
    return real.seen() if checkpoint.seen is None or generator.card.one_model_a_pair else checkpoint.seen


def mask_positions(stage: RunningStage, count: int) -> NDArray[np.intp]:
    """Return which mask of its pool each of ``count`` images is made for, (count,), the same for all counts."""
    return np.arange(count) // stage.parameters.get("images-per-mask", 1)


def sample_pairs(
    stage: RunningStage,
    generator: Generator,
    checkpoint: Checkpoint,
    count: int,
    real: PairSet,
    masks: PairSet | None,
) -> PairSet:
    """Sample ``count`` pairs and give each its id and lineage.

    The lineage of a pair is what its checkpoint has seen (or the fewer ids that the generator names as its sources),
    and the lineage of the mask that conditioned it. What the choice of the checkpoint has seen is not among it yet.

    Args:
        stage: at work; its seed is that of the pool.
        generator: to sample from.
        checkpoint: of the generator.
        count: how many.
        real: the pairs that it is given (:func:`sampled_pairs`).
        masks: to make images for, as many for each as the stage says.

    Raises:
        PluginError: the generator returned something of the wrong shape, type or range, or names sources it was not
            given.
    """
    seeds = pool_seeds(generator, checkpoint, real, stage.seed, count)
    positions = mask_positions(stage, count)
    conditions = None if masks is None else masks.masks[positions]
    context = stage.sample_context(real)
    parts: list[Sample] = []
    for start in range(0, count, _CHUNK):
        stop = min(count, start + _CHUNK)
        given = None if conditions is None else conditions[start:stop]
        part = generator.sample(checkpoint, seeds[start:stop], context, given)
        check_sample(generator.name, part, stop - start, real)
        check_turn(generator, part, seeds[start:stop], real)
        parts.append(part)
        stage.context.progress(stop, count, "images")
    made = np.concatenate([part.masks for part in parts]) if conditions is None else np.asarray(conditions)
    whole = behind(generator, checkpoint, real)
    lineage: list[frozenset[str]] = []
    for part in parts:
        sources = part.sources or (None,) * len(part.masks)
        lineage += [whole if names is None else frozenset(names) for names in sources]
    if masks is not None:
        lineage = [one | masks.lineage[position] for one, position in zip(lineage, positions, strict=True)]
    ids = tuple(f"{generator.name}/{i:06d}" for i in range(count))
    return PairSet(images_of(parts, made), np.ascontiguousarray(made), ids, ids, tuple(lineage))


def images_of(parts: Sequence[Sample], masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the sampled images, or, from a generator of masks, the masks as grey pictures."""
    images = [part.images for part in parts]
    if any(image is None for image in images):
        return as_pictures(masks)
    return np.concatenate([image for image in images if image is not None])


def as_pictures(masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return masks (N, H, W) in {0, 1} as grey pictures uint8 (N, H, W, 3) of 0 and 255."""
    return np.repeat(masks[..., None] * np.uint8(255), 3, axis=3)


def check_sample(name: str, sample: Sample, count: int, real: PairSet) -> None:
    """Refuse what breaks the plugin contract.

    Raises:
        PluginError: says what was expected and what came.
    """
    shape = (count, *real.size)
    if sample.masks.shape != shape or sample.masks.dtype != np.uint8 or (sample.masks.size and sample.masks.max() > 1):
        raise PluginError(
            f"{name} must return masks as uint8 {shape} of 0 and 1, got {sample.masks.dtype} {sample.masks.shape} "
            f"up to {sample.masks.max() if sample.masks.size else 'nothing'}."
        )
    if sample.images is not None and (sample.images.shape != (*shape, 3) or sample.images.dtype != np.uint8):
        raise PluginError(
            f"{name} must return images as uint8 {(*shape, 3)}, got {sample.images.dtype} {sample.images.shape}."
        )
    if sample.sources is not None:
        if len(sample.sources) != count:
            raise PluginError(f"{name} must name the sources of {count} pairs, got {len(sample.sources)}.")
        strangers = sorted({source for sources in sample.sources for source in sources} - real.seen())
        if strangers:
            raise PluginError(f"{name} names {strangers[0]!r} as a source, which it was not given.")


def check_turn(generator: Generator, sample: Sample, seeds: NDArray[np.int64], real: PairSet) -> None:
    """Refuse pairs of a generator of one model a pair that were not made from the real pair whose turn it was.

    Raises:
        PluginError: says which source was expected and what came.
    """
    if not generator.card.one_model_a_pair:
        return
    expected = [(real.ids[seed % len(real)],) for seed in seeds.tolist()]
    named = [tuple(names) for names in sample.sources] if sample.sources is not None else [()] * len(expected)
    for seed, wanted, got in zip(seeds.tolist(), expected, named, strict=True):
        if got != wanted:
            raise PluginError(
                f"{generator.name} has one model a pair, so with {len(real)} pairs seed {seed} must make one from "
                f"number {seed % len(real)} and name {wanted[0]!r} as its only source; got {', '.join(got) or 'none'}."
            )
