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
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Literal, Protocol, TypeVar
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.store import from_url

from mit_builder.errors import ConfigError, LeaseLost

T = TypeVar("T")
Version = dict[str, str]
"""What an object's bytes are known by: S3 and Azure compare its entity tag, GCS its generation."""

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


class Changed(Exception):
    """An object is not what a conditional write was to replace."""


class Hold(Protocol):
    """That a program holds a workspace (mit_builder/storage/lease.py)."""

    @property
    def is_fresh(self) -> bool:
        """Whether so little time has passed since it was confirmed that nobody else can hold it."""

    def confirm(self) -> None:
        """Ask whether the workspace is still held; raises `LeaseLost` where not."""


def version_of(meta: Any) -> Version:
    """The version of an object, from what storage answers."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name] is not None}


def put_if(store: Any, key: str, data: bytes, version: Version | Literal["create"]) -> Version:
    """Put an object in the place of one version of it, or where there is none; its new version.

    Raises:
        Changed: something else is there by now, or nothing.
    """
    mode: Any = version
    try:
        return version_of(obstore.put(store, key, data, mode=mode, use_multipart=False))
    except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError) as error:
        raise Changed(key) from error
    except FileNotFoundError as error:
        if version == "create":
            raise
        raise Changed(key) from error


def put_held(store: Any, key: str, data: bytes, hold: Hold) -> None:
    """Put an object in place that only the holder of a workspace writes, over nothing that others wrote meanwhile.

    A program may be stopped in the middle of this for any time. Where it was, and another held the workspace then, a
    new object is taken back.

    Raises:
        LeaseLost: the workspace is not held any more.
    """
    first = persistently(lambda: _version(store, key))
    before = first
    for _ in range(ATTEMPTS):
        hold.confirm()
        try:
            persistently(partial(put_if, store, key, data, before or "create"))
            break
        except Changed:  # by another run, or by a request of ours whose answer was lost
            before = persistently(lambda: _version(store, key))
    else:
        raise obstore.exceptions.GenericError("others write here at the same time")
    if hold.is_fresh:
        return
    try:
        hold.confirm()
    except LeaseLost:
        if first is None:
            persistently(lambda: obstore.delete(store, key))
        raise


def _version(store: Any, key: str) -> Version | None:
    try:
        return version_of(obstore.head(store, key))
    except FileNotFoundError:
        return None


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


def drop(store: Any, keys: list[str]) -> None:
    """Remove objects in one request; one that is gone already is no error."""
    try:
        obstore.delete(store, keys)
    except FileNotFoundError:  # which ends the batch in some kinds of storage
        for key in keys:
            with suppress(FileNotFoundError):
                obstore.delete(store, key)
