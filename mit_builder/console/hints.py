"""Commands that the program advises: each is whole, and works when pasted where the person stands.

Whatever a message advises is a `Hint`, so that a test can run all of them. `say` gives the command with the program as
it was called and the workspace as it was given. What is kept (messages of units) must not hold either: `keep` gives a
mark in its place, of which `shown` makes the command wherever such a message is printed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import partial
from pathlib import Path

PROGRAM = "mit-build"
WITHOUT_WORKSPACE = ("init", "weights")
"""Commands that take no workspace."""
_MARK = re.compile(rf"`{PROGRAM} ([^`]+)`")


class Hint(Enum):
    """Every command that is advised, with the names of what `say` fills in; the workspace is put in by itself."""

    RUN = "run"
    RUN_WITH = "run --set {setting}"
    RUN_CONFIG = "run --config {path}"
    LABEL = "run --stage all"
    SHARDS = "run --stage shards"
    VERIFY = "run --verify"
    FORGET = "run --forget {name}"
    RETRY = "retry --class {failure_class}"
    WITH_COOKIES = "retry --class auth --set download.cookies_file={path}"
    ALLOW_PRIVATE = "retry --class permanent --set download.allow_private_addresses=true"
    STATUS = "status"
    FAILED = "status --failed"
    VIDEOS = "status --videos"
    WHY = "why {name}"
    PREVIEW = "preview {clip_id}"
    VALIDATE = "validate {workspace}"
    SETTINGS = "settings"
    TUNE = "tune"
    TUNE_WITH = "tune --set {setting}"
    DOCTOR = "doctor"
    GC = "gc"
    REPORT = "report"
    REVIEW = "review --sample 50"
    PLAN = "plan --probe 20"
    PLAN_CHECK = "plan --check"
    WEIGHTS_LIST = "weights list"
    WEIGHTS_FETCH = "weights fetch {name}"
    WEIGHTS_IMPORT = "weights import {path}"
    WEIGHTS_TRUST = "weights import {path} --trust"
    SUBMIT = "submit --address {address}"
    FOLLOW = "submit --address {address} --attach {job_id}"
    STOP = "submit --address {address} --stop {job_id}"
    FRESH = "run --fresh-settings"
    AGAIN = "again"
    """The command that is being carried out, without what it has done already: `go_on` says which."""


_NOWHERE: Mapping[str, Sequence[str]] = {}
_here: ContextVar[Mapping[str, Sequence[str]]] = ContextVar("here", default=_NOWHERE)
"""The workspace of this command and the words of the command that goes on. Each thread has its own."""


def begin(workspace: str | None = None) -> None:
    """Forget the command before; what is advised from now on is for this workspace."""
    _here.set(_NOWHERE)
    if workspace is not None:
        stand_in(workspace)


@contextmanager
def for_workspace(workspace: str) -> Iterator[None]:
    """What is advised while the context is open is for this workspace."""
    before = _here.set({"workspace": [workspace]})
    try:
        yield
    finally:
        _here.reset(before)


def stand_in(workspace: str) -> str:
    """The workspace of this command as the person gave it; returned, so that it can be an option's callback."""
    if workspace:
        _here.set({**_here.get(), "workspace": [workspace]})
    return workspace


def go_on(words: Sequence[str]) -> None:
    """What `Hint.AGAIN` stands for from now on: a command and its options, without the workspace."""
    _here.set({**_here.get(), "again": list(words)})


def goes_on() -> bool:
    """Whether the command has kept what `Hint.AGAIN` needs; before, only the same command does."""
    return "again" in _here.get()


def say(hint: Hint, **values: object) -> str:
    """The command, ready to be pasted."""
    return _command(_words(hint, values))


def keep(hint: Hint, **values: object) -> str:
    """The command for a message that is stored or comes from another process: see `shown`."""
    return f"`{PROGRAM} {shlex.join(_words(hint, values))}`"


def on_page(workspace_uri: str, hint: Hint, **values: object) -> str:
    """The command for a page that may be read anywhere: in the folder that holds the workspace."""
    return _page_command(workspace_uri, _words(hint, values))


def _page_command(workspace_uri: str, words: list[str]) -> str:
    first, *others = words
    place = workspace_uri if "://" in workspace_uri else Path(workspace_uri).name
    named = [] if first in WITHOUT_WORKSPACE else ["--workspace", place]
    return f"{PROGRAM} {shlex.join([first, *named, *others])}"


def shown(text: str) -> str:
    """A message with every command that `keep` put into it ready to be pasted."""
    return _MARK.sub(lambda found: _unmarked(found, _command), text)


def shown_on_page(workspace_uri: str, text: str) -> str:
    """The same for a page, as `on_page`."""
    return _MARK.sub(lambda found: _unmarked(found, partial(_page_command, workspace_uri)), text)


def _unmarked(found: re.Match[str], command: Callable[[list[str]], str]) -> str:
    """The command of a mark; what `keep` cannot have made came from outside, and stays as it is."""
    try:
        words = shlex.split(found[1])
    except ValueError:
        return found[0]
    is_ours = shlex.join(words) == found[1] and words[0] in {hint.value.split(" ")[0] for hint in Hint}
    return command(words) if is_ours else found[0]


def program() -> str:
    """The program as it was called."""
    called = sys.argv[0] if sys.argv else ""
    name = os.path.basename(called)
    if name == PROGRAM:
        found = shutil.which(PROGRAM)
        on_path = found is not None and os.path.exists(called) and os.path.samefile(found, called)
        return PROGRAM if on_path else shlex.quote(called)
    if name == "__main__.py" and Path(called).parent.name == "mit_builder":
        return f"{shlex.quote(_python())} -m mit_builder"
    return PROGRAM


def pip(*words: str) -> str:
    """The command that installs a package where this program runs."""
    found, folder = shutil.which("pip"), Path(sys.executable).parent
    is_ours = found is not None and Path(found).parent == folder
    return f"{'pip' if is_ours else f'{shlex.quote(_python())} -m pip'} install {shlex.join(words)}"


def _python() -> str:
    called = sys.orig_argv[0] if sys.orig_argv else ""
    return called if called and Path(called).name.startswith("python") else sys.executable


def _words(hint: Hint, values: dict[str, object]) -> list[str]:
    workspace = _here.get().get("workspace", ["mit-workspace"])[0]
    words: list[str] = []
    for word in hint.value.split(" "):
        several = values.get(word.strip("{}"))
        if isinstance(several, list):  # the option before, once with each
            option = words.pop()
            words += [text for value in several for text in (option, str(value))]
        else:
            words.append(word.format(workspace=workspace, **values))
    return words


def _command(words: list[str]) -> str:
    if words == [Hint.AGAIN.value]:
        words = list(_here.get().get("again", [Hint.RUN.value]))
    takes_one = words[0] not in (*WITHOUT_WORKSPACE, "validate")
    place = list(_here.get().get("workspace", ())) if takes_one else []
    if words[0] == "submit":  # takes full paths alone
        place = [text if "://" in text else os.path.abspath(os.path.expanduser(text)) for text in place]
    return f"{program()} {shlex.join([words[0], *(('--workspace', *place) if place else ()), *words[1:]])}"
