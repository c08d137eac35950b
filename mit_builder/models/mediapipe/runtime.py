"""Loading mediapipe graphs without what the library prints, shared by the backends that use it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mit_builder.errors import StageUnavailable


def load_graph(path: str, *, options: Mapping[str, Any], outputs: Sequence[str], first: Mapping[str, Any]) -> Any:
    """A mediapipe graph that is ready to work.

    Args:
        path: the graph inside mediapipe's package.
        options: "node.option" and the value to set.
        outputs: streams of the graph to return.
        first: inputs of a trial run, after which the native code has printed what it prints once.

    Raises:
        StageUnavailable: mediapipe is not installed.
    """
    try:
        with quiet():
            from mediapipe.python.solution_base import SolutionBase

            graph = SolutionBase(binary_graph_path=path, calculator_params=dict(options), outputs=list(outputs))
            graph.process(dict(first))
    except ImportError as error:
        raise StageUnavailable("this model needs mediapipe: pip install 'mit-builder[embedded]'") from error
    return graph


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what native code writes to standard error, and Python's warnings, while the block runs.

    The TensorFlow Lite runtime inside mediapipe prints two lines for each graph that no log level turns off.
    """
    os.environ.setdefault("GLOG_minloglevel", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
