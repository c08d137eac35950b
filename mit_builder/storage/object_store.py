"""Object storage as a workspace uses it: which addresses there are, how long is waited, what its errors say.

Credentials come from the environment, never from the address: addresses stand in ledgers, logs and process lists. What
is no secret may stand in it: `s3://bucket/prefix?endpoint=https://minio.example:9000&region=eu-west-1`.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.store import from_url

from mit_builder.errors import ConfigError

T = TypeVar("T")

SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "az": "az", "azure": "az", "abfs": "az", "abfss": "az"}
OPTIONS = {"s3": {"endpoint": "endpoint", "region": "region"}, "gs": {}, "az": {"endpoint": "endpoint"}}
"""What may stand after the `?` of an address, and what obstore calls it."""
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
"""Variables of the environment that obstore takes an endpoint from."""
PATIENCE: dict[str, Any] = {
    "max_retries": 20,
    "retry_timeout": timedelta(minutes=4),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 2},
}
"""Services ask for less and break off for minutes; above five minutes obstore's signatures are too old."""
IMPATIENCE: dict[str, Any] = {**PATIENCE, "max_retries": 4, "retry_timeout": timedelta(seconds=15)}
"""For the first look, where a wrong address is likelier than a service that is away."""
TIMES = {"connect_timeout": "10s", "read_timeout": "60s", "timeout": "2h"}
"""The whole answer may take long (a video of gigabytes); that nothing comes for a minute may not."""
ATTEMPTS, PAUSE_S, TOO_LONG_S = 7, 0.2, 60.0
"""obstore repeats requests that fail, but not one whose answer breaks off in the middle, nor the end of an upload in
parts whose answer was lost (it is "not found" then). What failed after a minute was repeated often enough."""
_QUERY = re.compile(r"\?\S+")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_LONGEST = 250


def is_remote(uri: str) -> bool:
    """Whether an address of a workspace is no folder."""
    return "://" in uri


def open_store(uri: str, *, patient: bool = True) -> Any:
    """The store behind an address of object storage.

    Raises:
        ConfigError: there is no such kind of storage, or the address holds what it must not.
    """
    parts = urlsplit(uri)
    kind = SCHEMES.get(parts.scheme)
    if kind is None:
        known = ", ".join(f"{scheme}://" for scheme in ("s3", "gs", "az"))
        raise ConfigError(f"cannot use workspace {parts.scheme}://…: give a folder, or {known}")
    if ("@" in parts.netloc and kind != "az") or ":" in parts.netloc:
        raise ConfigError("a workspace's address must hold no password: credentials come from the environment")
    if not parts.netloc:
        raise ConfigError(f"cannot use workspace {uri}: it names no bucket")
    options = _options(parts.query, kind)
    endpoint = options.get("endpoint") or next(filter(None, map(os.environ.get, ENDPOINTS)), "")
    client: Any = TIMES | ({"allow_http": True} if endpoint.startswith("http://") else {})
    settings: Any = options | {"retry_config": PATIENCE if patient else IMPATIENCE, "client_options": client}
    try:
        return from_url(uri.partition("?")[0], **settings)
    except (ValueError, TypeError, obstore.exceptions.BaseError) as error:
        raise ConfigError(f"cannot use workspace {uri}: {first_line(error)}") from error


def persistently(call: Callable[[], T], *, may_be_missing: bool = True, attempts: int = ATTEMPTS) -> T:
    """The result of a request that may be repeated, which is done where obstore gives up too early.

    Args:
        call: makes the request.
        may_be_missing: "not found" is an answer; what is sent cannot be missing.
        attempts: the most requests.
    """
    started_s = time.monotonic()
    for attempt in range(1, attempts):
        try:
            return call()
        except (OSError, obstore.exceptions.GenericError) as error:
            is_answer = may_be_missing and isinstance(error, FileNotFoundError)
            if is_answer or time.monotonic() - started_s > TOO_LONG_S:
                raise
            time.sleep(PAUSE_S * 2**attempt * random.uniform(0.5, 1.0))
    return call()


def _options(query: str, kind: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS[kind]:
            known = ", ".join(OPTIONS[kind]) or "nothing"
            raise ConfigError(f"a workspace's address takes {known} after its ?, not {name!r}")
        if "@" in value:
            raise ConfigError("a workspace's address must hold no password: credentials come from the environment")
        options[OPTIONS[kind][name]] = value
    return options


def first_line(error: BaseException) -> str:
    """What an error of storage says, in one line, without what signs an address."""
    text = getattr(error, "strerror", None) or (str(error).splitlines() or [""])[0]
    line = _QUERY.sub("?…", text)[:_LONGEST]
    code = _CODE.search(str(error))
    if code:
        line = f"{code[1]}: {line}"
    if "169.254.169.254" in line or "Account must be specified" in line:
        line = "the environment has no credentials and this machine no role: docs/CLUSTER.md names the variables"
    return line or type(error).__name__
