from __future__ import annotations

import errno
import time
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yt_dlp
from yt_dlp.cookies import SUPPORTED_BROWSERS, SUPPORTED_KEYRINGS
from yt_dlp.networking.exceptions import HTTPError, TransportError

from mit_builder.config import settings as config
from mit_builder.errors import ConfigError, SourceError, StageUnavailable
from mit_builder.stage import Reject
from mit_builder.web.client import Client, Heard, browser, options
from mit_builder.web.failures import failure_of, login_of, retry_after_s
from stages.download import Download


def download_error(text: str, cause: BaseException | None = None) -> Exception:
    info = (type(cause), cause, None) if cause else None
    error: Exception = yt_dlp.utils.DownloadError(text, info)
    return error


def http_error(status: int, retry_after: str | None = None) -> Any:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return HTTPError(SimpleNamespace(status=status, reason="x", headers=headers, close=lambda: None))


def failure(error: Exception, **said: Any) -> SourceError:
    found = failure_of(error, **said)
    assert isinstance(found, SourceError)
    return found


@pytest.mark.parametrize(
    ("text", "failure_class"),
    [
        ("ERROR: [youtube] x: Sign in to confirm you're not a bot. Use --cookies", "auth"),
        ("This video is only available for registered users. Use --cookies", "auth"),
        ("Private video. Sign in if you've been granted access", "permanent"),
        ("This video is private", "permanent"),
        ("Join this channel to get access to members-only content", "permanent"),
        ("Video unavailable. This video has been removed by the uploader", "permanent"),
        ("This video is no longer available because the account has been terminated", "permanent"),
        ("Requested format is not available", "permanent"),
        ("The uploader has not made this video available in your country", "permanent"),
        ("unable to write data: [Errno 28] No space left on device", "resource"),
        ("Postprocessing: Error writing trailer: No space left on device", "resource"),
        ("Video unavailable. The current session has been rate-limited. Sign in or try again later", "transient"),
        ("The read operation timed out", "transient"),
        ("[Errno 104] Connection reset by peer", "transient"),
        ("[download] Got error: 700 bytes read, 900 more expected. Giving up after 3 retries", "transient"),
    ],
)
def test_what_a_site_says_decides_the_failure_class(text: str, failure_class: str) -> None:
    found = failure(download_error(text))
    assert found.failure_class == failure_class
    assert ("download.cookies_from_browser" in str(found)) is (failure_class == "auth")
    assert not str(found).startswith("ERROR")


@pytest.mark.parametrize(
    "text",
    ["This live event will begin in 3 hours.", "Premieres in 20 minutes", "The channel is not currently live"],
)
def test_what_is_not_over_yet_is_rejected_as_live(text: str) -> None:
    assert getattr(failure_of(download_error(text)), "reason", "") == "live"
    assert isinstance(failure_of(yt_dlp.utils.UserNotLive()), Reject)


@pytest.mark.parametrize(
    "text",
    [
        "[youtube] x: Sign in to confirm your age. This video may be inappropriate for some users",
        "This video is age-restricted. Use --cookies",
        "HTTP Error 403: Age restricted",
    ],
)
def test_what_is_for_adults_is_rejected_and_its_host_not_blamed_for_asking(text: str) -> None:
    verdict = failure_of(download_error(text, http_error(403)))
    assert isinstance(verdict, Reject)
    assert verdict.reason == "age_limited"


def test_the_line_that_ends_a_progress_bar_is_no_error() -> None:
    heard = Heard()
    for line in ("\n", "ERROR: unable to write data: No space left on device", "ERROR: later"):
        heard.error(line)
    assert failure(download_error("x"), first=heard.first_error).failure_class == "resource"


@pytest.mark.parametrize(("warned", "failure_class"), [(True, "transient"), (False, "permanent")])
def test_formats_that_lack_for_want_of_javascript_are_asked_for_again(
    warned: bool, failure_class: str, tmp_path: Path
) -> None:
    client = Client(config.DownloadSettings(), tmp_path, tmp_path, lambda info: None)
    client.heard.warning("x")
    if warned:
        client.heard.warning("[youtube] No supported JavaScript runtime could be found. Some formats may be missing")
    found = client.failure(download_error("[youtube] x: Requested format is not available."), in_media=False)
    assert isinstance(found, SourceError)
    assert (found.failure_class, "pip install deno" in str(found)) == (failure_class, warned)
    gone = client.failure(download_error("This video has been removed"), in_media=False)
    assert getattr(gone, "failure_class", "") == "permanent"


@pytest.mark.parametrize(
    ("status", "in_media", "failure_class"),
    [
        (401, False, "auth"),
        (403, False, "auth"),
        (403, True, "transient"),
        (404, False, "permanent"),
        (410, True, "permanent"),
        (429, False, "transient"),
        (502, True, "transient"),
    ],
)
def test_a_status_counts_more_than_words(status: int, in_media: bool, failure_class: str) -> None:
    error = download_error("HTTP Error; log in", http_error(status))
    assert failure(error, in_media=in_media).failure_class == failure_class


def test_types_count_before_words() -> None:
    geo = yt_dlp.utils.GeoRestrictedError("log in", countries=["DE"])
    assert failure(download_error("please log in", geo)).failure_class == "permanent"
    unsupported = yt_dlp.utils.UnsupportedError("http://host/login")
    assert failure(download_error(str(unsupported), unsupported)).failure_class == "permanent"
    cookies = yt_dlp.cookies.CookieLoadError("failed to load")
    assert failure(cookies).failure_class == "auth"
    assert failure(download_error("Unable to download", TransportError("x"))).failure_class == "transient"


def test_a_full_disk_is_found_behind_what_was_raised_because_of_it() -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "x")
        except OSError as full:
            raise yt_dlp.utils.UnavailableVideoError(full)  # noqa: B904 - as yt-dlp does it
    except yt_dlp.utils.UnavailableVideoError as error:
        unavailable = error
    assert failure(download_error("unable", unavailable), first="unable").failure_class == "resource"


def test_causes_that_go_round_in_a_circle_end() -> None:
    one, two = download_error("one"), download_error("two")
    one.__cause__, two.__cause__ = two, one
    assert failure(one).failure_class == "permanent"


def test_the_first_thing_that_went_wrong_is_what_is_told() -> None:
    found = failure(download_error("clean-up failed"), first="ERROR: \n no such  video")
    assert str(found) == "no such video"


def test_a_pause_is_a_number_of_seconds_or_a_date() -> None:
    assert failure(download_error("busy", http_error(429, "120"))).retry_after_s == 120
    assert failure(download_error("Giving up after 3 retries"), http=http_error(503, "5")).retry_after_s == 5
    assert failure(download_error("gone", http_error(404, "5"))).retry_after_s is None
    later = formatdate(time.time() + 60, usegmt=True)
    assert retry_after_s(http_error(429, later)) == pytest.approx(60, abs=3)
    assert retry_after_s(http_error(429, formatdate(0, usegmt=True))) == 0
    for unread in ("soon", "-5", "1e9", None):
        assert retry_after_s(http_error(429, unread)) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("firefox", ("firefox", None, None, None)),
        ("chrome:Profile 1", ("chrome", "Profile 1", None, None)),
        ("chromium+gnomekeyring:/home/a/b", ("chromium", "/home/a/b", "GNOMEKEYRING", None)),
        ("firefox:default::work", ("firefox", "default", None, "work")),
        ("firefox::work", ("firefox", None, None, "work")),
    ],
)
def test_a_browser_is_handed_to_yt_dlp(text: str, parts: tuple[str | None, ...], tmp_path: Path) -> None:
    settings = config.load(None, [f"download.cookies_from_browser={text}"]).download
    chosen = options(settings, tmp_path, tmp_path, Heard())["cookiesfrombrowser"]
    assert chosen == parts == yt_dlp.parse_options(["--cookies-from-browser", text]).ydl_opts["cookiesfrombrowser"]
    assert "cookies_from_browser" not in settings.key_values()


def test_every_browser_and_keyring_of_yt_dlp_is_known_and_others_are_refused() -> None:
    names = {*SUPPORTED_BROWSERS, *(f"chrome+{keyring.lower()}" for keyring in SUPPORTED_KEYRINGS)}
    for name in names:
        assert browser(config.load(None, [f"download.cookies_from_browser={name}"]).download.cookies_from_browser or "")
    for name in ("netscape", "chrome+vault", "chrome;x", ""):
        with pytest.raises(ConfigError, match="cookies_from_browser"):
            config.parse({"download": {"cookies_from_browser": name}})


def test_cookies_that_are_not_there_stop_the_stage_instead_of_every_item(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for settings in ({"cookies_file": str(tmp_path / "no.txt")}, {"cookies_from_browser": "firefox"}):
        with pytest.raises(StageUnavailable, match=next(iter(settings))):
            Download(config.DownloadSettings.model_validate(settings)).setup()


def test_the_copy_of_a_cookie_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    jar = tmp_path / "jar.txt"
    jar.write_text("# Netscape HTTP Cookie File\n")
    (tmp_path / "unit").mkdir()
    copy = Path(
        options(config.DownloadSettings(cookies_file=str(jar)), tmp_path / "unit", tmp_path, Heard())["cookiefile"]
    )
    assert copy.read_text() == jar.read_text()
    assert copy.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "url",
    [
        "https://host/login",
        "https://host/users/sign_in?return=%2Fv",
        "https://accounts.google.com/ServiceLogin?continue=x",
        "https://login.microsoftonline.com/common/oauth2/authorize",
        "https://host/Panopto/Pages/Auth/Login.aspx?ReturnUrl=x",
        "https://host/wp-login.php?redirect_to=x",
        "https://idp.uni.example/idp/profile/SAML2/Redirect/SSO;jsessionid=1",
        "https://sso.uni.example/",
        "https://HOST/LogIn/",
    ],
)
def test_the_address_of_a_login_is_known(url: str) -> None:
    found = login_of(url)
    assert found is not None
    assert "?" not in found


@pytest.mark.parametrize(
    "url",
    [
        "https://host/watch?v=login",
        "https://host/how-to-login-to-linux",
        "https://host/authors/ann",
        "https://cdn.host/a.mp4#login",
        "https://video.accounts.example/v",
    ],
)
def test_other_addresses_are_no_login(url: str) -> None:
    assert login_of(url) is None
