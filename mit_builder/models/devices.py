"""Where networks run: the device of a setting, and what Ray has to reserve for it. torch is imported only if asked."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cache

from mit_builder.config.backends import Backend
from mit_builder.stage import Resources

_elsewhere: dict[str, int] = {}


def count_on_cluster(n: int) -> None:
    """Let this process plan with the GPUs of a cluster from now on: it may run on a node that has none."""
    _elsewhere["n_gpus"] = n


def n_gpus() -> int:
    """GPUs to plan with: those of the cluster that was joined, else those here."""
    return _elsewhere["n_gpus"] if "n_gpus" in _elsewhere else n_gpus_here()


@cache
def n_gpus_here() -> int:
    """GPUs that torch can use here; 0 where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        return 0
    import torch

    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def device_of(setting: str) -> str:
    """The device as torch names it; "auto" is the GPU where there is one."""
    return ("cuda" if n_gpus() else "cpu") if setting == "auto" else setting


def gpu_resources(setting: str, *, share: float) -> Resources:
    """Resources of a stage with a network: a share of a GPU for one worker a GPU, or a core for each worker.

    The shares of all stages add up to one at most: workers live as long as the run, so that a stage whose share does
    not fit would wait for ever. A GPU that is named by its number is not Ray's to give: Ray would number what it gives
    to a worker anew, from 0 on.
    """
    if setting.startswith("cuda:"):
        return Resources(cpus=1.0, max_workers=1)
    if device_of(setting) == "cuda" and n_gpus():
        return Resources(cpus=1.0, gpus=share, max_workers=n_gpus())
    return Resources(cpus=1.0)


def resources_of(backend: Backend, setting: str) -> Resources:
    """What a worker with this backend needs on the device of a setting: a core, and what the registry says."""
    if not backend.gpu_share:
        return Resources(cpus=1.0)
    needs = gpu_resources(setting, share=backend.gpu_share)
    if backend.cpu_timeout_s is None or device_of(setting) != "cpu":
        return needs
    return replace(needs, timeout_s=backend.cpu_timeout_s)
