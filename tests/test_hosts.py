from __future__ import annotations

import math

import pytest

from manifests.ledger import Entry
from manifests.rows import Source
from manifests.sources import url_source
from mit_builder.config.settings import DownloadSettings, RunSettings
from mit_builder.driver.host_limits import Hosts
from mit_builder.driver.retry_policy import delay_s
from stages.download import Download

SETTINGS = DownloadSettings(
    per_host=2, host_interval_s=1, host_failures=3, host_rest_s=10, host_rests=2, host_refusals=2
)


def failed(failure_class: str, retry_after_s: float | None = None) -> Entry:
    return Entry("u", "k", "failed", failure_class=failure_class, retry_after_s=retry_after_s)


@pytest.fixture
def hosts() -> Hosts:
    return Hosts(SETTINGS)


def visit(hosts: Hosts, entry: Entry, now_s: float) -> str | None:
    hosts.start("h", now_s)
    hosts.leave("h")
    return hosts.learn("h", entry, now_s)


def test_the_host_of_a_source_is_what_its_limits_count() -> None:
    stage = Download(SETTINGS)
    assert stage.limit_key(url_source("https://Host.org:81/a")) == "host.org"
    assert stage.limit_key(Source("s", "/a/b.mp4", "file")) is None


def test_downloads_of_one_host_start_apart_and_no_more_at_once_than_set(hosts: Hosts) -> None:
    hosts.start("h", 0)
    assert hosts.ready_at_s("h", 0.5) == 1
    assert hosts.ready_at_s("other", 0.5) == 0.5
    hosts.start("h", 1)
    assert hosts.ready_at_s("h", 5) == math.inf
    hosts.leave("h")
    assert hosts.ready_at_s("h", 5) == 5


def test_a_host_that_fails_in_a_row_is_rested_longer_each_time_and_then_closed(hosts: Hosts) -> None:
    assert visit(hosts, failed("transient"), 0) is None
    assert visit(hosts, failed("transient"), 1) is None
    assert visit(hosts, failed("transient"), 2) == "h failed 3 times in a row: left alone for 10 s"
    assert hosts.ready_at_s("h", 5) == 12
    assert "left alone for 20 s" in (visit(hosts, failed("transient"), 12) or "")
    hosts.start("h", 32)
    assert hosts.ready_at_s("h", 40) == math.inf  # one alone finds out
    hosts.leave("h")
    assert "later mit-build run" in (hosts.learn("h", failed("transient"), 40) or "")
    assert hosts.closed("h")


@pytest.mark.parametrize("answer", [Entry("u", "k", "done"), Entry("u", "k", "rejected"), failed("permanent")])
def test_any_answer_ends_the_row_of_failures(hosts: Hosts, answer: Entry) -> None:
    for now_s, entry in enumerate([failed("transient"), failed("transient"), answer, failed("transient")]):
        assert visit(hosts, entry, now_s) is None
    assert not hosts.closed("h")


def test_a_pause_that_a_host_asks_for_is_kept_but_not_for_ever(hosts: Hosts) -> None:
    assert visit(hosts, failed("transient", retry_after_s=7), 0) == "h asks for a pause: left alone for 7 s"
    assert hosts.ready_at_s("h", 1) == 7
    assert "later mit-build run" in (visit(hosts, failed("transient", retry_after_s=1e9), 8) or "")


def test_a_host_that_asks_for_a_login_is_not_asked_again_and_the_setting_is_named(hosts: Hosts) -> None:
    assert visit(hosts, failed("auth"), 0) is None
    assert "download.cookies_file" in (visit(hosts, failed("auth"), 1) or "")
    assert "refused 2 in a row" in (hosts.closed("h") or "")


def test_single_refusals_between_successes_close_nothing(hosts: Hosts) -> None:
    for now_s in range(0, 10, 2):
        visit(hosts, failed("auth"), now_s)
        visit(hosts, Entry("u", "k", "done"), now_s + 1)
    assert not hosts.closed("h")


def test_pauses_double_with_jitter_up_to_a_limit_and_are_the_same_in_every_run() -> None:
    settings = RunSettings(retry_base_s=2, retry_max_s=50)
    waits = [delay_s("unit", n, settings) for n in range(1, 9)]
    assert waits == [delay_s("unit", n, settings) for n in range(1, 9)]
    for wait_s, whole_s in zip(waits, [2, 4, 8, 16, 32, 50, 50, 50], strict=True):
        assert whole_s / 2 <= wait_s <= whole_s
    assert delay_s("other", 1, settings) != waits[0]
    assert delay_s("unit", 10**6, settings) <= 50
