from __future__ import annotations

import re
from typing import Any

import pytest

from throughway.providers import pods
from throughway.providers.interface import JobSpec, JobState

OPTIONS = pods.PodOptions("image:1", "default", {"cpu": "1"}, {"cpu": "2"})
SPEC = JobSpec("throughway-ab12-7", ["manager"], 1, "/runs")


def pod(phase: str, container: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    containers = [{"name": "istio-proxy", "state": {"running": {}}}]
    if container is not None:
        containers.append({"name": "manager", "state": container})
    return {"spec": {"nodeName": "n1"}, "status": {"phase": phase, "containerStatuses": containers, **status}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod("Pending", {"waiting": {"reason": reason, "message": message}})


def ended(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def test_manifest() -> None:
    options = pods.PodOptions(
        "image:1", "ns", {"cpu": "1"}, {"cpu": "2"}, prefix="My_Pod", user_id=1000, group_id=100,
        run_as_non_root=True, secret="pull", image_pull_policy="Always", persistent_volumes=[("claim", "/data")],
        service_account_name="robot", annotations={"a": "b"}, labels={"team": "x"}, node_selector={"disk": "ssd"},
        deadline=3600, grace=10,
    )  # fmt: skip
    document = pods.manifest(SPEC, "name", "true", options)
    assert document["metadata"] == {
        "name": "name",
        "namespace": "ns",
        "labels": {
            "team": "x",
            "app.kubernetes.io/managed-by": "throughway",
            "throughway/run": "ab12",
            "throughway/job": "my-pod-throughway-ab12-7",
        },
        "annotations": {"a": "b", "throughway/name": "throughway-ab12-7"},
    }
    assert document["spec"] == {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 10,
        "containers": [
            {
                "name": "manager",
                "image": "image:1",
                "command": ["bash", "-c", "true"],
                "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}},
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "imagePullPolicy": "Always",
                "volumeMounts": [{"name": "volume-0", "mountPath": "/data"}],
            }
        ],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 100, "fsGroup": 100, "runAsNonRoot": True},
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccountName": "robot",
        "activeDeadlineSeconds": 3600,
        "nodeSelector": {"disk": "ssd"},
        "volumes": [{"name": "volume-0", "persistentVolumeClaim": {"claimName": "claim"}}],
    }


def test_hosts_to_avoid() -> None:
    spec = JobSpec("throughway-ab12-7", ["manager"], 1, "/runs", exclude=["n2", "n1"])
    affinity = pods.manifest(spec, "name", "true", OPTIONS)["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    (rule,) = term["matchExpressions"]
    assert (rule["operator"], rule["values"]) == ("NotIn", ["n1", "n2"])


def test_names() -> None:
    assert pods.pod_names(SPEC, "") == ["throughway-ab12-7"]
    spec = JobSpec("throughway-ab12-7", ["manager"], 2, "/runs")
    assert pods.pod_names(spec, "x") == ["x-throughway-ab12-7-0", "x-throughway-ab12-7-1"]


def test_labels_are_short_and_differ() -> None:
    long = [pods.label(f"{'x' * 70}-{block}") for block in range(3)]
    assert len({*long}) == 3
    assert all(len(entry) <= 63 for entry in long)
    assert pods.label("a b") != pods.label("a-b")


PREEMPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]
UNSCHEDULABLE = [
    {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
]


@pytest.mark.parametrize(
    ("document", "state", "code", "message"),
    [
        (pod("Running", {"running": {}}), JobState.RUNNING, None, ""),
        (pod("Succeeded", ended(0, "Completed")), JobState.COMPLETED, 0, ""),
        (pod("Failed", ended(3)), JobState.FAILED, 3, ""),
        (pod("Failed", ended(137, "OOMKilled")), JobState.FAILED, 137, "OOMKilled: .* max_mem="),
        (pod("Failed", ended(128, "StartError", "no bash")), JobState.FAILED, 128, "StartError: no bash.*Remedy"),
        (pod("Failed", reason="Evicted", message="low on memory"), JobState.FAILED, None, "Evicted: low on memory"),
        (pod("Failed", ended(143), reason="DeadlineExceeded"), JobState.TIMEOUT, 143, "DeadlineExceeded"),
        (
            pod("Failed", ended(143), conditions=PREEMPTED),
            JobState.FAILED, 143, "PreemptionByScheduler",
        ),
        (pod("Pending"), JobState.PENDING, None, ""),
        (waiting("ContainerCreating"), JobState.PENDING, None, ""),
        (waiting("ErrImagePull", "not found"), JobState.HELD, None, "ErrImagePull: not found. Remedy: check image="),
        (waiting("ImagePullBackOff"), JobState.HELD, None, "ImagePullBackOff. Remedy"),
        (waiting("InvalidImageName"), JobState.HELD, None, "image="),
        (waiting("CreateContainerConfigError", "no secret"), JobState.HELD, None, "no secret"),
        (
            pod("Pending", conditions=UNSCHEDULABLE),
            JobState.PENDING, None, "Unschedulable: 0/3 nodes",
        ),
        (
            pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]),
            JobState.HELD, None, "SchedulingGated",
        ),
        (pod("Unknown"), JobState.UNKNOWN, None, "node n1 does not tell"),
        (pod("Bright"), JobState.UNKNOWN, None, "'Bright'"),
        ({}, JobState.UNKNOWN, None, "None"),
    ],
)  # fmt: skip
def test_statuses(document: dict[str, Any], state: JobState, code: int | None, message: str) -> None:
    found = pods.status_of(document)
    assert (found.state, found.exit_code) == (state, code)
    assert re.search(message, found.message, re.DOTALL)
    assert bool(found.message) == bool(message)


def test_a_job_of_several_pods() -> None:
    running, done, failed = pod("Running"), pod("Succeeded", ended(0)), pod("Failed", ended(2))
    stuck = waiting("ImagePullBackOff", "x")
    assert pods.together([done, running]).state is JobState.RUNNING
    assert pods.together([done, failed]).exit_code == 2
    assert pods.together([done, done]).state is JobState.COMPLETED
    assert pods.together([done, stuck]).state is JobState.HELD
    assert "ImagePullBackOff" in pods.together([running, stuck]).message
