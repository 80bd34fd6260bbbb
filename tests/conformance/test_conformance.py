"""The conformance suite passes what keeps the contract and names what does not."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import BaseModel, Field

from harness.conformance import check_plugin, drawn_pairs
from harness.plugins.contract import Card, Checkpoint, Generator, Parameters, Refiner, Sample, Segmenter


class WalkParameters(Parameters):
    steps: int = Field(6, description="steps of the walk")


class Walk(Generator):
    """A random walk of one number, which then seeds what is sampled: the least that a learned generator is."""

    name = "walk"
    Parameters = WalkParameters
    card = Card()

    def fit(self, pairs, context):
        state = context.restore_state() or {"step": 0, "value": 0.0}
        while state["step"] < self.parameters.steps:
            state["value"] += self.move(context.seed, state["step"])
            state["step"] += 1
            context.log(state["step"], value=state["value"])
            if state["step"] % 3 == 0:
                folder = context.checkpoint_folder(state["step"])
                (folder / "value.txt").write_text(repr(state["value"]))
                yield Checkpoint(state["step"], folder)
            if context.should_save():
                context.save_state(dict(state))

    def move(self, seed, step):
        return float(np.random.default_rng((seed, step)).integers(1, 1000))

    def sample(self, checkpoint, seeds, context, masks=None):
        value = float((checkpoint.folder / "value.txt").read_text())
        size = context.pairs.size
        made = [np.random.default_rng((int(s), int(value))).integers(0, 255, (*size, 4)) for s in seeds]
        pictures = np.stack(made).astype(np.uint8)
        return Sample((pictures[..., 3] > 127).astype(np.uint8), pictures[..., :3].copy())


class OneModelAPair(Walk):
    """Walks once for each pair, with a checkpoint after each."""

    card = Card(one_model_a_pair=True)

    def fit(self, pairs, context):
        values = (context.restore_state() or {"values": {}})["values"]
        for step in range(len(values) + 1, len(pairs) + 1):
            values[pairs.ids[step - 1]] = self.move(context.seed, step)
            folder = context.checkpoint_folder(step)
            for name, value in values.items():
                (folder / f"{name.rpartition('/')[2]}.txt").write_text(repr(value))
            yield Checkpoint(step, folder, frozenset(values))
            if context.should_save():
                context.save_state({"values": dict(values)})

    def turn(self, seed, ids):
        return ids[seed % len(ids)]

    def sample(self, checkpoint, seeds, context, masks=None):
        names = [self.turn(int(seed), context.pairs.ids) for seed in seeds]
        values = [float((checkpoint.folder / f"{name.rpartition('/')[2]}.txt").read_text()) for name in names]
        size = context.pairs.size
        drawn = zip(seeds, values, strict=True)
        made = [np.random.default_rng((int(s), int(value))).integers(0, 255, (*size, 4)) for s, value in drawn]
        pictures = np.stack(made).astype(np.uint8)
        named = self.named(tuple((name,) for name in names), context)
        return Sample((pictures[..., 3] > 127).astype(np.uint8), pictures[..., :3].copy(), named)

    def named(self, sources, context):
        return sources


class SwapsTurns(OneModelAPair):
    """Makes an item from the pair before the one whose turn it is."""

    def turn(self, seed, ids):
        return ids[(seed - 1) % len(ids)]


class CountsAllPairs(OneModelAPair):
    """Takes turns over three pairs whatever it is given."""

    def turn(self, seed, ids):
        return ids[seed % 3 % len(ids)]


class NamesNoSources(OneModelAPair):
    """Does not say which pair an item was made from."""

    def named(self, sources, context):
        return None


class NamesTwoSources(OneModelAPair):
    """Names every pair that it was given."""

    def named(self, sources, context):
        return tuple(context.pairs.ids for _ in sources)


class DependsOnTheOthers(OneModelAPair):
    """Draws another item when it is given fewer pairs."""

    def sample(self, checkpoint, seeds, context, masks=None):
        made = super().sample(checkpoint, seeds, context)
        return Sample(made.masks, made.images + np.uint8(len(context.pairs)), made.sources)


class ForgetsItsState(Walk):
    """Saves the step but not the value."""

    def fit(self, pairs, context):
        state = context.restore_state() or {"step": 0}
        value = 0.0
        for step in range(state["step"], self.parameters.steps):
            value += self.move(context.seed, step)
            if step + 1 == self.parameters.steps:
                folder = context.checkpoint_folder(step + 1)
                (folder / "value.txt").write_text(repr(value))
                yield Checkpoint(step + 1, folder)
            if context.should_save():
                context.save_state({"step": step + 1})


class StartsOver(Walk):
    """Asks to save, and never restores."""

    def fit(self, pairs, context):
        context.restore_state()
        value = 0.0
        for step in range(self.parameters.steps):
            value += self.move(context.seed, step)
            if context.should_save():
                context.save_state({"step": step})
        folder = context.checkpoint_folder(6)
        (folder / "value.txt").write_text(repr(value))
        yield Checkpoint(6, folder)


class NeverSaves(Walk):
    """Never asks to save."""

    def fit(self, pairs, context):
        folder = context.checkpoint_folder(6)
        (folder / "value.txt").write_text("3.0")
        yield Checkpoint(6, folder)


class GoesBackwards(Walk):
    """Yields steps that do not increase."""

    def fit(self, pairs, context):
        for step in (6, 3):
            yield Checkpoint(step, context.checkpoint_folder(step))


class ClaimsMore(Walk):
    """Says that a checkpoint has seen an id that it was not given."""

    def fit(self, pairs, context):
        for checkpoint in super().fit(pairs, context):
            yield Checkpoint(checkpoint.step, checkpoint.folder, frozenset({"elsewhere/7"}))


class OneStream(Walk):
    """Draws a whole call from one stream."""

    def sample(self, checkpoint, seeds, context, masks=None):
        stream = np.random.default_rng(int(seeds[0]))
        return super().sample(checkpoint, stream.integers(0, 2**60, len(seeds)), context)


class OneStreamABatch(Walk):
    """Draws each batch from one stream."""

    def sample(self, checkpoint, seeds, context, masks=None):
        redrawn = seeds.copy()
        for start in range(0, len(seeds), context.batch_size):
            chunk = seeds[start : start + context.batch_size]
            redrawn[start : start + len(chunk)] = chunk[0] + np.arange(len(chunk))
        return super().sample(checkpoint, redrawn, context)


class GlobalRandom(Walk):
    """Draws from the global random state."""

    def sample(self, checkpoint, seeds, context, masks=None):
        return super().sample(checkpoint, seeds + np.random.randint(1000), context)


class DeafToSeeds(Walk):
    """Makes one pair whatever the seed."""

    def sample(self, checkpoint, seeds, context, masks=None):
        return super().sample(checkpoint, np.zeros_like(seeds), context)


class GreyMasks(Walk):
    """Makes masks of 0 and 255."""

    def sample(self, checkpoint, seeds, context, masks=None):
        made = super().sample(checkpoint, seeds, context)
        return Sample(made.masks * np.uint8(255), made.images)


class FloatImages(Walk):
    """Makes images of floats."""

    def sample(self, checkpoint, seeds, context, masks=None):
        made = super().sample(checkpoint, seeds, context)
        return Sample(made.masks, made.images.astype(np.float32))


class StrangeSources(Walk):
    """Names a source that it was not given."""

    def sample(self, checkpoint, seeds, context, masks=None):
        made = super().sample(checkpoint, seeds, context)
        return Sample(made.masks, made.images, (("elsewhere/7",),) * len(seeds))


class WritesToItsPairs(Walk):
    """Changes the real pairs."""

    def fit(self, pairs, context):
        pairs.images[0] = 0
        yield from super().fit(pairs, context)


class NoDescription(Walk):
    """Has a parameter that nobody explained."""

    class Parameters(Parameters):
        steps: int = 6


class NoDefault(Walk):
    """Has a parameter that must be given."""

    class Parameters(Parameters):
        steps: int = Field(description="steps")


class LooseParameters(Walk):
    """Accepts any misspelt parameter."""

    class Parameters(BaseModel):
        steps: int = Field(6, description="steps")


class OddCard(Walk):
    """Makes something that does not exist."""

    card = Card(makes="videos")


class KeepsItsCheckpointInMemory(Walk):
    """Works only in the process that trained it."""

    values: ClassVar[dict] = {}

    def fit(self, pairs, context):
        for checkpoint in super().fit(pairs, context):
            self.values[checkpoint.folder] = (checkpoint.folder / "value.txt").read_text()
            (checkpoint.folder / "value.txt").unlink()
            yield checkpoint

    def sample(self, checkpoint, seeds, context, masks=None):
        (checkpoint.folder / "value.txt").write_text(self.values[checkpoint.folder])
        made = super().sample(checkpoint, seeds, context)
        (checkpoint.folder / "value.txt").unlink()
        return made


def failures(kind, plugin, folder, fresh_process=False):
    return {c.name: c.sentence for c in check_plugin(kind, plugin, folder, fresh_process=fresh_process) if not c.passed}


def test_a_generator_that_keeps_the_contract_passes(tmp_path):
    assert failures("generators", Walk, tmp_path, fresh_process=True) == {}


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (ForgetsItsState, "resume", "makes other pairs than uninterrupted"),
        (StartsOver, "resume", "does all 6 rounds again"),
        (NeverSaves, "resume", "never asks context.should_save()"),
        (GoesBackwards, "fit", "checkpoint 3 after 6"),
        (ClaimsMore, "fit", "'elsewhere/7', which the fit was not given"),
        (OneStream, "independent", "in another order"),
        (OneStreamABatch, "batch size", "context.batch_size=1"),
        (GlobalRandom, "deterministic", "same seeds differ"),
        (DeafToSeeds, "seed", "Other seeds make the same pairs"),
        (GreyMasks, "sample", "masks hold 255"),
        (FloatImages, "sample", "images are float32"),
        (StrangeSources, "sources", "elsewhere/7"),
        (WritesToItsPairs, "fit", "read-only"),
        (NoDescription, "parameters", "'steps' has no description"),
        (NoDefault, "parameters", "'steps' has no default"),
        (LooseParameters, "parameters", "misspelt name"),
        (OddCard, "description", "card.makes is 'videos'"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_generator_is_told_what_is_wrong(tmp_path, plugin, check, said):
    assert said in failures("generators", plugin, tmp_path)[check]


def test_a_generator_of_one_model_a_pair_passes(tmp_path):
    checks = check_plugin("generators", OneModelAPair, tmp_path)
    assert [check for check in checks if not check.passed] == []
    assert {check.name: check.sentence for check in checks}[
        "sources"
    ] == "Each pair is made from the real pair at seed % n alone, of 3 and of 2."


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (
            SwapsTurns,
            "With 3 pairs, seed 11 must make one from 'drawn/002' alone (number seed % 3), and its sources are",
        ),
        (CountsAllPairs, "With 2 pairs, seed 11 must make one from 'drawn/001' alone"),
        (NamesNoSources, "so it must name its sources"),
        (NamesTwoSources, "its sources are drawn/000, drawn/001, drawn/002"),
        (DependsOnTheOthers, "Given fewer pairs, a seed that names the same pair makes another item of it"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_one_model_a_pair_asks_of_a_generator(tmp_path, plugin, said):
    failed = failures("generators", plugin, tmp_path)
    assert set(failed) == {"sources"}
    assert said in failed["sources"]


def test_a_checkpoint_that_only_lives_in_memory_fails_in_a_fresh_process(tmp_path):
    failed = failures("generators", KeepsItsCheckpointInMemory, tmp_path, fresh_process=True)
    assert set(failed) == {"save and load"}
    assert "KeyError" in failed["save and load"]


class Blend(Refiner):
    """Averages each image with its source."""

    name = "blend"

    def refine(self, synthetic, sources, seeds, context):
        return Sample(np.array(synthetic.masks), synthetic.images // 2 + sources.images // 2)


class BatchMean(Blend):
    """Subtracts the mean of the whole call."""

    def refine(self, synthetic, sources, seeds, context):
        return Sample(np.array(synthetic.masks), synthetic.images - np.uint8(synthetic.images.mean()))


def test_refiners(tmp_path):
    assert failures("refiners", Blend, tmp_path / "good") == {}
    assert set(failures("refiners", BatchMean, tmp_path / "bad")) == {"independent"}


class Linear(Segmenter):
    """One 1 x 1 convolution."""

    name = "linear"
    label = "linear"
    batch_size = 2
    loss_scale = 1.0

    def layer(self):
        return torch.nn.Conv2d(3, 1, 1)

    def module(self, steps):
        from pytorch_lightning import LightningModule

        layer, scale, returned = self.layer(), self.loss_scale, self.configured

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = layer

            def forward(self, images):
                return self.layer(images)

            def training_step(self, batch, batch_index):
                loss = torch.nn.functional.binary_cross_entropy_with_logits(self(batch[0]), batch[1])
                self.log("loss", loss)
                return loss * scale

            def configure_optimizers(self):
                return returned(torch.optim.SGD(self.parameters(), lr=0.1))

        return Module()

    def configured(self, optimiser):
        return optimiser


class TwoOptimisers(Linear):
    """Asks for two optimisers."""

    def configured(self, optimiser):
        return [optimiser, optimiser]


class TwoChannels(Linear):
    """Makes two channels of logits."""

    def layer(self):
        return torch.nn.Conv2d(3, 2, 1)


class InfiniteLoss(Linear):
    """Has a loss that is not a number."""

    loss_scale = float("nan")


class NoGradient(Linear):
    """Has a loss that does not depend on the weights."""

    loss_scale = 0.0


class OwnRandomness(Linear):
    """Draws its weights from somewhere else than the global seed."""

    def layer(self):
        layer = super().layer()
        torch.nn.init.normal_(
            layer.weight, generator=torch.Generator().manual_seed(np.random.default_rng().integers(9**9))
        )
        return layer


@pytest.mark.parametrize(
    ("plugin", "check"),
    [
        (Linear, None),
        (TwoOptimisers, "module"),
        (TwoChannels, "forward"),
        (InfiniteLoss, "training step"),
        (NoGradient, "training step"),
        (OwnRandomness, "same seed"),
    ],
)
def test_segmenters(tmp_path, plugin, check):
    failed = failures("segmenters", plugin, tmp_path)
    assert check in failed if check else failed == {}


def test_drawn_pairs_have_none_one_and_two_polyps():
    from scipy import ndimage

    pairs = drawn_pairs()
    counts = {ndimage.label(mask)[1] for mask in pairs.masks}
    assert {0, 1, 2} <= counts
    assert not pairs.images.flags.writeable
    assert np.array_equal(pairs.images, drawn_pairs().images)
    assert not np.array_equal(pairs.images, drawn_pairs(seed=1).images)


# WorkFolder and run_fit: what the engine and the suite share.
