"""Download: from an address to one file with its metadata.

In: `Source`. Out: one `Video`; or, for a playlist, a channel or a page with several videos, one `Source` for each.
Rejects: `too_long`, `too_large`, `live`, `age_limited`, `removed` (taken down). Local files are copied in, everything
else goes through yt-dlp, direct links to files included (it resumes and retries). What yt-dlp says went wrong becomes a
failure class in mit_builder/web/failures.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from manifests.rows import Source, Video, short_id
from manifests.signatures import is_signed, unsigned
from manifests.sources import SourceListError, ending, url_source
from mit_builder.config.settings import DownloadSettings
from mit_builder.console import hints
from mit_builder.console.hints import Hint
from mit_builder.errors import MediaError, SourceError
from mit_builder.media.audio_tracks import choose_sound
from mit_builder.media.captions import CaptionFile, beside, write_captions
from mit_builder.media.level import TARGET_DBFS
from mit_builder.media.probe import probe
from mit_builder.media.timeline import MAX_DURATION_S, read_timeline
from mit_builder.media.wholeness import is_cut_short
from mit_builder.stage import Context, Reject, Resources
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.tombstones import REMOVED
from mit_builder.web.budget import Budget
from mit_builder.web.client import PLAYLISTS, Client, check_cookies, with_safe_endings
from mit_builder.web.failures import LOGIN_HINT

ENTRY = "#mit-build-entry="
"""Behind the address of a page, and before a source's id: the video on it whose own address is signed. Such an address
expires and must not stand in a row; the page gives a fresh one."""
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
            advice = f"put it back, or leave it out: {hints.keep(Hint.FORGET, name=path)}"
            raise SourceError(f"{path} is gone: {advice}", failure_class="transient")
        budget = Budget(self._settings, ctx.tmp)
        budget.check_size(path.stat().st_size)
        budget.check_disk(path.stat().st_size)
        copy = ctx.tmp / f"video{ending(path).lower() or '.video'}"
        shutil.copyfile(path, copy)
        digest = sha256_of(copy)
        if short_id("file", digest) != row.source_id:
            raise SourceError(f"{path} has changed since it was given: give it again", failure_class="transient")
        info = {"title": path.name.removesuffix(ending(path)), "webpage_url": f"file:{path.name}"}
        return self._video(row, ctx, copy, short_id("content", digest), info, beside(path))

    def _remote(self, row: Source, ctx: Context) -> Iterator[Video | Source]:
        import yt_dlp

        client, in_media = Client(self._settings, ctx.tmp, ctx.partial(), partial(self._judge, ctx=ctx)), False
        # What follows this mark would be instructions to yt-dlp's extractors.
        address = yt_dlp.utils.unsmuggle_url(row.address)[0]
        page, _, wanted = address.partition(ENTRY)
        try:
            with client.open(page) as ydl:
                if wanted:
                    address = _address_on_page(client, ydl, page, wanted)
                info = ydl.extract_info(address, download=False)
                if not info:
                    raise client.nothing_fetched()
                if info.get("_type") in PLAYLISTS:
                    _judge_age(info)
                    yield from map(partial(_told, page=page), _sources(ydl, client.entries(ydl, info), row.source_id))
                    return
                in_media, client.heard.has_open_end = True, False
                info = ydl.process_ie_result(with_safe_endings(info), download=True)
                has_open_end = client.heard.has_open_end
                path = Path(info["requested_downloads"][0]["filepath"])
                captions = list(client.captions(ydl, info)) if path.is_file() else []
        except yt_dlp.utils.YoutubeDLError as error:
            raise _of_signed(row, client.failure(error, in_media=in_media)) from error
        except (KeyError, IndexError) as error:
            raise client.nothing_fetched() from error
        if not path.is_file():
            raise client.nothing_fetched()
        Budget(self._settings, ctx.tmp).check_size(path.stat().st_size)
        if has_open_end and not client.heard.login and is_cut_short(path):
            advice = "the connection broke, or the file at the site is damaged"
            raise SourceError(f"came without its length, and the end is missing: {advice}", failure_class="transient")
        if not ending(path):
            path = path.rename(path.with_suffix(".video"))
        extractor = str(info.get("extractor_key", "Generic"))
        name = (extractor.lower(), str(info["id"])) if _of_a_site(extractor) else ("content", sha256_of(path))
        try:
            yield self._video(row, ctx, path, short_id(*name), info, captions)
        except MediaError as error:
            if client.heard.login:
                raise client.needs_login() from error
            raise

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
        if media.duration_s > MAX_DURATION_S:
            raise Reject("too_long", duration_s=media.duration_s)
        if media.width_px * media.height_px > self._settings.max_frame_megapixels * 1e6:
            raise Reject("too_large", width_px=media.width_px, height_px=media.height_px)
        timeline = read_timeline(path)
        if timeline.n_frames / 25 > self._settings.max_duration_s:
            raise Reject("too_long", duration_s=timeline.n_frames / 25)
        level_dbfs = self._settings.speech_level_dbfs
        sound = choose_sound(path, self._settings.audio_language, TARGET_DBFS if level_dbfs is None else level_dbfs)
        table = ctx.tmp / "captions.parquet"
        has_captions = write_captions(
            captions,
            table,
            zero_s=float(timeline.zero_s) - media.start_s,
            duration_s=timeline.n_frames / 25,
            stills_s=timeline.stills_s,
        )
        return Video(
            video_id=video_id,
            source_id=row.source_id,
            source_url=row.address if ENTRY in row.address else unsigned(_text(info.get("webpage_url")) or row.address),
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
            time_jumps=len(timeline.clock.jumps),
            captions=ctx.commit(table, "videos", video_id) if has_captions else None,
            sound=sound.tracks,
            gain_db=sound.gain_db,
            combed_share=timeline.combed_share,
        )


def _of_signed(row: Source, failure: SourceError | Reject) -> SourceError | Reject:
    """A refusal of a signed address passes when the address is given with a fresh signature; no login helps."""
    refused = isinstance(failure, SourceError) and (failure.failure_class == "auth" or "HTTP Error 400" in str(failure))
    if not refused or not is_signed(row.address):
        return failure
    text = str(failure).replace(LOGIN_HINT, "")
    return SourceError(f"{text} (the address is signed: give it again, signed anew)", failure_class="transient")


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


def _told(source: Source, *, page: str) -> Source:
    """A source of a page as the ledger may know it: without a signature."""
    return (
        replace(source, address=f"{unsigned(page)}{ENTRY}{source.source_id}") if is_signed(source.address) else source
    )


def _address_on_page(client: Client, ydl: Any, page: str, wanted: str) -> str:
    """The address, signed as the page signs it now, of the source of this id."""
    info = ydl.extract_info(page, download=False) or {}
    found = _sources(ydl, client.entries(ydl, info), "") if info.get("_type") in PLAYLISTS else iter(())
    address = next((source.address for source in found if source.source_id == wanted), None)
    if address is None:
        raise SourceError(f"{unsigned(page)} does not show this video any more")
    return address


def _sources(ydl: Any, entries: Iterable[dict[str, Any] | None], own_id: str) -> Iterator[Source]:
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
        if source.source_id != own_id:
            yield source


def _text(value: Any) -> str | None:
    """Text from outside in one line, without control characters."""
    if value is None:
        return None
    return " ".join("".join(c if c.isprintable() else " " for c in str(value)).split()) or None
