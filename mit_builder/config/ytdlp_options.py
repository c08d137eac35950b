"""Options of yt-dlp's API that users may pass on: an allow-list.

Many others run programs, load code, write outside the unit's folder or read files (`postprocessors`, `exec_cmd`,
`external_downloader`, `outtmpl`, `enable_file_urls`, `netrc_cmd`, `js_runtimes` with a path, `remote_components` ...),
and new ones come with each release; so what is not here is refused.
"""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class YoutubeArguments(_Strict):
    """What may be set in `extractor_args.youtube`: nothing that carries a token."""

    player_client: list[str] | None = None
    player_skip: list[str] | None = None
    skip: list[str] | None = None
    lang: list[str] | None = None
    formats: list[str] | None = None


class ExtractorArguments(_Strict):
    """What may be set in `extractor_args`."""

    youtube: YoutubeArguments | None = None


class RawOptions(_Strict):
    """What `download.ytdlp_options` may hold, named as in yt-dlp's API."""

    format_sort: list[str] | None = None
    prefer_free_formats: bool | None = None
    extractor_args: ExtractorArguments | None = None
    playlist_items: str | None = None
    playlistreverse: bool | None = None
    source_address: str | None = None
    legacyserverconnect: bool | None = None
    extractor_retries: int | None = Field(None, ge=0, le=20)
    fragment_retries: int | None = Field(None, ge=0, le=20)
    concurrent_fragment_downloads: int | None = Field(None, ge=1, le=16)
    http_chunk_size: int | None = Field(None, ge=1 << 16)
    sleep_interval: float | None = Field(None, ge=0, le=600)
    max_sleep_interval: float | None = Field(None, ge=0, le=600)
    sleep_interval_requests: float | None = Field(None, ge=0, le=600)
    throttledratelimit: int | None = Field(None, ge=0)


def checked(values: dict[str, Any]) -> dict[str, Any]:
    """The values, when each is allowed.

    Raises:
        ValueError: names the first that is not, and what is allowed.
    """
    try:
        RawOptions.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ValueError(f"{where} is not allowed; allowed are {', '.join(RawOptions.model_fields)}") from error
        raise ValueError(f"{where}: {first['msg']}") from error
    return values
