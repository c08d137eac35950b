"""Every error mit-builder raises on purpose.

    MitBuilderError
    ├── ConfigError        a setting or an argument is wrong                    (exit code 2)
    │   ├── DamagedIndexError  the index of a dataset cannot be read
    │   └── UnknownName        no backend or stage has this name
    ├── CannotContinue     weights, disk or the lease are missing: stop the run (exit code 3)
    │   ├── LeaseLost          another run may have been in the workspace: nothing more is written
    │   ├── StageUnavailable   one stage cannot be set up; its units stay pending
    │   └── WorkspaceError     the workspace cannot be written to; of a unit, a failure of resources
    └── UnitError          one unit failed; the others go on
        ├── SourceError    an address cannot be fetched
        ├── MediaError     a media file cannot be read or written
        ├── ModelError     a model backend failed on this input
        └── DamagedError   an artifact is gone, or not what the ledger promises

A verdict about footage (too short, no audio …) is no error: see `mit_builder.stage.Reject`.
"""

from __future__ import annotations

from typing import Literal

FailureClass = Literal["transient", "permanent", "auth", "resource", "poison"]
"""Why a unit failed, which decides what happens next (mit_builder/driver/retry_policy.py, hosts.py):

transient   network, a busy host, a file that is not to be had: again in this run, with growing pauses, and later
permanent   gone, private, broken, a bug: not again unless asked
auth        a login is needed: again when the settings of its stage, the cookies or the proxy changed; a host that keeps
            asking is left alone
resource    disk, memory or a GPU ran out or away: its stage pauses, then stops; again in later runs
poison      its worker died each time: set aside until asked for
"""


class MitBuilderError(Exception):
    """Base of all errors of this project; the message is one line that says what to do."""


class ConfigError(MitBuilderError):
    """A setting, an argument or a source list cannot be used."""


class DamagedIndexError(ConfigError):
    """The index of a dataset cannot be read; the next run in its workspace writes it anew."""


class UnknownName(ConfigError, ValueError):
    """No backend or stage has this name; a ValueError too, by which pydantic knows a wrong value."""


class CannotContinue(MitBuilderError):
    """The run has to stop: nothing is wrong with the units, they stay pending."""


class LeaseLost(CannotContinue):
    """The run does not hold its workspace any more: it ends, and changes nothing from now on."""


class StageUnavailable(CannotContinue):
    """A stage's `setup()` failed (missing package, weights or GPU)."""


class WorkspaceError(CannotContinue):
    """A file cannot be put into the workspace: no room, read-only, no permission, out of reach."""


class UnitError(MitBuilderError):
    """One unit failed.

    Attributes:
        failure_class: see `FailureClass`.
        retry_after_s: pause that the host asked for.
    """

    default_class: FailureClass = "permanent"

    def __init__(
        self, message: str, *, failure_class: FailureClass | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.failure_class: FailureClass = failure_class or self.default_class
        self.retry_after_s = retry_after_s


class SourceError(UnitError):
    """An address cannot be fetched."""


class MediaError(UnitError):
    """A media file cannot be decoded, or a clip cannot be written."""


class ModelError(UnitError):
    """A model backend failed on this input."""


class DamagedError(UnitError):
    """An artifact is gone or not what the ledger promises: the unit that made it is due again."""

    default_class: FailureClass = "transient"
