"""What a takedown would remove, before it does: read from the workspace, nothing is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mit_builder.console.wording import counted
from mit_builder.errors import ConfigError
from mit_builder.exports.folder import read_record
from mit_builder.exports.make import known_exports
from mit_builder.removal.takedown import Videos, known_videos, stones_for
from mit_builder.storage.tombstones import Tombstone, Tombstones, clip_span
from mit_builder.storage.workspace import Workspace


def what_goes(workspace: Workspace, names: Sequence[str], exports: Iterable[Path] = ()) -> list[str]:
    """A line for each name, and one for each export that would be written anew or deleted.

    Raises:
        ConfigError: a name fits nothing, or an export folder is none.
    """
    known, before = Videos(known_videos(workspace)), Tombstones.of(workspace)
    clips_of: dict[str, set[str]] = defaultdict(set)
    for key in workspace.names("clips"):
        clip_id = Path(key).name.partition(".")[0]
        clips_of[clip_id[:16]].add(clip_id)
    lines: list[str] = []
    new: list[Tombstone] = []
    for name in names:
        stones = stones_for(name, known, before)
        new += stones
        lines.append(f"{name}: {_what(name, stones, known, clips_of)}")
    every = before + Tombstones(new)
    folders = dict.fromkeys([*known_exports(workspace), *(folder.expanduser().absolute() for folder in exports)])
    return lines + [line for folder in folders for line in _of_export(folder, every)]


def _what(name: str, stones: Sequence[Tombstone], known: Videos, clips_of: Mapping[str, set[str]]) -> str:
    videos = {video.video_id for video in known.barred_by(stones)}
    gone = {clip for video_id in videos for clip in clips_of.get(video_id, ())}
    barred = Tombstones(stones)
    gone |= {clip for clip in clips_of.get(name[:16], ()) if barred.bars_clip(clip)}  # a stretch, not the whole video
    found = [counted(n, what) for n, what in ((len(videos), "video"), (len(gone), "clip")) if n]
    if not found:
        return "nothing of it is here; it would be barred from now on"
    return f"{' and '.join(found)}, with all that was made of it"


def _of_export(folder: Path, stones: Tombstones) -> list[str]:
    try:
        clip_ids = read_record(folder).clip_ids
    except ConfigError:  # moved or deleted: the takedown itself says what becomes of it
        return []
    n_gone = sum(clip_span(name) is not None and stones.bars_clip(name) for name in clip_ids)
    what = "deleted" if n_gone == len(clip_ids) else f"rid of {counted(n_gone, 'clip')}"
    return [f"export {folder}: {what}"] if n_gone else []
