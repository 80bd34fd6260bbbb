"""Procedural endoscopy-like frames with polyps: the embedded dataset that needs no download.

A scene is a function on the square [-1, 1]², so that one frame can be rendered at any size. Frame *i* depends on the
seed and *i* only. Randomness comes from uniform draws of PCG64 (its stream is stable across NumPy releases); texture
is a sum of plane waves (spectral synthesis of band-limited noise), each damped by the pixel's own box filter, so that
small renderings do not alias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Raise it when a frame changes: it is part of every phantom fingerprint.
VERSION = 1
#: Consecutive frames that share a patient: colour, vessels and the shape of the endoscope's window.
FRAMES_PER_PATIENT = 4
#: Side in pixels of the frames that ``export`` writes and that sizes in an index refer to.
NATIVE_SIZE = 512

Field = NDArray[np.float32]
_WAVES = 48


@dataclass(frozen=True)
class _Patient:
    """What the frames of one patient share."""

    mucosa: NDArray[np.float32]
    vessels: float
    window: str
    corner: float


@dataclass(frozen=True)
class _Polyp:
    """A lesion: a closed curve in polar form around a centre, and how it looks."""

    x: float
    y: float
    radius: float
    stretch: float
    angle: float
    lobes: NDArray[np.float32]
    phases: NDArray[np.float32]
    height: float
    tint: NDArray[np.float32]
    roughness: float


def patient_of(index: int) -> int:
    """Return the number of the patient that frame ``index`` shows."""
    return index // FRAMES_PER_PATIENT


def render(seed: int, index: int, size: int, contrast: float = 1.0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render one frame.

    Args:
        seed: of the whole set, 0 or more.
        index: number of the frame, from 0.
        size: side in pixels.
        contrast: how many times as strongly as usual the colour of polyps differs from that of what is around them;
            their outlines are the same.

    Returns:
        Image uint8 (size, size, 3), RGB, and mask uint8 (size, size) in {0, 1}; 1 where a pixel's centre is polyp.
    """
    random = np.random.Generator(np.random.PCG64([seed, index, 1]))
    patient = _draw_patient(seed, patient_of(index))
    scene = _Scene(random, patient, size)
    polyps = _draw_polyps(random)
    mask = np.zeros((size, size), dtype=bool)
    for polyp in polyps:
        mask |= scene.add_polyp(replace(polyp, tint=polyp.tint * np.float32(contrast)))
    image, window = scene.finish()
    return image, (mask & window).astype(np.uint8)


def _draw_patient(seed: int, number: int) -> _Patient:
    random = np.random.Generator(np.random.PCG64([seed, number, 0]))
    warmth, depth = random.uniform(-1, 1, 2)
    mucosa = np.array([0.74 + 0.06 * depth, 0.42 + 0.07 * warmth + 0.05 * depth, 0.34 + 0.03 * warmth], np.float32)
    window = ("octagon", "octagon", "rounded", "full")[int(random.uniform(0, 4))]
    return _Patient(mucosa, random.uniform(0.25, 1), window, random.uniform(0.35, 0.75))


def _draw_polyps(random: np.random.Generator) -> list[_Polyp]:
    """Draw none (8 % of frames), one (78 %) or two (14 %) polyps, from a few to about forty percent of the frame."""
    chance = random.uniform()
    count = 0 if chance < 0.08 else 2 if chance > 0.86 else 1
    polyps = []
    for _ in range(count):
        radius = float(np.exp(random.uniform(np.log(0.15), np.log(0.75 if count == 1 else 0.42))))
        reach = 0.8 - 0.6 * radius
        strength = random.uniform(0.15, 1)
        hue = random.uniform(-1, 1)
        polyps.append(
            _Polyp(
                x=random.uniform(-reach, reach),
                y=random.uniform(-reach, reach),
                radius=radius,
                stretch=random.uniform(0.65, 1.5),
                angle=random.uniform(0, np.pi),
                lobes=(random.uniform(0, 1, 5) * [0.12, 0.09, 0.06, 0.03, 0.02]).astype(np.float32),
                phases=random.uniform(0, 2 * np.pi, 5).astype(np.float32),
                height=random.uniform(0.25, 1) * strength,
                tint=np.array([0.05 + 0.05 * hue, -0.09 * hue, -0.07 * hue - 0.02], np.float32) * np.float32(strength),
                roughness=random.uniform(0.3, 1.6),
            )
        )
    return polyps


@lru_cache(maxsize=8)
def _grid(size: int) -> tuple[Field, Field]:
    """Return x (1, size) and y (size, 1) of the pixel centres in [-1, 1]."""
    centres = ((2 * np.arange(size) + 1) / size - 1).astype(np.float32)
    return centres[None, :], centres[:, None]


def _noise(random: np.random.Generator, size: int, low: float, high: float) -> Field:
    """Draw a band-limited isotropic field of about unit variance.

    Args:
        random: uniform draws come from here, equally many for every size.
        size: side in pixels.
        low: smallest spatial frequency, in cycles across the frame.
        high: largest.

    Returns:
        float32 (size, size).
    """
    frequency = np.pi * np.exp(random.uniform(np.log(low), np.log(high), _WAVES))
    direction = random.uniform(0, 2 * np.pi, _WAVES)
    phase = random.uniform(0, 2 * np.pi, _WAVES)
    along_x, along_y = frequency * np.cos(direction), frequency * np.sin(direction)
    pixel = 2 / size
    damping = np.sinc(along_x * pixel / (2 * np.pi)) * np.sinc(along_y * pixel / (2 * np.pi))
    damping = np.where(frequency * pixel < np.pi, damping, 0)
    x, y = _grid(size)
    # cos(a + b) = Re(exp(ia) exp(ib)): the sum over waves becomes one matrix product.
    columns = np.exp(1j * (along_x[:, None] * x + phase[:, None])) * (damping * np.sqrt(2 / _WAVES))[:, None]
    rows = np.exp(1j * (along_y[None, :] * y))
    field: Field = rows.real.astype(np.float32) @ columns.real.astype(np.float32)
    field -= rows.imag.astype(np.float32) @ columns.imag.astype(np.float32)
    return field


def _smoothstep(low: float, high: float, values: NDArray[Any]) -> Field:
    t: Field = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return t * t * (3 - 2 * t)


class _Scene:
    """One frame under construction: a height map for shading and a colour map, before light and window."""

    def __init__(self, random: np.random.Generator, patient: _Patient, size: int) -> None:
        self.patient, self.size = patient, size
        self.x, self.y = _grid(size)
        self.light = [float(value) for value in random.uniform(-0.45, 0.45, 2)]
        lumen = [float(value) for value in random.uniform(-0.9, 0.9, 2)]
        openness = random.uniform(0.15, 0.45)
        self.exposure = random.uniform(0.85, 1.25)
        ring_rate, ring_phase, fold_strength = random.uniform(1.1, 2.2), random.uniform(0, 6.3), random.uniform(0.2, 1)
        debris, self.dryness = random.uniform(), random.uniform(3.0, 4.1)
        self.warp = _noise(random, size, 0.5, 2)
        coarse, self.fine = _noise(random, size, 2, 7), _noise(random, size, 12, 34)
        trunk, twigs, patches = (_noise(random, size, *band) for band in ((1.5, 4), (5, 11), (0.7, 2.2)))
        self.glitter, self.clusters = _noise(random, size, 9, 22), _noise(random, size, 1.5, 4)
        stool = _noise(random, size, 2, 5)

        distance = np.hypot(self.x - lumen[0], self.y - lumen[1]) * (1 + 0.12 * self.warp)
        self.dark = 1 - _smoothstep(0.3 * openness, 1.6 * openness + 0.25, distance)
        # Haustral folds: ridges at even steps of log distance, as a tunnel shows them in perspective, sharper on the
        # near side.
        rings = ring_rate * 2 * np.pi * np.log(distance + 0.12) / 2 + ring_phase + 0.7 * self.warp + 0.25 * coarse
        crest = np.exp(2.2 * (np.cos(rings) - 1)) * (0.45 + 0.55 * _smoothstep(-0.8, 0.9, patches))
        fade = _smoothstep(0.1, 0.5, distance) * (1 - 0.5 * _smoothstep(0.9, 1.8, distance))
        self.height = 0.24 * fold_strength * crest * fade + 0.014 * coarse + 0.05 * self.warp
        self.bump = 0.0016 * self.fine
        vessels = np.exp(-((trunk / 0.09) ** 2)) + 0.6 * np.exp(-((twigs / 0.14) ** 2))
        self.vessels = vessels * _smoothstep(-0.5, 1.2, patches) * patient.vessels
        self.soil = _smoothstep(1.5, 2.1, stool) if debris < 0.3 else np.zeros_like(stool)
        self.colour = (
            np.broadcast_to(patient.mucosa, (size, size, 3)) * (1 + 0.05 * self.warp + 0.03 * coarse)[..., None]
        )
        self.shadow = np.ones((size, size), np.float32)

    def add_polyp(self, polyp: _Polyp) -> NDArray[np.bool_]:
        """Raise and tint the tissue under a polyp; return where it is, bool (size, size)."""
        cosine, sine, aspect = math.cos(polyp.angle), math.sin(polyp.angle), math.sqrt(polyp.stretch)
        u = (cosine * (self.x - polyp.x) + sine * (self.y - polyp.y)) / aspect
        v = (-sine * (self.x - polyp.x) + cosine * (self.y - polyp.y)) * aspect
        angle = np.arctan2(v, u)
        edge = polyp.radius * np.ones_like(angle)
        for order, (lobe, phase) in enumerate(zip(polyp.lobes, polyp.phases, strict=True), start=2):
            edge += polyp.radius * lobe * np.cos(order * angle + phase)
        reach = np.hypot(u, v) / edge
        soft = 1 - _smoothstep(0.9, 1.06, reach)
        dome = 1 - np.minimum(reach, 1.05) ** 2.5
        self.height = self.height * (1 - 0.7 * soft) + polyp.height * polyp.radius * (0.6 * dome + 0.06 * soft)
        self.bump = self.bump * (1 + soft * (polyp.roughness - 0.6))
        self.vessels = self.vessels * (1 - 0.75 * soft)
        self.dark = self.dark * (1 - 0.65 * soft)
        self.colour = (
            self.colour + soft[..., None] * polyp.tint + (0.02 * soft * self.fine * polyp.roughness)[..., None]
        )
        # Contact shadow on the far side of the light.
        side = (self.x - self.light[0]) * (self.x - polyp.x) + (self.y - self.light[1]) * (self.y - polyp.y)
        rim = np.exp(-(((reach - 1.06) / 0.16) ** 2)) * _smoothstep(-0.2, 0.3, side / polyp.radius)
        self.shadow = self.shadow * (1 - 0.55 * polyp.height * rim)
        return reach < 1

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Light the scene and look at it through the endoscope's window: uint8 (size, size, 3), bool (size, size)."""
        slope_y, slope_x = np.gradient(self.height + self.bump, 2 / self.size)
        to_light_x, to_light_y = self.light[0] - self.x, self.light[1] - self.y
        # Steep rims scatter light inside the tissue: without this limit they would be drawn as black lines.
        steepness = np.hypot(slope_x, slope_y)
        limit = 1 / np.sqrt(1 + (steepness / 0.9) ** 2)
        slope_x, slope_y = slope_x * limit, slope_y * limit
        norm = np.sqrt(1 + slope_x**2 + slope_y**2)
        reach = np.sqrt(to_light_x**2 + to_light_y**2 + 0.8)
        lambert = np.clip((0.9 - slope_x * to_light_x - slope_y * to_light_y) / (norm * reach), 0, None)
        falloff = 1 / (1 + 0.35 * (to_light_x**2 + to_light_y**2))
        shade = self.exposure * (0.25 + 0.85 * lambert) * falloff * self.shadow * (1 - 0.86 * self.dark) * 1.15
        colour = self.colour - (self.vessels * 0.2)[..., None] * np.array([0.55, 1, 0.8], np.float32)
        soil = self.soil[..., None] * 0.8
        colour = colour * (1 - soil) + soil * np.array([0.62, 0.47, 0.16], np.float32)
        picture = colour * shade[..., None]
        # Wet tissue glitters where it faces the light: a facing lobe, broken up by fine noise.
        facing = np.clip(1 - 1.1 * np.hypot(slope_x - 0.35 * to_light_x, slope_y - 0.35 * to_light_y), 0, 1)
        wet = self.glitter + 0.8 * self.clusters + 1.3 * facing - 1.2 * self.dark
        glint = _smoothstep(self.dryness, self.dryness + 0.5, wet)
        picture = (
            picture
            + glint[..., None] * np.array([0.75, 0.8, 0.8], np.float32) * np.minimum(1, falloff * 1.3)[..., None]
        )
        inside = self._window()
        picture = picture * _smoothstep(-2.5 / self.size, 1.5 / self.size, inside)[..., None]
        # A soft shoulder instead of hard clipping, as a camera's response has.
        picture = np.where(picture > 0.75, 0.75 + 0.25 * np.tanh((picture - 0.75) / 0.25), np.maximum(picture, 0.012))
        return np.rint(255 * picture).astype(np.uint8), inside > 0

    def _window(self) -> Field:
        """Return the signed distance to the edge of the visible part, positive inside."""
        across, down = np.abs(self.x), np.abs(self.y)
        square = np.minimum(0.985 - across, 0.985 - down)
        if self.patient.window == "octagon":
            return np.minimum(square, (2 - self.patient.corner - across - down) / np.sqrt(np.float32(2)))
        if self.patient.window == "rounded":
            radius = self.patient.corner
            outside = np.hypot(np.maximum(across - 0.985 + radius, 0), np.maximum(down - 0.985 + radius, 0))
            return np.minimum(square, radius - outside)
        return np.ones((self.size, self.size), np.float32)
