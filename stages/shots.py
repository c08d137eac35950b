"""Shots: the stretches of a video between two cuts.

In: `Video`. Out: one `Shot` for each stretch of at least `min_shot_frames` frames, in order. Rejects: `too_short` (the
whole video is). A place where the file's times jump is a cut, whatever is seen there. PySceneDetect's detectors run on
the frames of the 25 fps clip timeline, scaled down as its own scene manager does, so that a cut is a frame number of
the timeline and nothing has to be converted later.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from manifests.rows import TIMELINE_FPS, Shot, Video
from mit_builder.config.settings import ShotsSettings
from mit_builder.media.frames import read_frames
from mit_builder.media.timeline import read_timeline
from mit_builder.stage import Context, Reject, Resources

if TYPE_CHECKING:
    from scenedetect.detector import SceneDetector

MAX_SIDE_PX = 480
"""Frames are scaled to this; PySceneDetect scales to about 256 px of width by itself, cuts do not need more."""


class DetectShots:
    """Find the cuts of a video."""

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 2
    resources: ClassVar[Resources] = Resources(cpus=1.0)
    emits: ClassVar[tuple[type, ...]] = (Shot,)

    def __init__(self, settings: ShotsSettings) -> None:
        self._settings = settings

    def setup(self) -> None:
        """Nothing to load."""

    def unit_id(self, row: Video) -> str:
        """The video."""
        return row.video_id

    def backend(self) -> str:
        """PySceneDetect and its version."""
        from importlib.metadata import version

        return f"scenedetect {version('scenedetect')}"

    def limit_key(self, row: Video) -> str | None:
        """No shared limit."""
        return None

    def process(self, row: Video, ctx: Context) -> Iterator[Shot]:
        """Decode once, in order.

        Raises:
            Reject: too_short.
            MediaError: the file cannot be decoded.
        """
        from scenedetect import FrameTimecode

        detector = make_detector(self._settings)
        cuts: list[int] = []
        n_frames = 0
        with ctx.local(row.media) as path:
            timeline = read_timeline(path)
            for frame in read_frames(path, timeline=timeline, max_side_px=MAX_SIDE_PX):
                now = FrameTimecode(n_frames, fps=float(TIMELINE_FPS))
                cuts += [cut.frame_num for cut in detector.process_frame(now, frame.image[:, :, ::-1].copy())]
                n_frames += 1
        if n_frames:
            last = FrameTimecode(n_frames - 1, fps=float(TIMELINE_FPS))
            cuts += [cut.frame_num for cut in detector.post_process(last)]
        if n_frames < self._settings.min_shot_frames:
            raise Reject("too_short", n_frames=n_frames)
        yield from shots_between(row.video_id, cuts + timeline.cuts, n_frames, self._settings.min_shot_frames)


def make_detector(settings: ShotsSettings) -> SceneDetector:
    """The chosen PySceneDetect detector; a null threshold leaves the library's default.

    Its own minimum scene length is off (1): short shots are dropped by us, so that no cut next to one is moved.
    """
    from scenedetect import detectors

    kinds: dict[str, tuple[type[Any], str]] = {
        "adaptive": (detectors.AdaptiveDetector, "adaptive_threshold"),
        "content": (detectors.ContentDetector, "threshold"),
        "hash": (detectors.HashDetector, "threshold"),
        "threshold": (detectors.ThresholdDetector, "threshold"),
    }
    kind, name = kinds[settings.detector]
    options = {} if settings.threshold is None else {name: settings.threshold}
    detector: SceneDetector = kind(min_scene_len=1, **options)
    return detector


def shots_between(video_id: str, cuts: list[int], n_frames: int, min_shot_frames: int) -> Iterator[Shot]:
    """Shots between cut frames (a cut is the first frame of a new shot), without the short ones."""
    borders = [0, *sorted({cut for cut in cuts if 0 < cut < n_frames}), n_frames]
    for start, end in pairwise(borders):
        if end - start >= min_shot_frames:
            yield Shot(video_id=video_id, start_frame=start, end_frame=end)
