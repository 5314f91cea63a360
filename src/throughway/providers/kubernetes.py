"""Blocks from Kubernetes: pods, through the client of the extra ``throughway[kubernetes]``."""

from __future__ import annotations

import json
import logging
import os
import shlex
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from throughway.errors import ConfigurationError
from throughway.launchers import forwarding
from throughway.providers import parameters, pods
from throughway.providers.interface import (
    BLOCK_END_VARIABLE,
    JOB_VARIABLE,
    JobId,
    JobSpec,
    JobState,
    JobStatus,
    NamedJob,
    ProviderRecord,
    SchedulerError,
    SubmitFailure,
)
from throughway.providers.pod_api import PodApi, Refused

logger = logging.getLogger("throughway.providers")

POLLING_INTERVAL = 10.0
"""Seconds between two questions for all pods."""

LOG_LINES = 200
"""Lines of a failed pod's log that are kept."""

LOG_BYTES = 1 << 16
"""Bytes of them."""

DOUBTS = 3
"""Looks for a pod of which it is not known whether it was made, before the matter is closed."""

REMEMBERED = 1000
"""Ended jobs whose status is kept."""

_SCRIPT = """\
#!/usr/bin/env bash
# {name}: {nodes} pod(s); each runs this
{manifest}
export {job_variable}={quoted_name}
{exports}
cd {directory} 2>/dev/null || echo "throughway: the image has no folder "{directory}"; the job starts in $PWD" >&2
{worker_init}
{launch}
"""


class _Job:
    """A job that this provider has submitted."""

    __slots__ = ("cancelled", "ended", "names", "spec")

    def __init__(self, spec: JobSpec, names: list[str]) -> None:
        self.spec = spec
        self.names = names
        self.cancelled = False
        self.ended: JobStatus | None = None


class KubernetesProvider:
    """Blocks of pods. A pod runs one manager; a block of several nodes is as many pods.

    Args:
        image: the container image. It must have bash, Python and Throughway.
        namespace: where the pods are made.
        nodes_per_block: pods of a block.
        init_blocks: blocks at the start.
        min_blocks: blocks that are kept also without work.
        max_blocks: blocks that exist at one time, never more.
        parallelism: from 0, one block for all tasks that wait, to 1, as many as run them all at once.
        max_cpu: limit of cores of a pod.
        max_mem: limit of memory of a pod, as ``"500Mi"``.
        init_cpu: cores that a pod asks for.
        init_mem: memory that a pod asks for.
        extra_requests: more that it asks for, as ``{"nvidia.com/gpu": "1"}``.
        extra_limits: more limits.
        worker_init: bash text that runs in each pod before its manager.
        pod_name: what the names of pods start with.
        user_id: user that the pod runs as.
        group_id: its group, also that of its volumes.
        run_as_non_root: whether Kubernetes refuses to run the pod as root.
        secret: name of the secret with which the image is pulled.
        image_pull_policy: ``Always``, ``IfNotPresent`` or ``Never``; None for Kubernetes' default.
        persistent_volumes: pairs of a claim's name and the path where it is mounted.
        service_account_name: account of the pod.
        annotations: of the pods.
        labels: of the pods, in addition to those by which Throughway finds them.
        node_selector: labels that nodes must have.
        walltime: time that a pod may run, as ``"HH:MM:SS"``, seconds, or None for no limit.
        cmd_timeout: seconds that one request to the API server may take.
        status_polling_interval: seconds between two questions for the status of all pods.
        cancel_grace: seconds that a pod has to end by itself when it is cancelled.
        kubeconfig: path of the configuration; None for ``$KUBECONFIG``, ``~/.kube/config`` or, inside of a pod, that
            of the cluster.
        context: of the configuration, None for its current one.

    The run folder must be on a volume that the pods mount at the same path, as managers read their configuration
    there. Raises `ConfigurationError` for a value that cannot work.
    """

    label = "Kubernetes"
    local = False
    can_exclude = True
    recorded_variables: ClassVar[Sequence[str]] = (
        "KUBECONFIG",
        "KUBERNETES_SERVICE_HOST",
        "KUBERNETES_SERVICE_PORT",
    )

    def __init__(
        self,
        image: str,
        namespace: str = "default",
        nodes_per_block: int = 1,
        init_blocks: int = 1,
        min_blocks: int = 0,
        max_blocks: int = 1,
        max_cpu: float = 2,
        max_mem: str = "500Mi",
        init_cpu: float = 1,
        init_mem: str = "250Mi",
        extra_requests: Mapping[str, str] | None = None,
        extra_limits: Mapping[str, str] | None = None,
        parallelism: float = 1,
        worker_init: str = "",
        pod_name: str | None = None,
        user_id: int | None = None,
        group_id: int | None = None,
        run_as_non_root: bool = False,
        secret: str | None = None,
        persistent_volumes: Sequence[tuple[str, str]] = (),
        service_account_name: str | None = None,
        annotations: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        node_selector: Mapping[str, str] | None = None,
        image_pull_policy: str | None = None,
        walltime: str | float | None = None,
        cmd_timeout: float = 30,
        status_polling_interval: float = POLLING_INTERVAL,
        cancel_grace: float = 30,
        kubeconfig: str | None = None,
        context: str | None = None,
    ) -> None:
        given = dict(locals())
        self.init_blocks, self.min_blocks, self.max_blocks = parameters.block_counts(
            init_blocks, min_blocks, max_blocks
        )
        self.nodes_per_block = parameters.whole_number("nodes_per_block", nodes_per_block, 1)
        self.parallelism = parameters.fraction("parallelism", parallelism)
        self.walltime = parameters.walltime(walltime)
        self.worker_init = parameters.text("worker_init", worker_init)
        self.cmd_timeout = parameters.seconds("cmd_timeout", cmd_timeout)
        self.status_polling_interval = parameters.seconds("status_polling_interval", status_polling_interval)
        self.cancel_grace = parameters.seconds("cancel_grace", cancel_grace, zero=True)
        self.kubeconfig = parameters.line("kubeconfig", kubeconfig)
        self.context = parameters.line("context", context)
        self.cores_per_node: int | None = max(1, int(parameters.number("max_cpu", max_cpu)))
        self.mem_per_node: float | None = _gib("max_mem", max_mem)
        _gib("init_mem", init_mem)
        requests = {"cpu": f"{parameters.number('init_cpu', init_cpu):g}", "memory": init_mem}
        limits = {"cpu": f"{max_cpu:g}", "memory": max_mem}
        if init_cpu > max_cpu:
            raise ConfigurationError(
                f"init_cpu={init_cpu} is more than max_cpu={max_cpu}: a pod never gets more than its limit"
            )
        checked = parameters.word("image", image)
        if checked is None:
            raise ConfigurationError("image=None: give the container image in which managers run")
        if image_pull_policy not in (None, "Always", "IfNotPresent", "Never"):
            raise ConfigurationError(
                f"image_pull_policy={image_pull_policy!r}: give 'Always', 'IfNotPresent', 'Never' or None"
            )
        self.options = pods.PodOptions(
            image=checked,
            namespace=parameters.word("namespace", namespace) or "default",
            requests={**requests, **parameters.variables("extra_requests", extra_requests)},
            limits={**limits, **parameters.variables("extra_limits", extra_limits)},
            prefix=parameters.word("pod_name", pod_name) or "",
            user_id=parameters.optional_whole_number("user_id", user_id, 0),
            group_id=parameters.optional_whole_number("group_id", group_id, 0),
            run_as_non_root=parameters.flag("run_as_non_root", run_as_non_root),
            secret=parameters.word("secret", secret),
            image_pull_policy=image_pull_policy,
            persistent_volumes=_volumes(persistent_volumes),
            service_account_name=parameters.word("service_account_name", service_account_name),
            annotations=parameters.variables("annotations", annotations),
            labels=parameters.variables("labels", labels),
            node_selector=parameters.variables("node_selector", node_selector),
            deadline=None if self.walltime is None else max(1, int(self.walltime)),
            grace=int(self.cancel_grace),
        )
        self.environment: dict[str, str] = {}
        """variables by which a restored provider finds the cluster"""
        self._given = {
            key: value for key, value in given.items() if key != "self" and value not in (None, (), {}, "")
        }
        self._lock = threading.Lock()
        self._known: dict[JobId, _Job] = {}
        self._doubtful: dict[str, int] = {}
        """names of pods that may or may not have been made, and the looks that are left"""

    def __repr__(self) -> str:
        return f"KubernetesProvider({', '.join(f'{key}={value!r}' for key, value in self._given.items())})"

    # -------------------------------------------------------------------------------------------- without I/O

    def render(self, spec: JobSpec) -> str:
        """What each pod of a job runs; the pod's document, without that, stands in it as a comment."""
        shown = json.dumps(
            pods.manifest(spec, pods.pod_names(spec, self.options.prefix)[0], "...", self.options), indent=2
        )
        return self._script(spec, "".join(f"# {line}\n" for line in shown.splitlines()))

    def manifests(self, spec: JobSpec) -> list[dict[str, Any]]:
        """The documents of a job's pods."""
        script = self._script(spec, "")
        return [
            pods.manifest(spec, name, script, self.options)
            for name in pods.pod_names(spec, self.options.prefix)
        ]

    def _script(self, spec: JobSpec, shown: str) -> str:
        exports = [f"export {key}={shlex.quote(value)}" for key, value in spec.environment.items()]
        if self.walltime is not None:
            exports.append(f'export {BLOCK_END_VARIABLE}="$(($(date +%s) + {int(self.walltime)}))"')
        worker_init = self.worker_init.strip()
        return _SCRIPT.format(
            name=spec.name,
            nodes=spec.nodes,
            manifest=shown,
            job_variable=JOB_VARIABLE,
            quoted_name=shlex.quote(spec.name),
            exports="\n".join(exports),
            directory=shlex.quote(os.getcwd()),
            worker_init=f"# worker_init\n{worker_init}" if worker_init else "",
            launch=forwarding.keep(forwarding.deaf(shlex.join(spec.command))).rstrip(),
        )

    # ------------------------------------------------------------------------------------ the provider protocol

    def submit(self, specs: Sequence[JobSpec]) -> list[JobId | SubmitFailure]:
        """Make the pods of each job: all of them, or none. Where the API does not answer, the rest is not tried."""
        outcomes: list[JobId | SubmitFailure] = []
        if not specs:
            return outcomes
        silent = ""
        try:
            api = self._connect()
        except SchedulerError as error:
            return [SubmitFailure(f"job {spec.name} was not submitted: {error}") for spec in specs]
        try:
            for spec in specs:
                if silent:
                    outcomes.append(
                        SubmitFailure(f"not tried, as the submission before it had no answer: {silent}")
                    )
                    continue
                outcome, silent = self._create(api, spec)
                outcomes.append(outcome)
        finally:
            api.close()
        return outcomes

    def status(self, ids: Sequence[JobId]) -> dict[JobId, JobStatus]:
        """Where the jobs stand, by one list of their pods. Pods that have ended are removed, their logs kept."""
        with self._lock:
            known = {job_id: self._known.get(job_id) for job_id in ids}
            doubtful = list(self._doubtful)
        found = {
            job_id: job.ended for job_id, job in known.items() if job is not None and job.ended is not None
        }
        open_ids = [job_id for job_id in ids if job_id not in found]
        if not open_ids and not doubtful:
            return found
        api = self._connect()
        try:
            self._remove_doubtful(api, doubtful)
            runs = {pods.label(pods.run_of(job.spec.name)) for job in known.values() if job is not None}
            strangers = any(job is None for job in known.values())
            there = api.list(None if strangers else runs) if open_ids else {}
            for job_id in open_ids:
                job = known[job_id]
                if job is None:
                    found[job_id] = pods.together(there[job_id]) if job_id in there else _stranger(job_id)
                else:
                    found[job_id] = self._conclude(api, job, there.get(job_id, []))
        finally:
            api.close()
        return found

    def cancel(self, ids: Sequence[JobId], *, force: bool = False) -> dict[JobId, bool]:
        """Delete the pods of jobs; with ``force`` they get no time to end by themselves."""
        verdicts = dict.fromkeys(ids, False)
        with self._lock:
            known = {job_id: self._known.get(job_id) for job_id in ids}
        open_ids = [job_id for job_id, job in known.items() if job is None or job.ended is None]
        if not open_ids:
            return verdicts
        api = self._connect()
        try:
            strangers = [job_id for job_id in open_ids if known[job_id] is None]
            there = api.list(None) if strangers else {}
            for job_id in open_ids:
                job = known[job_id]
                entries = there.get(job_id, [])
                if job is None and entries and pods.together(entries).state.terminal:
                    continue
                names = job.names if job is not None else [_name(pod) for pod in entries]
                for name in names:
                    verdicts[job_id] |= api.delete(name, 0 if force else int(self.cancel_grace))
                if job is not None and verdicts[job_id]:
                    job.cancelled = True
        finally:
            api.close()
        return verdicts

    def jobs_of(self, run: str) -> list[NamedJob]:
        """The jobs of a run that have pods which wait or run."""
        api = self._connect()
        try:
            there = api.list({pods.label(run)})
        finally:
            api.close()
        found = []
        for job_id, entries in there.items():
            status = pods.together(entries)
            name = (entries[0]["metadata"].get("annotations") or {}).get(pods.NAME_ANNOTATION, job_id)
            if not status.state.terminal and pods.run_of(name) == run:
                found.append(NamedJob(job_id, name, status))
        return found

    def record(self) -> ProviderRecord:
        """What another process needs to find the same pods."""
        kind = type(self)
        written = {key: msgspec.to_builtins(value) for key, value in self._given.items()}
        variables = {**os.environ, **self.environment}
        needed = {name: variables[name] for name in self.recorded_variables if name in variables}
        return ProviderRecord(f"{kind.__module__}:{kind.__qualname__}", written, needed)

    # --------------------------------------------------------------------------------------------------- inside

    def _connect(self) -> PodApi:
        return PodApi(
            self.options.namespace,
            timeout=self.cmd_timeout,
            kubeconfig=self.kubeconfig or self.environment.get("KUBECONFIG"),
            context=self.context,
        )

    def _create(self, api: PodApi, spec: JobSpec) -> tuple[JobId | SubmitFailure, str]:
        """Make a job's pods: its id or why not, and what was said where there was no answer.

        What the pods run is also written into the job's folder, where the scripts of other providers are.
        """
        made: list[str] = []
        silent = ""
        try:
            os.makedirs(spec.folder, mode=0o700, exist_ok=True)
            descriptor = os.open(spec.script, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(self.render(spec))
        except OSError as error:
            return SubmitFailure(
                f"job {spec.name} was not submitted: its script {spec.script} cannot be written: {error}. "
                "Remedy: give a run_dir that is writable and has room"
            ), ""
        for document in self.manifests(spec):
            name = str(document["metadata"]["name"])
            try:
                api.create(document)
                made.append(name)
                continue
            except Refused as refused:
                message, permanent = str(refused), refused.permanent
            except SchedulerError as error:
                # It may have been made all the same, and nobody would know of it.
                with self._lock:
                    self._doubtful[name] = DOUBTS
                silent = message = str(error)
                permanent = False
            with self._lock:
                self._doubtful.update(dict.fromkeys(made, DOUBTS))
            if made and not silent:
                self._remove_doubtful(api, made)
            return SubmitFailure(f"job {spec.name} was not submitted: {message}", permanent), silent
        job_id = JobId(pods.label(pods.block_name(spec, self.options.prefix)))
        with self._lock:
            self._known[job_id] = _Job(spec, made)
            self._forget()
        return job_id, ""

    def _remove_doubtful(self, api: PodApi, names: Sequence[str]) -> None:
        for name in names:
            there = api.delete(name, 0)
            if there:
                logger.warning("pod %s was made although nobody was told: it is deleted", name)
            with self._lock:
                looks = self._doubtful.pop(name, 1)
                if not there and looks > 1:
                    # The request may still be on its way.
                    self._doubtful[name] = looks - 1

    def _conclude(self, api: PodApi, job: _Job, entries: list[dict[str, Any]]) -> JobStatus:
        if not entries:
            by = "" if job.cancelled else "its pods were deleted, but not by Throughway"
            job.ended = JobStatus(JobState.CANCELLED, message=by, stdout=_existing(job.spec.stdout))
            return job.ended
        status = pods.together(entries)
        if not status.state.terminal:
            return status
        if len(entries) < len(job.names):
            message = (
                status.message or f"{len(job.names) - len(entries)} of its {len(job.names)} pods were deleted"
            )
            status = msgspec.structs.replace(status, message=message)
        if job.cancelled and status.state is not JobState.COMPLETED:
            status = msgspec.structs.replace(status, state=JobState.CANCELLED)
        path = self._keep_log(api, job, entries)
        job.ended = msgspec.structs.replace(status, stdout=path)
        for entry in entries:
            try:
                api.delete(_name(entry), 0)
            except SchedulerError as error:
                logger.warning("the pod %s, which has ended, is left: %s", _name(entry), error)
        return job.ended

    def _keep_log(self, api: PodApi, job: _Job, entries: list[dict[str, Any]]) -> str:
        """Write the ends of the pods' logs to the file for the job's output; its path."""
        texts = []
        for entry in entries:
            try:
                text = api.log(_name(entry), lines=LOG_LINES, size=LOG_BYTES)
            except SchedulerError as error:
                text = f"(the log of pod {_name(entry)} cannot be read: {error})\n".encode()
            if len(entries) > 1:
                texts.append(f"--- pod {_name(entry)}\n".encode())
            texts.append(text)
        try:
            with open(job.spec.stdout, "wb") as file:
                file.write(b"".join(texts))
        except OSError as error:
            logger.warning("the log of job %s cannot be kept: %s", job.spec.name, error)
            return ""
        return job.spec.stdout

    def _forget(self) -> None:
        if len(self._known) > 2 * REMEMBERED:
            ended = [job_id for job_id, job in self._known.items() if job.ended is not None]
            for job_id in ended[: max(0, len(ended) - REMEMBERED)]:
                del self._known[job_id]


def _stranger(job_id: str) -> JobStatus:
    return JobStatus(JobState.UNKNOWN, message=f"there is no pod of job {job_id}")


def _name(pod: Mapping[str, Any]) -> str:
    return str(pod["metadata"]["name"])


def _existing(path: str) -> str:
    return path if os.path.exists(path) else ""


_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _gib(name: str, value: object) -> float:
    """A quantity of memory as Kubernetes has it, in GiB. Raises `ConfigurationError`."""
    text = value if isinstance(value, str) else ""
    digits = text.rstrip("kKMGTi")
    unit = _UNITS.get(text[len(digits) :])
    try:
        amount = float(digits) * (unit or 0)
    except ValueError:
        amount = 0
    if not amount > 0:
        raise ConfigurationError(
            f"{name}={value!r} is no amount of memory: give a str such as '500Mi' or '4Gi'"
        )
    return amount / 2**30


def _volumes(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"persistent_volumes={value!r}: give a list of pairs (claim, path)")
    found = []
    for entry in value:
        if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) != 2:
            raise ConfigurationError(f"persistent_volumes: {entry!r} is no pair of a claim's name and a path")
        claim, path = entry
        if not isinstance(claim, str) or not isinstance(path, str) or not path.startswith("/"):
            raise ConfigurationError(
                f"persistent_volumes: {entry!r} needs a claim's name and an absolute path"
            )
        found.append((claim, path))
    return tuple(found)
