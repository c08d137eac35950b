"""The row of one sound track; part of that of a video."""

from __future__ import annotations

from dataclasses import dataclass

from manifests.fields import doc


@dataclass(frozen=True)
class SoundTrack:
    """A sound track of a video, and what of it is heard."""

    stream: int = doc("index of the stream in the file")
    rate_hz: int = doc("samples a second")
    n_channels: int = doc("channels")
    weights: tuple[float, ...] = doc("share of each channel in the mono sound that labels come from; empty: not heard")
    why: str = doc("why it is heard or not", identity=False)
    level_dbfs: float | None = doc("how loud what is said is; null: silent, or not listened to", identity=False)
    language: str | None = doc("code of the language, as the file states it", identity=False)
    title: str | None = doc("as the file states it", identity=False)
    roles: tuple[str, ...] = doc("what the file says it is: default, original, dub, comment, …", identity=False)
