"""Kubernetes without its API: the pods of a block as documents, and what the status of a pod means."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from throughway.providers.interface import JOB_PREFIX, JobSpec, JobState, JobStatus

MANAGED_BY = "app.kubernetes.io/managed-by"
RUN_LABEL = "throughway/run"
JOB_LABEL = "throughway/job"
"""Labels of each pod: the run and the block that it belongs to."""

NAME_ANNOTATION = "throughway/name"
"""The name of the block's job, as its specification has it."""

CONTAINER = "manager"

_NEEDS_HELP = {
    "ErrImagePull": "check image= and, for a private registry, secret=",
    "ImagePullBackOff": "check image= and, for a private registry, secret=",
    "InvalidImageName": "correct image=",
    "ErrImageNeverPull": "give an image= that the nodes have, or another image_pull_policy=",
    "RegistryUnavailable": "the registry does not answer",
    "CreateContainerConfigError": "check persistent_volumes=, secret= and user_id=",
    "CreateContainerError": "check image=, persistent_volumes= and user_id=",
    "RunContainerError": "the container cannot be started: does the image have bash?",
}
"""Why a container waits that will wait until somebody does something."""


class PodOptions(msgspec.Struct, frozen=True):
    """What all pods of a provider have in common."""

    image: str
    namespace: str
    requests: Mapping[str, str]
    limits: Mapping[str, str]
    prefix: str = ""
    user_id: int | None = None
    group_id: int | None = None
    run_as_non_root: bool = False
    secret: str | None = None
    image_pull_policy: str | None = None
    persistent_volumes: Sequence[tuple[str, str]] = ()
    service_account_name: str | None = None
    annotations: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    node_selector: Mapping[str, str] = {}
    deadline: int | None = None
    grace: int = 30


def run_of(name: str) -> str:
    """The run's id in the name of a job."""
    return name.removeprefix(JOB_PREFIX).rpartition("-")[0]


def block_name(spec: JobSpec, prefix: str) -> str:
    """What the pods of a job are called, without their numbers: a name as Kubernetes allows it."""
    raw = f"{prefix}-{spec.name}" if prefix else spec.name
    return re.sub(r"[^a-z0-9-]+", "-", raw.lower()).strip("-")[:200]


def pod_names(spec: JobSpec, prefix: str) -> list[str]:
    """The names of all pods of a job."""
    name = block_name(spec, prefix)
    return [name] if spec.nodes == 1 else [f"{name}-{index}" for index in range(spec.nodes)]


def manifest(spec: JobSpec, name: str, script: str, options: PodOptions) -> dict[str, Any]:
    """The document of one pod."""
    labels = {
        **options.labels,
        MANAGED_BY: "throughway",
        RUN_LABEL: label(run_of(spec.name)),
        JOB_LABEL: label(block_name(spec, options.prefix)),
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": options.image,
        "command": ["bash", "-c", script],
        "resources": {"requests": {**options.requests}, "limits": {**options.limits}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if options.image_pull_policy is not None:
        container["imagePullPolicy"] = options.image_pull_policy
    body: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        "containers": [container],
    }
    security: dict[str, Any] = {}
    if options.user_id is not None:
        security["runAsUser"] = options.user_id
    if options.group_id is not None:
        security["runAsGroup"] = options.group_id
        security["fsGroup"] = options.group_id
    if options.run_as_non_root:
        security["runAsNonRoot"] = True
    if security:
        body["securityContext"] = security
    if options.secret is not None:
        body["imagePullSecrets"] = [{"name": options.secret}]
    if options.service_account_name is not None:
        body["serviceAccountName"] = options.service_account_name
    if options.deadline is not None:
        body["activeDeadlineSeconds"] = options.deadline
    if options.node_selector:
        body["nodeSelector"] = {**options.node_selector}
    if options.persistent_volumes:
        body["volumes"] = [
            {"name": f"volume-{index}", "persistentVolumeClaim": {"claimName": claim}}
            for index, (claim, _) in enumerate(options.persistent_volumes)
        ]
        container["volumeMounts"] = [
            {"name": f"volume-{index}", "mountPath": path}
            for index, (_, path) in enumerate(options.persistent_volumes)
        ]
    if spec.exclude:
        body["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": _apart(spec)}}
    metadata = {
        "name": name,
        "namespace": options.namespace,
        "labels": labels,
        "annotations": {**options.annotations, NAME_ANNOTATION: spec.name},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def label(value: str) -> str:
    """``value`` as the value of a label: 63 characters of a kind at most, and different ones for different values."""
    clean = re.sub(r"[^A-Za-z0-9._-]", "-", value).strip("._-")
    if len(clean) <= 63 and clean == value:
        return clean
    return f"{clean[:46]}-{hashlib.sha256(value.encode()).hexdigest()[:16]}"


def together(pods: Sequence[Mapping[str, Any]]) -> JobStatus:
    """The status of a job of several pods: it runs while one runs, and ends with the last."""
    statuses = [status_of(pod) for pod in pods]
    order = (
        JobState.RUNNING,
        JobState.PENDING,
        JobState.HELD,
        JobState.UNKNOWN,
        JobState.FAILED,
        JobState.TIMEOUT,
        JobState.COMPLETED,
    )
    first = min(statuses, key=lambda status: order.index(status.state))
    hosts = tuple(dict.fromkeys(host for status in statuses for host in status.hosts))
    waiting = [status for status in statuses if not status.state.terminal and status.message]
    message = first.message or (waiting[0].message if waiting and not first.state.terminal else "")
    return JobStatus(first.state, first.exit_code, message, hosts=hosts)


def status_of(pod: Mapping[str, Any]) -> JobStatus:
    """What a pod's ``spec`` and ``status`` mean, in the API's own names."""
    status = pod.get("status") or {}
    node = str((pod.get("spec") or {}).get("nodeName") or "")
    hosts = (node,) if node else ()
    # A service mesh may have put containers of its own beside ours.
    containers = [entry for entry in status.get("containerStatuses") or [] if entry.get("name") == CONTAINER]
    state = (containers[0].get("state") if containers else None) or {}
    match status.get("phase"):
        case "Running":
            return JobStatus(JobState.RUNNING, hosts=hosts)
        case "Succeeded":
            return JobStatus(JobState.COMPLETED, 0, hosts=hosts)
        case "Failed":
            return _failed(status, state.get("terminated") or {}, hosts)
        case "Pending":
            return _pending(status, state.get("waiting") or {}, hosts)
        case "Unknown":
            message = f"node {node} does not tell how its pod is"
            return JobStatus(JobState.UNKNOWN, message=_said(status) or message, hosts=hosts)
        case phase:
            return JobStatus(JobState.UNKNOWN, message=f"its phase is {phase!r}", hosts=hosts)


def _pending(status: Mapping[str, Any], waiting: Mapping[str, Any], hosts: tuple[str, ...]) -> JobStatus:
    reason = str(waiting.get("reason") or "")
    if reason in _NEEDS_HELP:
        return JobStatus(
            JobState.HELD, message=f"{_said(waiting)}. Remedy: {_NEEDS_HELP[reason]}", hosts=hosts
        )
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            gated = condition.get("reason") == "SchedulingGated"
            return JobStatus(JobState.HELD if gated else JobState.PENDING, message=_said(condition))
    message = "" if reason in ("ContainerCreating", "PodInitializing") else _said(waiting)
    return JobStatus(JobState.PENDING, message=message, hosts=hosts)


def _failed(status: Mapping[str, Any], ended: Mapping[str, Any], hosts: tuple[str, ...]) -> JobStatus:
    code = ended.get("exitCode")
    reason = str(status.get("reason") or ended.get("reason") or "")
    message = _said(status) or ("" if reason == "Error" else _said(ended))
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            message = message or _said(condition)
    state = JobState.FAILED
    if reason == "DeadlineExceeded":
        state = JobState.TIMEOUT
    elif ended.get("reason") == "OOMKilled":
        message = "OOMKilled: it used more memory than its limit. Remedy: give a greater max_mem="
    elif ended.get("reason") in ("ContainerCannotRun", "StartError"):
        message = f"{_said(ended)}. Remedy: does the image have bash?"
    return JobStatus(state, code if isinstance(code, int) else None, message, hosts=hosts)


def _said(entry: Mapping[str, Any]) -> str:
    return ": ".join(str(entry[key]) for key in ("reason", "message") if entry.get(key))


def _apart(spec: JobSpec) -> dict[str, Any]:
    rule = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": sorted(spec.exclude)}
    return {"nodeSelectorTerms": [{"matchExpressions": [rule]}]}
