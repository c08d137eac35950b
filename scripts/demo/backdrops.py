"""Painted backgrounds, float32 RGB 0..255."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from demo.mouth import smooth

Canvas = npt.NDArray[np.float32]

DESK_TOP = 0.925
"""Height of the desk's edge in picture heights; it hides where the portraits end."""
DESK_RGB = (96, 70, 52)
DESK_EDGE_RGB = (150, 115, 90)


def studio(width_px: int, height_px: int, wall_rgb: tuple[int, int, int], rng: np.random.Generator) -> Canvas:
    """A panelled wall with framed cards, slightly out of focus; enough texture to see the camera move."""
    x, y = np.meshgrid(np.linspace(0, 1, width_px), np.linspace(0, 1, height_px))
    light = 0.6 + 0.55 * np.exp(-(((x - 0.5) / 0.5) ** 2) - ((y - 0.35) / 0.5) ** 2)
    wall = np.array(wall_rgb) * light[..., None]
    left = 0
    while left < width_px:
        right = left + int(rng.integers(60, 140))
        wall[:, left:right] *= rng.uniform(0.86, 1.14)
        wall[:, right : right + 5] *= 0.45
        left = right + 5
    for _ in range(width_px // 130):
        size = int(rng.integers(26, 62))
        corner = (int(rng.integers(0, width_px)), int(rng.integers(20, int(height_px * 0.55))))
        opposite = (corner[0] + size, corner[1] + int(size * 0.7))
        cv2.rectangle(wall, corner, opposite, rng.uniform(60, 200, 3).tolist(), -1)
        cv2.rectangle(wall, corner, opposite, (30, 30, 30), 3)
    grain = rng.standard_normal((height_px, width_px, 1)) * 1.2
    picture: Canvas = np.clip(cv2.GaussianBlur(wall, (0, 0), 2.0) + grain, 0, 255).astype(np.float32)
    return picture


def landscape(width_px: int, height_px: int, rng: np.random.Generator) -> tuple[Canvas, npt.NDArray[np.bool_], Canvas]:
    """Three ridges below a sky: the picture, where the sky is (h, w), and a cloud layer (h, w) that tiles sideways."""
    y = np.repeat(np.linspace(0, 1, height_px)[:, None], width_px, axis=1)
    picture = np.stack([120 + 70 * y, 170 + 20 * y, 210 - 60 * y], -1)
    sky = np.ones((height_px, width_px), bool)
    for top, amplitude, colour in ((0.55, 90, (95, 105, 120)), (0.66, 60, (70, 95, 80)), (0.78, 35, (55, 90, 50))):
        walk = smooth(np.cumsum(rng.standard_normal(width_px)), 16)
        walk = (walk - walk.mean()) / (np.abs(walk - walk.mean()).max() + 1e-6)
        hill = y * height_px > top * height_px - amplitude * walk[None]
        picture[hill] = np.array(colour) * (1.05 - 0.25 * y[hill])[:, None]
        sky &= ~hill
    noise = rng.standard_normal((height_px, width_px)).astype(np.float32)
    clouds = cv2.GaussianBlur(np.hstack([noise, noise, noise]), (0, 0), 30)[:, width_px : 2 * width_px]
    clouds = np.clip(clouds / clouds.std(), 0, 2) * 28 * np.linspace(1, 0.2, height_px)[:, None]
    return picture.astype(np.float32), sky, clouds.astype(np.float32)


def draw_desk(canvas: Canvas) -> None:
    """Paint the desk over the picture's lower edge, in place."""
    height_px = canvas.shape[0]
    top = int(height_px * DESK_TOP)
    shade = 1 - 0.3 * np.linspace(0, 1, height_px - top)
    canvas[top:] = np.array(DESK_RGB) * shade[:, None, None]
    canvas[top : top + 4] = DESK_EDGE_RGB
