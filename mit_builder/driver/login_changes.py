"""Whether a login that failed may fare better by now: a hash of the settings and of the secrets that they name."""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path

from manifests.schema import content_hash
from mit_builder.config.section import Section
from mit_builder.storage.scratch import sha256_of
from mit_builder.storage.workspace import Workspace

SALT_KEY = "manifests/salt"
"""In the workspace: random, so that equal passwords of two workspaces leave different hashes."""
ROUNDS = 600_000
"""Of PBKDF2-HMAC-SHA256: a short password cannot be tried out soon (OWASP, Password Storage, 2023)."""


def settings_key(section: Section, workspace: Workspace, run_id: str) -> str:
    """Hash of a stage's settings, for which a run with other ones may log in where the last could not.

    Passwords and the content of cookie files go into it through a slow, salted hash alone. What changes by itself, a
    browser's cookies, is another one in every run.
    """
    shown = section.shown_values()
    volatile = [run_id for name in section.volatile if shown[name]]
    hidden = _hidden(section)
    if not hidden:
        return content_hash(shown, *volatile)
    digest = hashlib.pbkdf2_hmac("sha256", content_hash(hidden).encode(), _salt(workspace), ROUNDS).hex()
    return content_hash(shown, digest, *volatile)


def _hidden(section: Section) -> dict[str, str]:
    found = {name: str(getattr(section, name)) for name in section.secrets if getattr(section, name)}
    for name in section.secret_files:
        with suppress(OSError):  # one that cannot be read opens nothing
            found[name] = sha256_of(Path(getattr(section, name) or ""))
    return found


def _salt(workspace: Workspace) -> bytes:
    try:
        return workspace.read(SALT_KEY)
    except FileNotFoundError:
        salt = secrets.token_bytes(16)
        workspace.write(SALT_KEY, salt)
        return salt
