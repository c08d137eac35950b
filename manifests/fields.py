"""What the fields of rows are made of: their documentation, and the Arrow types of arrays."""

from __future__ import annotations

from dataclasses import field
from typing import Any, Literal

import pyarrow as pa

BOXES = pa.list_(pa.list_(pa.float32(), 4))
"""(n_frames, 4) float32."""
SCORES = pa.list_(pa.float32())
FLAGS = pa.list_(pa.bool_())
PERIODS = pa.list_(pa.list_(pa.int32(), 2))
"""Half-open frame intervals."""


def doc(
    text: str, *, identity: bool | Literal["where set"] = True, arrow: pa.DataType | None = None, **kwargs: Any
) -> Any:
    """A dataclass field with its documentation; `arrow` overrides the type derived from the annotation.

    `identity` says whether it counts as content; `where set`: a null does not, so that rows of before keep their hash.
    """
    return field(metadata={"doc": text, "identity": identity, "arrow": arrow}, **kwargs)
