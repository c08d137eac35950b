"""What yt-dlp says went wrong, as a failure class: told from its exception types first, then from its words."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from mit_builder.errors import FailureClass, SourceError
from mit_builder.stage import Reject

LOGIN_HINT = " (give download.cookies_file or download.cookies_from_browser)"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENOMEM)
NO_ROOM_SIGNS = ("no space left on device", "disk quota exceeded", "too many open files", "cannot allocate memory")
LIVE_SIGNS = ("live event will begin", "premieres in", "premiere will begin", "not currently live", "is not live")
AGE_SIGNS = ("confirm your age", "age-restricted", "age restricted", "inappropriate for some users")
"""A verdict on the one item, also where a login would open it: items for adults are never taken."""
PERMANENT_SIGNS = (
    "private video",
    "video is private",
    "is private",
    "members-only",
    "available to this channel's members",
    "has been removed",
    "been deleted",
    "no longer available",
    "been terminated",
    "in your country",
    "your location",
    "in your region",
    "geo restrict",
    "geo-restrict",
    "drm protected",
)
"""About this one item: no login of ours and no pause of the host would help, and the host has not refused us."""
AUTH_SIGNS = (
    "sign in",
    "log in",
    "login",
    "logged-in",
    "cookies",
    "not a bot",
    "registered users",
    "subscribers",
)
TRANSIENT_SIGNS = (
    # yt-dlp spends its retries on connections only, and does not hand on the cause when they are used up.
    "giving up after",
    "timed out",
    "connection reset",
    "connection aborted",
    "incompleteread",
    "more expected",
    "content too short",
    "did not get any data blocks",
    "too many requests",
    "rate-limited",
    "rate limited",
    "try again later",
)
LOGIN_NAMES = (
    *("login", "log-in", "log_in", "logon", "signin", "sign-in", "sign_in", "servicelogin", "wp-login"),
    *("auth", "authenticate", "authorize", "oauth", "oauth2", "openid", "sso", "saml", "saml2", "idp", "cas"),
)
"""Parts of a host's name, or folders of a path, that make an address a login's."""
LOGIN_HOSTS = ("accounts", "account", "id")
"""The first part of a host's name that does."""
TRANSIENT_STATUS = frozenset((408, 425, 429))
AUTH_STATUS = frozenset((401, 403, 407))


def failure_of(error: Exception, *, first: str = "", in_media: bool = False, http: Any = None) -> SourceError | Reject:
    """What to raise for an exception of yt-dlp.

    Args:
        error: what it raised in the end.
        first: the first error it logged, which is the cause; later ones come from cleaning up.
        in_media: whether the page had been read and its media were being fetched: their addresses expire, so 403 passes
            with the next attempt.
        http: the last `HTTPError` that was seen, where yt-dlp dropped it while it retried.
    """
    from yt_dlp.networking.exceptions import HTTPError

    text = " ".join((first or str(error)).removeprefix("ERROR:").split())
    chain = list(_causes(error))
    found = next((e for e in chain if isinstance(e, HTTPError)), None)
    if _is_live(chain, text.lower()):
        return Reject("live")
    if _has(text.lower(), AGE_SIGNS):
        return Reject("age_limited")
    failure_class = _class_of(chain, text.lower(), getattr(found, "status", None), in_media)
    if failure_class == "auth":
        text = text[:300] + LOGIN_HINT
    pause_s = retry_after_s(found or http) if failure_class == "transient" else None
    return SourceError(text[:400], failure_class=failure_class, retry_after_s=pause_s)


def login_of(url: str) -> str | None:
    """Host and path of an address that is a login's, without what a query tells; None for any other."""
    parts = urlsplit(url)
    host, path = (parts.hostname or "").lower(), parts.path.lower()
    names = re.split(r"[/.;]+", host + path)
    is_one = names[0] in LOGIN_HOSTS or not set(LOGIN_NAMES).isdisjoint(names)
    return host + parts.path if is_one else None


def _is_live(chain: list[BaseException], text: str) -> bool:
    from yt_dlp.utils import UserNotLive

    return any(isinstance(e, UserNotLive) for e in chain) or any(sign in text for sign in LIVE_SIGNS)


def _class_of(chain: list[BaseException], text: str, status: int | None, in_media: bool) -> FailureClass:
    """The class, asked for in the order in which one cause hides another."""
    from yt_dlp.cookies import CookieLoadError
    from yt_dlp.utils import GeoRestrictedError, UnsupportedError

    if any(getattr(e, "errno", None) in NO_ROOM for e in chain) or _has(text, NO_ROOM_SIGNS):
        return "resource"
    if any(isinstance(e, GeoRestrictedError | UnsupportedError) for e in chain) or _has(text, PERMANENT_SIGNS):
        return "permanent"
    if status is not None:
        by_status = _class_of_status(status, in_media)
        if by_status is not None:
            return by_status
    if any(isinstance(e, CookieLoadError) for e in chain):
        return "auth"
    if _is_of_the_network(chain):
        return "transient"
    # Words last; a refusal may name a pause as well, so pauses come first.
    if _has(text, TRANSIENT_SIGNS):
        return "transient"
    return "auth" if _has(text, AUTH_SIGNS) else "permanent"


def _class_of_status(status: int, in_media: bool) -> FailureClass | None:
    """None where the status says nothing: then the words count."""
    if status in TRANSIENT_STATUS or status >= 500 or (in_media and status == 403):
        return "transient"
    if status in AUTH_STATUS:
        return "auth"
    return "permanent" if status in (404, 410, 451) else None


def _is_of_the_network(chain: list[BaseException]) -> bool:
    from yt_dlp.networking.exceptions import TransportError
    from yt_dlp.utils import ContentTooShortError

    return any(isinstance(e, TransportError | ContentTooShortError | TimeoutError | ConnectionError) for e in chain)


def _has(text: str, signs: tuple[str, ...]) -> bool:
    return any(sign in text for sign in signs)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        # yt-dlp keeps the cause in fields of its own besides __cause__; what OSErrors it re-raises, in __context__.
        info = getattr(error, "exc_info", None)
        inner = info[1] if isinstance(info, tuple) and len(info) > 1 else None
        cause = getattr(error, "cause", None)
        told = cause if isinstance(cause, BaseException) else (inner if inner is not error else None)
        context = error.__context__ if isinstance(error.__context__, OSError) else None
        error = told or error.__cause__ or context


def retry_after_s(http: Any) -> float | None:
    """Seconds of the answer's Retry-After (a number, or a date), None without one that can be read."""
    headers = getattr(getattr(http, "response", None), "headers", None) or {}
    text = (headers.get("Retry-After") or "").strip()
    if text.isdecimal():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time()) if text else None
    except (ValueError, OverflowError):
        return None
