"""jobs/kuberay.yaml, by Kubernetes' own schemas and Ray's own code, without a Kubernetes."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray import __version__
from ray.autoscaler._private.kuberay import autoscaling_config

from raylens import cli

HOME = Path(__file__).parents[2]


def fields(required: str = "", **known) -> dict:
    """A schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": known,
        "required": required.split(),
        "additionalProperties": False,
    }


WORD, NUMBER, TRUTH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
ANY = True
WORDS = {"type": "object", "additionalProperties": WORD}
GROUP = {"rayStartParams": WORDS, "template": ANY, "labels": WORDS, "resources": WORDS}
RAY_CLUSTER = fields(
    "headGroupSpec workerGroupSpecs",
    rayVersion=WORD,
    authOptions=fields(
        "mode", mode={"enum": ["token", "disabled"]}, secretName=WORD, enableK8sTokenAuth=TRUTH
    ),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=fields(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=NUMBER,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        **dict.fromkeys(
            ("image", "imagePullPolicy", "resources", "env", "envFrom", "volumeMounts", "securityContext"),
            ANY,
        ),
    ),
    headGroupSpec=fields("template", **GROUP, headService=ANY, enableIngress=TRUTH, serviceType=WORD),
    workerGroupSpecs={
        "type": "array",
        "items": fields(
            "groupName maxReplicas minReplicas template",
            **GROUP,
            **dict.fromkeys(
                ("replicas", "minReplicas", "maxReplicas", "numOfHosts", "idleTimeoutSeconds"), NUMBER
            ),
            groupName=WORD,
            suspend=TRUTH,
            scaleStrategy=ANY,
        ),
    },
    **dict.fromkeys(
        (
            *(
                "upgradeStrategy",
                "suspend",
                "managedBy",
                "headServiceAnnotations",
                "gcsFaultToleranceOptions",
            ),
            *("historyServerOptions", "networkPolicy", "tlsOptions"),
        ),
        ANY,
    ),
)
RAY_JOB = fields(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=ANY,
    spec=fields(
        "entrypoint rayClusterSpec",
        rayClusterSpec=RAY_CLUSTER,
        metadata=WORDS,
        clusterSelector=WORDS,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        **dict.fromkeys(("entrypoint", "runtimeEnvYAML", "jobId", "entrypointResources", "managedBy"), WORD),
        **dict.fromkeys(("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"), NUMBER),
        **dict.fromkeys(("shutdownAfterJobFinishes", "suspend"), TRUTH),
        **dict.fromkeys(("submitterPodTemplate", "submitterConfig", "deletionStrategy"), ANY),
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
    ),
)
"""Fields as KubeRay's Go types have them (ray-operator/apis/ray/v1); pods are left to Kubernetes' own schema."""


@pytest.fixture
def job() -> dict:
    return yaml.safe_load((HOME / "jobs/kuberay.yaml").read_text())


@pytest.fixture
def cluster(job) -> dict:
    return job["spec"]["rayClusterSpec"]


def groups(cluster: dict) -> list[dict]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_it_is_a_ray_job_of_pods(job, cluster):
    jsonschema.validate(job, RAY_JOB)
    for group in groups(cluster):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        kubernetes_validate.validate(template, "1.37", strict=True)


def test_what_is_wrong_would_be_told(job, cluster):
    wrong = copy.deepcopy(job)
    wrong["spec"]["rayClusterSpec"]["enableInTreeAutoscalin"] = True
    with pytest.raises(jsonschema.ValidationError, match="enableInTreeAutoscalin"):
        jsonschema.validate(wrong, RAY_JOB)
    template = copy.deepcopy(cluster["headGroupSpec"]["template"])
    template["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError, match="volumeMount"):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "template": template}, "1.37", strict=True
        )


def test_rays_autoscaler_starts_workers_for_work_and_nothing_runs_on_the_head(cluster):
    held = {"metadata": {"name": "raylens", "namespace": "default"}, "spec": cluster}
    made = autoscaling_config._derive_autoscaling_config_from_ray_cr(held)
    types = made["available_node_types"]
    assert types[made["head_node_type"]]["resources"]["CPU"] == 0
    assert {name: kind["max_workers"] for name, kind in types.items()} == {"headgroup": 0, "gpu": 8, "cpu": 2}
    assert (types["gpu"]["resources"]["GPU"], types["gpu"]["min_workers"], types["cpu"]["min_workers"]) == (
        1,
        0,
        0,
    )
    assert cluster["enableInTreeAutoscaling"]
    assert made["idle_timeout_minutes"] == 10


def test_it_runs_the_version_of_ray_that_is_installed_here_and_asks_for_a_token(cluster):
    assert cluster["rayVersion"].rsplit(".", 1)[0] == __version__.rsplit(".", 1)[0]
    assert cluster["authOptions"] == {"mode": "token"}


def test_its_command_is_a_run_in_its_image(job, monkeypatch):
    inside = Path("/home/ray/raylens")
    dockerfile = (HOME / "jobs/Dockerfile").read_text()
    assert f"WORKDIR {inside}" in dockerfile
    python, flag, verb, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, verb) == ("python", "-m", "raylens.tune")
    file = Path(words[words.index("--from") + 1]).relative_to(inside)
    words[words.index("--from") + 1] = str(HOME / file)
    run = cli.run("tune", words)
    assert run.name, "a job that is tried again goes on with the run of this name"
    assert run.storage.startswith("s3://")


def test_the_image_is_made_of_what_there_is():
    folder = HOME / "jobs"
    lines = (folder / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[2:-1]}
    assert copied == {"pyproject.toml", "uv.lock", "README.md", "LICENSE", "raylens", "jobs"}
    assert all((HOME / name).exists() for name in copied - {"uv.lock"})
    let_in = (folder / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in let_in if line.startswith("!")} == copied
