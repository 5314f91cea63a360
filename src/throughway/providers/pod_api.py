"""The few requests to a Kubernetes API server that blocks need, through its official client."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from throughway.providers import pods
from throughway.providers.interface import JobId, SchedulerError

PAGE = 500
"""Pods that one answer lists."""

_NOTHING = "Nothing is concluded from that about any job"


class Refused(SchedulerError):
    """The API said no. ``permanent`` says that it would again."""

    def __init__(self, status: int, said: str, namespace: str) -> None:
        remedy, self.permanent = _remedy(status, said, namespace)
        self.status = status
        super().__init__(f"the Kubernetes API refused with {status}: {said}. Remedy: {remedy}")


class PodApi:
    """A connection, to be closed after use.

    Args:
        namespace: where the pods are.
        timeout: seconds that one request may take.
        kubeconfig: path of the configuration, None for the usual ones.
        context: of the configuration, None for its current one.

    All methods raise `Refused` where the API refuses, and `SchedulerError` where it does not answer or not in a way
    that can be understood; so does the constructor where the client or the configuration is missing.
    """

    def __init__(
        self, namespace: str, *, timeout: float, kubeconfig: str | None, context: str | None
    ) -> None:
        self._namespace = namespace
        self._timeout = timeout
        try:
            client = importlib.import_module("kubernetes.client")
            config = importlib.import_module("kubernetes.config")
        except ImportError as error:
            raise SchedulerError(
                f"the Kubernetes client is not installed ({error}): pip install 'throughway[kubernetes]'"
            ) from error
        configuration = client.Configuration()
        default = os.environ.get("KUBECONFIG") or os.path.expanduser("~/.kube/config")
        inside = "KUBERNETES_SERVICE_HOST" in os.environ and not os.path.exists(default)
        try:
            if kubeconfig is None and inside:
                config.load_incluster_config(client_configuration=configuration)
            else:
                config.load_kube_config(
                    config_file=kubeconfig, context=context, client_configuration=configuration
                )
        except (config.ConfigException, OSError) as error:
            raise SchedulerError(
                f"no Kubernetes cluster is configured: {error}. Remedy: give kubeconfig= and context=, "
                "or set KUBECONFIG"
            ) from error
        configuration.retries = False  # each would take its own time; who asks, asks again later
        self._client = client.ApiClient(configuration)
        self._api = client.CoreV1Api(self._client)

    def close(self) -> None:
        """Give back the connections."""
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def create(self, document: Mapping[str, Any]) -> None:
        """Make a pod."""
        name = document["metadata"]["name"]
        self._call(f"the creation of pod {name}", self._api.create_namespaced_pod, self._namespace, document)

    def list(self, runs: set[str] | None) -> dict[JobId, list[dict[str, Any]]]:
        """The pods of these runs, or of all runs, by job."""
        selector = f"{pods.MANAGED_BY}=throughway"
        if runs is not None:
            selector += f",{pods.RUN_LABEL} in ({','.join(sorted(runs))})"
        found: dict[JobId, list[dict[str, Any]]] = {}
        options: dict[str, Any] = {"label_selector": selector, "limit": PAGE}
        while True:
            text = self._call(
                "the question for pods", self._api.list_namespaced_pod, self._namespace, **options
            )
            try:
                document = json.loads(text)
                for pod in document["items"]:
                    found.setdefault(JobId(pod["metadata"]["labels"][pods.JOB_LABEL]), []).append(pod)
                after = (document.get("metadata") or {}).get("continue")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise SchedulerError(
                    f"the Kubernetes API listed pods in a way that is not understood: {error!r}. {_NOTHING}"
                ) from error
            if not after:
                return found
            options["_continue"] = after

    def delete(self, name: str, grace: int) -> bool:
        """Delete a pod, which gets ``grace`` seconds to end by itself; False where there is none."""
        try:
            self._call(
                f"the deletion of pod {name}",
                self._api.delete_namespaced_pod,
                name,
                self._namespace,
                grace_period_seconds=grace,
            )
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
        return True

    def log(self, name: str, *, lines: int, size: int) -> bytes:
        """The last ``lines`` lines of a pod's log, of ``size`` bytes at most."""
        return self._call(
            f"the question for the log of pod {name}",
            self._api.read_namespaced_pod_log,
            name,
            self._namespace,
            container=pods.CONTAINER,
            tail_lines=lines,
            limit_bytes=size,
        )

    def _call(self, what: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> bytes:
        api_exception = importlib.import_module("kubernetes.client.exceptions").ApiException
        http_error = importlib.import_module("urllib3.exceptions").HTTPError
        try:
            answer = method(*arguments, **options, _request_timeout=self._timeout, _preload_content=False)
            return bytes(answer.data)
        except api_exception as error:
            status = int(error.status or 0)
            said = _message(error)
            if status in (400, 401, 403, 404, 409, 422):
                raise Refused(status, said, self._namespace) from error
            raise SchedulerError(
                f"the Kubernetes API answered {what} with {status} {error.reason}: {said}. {_NOTHING}"
            ) from error
        except (http_error, OSError) as error:
            raise SchedulerError(
                f"the Kubernetes API did not answer {what} within cmd_timeout={self._timeout:g} s or is out of reach: "
                f"{error}. Remedy: `kubectl get pods` shows whether it answers. {_NOTHING}"
            ) from error


def _message(error: Any) -> str:
    """What the API says in the body of a refusal, which is a document with a message, if all is well."""
    body = error.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or error.reason or "")
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:1000]


def _remedy(status: int, said: str, namespace: str) -> tuple[str, bool]:
    """What to do about a refusal, and whether trying again is in vain."""
    match status:
        case 401:
            return "log in again, so that the kubeconfig has valid credentials", True
        case 403 if "exceeded quota" in said:
            return "give a smaller max_blocks= or less for each pod, or wait", False
        case 403:
            rights = "create, list and delete pods, and get pods/log"
            return f"have an administrator let your account {rights} in namespace {namespace}", True
        case 404:
            return "give a namespace= that exists", True
        case 409:
            return "delete the pod of that name, which is there already", False
    return "correct the provider's parameters; render() shows the pod", True
