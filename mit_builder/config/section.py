"""What a section of the settings is: values that cannot change, and which of them belong into an input key."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

ONLY_WHERE_SET: JsonDict = {"key": "where set", "hashed": "where set"}
"""Of a field that came later than the rows it must not change: without a value it is in no hash."""


def how(default: Any, description: str, **kwargs: Any) -> Any:
    """A field that changes how work is done, never what comes out."""
    return Field(default, description=description, json_schema_extra={"key": False}, **kwargs)


class Section(BaseModel):
    """Base of all settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)
    secrets: ClassVar[frozenset[str]] = frozenset()
    """Fields that may hold a password: never written down or said."""
    secret_files: ClassVar[frozenset[str]] = frozenset()
    """Fields that name a file whose content may open what was closed before."""
    volatile: ClassVar[frozenset[str]] = frozenset()
    """Fields that name something which changes by itself and may do so too."""

    def key_values(self) -> dict[str, Any]:
        """The values that belong into an input key."""
        values = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            extra = info.json_schema_extra
            kind = extra.get("key") if isinstance(extra, dict) else None
            if kind is False or (kind == "where set" and values[name] is None):
                del values[name]
        return values

    def shown_values(self) -> dict[str, Any]:
        """All values to be hashed or shown, with `***` in the place of those that may hold a password."""
        values = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            if info.json_schema_extra == ONLY_WHERE_SET and values[name] is None:
                del values[name]
        for name in self.secrets:
            if values[name] is not None:
                values[name] = "***"
        return values
