"""Pictures that only seem to show two living people, through detection and selection with the real models."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest
from promised import promised

from manifests.rows import Candidate, Shot, ShotRun, Video
from mit_builder.config.settings import DetectSettings, SelectSettings
from mit_builder.engine.worker import UnitContext
from mit_builder.media.timeline import read_timeline
from mit_builder.storage.workspace import Workspace
from stages.filter.detect import DetectTracks
from stages.filter.select import SelectCandidates

SECONDS = 3
LEFT = "crop=iw/2:ih:0:0,split[a][b];"


@pytest.fixture(scope="module")
def detector() -> DetectTracks:
    pytest.importorskip("mediapipe")
    stage = DetectTracks(DetectSettings())
    stage.setup()
    return stage


def judged(detector: DetectTracks, source: Path, root: Path, *filters: str) -> list[tuple[str | None, Candidate]]:
    """What selection says of the first seconds of a video, after ffmpeg has made something else of its picture."""
    (root / "videos").mkdir()
    path = root / "videos" / ("v.mp4" if filters else f"v{source.suffix}")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-t", str(SECONDS), "-i", str(source)]
    subprocess.run([*command, *(filters or ("-c", "copy")), str(path)], check=True, stdin=subprocess.DEVNULL)
    n_frames, nothing = read_timeline(path).n_frames, dict.fromkeys(("title", "uploader", "channel_id", "upload_date"))
    video = Video(
        video_id="v",
        source_id="s",
        source_url="file:v",
        licence=None,
        access="public",
        media=promised(path),
        duration_s=n_frames / 25,
        n_frames=n_frames,
        source_fps="25",
        width_px=640,
        height_px=360,
        has_audio=True,
        **nothing,
    )
    (root / "tmp").mkdir()
    ctx = UnitContext(Workspace(str(root)), "a1b2c3d4e5", root / "tmp")
    (tracks,) = detector.process(ShotRun(video, (Shot("v", 0, n_frames),)), ctx)
    selection = SelectCandidates(SelectSettings(min_clip_s=SECONDS - 0.5, min_face_px=40))
    return [(candidate.reason, candidate) for candidate in selection.process(tracks, ctx)]


def picture(graph: str) -> tuple[str, ...]:
    untagged = ("-metadata:s:v", "stereo_mode=", "-map_metadata", "-1")
    return (
        "-filter_complex",
        f"{graph},sidedata=delete",
        *untagged,
        "-c:v",
        "libx264",
        "-crf",
        "23",
        "-preset",
        "veryfast",
        "-c:a",
        "copy",
    )


VIEWS = {
    "tagged": (),
    "no tag": picture(f"{LEFT}[a][b]hstack"),
    "mirrored": picture(f"{LEFT}[b]hflip[c];[a][c]hstack"),
    "parallax": picture(f"{LEFT}[b]crop=iw-10:ih:10:0,pad=iw+10[c];[a][c]hstack"),
    "half width": picture(f"{LEFT}[a][b]hstack,scale=iw/2:ih"),
    "top-bottom": picture(f"{LEFT}[a][b]vstack"),
}


@pytest.mark.parametrize("case", VIEWS)
def test_one_person_in_stereo_is_not_two(case: str, detector: DetectTracks, shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "cases" / "media" / "3d_side_by_side.mkv"
    ((reason, candidate),) = judged(detector, source, tmp_path, *VIEWS[case])
    assert (reason, len(candidate.track_ids)) == ("too_few_people", 1)
    assert case == "tagged" or (candidate.view_similarity or 0) > 0.85


PHOTOGRAPHS = {
    "grain": picture("trim=end_frame=1,loop=-1:1:0,setpts=N/25/TB,noise=c0s=25:c0f=t"),
    "pan": picture("trim=end_frame=1,loop=-1:1:0,setpts=N/25/TB,crop=iw*0.9:ih:x=0.6*n:y=0"),
    "shake": picture(
        "trim=end_frame=1,loop=-1:1:0,setpts=N/25/TB,rotate=0.004*sin(n/3),crop=iw-40:ih-20:20+2*sin(n/2)"
    ),
}


@pytest.mark.parametrize("case", PHOTOGRAPHS)
def test_a_photograph_is_a_still_picture(case: str, detector: DetectTracks, shared_dir: Path, tmp_path: Path) -> None:
    ((_, candidate),) = judged(
        detector, shared_dir / "cases" / "media" / "base.mp4", tmp_path, *PHOTOGRAPHS[case], "-t", str(SECONDS)
    )
    assert candidate.n_people == 2
    assert candidate.stillness is not None
    assert candidate.stillness < SelectSettings().min_stillness


def test_the_photograph_of_the_case_files_is_rejected_and_the_living_people_are_kept(
    detector: DetectTracks, shared_dir: Path, tmp_path: Path
) -> None:
    found = {}
    for name in ("photo_kenburns.mp4", "base.mp4"):
        (tmp_path / name).mkdir()
        found[name] = [reason for reason, _ in judged(detector, shared_dir / "cases" / "media" / name, tmp_path / name)]
    assert found == {"photo_kenburns.mp4": ["still_picture"], "base.mp4": [None]}
