"""Rooms behind the speakers: out of focus, without faces, different for every seed."""

import cv2
import numpy as np
from jaxtyping import UInt8


def paint_background(seed: int, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A blurred wall with light from one side and some shapes on it. Equal arguments give equal pixels."""
    rng = np.random.default_rng([seed, 0xBAC])
    wall = _wall(size, rng)
    paint = (_curtain, _shelves, _lights, _window)[rng.integers(4)]
    paint(wall, rng)
    blurred = cv2.GaussianBlur(wall, (0, 0), size * rng.uniform(0.016, 0.03))
    return np.asarray(np.clip(blurred, 0, 255).astype(np.uint8))


def _wall(size: int, rng: np.random.Generator) -> np.ndarray:
    """A plain colour, lighter on one side, darker in the corners."""
    hue, saturation, value = rng.uniform(0, 180), rng.uniform(20, 95), rng.uniform(105, 185)
    colour = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.1, 0.3) * (np.cos(angle) * x + np.sin(angle) * y) - 0.14 * (x**2 + y**2)
    return np.asarray(light[..., None] * colour)


def _curtain(wall: np.ndarray, rng: np.random.Generator) -> None:
    size = len(wall)
    x = np.linspace(0, 1, size, dtype=np.float32)
    folds = np.sin(2 * np.pi * (x * rng.uniform(5, 9) + 0.15 * np.sin(2 * np.pi * x * rng.uniform(1, 3))))
    wall *= (1 + rng.uniform(0.1, 0.2) * folds)[None, :, None]


def _shelves(wall: np.ndarray, rng: np.random.Generator) -> None:
    size = len(wall)
    for row in np.linspace(0.05, 0.85, int(rng.integers(3, 5))):
        top, bottom, x = int(row * size), int((row + 0.16) * size), 0
        while x < size:
            width = int(rng.uniform(0.02, 0.06) * size)
            tone = wall[top : top + 1, min(x, size - 1)] * rng.uniform(0.6, 1.1) + rng.uniform(-18, 18, 3)
            high = bottom - int(rng.uniform(0.09, 0.15) * size)
            cv2.rectangle(wall, (x, high), (x + width, bottom), tuple(float(v) for v in tone.ravel()), -1)
            x += width + int(rng.uniform(0.0, 0.015) * size)
        cv2.rectangle(wall, (0, bottom), (size, bottom + size // 50), tuple(float(v) for v in wall[0, 0] * 0.65), -1)


def _lights(wall: np.ndarray, rng: np.random.Generator) -> None:
    size = len(wall)
    wall *= 0.6
    for _ in range(int(rng.integers(8, 16))):
        glow = np.zeros_like(wall)
        # Near the edges: a light beside a face can pass for an eye of a second one.
        x = rng.uniform(0.0, 0.17) + rng.choice([0.0, 0.83])
        centre = (int(x * size), int(rng.uniform(0, 0.9) * size))
        colour = tuple(float(v) for v in rng.uniform(40, 150, 3) + np.array([50, 20, 0]))
        cv2.circle(glow, centre, int(size * rng.uniform(0.03, 0.09)), colour, -1)
        wall += glow * 0.45


def _window(wall: np.ndarray, rng: np.random.Generator) -> None:
    size = len(wall)
    left, width = int(rng.choice([-0.15, 0.62]) * size), int(rng.uniform(0.35, 0.5) * size)
    top, height = int(rng.uniform(-0.1, 0.1) * size), int(rng.uniform(0.5, 0.75) * size)
    sky = tuple(float(v) for v in rng.uniform(190, 235, 3))
    cv2.rectangle(wall, (left, top), (left + width, top + height), sky, -1)
    frame = tuple(float(v) for v in wall[-1, -1] * 0.7)
    for part in (0.0, 0.5, 1.0):
        cv2.line(wall, (left + int(part * width), top), (left + int(part * width), top + height), frame, size // 40)
        cv2.line(wall, (left, top + int(part * height)), (left + width, top + int(part * height)), frame, size // 40)
