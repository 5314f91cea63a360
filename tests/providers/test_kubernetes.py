from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.providers.conformance import Conformance, Jobs, System, jobs
from tests.providers.fakes.api_server import ApiServer, api_server
from tests.waiting import wait_until
from throughway import HighThroughputExecutor
from throughway.errors import ConfigurationError
from throughway.providers.interface import JobId, JobSpec, JobState, SchedulerError, SubmitFailure
from throughway.providers.kubernetes import KubernetesProvider

__all__ = ["jobs"]

pytestmark = pytest.mark.timeout(60)

CLIENT = importlib.util.find_spec("kubernetes") is not None
needs_client = pytest.mark.skipif(
    not CLIENT, reason="the client is missing: pip install 'throughway[kubernetes]'"
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    folder = tmp_path / "api server"
    folder.mkdir()
    with api_server(folder) as server:
        yield server


@pytest.fixture
def system(server: ApiServer) -> System:
    return System(partial(KubernetesProvider, "image:1", kubeconfig=server.kubeconfig(), cancel_grace=20))


@pytest.mark.system
@needs_client
class TestKubernetes(Conformance):
    """Kubernetes keeps one log for both outputs."""

    def test_several_jobs_run_to_their_end(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        specs = [jobs.bash(f"echo out {number}; echo err >&2") for number in range(3)]
        ids = jobs.submit(provider, *specs)
        statuses = jobs.ended(provider, ids)
        for number, (job_id, spec) in enumerate(zip(ids, specs, strict=True)):
            status = statuses[job_id]
            assert (status.state, status.exit_code, status.stdout) == (JobState.COMPLETED, 0, spec.stdout)
            assert status.tail().stdout.splitlines() == [f"out {number}", "err"]
        assert provider.status(ids) == statuses

    def test_the_exit_code_of_a_job_that_failed(self, jobs: Jobs) -> None:
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.bash("echo no such thing >&2; exit 7"))
        status = jobs.ended(provider, [job])[job]
        assert (status.state, status.exit_code) == (JobState.FAILED, 7), status
        assert status.tail().stdout == "no such thing"

    def test_worker_init_can_end_the_job(self, jobs: Jobs, tmp_path: Path) -> None:
        provider = jobs.provider(worker_init="echo there is no such module >&2; exit 4")
        (job,) = jobs.submit(provider, jobs.spec("touch", str(tmp_path / "started")))
        status = jobs.ended(provider, [job])[job]
        assert (status.state, status.exit_code) == (JobState.FAILED, 4), status
        assert "there is no such module" in status.tail().stdout
        assert not (tmp_path / "started").exists()

    def test_a_block_of_several_pods(self, jobs: Jobs, server: ApiServer) -> None:
        server.page = 1
        provider = jobs.provider(nodes_per_block=3)
        spec = jobs.bash("echo hello")
        spec = JobSpec(spec.name, spec.command, 3, spec.folder)
        (job,) = jobs.submit(provider, spec)
        status = jobs.ended(provider, [job])[job]
        assert status.state is JobState.COMPLETED
        assert status.tail().stdout.count("hello") == 3
        assert server.pods == {}, "pods that have ended are removed"

    def test_what_waits_says_why(self, jobs: Jobs, server: ApiServer) -> None:
        wait = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
        server.hold = {"phase": "Pending", "containerStatuses": [{"name": "manager", "state": wait}]}
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.spec("true"))
        status = provider.status([job])[job]
        assert status.state is JobState.HELD
        assert "no such image" in status.message
        assert provider.cancel([job]) == {job: True}

    @pytest.mark.parametrize(
        ("status", "message", "remedy", "permanent"),
        [
            (403, "pods is forbidden: User me cannot create resource pods", "let your account", True),
            (403, 'pods "x" is forbidden: exceeded quota: q', "max_blocks=", False),
            (409, 'pods "x" already exists', "there already", False),
            (422, 'Pod "x" is invalid: spec.containers[0].image: Required', "render", True),
            (500, "etcdserver: leader changed", "Nothing is concluded", False),
            (429, "too many requests", "Nothing is concluded", False),
        ],
    )
    def test_refusals(
        self, jobs: Jobs, server: ApiServer, status: int, message: str, remedy: str, permanent: bool
    ) -> None:
        server.refuse["POST"] = (status, message)
        provider = jobs.provider()
        first, second = provider.submit([jobs.spec("true"), jobs.spec("true")])
        assert isinstance(first, SubmitFailure)
        assert isinstance(second, SubmitFailure)
        assert message in first.message
        assert remedy in first.message
        assert first.permanent is permanent
        assert ("not tried" in second.message) == (status in (429, 500))

    def test_a_namespace_that_is_not_there(self, jobs: Jobs) -> None:
        provider = jobs.provider(namespace="nowhere")
        (outcome,) = provider.submit([jobs.spec("true")])
        assert isinstance(outcome, SubmitFailure)
        assert outcome.permanent
        assert "namespace=" in outcome.message

    @pytest.mark.parametrize("answer", [(500, "sad"), (403, "not yours"), (503, "later")])
    def test_no_answer_says_nothing(self, jobs: Jobs, server: ApiServer, answer: tuple[int, str]) -> None:
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.spec("sleep", "1000"))
        server.refuse["GET"] = server.refuse["DELETE"] = answer
        for ask in (provider.status, provider.cancel):
            with pytest.raises(SchedulerError, match=answer[1]):
                ask([job])
        server.refuse.clear()
        assert provider.status([job])[job].state is JobState.RUNNING

    def test_a_slow_server_is_not_waited_for(self, jobs: Jobs, server: ApiServer) -> None:
        provider = jobs.provider(cmd_timeout=0.5)
        server.silent.add("GET")
        with pytest.raises(SchedulerError, match=r"cmd_timeout=0\.5"):
            provider.status([JobId("x")])

    def test_a_pod_whose_creation_had_no_answer_is_deleted(self, jobs: Jobs, server: ApiServer) -> None:
        provider = jobs.provider(cmd_timeout=0.5)
        server.silent.add("POST")
        (outcome,) = provider.submit([jobs.spec("sleep", "1000")])
        assert isinstance(outcome, SubmitFailure)
        wait_until(lambda: len(server.pods) == 1, what="the pod")
        server.silent.clear()
        server.go_on.set()
        provider.cmd_timeout = 30
        provider.status([])
        wait_until(lambda: not server.pods, what="the deletion")

    def test_what_others_delete_is_cancelled(self, jobs: Jobs, server: ApiServer) -> None:
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.spec("sleep", "1000"))
        server.delete(next(iter(server.pods)), 0)
        status = jobs.ended(provider, [job])[job]
        assert status.state is JobState.CANCELLED
        assert "not by Throughway" in status.message

    def test_sigterm_reaches_the_manager_and_is_waited_for(self, jobs: Jobs, tmp_path: Path) -> None:
        text = 'trap \'echo drained >>"$0"; exit 0\' TERM; echo ready >"$0"; while :; do sleep 0.1; done'
        told = tmp_path / "told"
        provider = jobs.provider()
        (job,) = jobs.submit(provider, jobs.spec("bash", "-c", text, str(told)))
        wait_until(lambda: told.exists() and told.read_text() == "ready\n", what="the manager")
        provider.cancel([job])
        jobs.ended(provider, [job])
        assert told.read_text() == "ready\ndrained\n"

    def test_an_executor_works_on_it(self, jobs: Jobs, server: ApiServer, tmp_path: Path) -> None:
        provider = jobs.provider(status_polling_interval=0.2)
        with HighThroughputExecutor(
            provider=provider, run_dir=str(tmp_path / "runs"), max_workers_per_node=2, address="127.0.0.1"
        ) as executor:
            assert list(executor.map(pow, range(50), range(50))) == [n**n for n in range(50)]
        wait_until(lambda: not server.pods, 20, "the end of the pods")


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    provider = KubernetesProvider("image:1")
    (outcome,) = provider.submit([JobSpec("throughway-a-1", ["true"], 1, str(tmp_path))])
    assert isinstance(outcome, SubmitFailure)
    assert "throughway[kubernetes]" in outcome.message
    with pytest.raises(SchedulerError, match="throughway\\[kubernetes\\]"):
        provider.status([JobId("x")])


def test_the_client_is_imported_when_it_is_needed() -> None:
    code = (
        "import sys, throughway.providers.kubernetes as k; k.KubernetesProvider('i'); "
        "assert 'kubernetes' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.system
@needs_client
def test_without_a_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "nothing"))
    with pytest.raises(SchedulerError, match="no Kubernetes cluster is configured"):
        KubernetesProvider("image:1", kubeconfig=str(tmp_path / "nothing")).status([JobId("x")])


def test_resources() -> None:
    provider = KubernetesProvider(
        "image:1", max_cpu=8, max_mem="16Gi", extra_limits={"nvidia.com/gpu": "1"}, walltime=60
    )
    assert (provider.cores_per_node, provider.mem_per_node) == (8, 16)
    (document,) = provider.manifests(JobSpec("throughway-a-1", ["true"], 1, "/x"))
    (container,) = document["spec"]["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "1", "memory": "250Mi"},
        "limits": {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "1"},
    }
    assert document["spec"]["activeDeadlineSeconds"] == 60
    assert "THROUGHWAY_BLOCK_END" in container["command"][2]


@pytest.mark.parametrize(
    "parameters",
    [
        {"image": None}, {"image": "a b"}, {"max_mem": "lots"}, {"init_mem": "0Mi"}, {"init_cpu": 3},
        {"persistent_volumes": ["claim"]}, {"persistent_volumes": [("claim", "relative")]}, {"user_id": -1},
        {"image_pull_policy": "Sometimes"}, {"annotations": {"a": 1}}, {"walltime": "soon"},
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(parameters))):
        KubernetesProvider(**{"image": "image:1", **parameters})
