"""Drawing of people and score strips, for contact sheets and overlays. Images are RGB uint8 and changed in place."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from manifests.rows import TIMELINE_FPS
from mit_builder.labels.keypoints import FEET, SEEN_SCORE, SKELETON
from mit_builder.report.view import ClipView

Image = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

SPEAKS: Colour = (40, 220, 90)
LISTENS: Colour = (165, 165, 165)
BACKGROUND: Colour = (22, 24, 28)
PLOT: Colour = (38, 41, 48)
INK: Colour = (235, 235, 235)
FAINT: Colour = (110, 115, 125)
VOICE: Colour = (90, 160, 240)
PERSON_COLOURS: tuple[Colour, ...] = ((255, 160, 40), (70, 190, 255), (240, 100, 220), (250, 230, 80))
"""Skeleton and number of a person; repeated beyond four people."""

GUTTER_PX, PERSON_STRIP_PX, VOICE_STRIP_PX, AXIS_PX, GAP_PX = 150, 58, 34, 22, 4
"""Parts of the score panel: names at the left, one strip a person, one for the voice, the time axis, space between."""


def person_colour(person: int) -> Colour:
    """The colour of a person's skeleton and number."""
    return PERSON_COLOURS[person % len(PERSON_COLOURS)]


def resized(image: Image, size_wh: tuple[int, int]) -> Image:
    """The image in another size; smaller ones by averaging, so that nothing flickers."""
    return np.asarray(cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA), np.uint8)


def write_text(image: Image, words: str, left_bottom: tuple[int, int], colour: Colour, *, scale: float = 0.5) -> None:
    """Write one line of ASCII; OpenCV's fonts have nothing else."""
    thickness = max(1, round(scale * 1.8))
    cv2.putText(image, words, left_bottom, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)


def text_size(words: str, scale: float) -> tuple[int, int]:
    """Width and height in pixels that `write_text` needs."""
    (width, height), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, max(1, round(scale * 1.8)))
    return width, height


def draw_people(image: Image, view: ClipView, frame: int, *, zoom: float) -> None:
    """Draw skeletons, boxes and numbers of all people.

    Args:
        image: (h, w, 3), the clip's frame already scaled by `zoom`.
        view: the clip.
        frame: which frame of the clip it is.
        zoom: pixels of `image` for one pixel of the clip.
    """
    width_px = max(1, round(max(image.shape[:2]) / 600))
    for person in range(view.n_people):
        _draw_skeleton(image, view.keypoints[person, frame] * (zoom, zoom, 1), person_colour(person), width_px)
    for person in range(view.n_people):
        speaks = bool(view.speaking[person, frame])
        colour, thickness = (SPEAKS, 2 * width_px) if speaks else (LISTENS, width_px)
        face = view.face_boxes_xyxy[person, frame] * zoom
        _draw_corners(image, view.boxes_xyxy[person, frame] * zoom, colour, thickness)
        cv2.rectangle(image, *_corners(face), colour, thickness)
        _draw_label(image, face, f"P{person} speaks" if speaks else f"P{person}", colour)


def _corners(box_xyxy: npt.NDArray[np.float32]) -> tuple[tuple[int, int], tuple[int, int]]:
    x0, y0, x1, y1 = (round(float(v)) for v in box_xyxy)
    return (x0, y0), (x1, y1)


def _draw_corners(image: Image, box_xyxy: npt.NDArray[np.float32], colour: Colour, width_px: int) -> None:
    """A body's box by its corners only: in close-ups its sides would run through the faces of others."""
    (x0, y0), (x1, y1) = _corners(box_xyxy)
    arm = max(4, round(min(x1 - x0, y1 - y0) / 8))
    for x, y, along_x, along_y in ((x0, y0, arm, arm), (x1, y0, -arm, arm), (x0, y1, arm, -arm), (x1, y1, -arm, -arm)):
        cv2.line(image, (x, y), (x + along_x, y), colour, width_px)
        cv2.line(image, (x, y), (x, y + along_y), colour, width_px)


def _draw_label(image: Image, face_xyxy: npt.NDArray[np.float32], words: str, colour: Colour) -> None:
    scale = max(0.42, max(image.shape[:2]) / 1300)
    width, height = text_size(words, scale)
    x = int(np.clip(face_xyxy[0], 0, max(0, image.shape[1] - width - 6)))
    y = int(np.clip(face_xyxy[1] - 4, height + 6, image.shape[0] - 4))
    cv2.rectangle(image, (x, y - height - 6), (x + width + 6, y + 2), colour, cv2.FILLED)
    write_text(image, words, (x + 3, y - 2), BACKGROUND, scale=scale)


def _draw_skeleton(image: Image, points: npt.NDArray[np.float32], colour: Colour, width_px: int) -> None:
    seen = np.isfinite(points).all(axis=1) & (points[:, 2] >= SEEN_SCORE)
    # Points far outside the picture would overflow OpenCV's integers.
    xy = np.clip(np.nan_to_num(points[:, :2]), -10_000, 10_000).round().astype(int)
    for a, b in SKELETON:
        if seen[a] and seen[b]:
            is_body = max(a, b) < FEET.stop
            cv2.line(image, xy[a].tolist(), xy[b].tolist(), colour, width_px if is_body else 1, cv2.LINE_AA)
    for i in np.flatnonzero(seen):
        radius = width_px + 1 if i < FEET.stop else max(1, width_px // 2)
        cv2.circle(image, xy[i].tolist(), radius, colour, cv2.FILLED, cv2.LINE_AA)


@dataclass(frozen=True)
class ScorePanel:
    """Score strips of a clip: one a person, one for the voice, a time axis.

    Attributes:
        image: (h, width_px, 3) RGB.
        n_frames: frames that the time axis spans.
    """

    image: Image
    n_frames: int

    def x_of(self, frame: float) -> int:
        """Column of a frame's start."""
        return _x(frame, self.n_frames, self.image.shape[1])


def _x(frame: float, n_frames: int, width_px: int) -> int:
    return GUTTER_PX + round(frame / n_frames * (width_px - GUTTER_PX - GAP_PX))


def panel_height(n_people: int) -> int:
    """Height in pixels of a score panel."""
    return n_people * (PERSON_STRIP_PX + GAP_PX) + VOICE_STRIP_PX + GAP_PX + AXIS_PX


def score_panel(view: ClipView, width_px: int) -> ScorePanel:
    """Draw the score strips of a clip, `width_px` wide.

    For each person the smoothed score around its zero line, on green where the person speaks; then voice activity with
    its threshold; then seconds.
    """
    image = np.full((panel_height(view.n_people), width_px, 3), BACKGROUND, np.uint8)
    # One scale for all people, so that their scores can be compared; at least +-1 so that noise stays small.
    limit = max(1.0, float(np.percentile(np.abs(view.scores), 99)))
    top = 0
    for person in range(view.n_people):
        _draw_person_strip(image, view, person, top, limit)
        top += PERSON_STRIP_PX + GAP_PX
    _draw_voice_strip(image, view, top)
    _draw_axis(image, view.n_frames, top + VOICE_STRIP_PX + GAP_PX)
    return ScorePanel(image, view.n_frames)


def _draw_person_strip(image: Image, view: ClipView, person: int, top: int, limit: float) -> None:
    bottom, middle = top + PERSON_STRIP_PX, top + PERSON_STRIP_PX // 2
    _fill_plot(image, top, bottom)
    for frame in np.flatnonzero(view.speaking[person]):
        left, right = (_x(f, view.n_frames, image.shape[1]) for f in (frame, frame + 1))
        image[top:bottom, left : max(right, left + 1)] = tuple(c // 2 for c in SPEAKS)
    cv2.line(image, (GUTTER_PX, middle), (image.shape[1] - GAP_PX, middle), FAINT, 1)
    heights = middle - np.clip(view.scores[person].astype(np.float64) / limit, -1, 1) * (PERSON_STRIP_PX // 2 - 2)
    _draw_curve(image, heights, INK)
    share = round(100 * float(view.speaking[person].mean()))
    write_text(image, f"P{person}", (8, middle + 6), person_colour(person), scale=0.62)
    write_text(image, f"talks {share}%", (48, middle + 5), INK, scale=0.45)


def _draw_voice_strip(image: Image, view: ClipView, top: int) -> None:
    bottom = top + VOICE_STRIP_PX
    _fill_plot(image, top, bottom)
    threshold = round(bottom - 1 - view.min_voice_activity * (VOICE_STRIP_PX - 2))
    cv2.line(image, (GUTTER_PX, threshold), (image.shape[1] - GAP_PX, threshold), FAINT, 1)
    heights = bottom - 1 - np.clip(view.voice_activity.astype(np.float64), 0, 1) * (VOICE_STRIP_PX - 2)
    _draw_curve(image, heights, VOICE)
    write_text(image, "voice", (8, top + VOICE_STRIP_PX // 2 + 5), VOICE, scale=0.5)


def _fill_plot(image: Image, top: int, bottom: int) -> None:
    image[top:bottom, GUTTER_PX : image.shape[1] - GAP_PX] = PLOT


def _draw_curve(image: Image, heights: npt.NDArray[np.float64], colour: Colour) -> None:
    n_frames = len(heights)
    points = [(_x(frame + 0.5, n_frames, image.shape[1]), round(float(y))) for frame, y in enumerate(heights)]
    cv2.polylines(image, [np.array(points, np.int32)], False, colour, 1, cv2.LINE_AA)


def _draw_axis(image: Image, n_frames: int, top: int) -> None:
    duration_s = n_frames / TIMELINE_FPS
    step_s = next((step for step in (1, 2, 5, 10) if duration_s / step <= 16), 30)
    for second in range(0, int(duration_s) + 1, step_s):
        x = _x(second * TIMELINE_FPS, n_frames, image.shape[1])
        cv2.line(image, (x, top), (x, top + 4), FAINT, 1)
        label = f"{second} s"
        left = min(x, image.shape[1] - text_size(label, 0.4)[0] - 2)
        write_text(image, label, (left, top + 17), FAINT, scale=0.4)
