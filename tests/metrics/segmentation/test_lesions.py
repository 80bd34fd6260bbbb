"""Polyps found one by one, against a flood fill and sets of pixels."""

import numpy as np
import pytest
from hypothesis import given, settings

from harness.metrics.segmentation.lesions import DETECTION_RATE, FALSE_POSITIVES, count_lesions
from harness.metrics.segmentation.mask_batch import MaskBatch
from harness.metrics.segmentation.scores import fractions, reduce_all
from tests.fixtures.random_masks import mask_batches


def pieces(mask):
    """Connected pieces as sets of pixels, corners touching: a flood fill."""
    waiting = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while waiting:
        piece, edge = set(), [waiting.pop()]
        while edge:
            y, x = edge.pop()
            piece.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & waiting
            waiting -= around
            edge += around
        found.append(piece)
    return found


def by_sets(predicted, true):
    polyps, guesses = pieces(true), pieces(predicted)
    found = 0
    for polyp in polyps:
        touching = set().union(*(guess for guess in guesses if guess & polyp))
        found += len(touching & polyp) >= 0.5 * len(touching | polyp)
    false = sum(not any(guess & polyp for polyp in polyps) for guess in guesses)
    return len(polyps), found, false


@settings(max_examples=200, deadline=None)
@given(mask_batches(most=4, side=12, levels=(0.0, 0.1, 0.3, 0.5, 0.8, 1.0)))
def test_every_count_is_that_of_sets_of_pixels(masks):
    found = count_lesions(*masks)
    expected = [by_sets(p, t) for p, t in zip(*masks, strict=True)]
    np.testing.assert_array_equal(np.stack(found, axis=1), np.array(expected, float).reshape(-1, 3))


def drawn(*boxes, size=20):
    mask = np.zeros((1, size, size), np.uint8)
    for y, x, h, w in boxes:
        mask[0, y : y + h, x : x + w] = 1
    return mask


@pytest.mark.parametrize(
    ("predicted", "true", "there", "found", "false"),
    [
        (drawn((2, 2, 4, 4)), drawn((2, 2, 4, 4)), 1, 1, 0),
        (drawn((2, 2, 4, 2)), drawn((2, 2, 4, 4)), 1, 1, 0),  # an IoU of exactly a half
        (drawn((2, 2, 3, 2)), drawn((2, 2, 4, 4)), 1, 0, 0),  # touches it, and is no false alarm
        (drawn((2, 2, 4, 1), (2, 4, 4, 2)), drawn((2, 2, 4, 4)), 1, 1, 0),  # in two pieces
        (drawn((0, 0, 20, 20)), drawn((2, 2, 4, 4), (10, 10, 3, 3)), 2, 0, 0),  # the whole frame finds nothing
        (drawn((12, 12, 3, 3)), drawn((2, 2, 4, 4)), 1, 0, 1),
        (drawn(), drawn((2, 2, 4, 4)), 1, 0, 0),
        (drawn((1, 1, 2, 2), (8, 8, 2, 2)), drawn(), 0, 0, 2),
        (drawn(), drawn(), 0, 0, 0),
        (drawn((2, 2, 2, 2), (4, 4, 2, 2)), drawn((2, 2, 2, 2), (4, 4, 2, 2)), 1, 1, 0),  # corners touch: one polyp
    ],
)
def test_by_hand(predicted, true, there, found, false):
    assert [int(one[0]) for one in count_lesions(predicted, true)] == [there, found, false]


def test_the_rate_is_over_polyps_and_false_alarms_are_over_images():
    true = np.concatenate([drawn((1, 1, 3, 3), (8, 8, 3, 3)), drawn((5, 5, 4, 4)), drawn()])
    predicted = np.concatenate([drawn((1, 1, 3, 3)), drawn((5, 5, 4, 4), (15, 15, 2, 2)), drawn((3, 3, 2, 2))])
    metrics = [DETECTION_RATE, FALSE_POSITIVES]
    found = reduce_all(metrics, fractions(MaskBatch(predicted, true), metrics))
    assert found["detection-rate"] == pytest.approx({"micro": 2 / 3, "micro-imagewise": (1 / 2 + 1) / 2})
    assert found["false-positives"] == pytest.approx({"micro-imagewise": 2 / 3})
