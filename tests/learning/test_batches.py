"""The data stream of a training, when it is validated, and how many steps an epoch is."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.learning.batches import (
    batch_positions,
    initialisation_seed,
    step_seed,
    steps_for_epochs,
    validation_steps,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 23), st.integers(1, 9), st.integers(0, 2**31), st.integers(1, 40))
def test_stream_is_full_fair_and_random_access(images, batch_size, seed, steps):
    order = np.arange(100, 100 + images)
    batches = [batch_positions(order, batch_size, seed, step) for step in range(steps)]
    assert all(batch.shape == (batch_size,) for batch in batches)
    stream = np.concatenate(batches)
    shown = np.bincount(stream - 100, minlength=images)
    assert shown.max() - shown.min() <= 1
    for epoch in range(len(stream) // images):
        assert sorted(stream[epoch * images : (epoch + 1) * images]) == order.tolist()
    np.testing.assert_array_equal(batch_positions(order, batch_size, seed, steps - 1), batches[-1])


def test_stream_differs_between_seeds_and_epochs():
    order = np.arange(50)
    first, second = batch_positions(order, 50, 0, 0), batch_positions(order, 50, 0, 1)
    assert (first != second).any()
    assert (first != batch_positions(order, 50, 1, 0)).any()


def test_repeated_positions_come_as_often_as_they_are_listed():
    stream = np.concatenate([batch_positions(np.array([0, 0, 0, 1]), 4, 3, step) for step in range(5)])
    assert np.bincount(stream).tolist() == [15, 5]


@given(st.integers(1, 500), st.integers(-1, 600))
def test_validations_are_spread_and_end_with_the_last_step(steps, validations):
    at = validation_steps(steps, validations)
    assert at[-1] == steps
    assert at == sorted(set(at))
    assert at[0] >= 1
    assert len(at) == max(1, min(validations, steps))
    assert max(np.diff([0, *at])) - min(np.diff([0, *at])) <= 1


def test_epochs_become_the_steps_of_paper_a():
    published = {100: 650, 200: 1250, 300: 1900, 700: 4400, 1000: 6250, 1100: 6900, 1700: 10650}
    assert {images: steps_for_epochs(images, 8, 50) for images in published} == published


@given(st.integers(0, 2**40), st.integers(0, 10**6))
def test_seeds_are_what_torch_takes_and_each_purpose_has_its_own(seed, step):
    seeds = [initialisation_seed(seed), step_seed(seed, step), step_seed(seed, step + 1), step_seed(seed + 1, step)]
    assert all(0 <= one < 2**63 for one in seeds)
    assert len(set(seeds)) == len(seeds)
