"""`mit-build describe`."""

from __future__ import annotations

from manifests.schema import arrow_schema
from mit_builder.config import backends, plugins
from mit_builder.config.settings import PluginSettings, Settings
from mit_builder.engine.specs import worker_specs
from mit_builder.errors import ConfigError
from mit_builder.pipeline import STEPS, steps_of
from mit_builder.storage.workspace import Workspace


def describe() -> None:
    """The pipeline: each step with its settings and rows, every backend, and the stages of other packages."""
    settings = Settings()
    for step in STEPS:
        spec = worker_specs(settings, Workspace("memory://describe"), "describe")[step.name]
        stage = spec.load()
        needs = stage.resources
        print(f"{step.name}  ({step.stage}, version {stage.version}, cores: {needs.cpus:g}, GPUs: {needs.gpus:g})")
        print(f"  backend:  {stage.backend() or '-'}")
        print(f"  settings: {', '.join(type(spec.settings).model_fields)}")
        for row in stage.emits:
            print(f"  makes {row.__name__}: {', '.join(f'{f.name}: {f.type}' for f in arrow_schema(row))}")
    for role in backends.ROLES:
        print(f"\nbackends of {backends.SETTINGS[role]}")
        for name in backends.known(role):
            print(f"  {name:<14} {_backend(role, name)}")
    print("\nstages of other packages, for plugins.stages")
    for name, plugin in plugins.stages().items():
        print(f"  {name:<14} {_stage(name, plugin)}")
    if not plugins.stages():
        print("  none is installed (docs/PLUGINS.md)")


def _backend(role: backends.Role, name: str) -> str:
    """Where a backend comes from and on what terms; what is wrong with one of another package."""
    try:
        found = backends.find(role, name)
    except ConfigError as error:
        return f"cannot be used: {error}"
    profile = f", profile {found.profile}" if found.profile else ""
    return f"from {found.origin}; {found.licence}{profile}"


def _stage(name: str, plugin: plugins.Plugin) -> str:
    """Where a stage comes from and stands; what is wrong with it."""
    wanted = Settings(plugins=PluginSettings(stages=[name]))
    try:
        step = next(step for step in steps_of(wanted) if step.identity)
        section = ", ".join(type(step.settings(wanted)).model_fields)
        return f"from {plugin.identity} ({plugin.path}), after {plugin.load().after}; settings: {section or '-'}"
    except ConfigError as error:
        return f"cannot be used: {error}"
