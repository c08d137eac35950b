"""Download: from an address to one file with its metadata.

In: `Source`. Out: one `Video`; or, for a playlist, a channel or a page with several videos, one `Source` for each.
Rejects: `too_long`, `too_large`, `live`, `age_limited`, `removed` (taken down). Local files are copied in, everything
else goes through yt-dlp, direct links to files included (it resumes and retries). What yt-dlp says went wrong becomes a
failure class in mit_builder/web/failures.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from manifests.rows import Source, Video, short_id
from manifests.sources import SourceListError, url_source
from mit_builder.config import DownloadSettings
from mit_builder.errors import SourceError
from mit_builder.media.captions import CaptionFile, beside, write_captions
from mit_builder.media.probe import probe
from mit_builder.media.timeline import read_timeline
from mit_builder.scratch import sha256_of
from mit_builder.stage import Context, Reject, Resources
from mit_builder.tombstones import REMOVED
from mit_builder.web.budget import Budget
from mit_builder.web.client import PLAYLISTS, Client, check_cookies

AGE_LIMIT = 18
"""Items for adults are never taken (DESIGN: people in the footage)."""


class Download:
    """Fetch one source."""

    name: ClassVar[str] = "download"
    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources(cpus=0.25, max_workers=4, timeout_s=4 * 3600)
    emits: ClassVar[tuple[type, ...]] = (Video, Source)

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._has_login = bool(settings.cookies_file or settings.cookies_from_browser)

    def setup(self) -> None:
        """Keep yt-dlp from running plugins that happen to be installed; look whether there are the cookies it needs."""
        import yt_dlp.globals

        yt_dlp.globals.plugin_dirs.value = []
        check_cookies(self._settings)

    def unit_id(self, row: Source) -> str:
        """The source."""
        return row.source_id

    def backend(self) -> str:
        """No version: a newer yt-dlp must not fetch everything again."""
        return ""

    def limit_key(self, row: Source) -> str | None:
        """The host."""
        return urlsplit(row.address).hostname if row.kind == "url" else None

    def process(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        """Fetch, probe and commit.

        Raises:
            Reject: too_long, too_large, live, age_limited or removed.
            SourceError: the address cannot be fetched.
            MediaError: what was fetched is no video.
        """
        if row.kind == "file":
            yield self._local(row, ctx)
        else:
            yield from self._remote(row, ctx)

    def _local(self, row: Source, ctx: Context) -> Video:
        path = Path(row.address)
        if not path.is_file():
            raise SourceError(f"{path} is gone: put it back, or leave it out of the list", failure_class="transient")
        budget = Budget(self._settings, ctx.tmp)
        budget.check_size(path.stat().st_size)
        budget.check_disk(path.stat().st_size)
        copy = ctx.tmp / f"video{path.suffix.lower()}"
        shutil.copyfile(path, copy)
        digest = sha256_of(copy)
        if short_id("file", digest) != row.source_id:
            raise SourceError(f"{path} has changed since it was given: give it again", failure_class="transient")
        info = {"title": path.stem, "webpage_url": f"file:{path.name}"}
        return self._video(row, ctx, copy, short_id("content", digest), info, beside(path))

    def _remote(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        import yt_dlp

        client, in_media = Client(self._settings, ctx.tmp, ctx.partial(), partial(self._judge, ctx=ctx)), False
        # What follows this mark would be instructions to yt-dlp's extractors.
        address = yt_dlp.utils.unsmuggle_url(row.address)[0]
        try:
            with client.open(address) as ydl:
                info = ydl.extract_info(address, download=False)
                if not info:
                    raise client.nothing_fetched()
                if info.get("_type") in PLAYLISTS:
                    _judge_age(info)
                    yield from _sources(ydl, client.entries(ydl, info), row)
                    return
                in_media = True
                info = ydl.process_ie_result(info, download=True)
                path = Path(info["requested_downloads"][0]["filepath"])
                captions = list(client.captions(ydl, info)) if path.is_file() else []
        except yt_dlp.utils.YoutubeDLError as error:
            raise client.failure(error, in_media=in_media) from error
        except (KeyError, IndexError) as error:
            raise client.nothing_fetched() from error
        if not path.is_file():
            raise client.nothing_fetched()
        Budget(self._settings, ctx.tmp).check_size(path.stat().st_size)
        extractor = str(info.get("extractor_key", "Generic"))
        name = (extractor.lower(), str(info["id"])) if _of_a_site(extractor) else ("content", sha256_of(path))
        yield self._video(row, ctx, path, short_id(*name), info, captions)

    def _judge(self, info: dict[str, Any], *, ctx: Context) -> None:
        """Before media are fetched: what the metadata say."""
        extractor = str(info.get("extractor_key", "Generic"))
        site_id = short_id(extractor.lower(), str(info.get("id"))) if _of_a_site(extractor) else None
        if ctx.is_barred(video_id=site_id, sha256=None, channels=_channels(info)):
            raise Reject(REMOVED)
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming"):
            raise Reject("live")
        _judge_age(info)
        duration_s = info.get("duration")
        if duration_s and duration_s > self._settings.max_duration_s:
            raise Reject("too_long", duration_s=float(duration_s))

    def _video(
        self,
        row: Source,
        ctx: Context,
        path: Path,
        video_id: str,
        info: dict[str, Any],
        captions: Sequence[CaptionFile],
    ) -> Video:
        sha256 = sha256_of(path)
        if ctx.is_barred(video_id=video_id, sha256=sha256, channels=_channels(info)):
            raise Reject(REMOVED)
        media = probe(path)
        if media.duration_s and media.duration_s > self._settings.max_duration_s:
            raise Reject("too_long", duration_s=media.duration_s)
        if media.width_px * media.height_px > self._settings.max_frame_megapixels * 1e6:
            raise Reject("too_large", width_px=media.width_px, height_px=media.height_px)
        timeline = read_timeline(path)
        if timeline.n_frames / 25 > self._settings.max_duration_s:
            raise Reject("too_long", duration_s=timeline.n_frames / 25)
        table = ctx.tmp / "captions.parquet"
        has_captions = write_captions(
            captions, table, zero_s=float(timeline.zero_s) - media.start_s, duration_s=timeline.n_frames / 25
        )
        return Video(
            video_id=video_id,
            source_id=row.source_id,
            source_url=_text(info.get("webpage_url")) or row.address,
            title=_text(info.get("title")),
            uploader=_text(info.get("uploader") or info.get("channel")),
            channel_id=_text(info.get("channel_id") or info.get("uploader_id")),
            upload_date=_text(info.get("upload_date")),
            licence=_text(info.get("license")),
            access="authenticated" if self._has_login and row.kind == "url" else "public",
            media=ctx.commit(path, "videos", video_id),
            duration_s=timeline.n_frames / 25,
            n_frames=timeline.n_frames,
            source_fps=str(timeline.source_fps),
            width_px=media.width_px,
            height_px=media.height_px,
            has_audio=media.has_audio,
            captions=ctx.commit(table, "videos", video_id) if has_captions else None,
        )


def _channels(info: dict[str, Any]) -> list[str | None]:
    """Every name that a channel goes by."""
    return [_text(info.get(name)) for name in ("channel_id", "uploader_id", "uploader", "channel")]


def _of_a_site(extractor_key: str) -> bool:
    """Whether the extractor's ids name videos: those of pages in general are file names, which others have too."""
    from yt_dlp.extractor import get_info_extractor

    return extractor_key != "Generic" and bool(get_info_extractor(extractor_key)._VALID_URL)


def _judge_age(info: dict[str, Any]) -> None:
    if (info.get("age_limit") or 0) >= AGE_LIMIT:
        raise Reject("age_limited", age_limit=info["age_limit"])


def _sources(ydl: Any, entries: Iterable[dict[str, Any] | None], row: Source) -> Iterator[Source]:
    """A source for each entry that has an address; of one with formats, the best is the address."""
    from yt_dlp.utils import sanitize_url

    for entry in entries:
        address = (entry or {}).get("url") or (entry or {}).get("webpage_url")
        if entry and entry.get("formats"):
            if (entry.get("age_limit") or 0) >= AGE_LIMIT:
                continue  # the page says it, the file does not
            ydl.sort_formats(entry)
            address = entry["formats"][-1].get("url")
        if not address:
            continue
        try:
            source = url_source(sanitize_url(address, scheme="https"))
        except SourceListError:
            continue
        if source.source_id != row.source_id:
            yield source


def _text(value: Any) -> str | None:
    """Text from outside in one line, without control characters."""
    if value is None:
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split()) or None
