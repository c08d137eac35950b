"""Which of a video's sound tracks are heard, how their channels are mixed, and how loud that is.

Heard is the track of what people in the picture say: of the language asked for, else the original, else the default
one, else the first. Dubs, commentary, audio description and tracks without voices come last, silent ones after all
others. Several mono tracks that nothing tells apart are the microphones of one camera and are heard together. What was
chosen, and from what, stands in the row of the video.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.audio.stream import AudioStream
from av.stream import Disposition

from manifests.rows import Video
from manifests.sound_track import SoundTrack
from mit_builder.media.downmix import (
    UNNAMED,
    Channels,
    Doubles,
    Names,
    Weights,
    channel_names,
    mono_weights,
)
from mit_builder.media.file_cache import kept_by_file
from mit_builder.media.level import SILENT_DBFS, TARGET_DBFS, WINDOW_S, gain_for, gated_dbfs
from mit_builder.media.probe import AudioTrack, audio_stream, audio_tracks, decoded_audio, open_media

_ROLES = {
    "dub": 1, "hearing_impaired": 1, "comment": 2, "visual_impaired": 2, "descriptions": 2, "karaoke": 2, "lyrics": 2,
    "clean_effects": 2, "dependent": 2, "non_diegetic": 2,
}  # fmt: skip
"""Dispositions of tracks that are not what the people in the picture say, and how far they are from it."""
_TITLES = (
    (1, re.compile(r"\bdub|synchron|hearing|impaired|voice.?over", re.IGNORECASE)),
    (2, re.compile(r"comment|descri|karaoke|instrumental|isolated|music|effects|\b(AD|DVS|M ?& ?E)\b", re.IGNORECASE)),
)
"""The same, said in titles."""
_ORIGINAL = re.compile(r"\borig", re.IGNORECASE)
_MICROPHONE = re.compile(
    r"((mic[a-z]*|lav[a-z]*|boom|channel|ch|track|audio|input|mono|left|right|[a-z])(?![a-z])|[\W\d_])+", re.IGNORECASE
)
"""Titles of this form name a microphone or count the tracks."""
_LONGEST_TITLE = 100
_SAME_LENGTH_S = 1.0
"""Microphones of one camera begin and end together."""
_MOST_VALUES = 4_000_000
"""Covariances held while listening (32 MB): windows of 0.4 s for 111 hours of stereo, longer windows beyond."""
_BIBLIOGRAPHIC = {
    "alb": "sqi", "arm": "hye", "baq": "eus", "bur": "mya", "chi": "zho", "cze": "ces", "dut": "nld", "fre": "fra",
    "geo": "kat", "ger": "deu", "gre": "ell", "ice": "isl", "mac": "mkd", "mao": "mri", "may": "msa", "per": "fas",
    "rum": "ron", "slo": "slk", "tib": "bod", "wel": "cym",
}  # fmt: skip
"""ISO 639-2 has two codes for these languages; Matroska writes the first."""


class Sound(NamedTuple):
    """What is heard of a video."""

    tracks: tuple[SoundTrack, ...]
    """Every track that decodes; those that are heard have weights."""
    gain_db: float
    """Gain that brings its speech to the level at which the models listen."""


def sound_of(video: Video, path: Path) -> Sound:
    """What is heard of a downloaded video, chosen now where its row is of a version that did not choose."""
    if video.sound is None or video.gain_db is None:
        return choose_sound(path)
    return Sound(video.sound, video.gain_db)


@kept_by_file
def choose_sound(path: Path, language: str | None = None, target_dbfs: float = TARGET_DBFS) -> Sound:
    """Choose what is heard, and listen to it from beginning to end.

    Args:
        path: the video.
        language: ISO 639 code of the language to be heard where there is a track of it.
        target_dbfs: level to which the gain brings what is said.

    Raises:
        MediaError: the file cannot be read.
    """
    rest = sorted(_described(path), key=lambda track: track.rank(language))
    rows = {track.audio.index: track.row() for track in rest}
    quiet: list[tuple[list[_Track], _Heard]] = []
    while rest:
        group = [rest[0], *(track for track in rest[1:] if _of_one_camera(rest[0], track))]
        heard = _listen(path, group)
        if heard.loudest_dbfs >= SILENT_DBFS:
            return _chosen(rows, group, heard, language, target_dbfs)
        rows |= {track.audio.index: replace(track.row(), why="silent") for track in group}
        quiet.append((group, heard))
        rest = [track for track in rest if track not in group]
    return _chosen(rows, *quiet[0], language, target_dbfs) if quiet else Sound((), 0.0)


@dataclass(frozen=True)
class _Track:
    """A track and what the file says of it."""

    audio: AudioTrack
    language: str | None
    title: str | None
    roles: tuple[str, ...]
    start_s: float
    length_s: float | None

    @property
    def distance(self) -> int:
        """How far it is from what the people in the picture say: 0, 1 or 2."""
        said = [far for far, words in _TITLES if words.search(self.title or "")]
        return max([0, *said, *(_ROLES.get(role, 0) for role in self.roles)])

    @property
    def is_original(self) -> bool:
        """Whether people spoke this language when it was recorded (broadcasters' code for it: qaa)."""
        return "original" in self.roles or self.language == "qaa" or bool(_ORIGINAL.search(self.title or ""))

    def rank(self, language: str | None) -> tuple[bool | int, ...]:
        """What is to be heard comes first."""
        is_other = language is not None and not _same_language(self.language, language)
        return is_other, self.distance, not self.is_original, "default" not in self.roles, self.audio.index

    def why(self, language: str | None) -> str:
        """What speaks for it."""
        marks = ["original"] if self.is_original else []
        marks += ["default"] if "default" in self.roles else []
        marks += ["of the language asked for"] if language and _same_language(self.language, language) else []
        return ", ".join(marks) or "first"

    def row(self) -> SoundTrack:
        """Its row as long as it is not heard."""
        return SoundTrack(
            stream=self.audio.index,
            rate_hz=self.audio.rate_hz,
            n_channels=self.audio.n_channels,
            weights=(),
            why="not chosen",
            level_dbfs=None,
            language=self.language,
            title=self.title,
            roles=self.roles,
        )


def _described(path: Path) -> list[_Track]:
    """Every track that decodes."""
    found = list(audio_tracks(path))
    with open_media(path) as container:
        return [_describe(track, audio_stream(container, track.index)) for track in found]


def _describe(track: AudioTrack, stream: AudioStream) -> _Track:
    tick = stream.time_base or 0
    title = stream.metadata.get("title") or stream.metadata.get("handler_name")
    language = _line(stream.language or "").lower()
    return _Track(
        audio=track,
        language=None if language in ("", "und", "mis", "mul", "zxx") else language,
        # Editors sign their tracks: "SoundHandler".
        title=None if title is None or "handle" in title.lower() else _line(title),
        roles=tuple(str(role.name) for role in Disposition if role & stream.disposition),
        start_s=float((stream.start_time or 0) * tick),
        length_s=None if stream.duration is None else float(stream.duration * tick),
    )


def _line(text: str) -> str:
    """Text from outside as one short line."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST_TITLE]


def short_code(language: str) -> str:
    """An ISO 639 code without its region, of two letters where there is one: "en" of "eng" and of "en-US"."""
    from yt_dlp.utils import ISO639Utils

    primary = re.split(r"[-_]", language.strip().lower())[0]
    return ISO639Utils.long2short(_BIBLIOGRAPHIC.get(primary, primary)) or primary


def _same_language(code: str | None, other: str) -> bool:
    """Whether two ISO 639 codes, of two or three letters, name one language; regions do not count."""
    return code is not None and short_code(code) == short_code(other)


def _of_one_camera(first: _Track, other: _Track) -> bool:
    """Whether two tracks are microphones that recorded the same; the first is the one that would be heard alone."""
    kinds = {(t.audio.n_channels, t.audio.codec, t.audio.rate_hz, t.language, t.distance) for t in (first, other)}
    titles = {track.title for track in (first, other)}
    lengths = [track.length_s for track in (first, other) if track.length_s is not None]
    # Programs call the first track the default one, or all; another one only if somebody chose it.
    is_chosen = other.audio.index < first.audio.index and "default" in first.roles and "default" not in other.roles
    return (
        len(kinds) == 1
        and first.audio.n_channels == 1
        and not is_chosen
        and (len(titles) == 1 or all(title is None or _MICROPHONE.fullmatch(title) for title in titles))
        and (not lengths or max(lengths) - min(lengths) <= _SAME_LENGTH_S)
    )


@dataclass(frozen=True)
class _Heard:
    """What listening to tracks gave."""

    weights: tuple[Weights, ...]
    """Of each track; empty for a microphone that recorded nothing."""
    levels_dbfs: tuple[float | None, ...]
    """Of each track by itself."""
    level_dbfs: float | None
    """Of the mix."""
    loudest_dbfs: float
    """The loudest window of the loudest channel."""


def _chosen(
    rows: dict[int, SoundTrack], group: Sequence[_Track], heard: _Heard, language: str | None, target_dbfs: float
) -> Sound:
    """The rows of all tracks, in the order of the file, and the gain."""
    n_heard = sum(bool(weights) for weights in heard.weights)
    for track, weights, level_dbfs in zip(group, heard.weights, heard.levels_dbfs, strict=True):
        why = track.why(language) if n_heard == 1 else f"one of {n_heard} microphones"
        if level_dbfs is None:
            why = "silent"
        rows[track.audio.index] = replace(track.row(), weights=weights, why=why, level_dbfs=level_dbfs)
    return Sound(tuple(rows[index] for index in sorted(rows)), gain_for(heard.level_dbfs, target_dbfs))


def _listen(path: Path, group: Sequence[_Track]) -> _Heard:
    """Listen to one track, or to several mono ones at once."""
    names, windows = _windows(path, group)
    mix = mono_weights(names, windows)
    powers = np.diagonal(windows, axis1=1, axis2=2)
    mixed = gated_dbfs(np.einsum("i,wij,j->w", mix, windows, mix))
    loudest_dbfs = float(10 * np.log10(max(powers.max(initial=0.0), 1e-30)))
    if len(group) == 1:
        return _Heard((mix,), (mixed,), mixed, loudest_dbfs)
    each = tuple(gated_dbfs(powers[:, i]) for i in range(len(group)))
    return _Heard(tuple((share,) if share else () for share in mix), each, mixed, loudest_dbfs)


def _windows(path: Path, group: Sequence[_Track]) -> tuple[Names, Doubles]:
    """The channels' names and their (n_windows, n_channels, n_channels) covariance, window by window.

    Of a track whose layout changes the layout that lasts longest counts.
    """
    begin_s = min(track.start_s for track in group)
    found: dict[Names, _Covariances] = {}
    for blocks in zip(*(_blocks(path, track, track.start_s - begin_s) for track in group), strict=False):
        names, channels = blocks[0]
        if len(blocks) > 1:
            n_samples = min(channels.shape[1] for _, channels in blocks)
            names, channels = UNNAMED * len(blocks), np.stack([wave.mean(axis=0)[:n_samples] for _, wave in blocks])
        found.setdefault(names, _Covariances(len(names))).add(channels)
    nothing = (UNNAMED * len(group), _Covariances(len(group)))
    names, longest = max(found.items(), key=lambda item: item[1].n_added, default=nothing)
    return names, np.array(longest.windows).reshape(-1, len(names), len(names))


class _Covariances:
    """Covariances of stretches of sound, in bounded memory: where there are too many, two become one."""

    def __init__(self, n_channels: int) -> None:
        self.windows: list[Doubles] = []
        self.n_added = 0
        self._most = _MOST_VALUES // n_channels**2
        self._per_window = 1
        self._sum = np.zeros((n_channels, n_channels))

    def add(self, channels: Doubles) -> None:
        """Add (n_channels, n) samples; an offset is no sound."""
        if not np.isfinite(channels).all():
            return  # floats of a damaged track
        wave = channels - channels.mean(axis=1, keepdims=True)
        self._sum += wave @ wave.T / wave.shape[1]
        self.n_added += 1
        if self.n_added % self._per_window == 0:
            self.windows.append(self._sum / self._per_window)
            self._sum = np.zeros_like(self._sum)
        if len(self.windows) >= self._most:
            pairs = zip(self.windows[::2], self.windows[1::2], strict=False)
            self.windows = [(first + second) / 2 for first, second in pairs]
            self._per_window *= 2


def _blocks(path: Path, track: _Track, late_s: float) -> Iterator[tuple[Names, Doubles]]:
    """A track as (n_channels, n) blocks of `WINDOW_S`, full scale 1, after silence for as long as it begins late."""
    size = round(WINDOW_S * track.audio.rate_hz)
    channels_of, layout = Channels(), ""
    names: Names = ()
    pending = np.zeros((track.audio.n_channels, round(late_s * track.audio.rate_hz)))
    with open_media(path) as container:
        for frame in decoded_audio(container, audio_stream(container, track.audio.index)):
            channels = channels_of(frame)
            if frame.layout.name != layout:
                if layout and pending.size:
                    yield names, pending
                if len(pending) != len(channels) or layout:
                    pending = np.zeros((len(channels), 0))
                layout, names = frame.layout.name, channel_names(frame)
            pending = np.concatenate([pending, channels], axis=1)
            while pending.shape[1] >= size:
                yield names, pending[:, :size]
                pending = pending[:, size:]
    if layout and pending.size:
        yield names, pending
