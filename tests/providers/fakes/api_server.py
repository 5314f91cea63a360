"""A Kubernetes API server of pods on the loopback interface, with one node, which is this machine.

It speaks the paths and documents of the real one, as far as blocks need them, and runs the containers' commands as
processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PODS = re.compile(r"/api/v1/namespaces/(?P<namespace>[\w-]+)/pods(?:/(?P<name>[\w-]+)(?P<log>/log)?)?")


class ApiServer:
    """Serves until it is closed. Tests change what it does:

    ``refuse`` maps a method, such as ``"POST"``, to a status and a message. ``silent`` has methods that get no answer
    before ``go_on`` is set, though they are obeyed. ``hold`` makes pods wait, with this ``status``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pods: dict[str, dict[str, Any]] = {}
        self.refuse: dict[str, tuple[int, str]] = {}
        self.silent: set[str] = set()
        self.go_on = threading.Event()
        self.hold: dict[str, Any] | None = None
        self.page = 1000
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.threads: list[threading.Thread] = []
        outer = self

        class Handler(_Handler):
            server_of_pods = outer

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = False
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def kubeconfig(self) -> str:
        """The path of a configuration for it."""
        port = self.server.server_address[1]
        path = self.folder / "kubeconfig"
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "me", "user": {"token": "secret"}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
        }
        path.write_text(json.dumps(document))  # which is YAML, too
        return str(path)

    def close(self) -> None:
        """End everything."""
        self.go_on.set()
        for process in list(self.processes.values()):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for thread in self.threads:
            thread.join(10)
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    # ---------------------------------------------------------------------------------------------- what it serves

    def create(self, pod: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = pod["metadata"]["name"]
        with self.lock:
            if name in self.pods:
                return 409, problem(409, f'pods "{name}" already exists')
            pod["status"] = self.hold or {"phase": "Pending"}
            self.pods[name] = pod
            if self.hold is None:
                self._start(name, pod)
        return 201, pod

    def find(self, query: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        wanted = {}
        for part in re.split(r",(?![^(]*\))", query["labelSelector"][0]):
            several = re.fullmatch(r"(\S+) in \((.*)\)", part)
            key, values = (
                (several[1], several[2].split(",")) if several else (part.split("=")[0], [part.split("=")[1]])
            )
            wanted[key] = values
        with self.lock:
            found = [
                pod
                for _, pod in sorted(self.pods.items())
                if all(pod["metadata"]["labels"].get(key) in values for key, values in wanted.items())
            ]
            start = int(query.get("continue", ["0"])[0])
            size = min(self.page, int(query["limit"][0]))
            rest = {"continue": str(start + size)} if start + size < len(found) else {}
            return 200, {
                "kind": "PodList",
                "metadata": rest,
                "items": json.loads(json.dumps(found[start : start + size])),
            }

    def delete(self, name: str, grace: int) -> tuple[int, dict[str, Any]]:
        with self.lock:
            pod = self.pods.get(name)
            if pod is None:
                return 404, problem(404, f'pods "{name}" not found')
            process = self.processes.get(name)
            if process is None:
                del self.pods[name]
            else:
                pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
                with contextlib.suppress(ProcessLookupError):
                    if grace:
                        os.kill(process.pid, signal.SIGTERM)  # the container's first process alone
                    else:
                        os.killpg(process.pid, signal.SIGKILL)
            return 200, pod

    def log(self, name: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        text = (self.folder / f"{name}.log").read_bytes()
        lines = text.splitlines(keepends=True)[-int(query["tailLines"][0]) :]
        return 200, b"".join(lines)[: int(query["limitBytes"][0])]

    def _start(self, name: str, pod: dict[str, Any]) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                pod["spec"]["containers"][0]["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        pod["status"] = {"phase": "Running"}
        pod["spec"]["nodeName"] = "node1"
        thread = threading.Thread(target=self._watch, args=(name, pod, process))
        self.threads.append(thread)
        thread.start()

    def _watch(self, name: str, pod: dict[str, Any], process: subprocess.Popen[bytes]) -> None:
        code = process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a container ends with its first process
        code = 128 - code if code < 0 else code
        with self.lock:
            del self.processes[name]
            ended = {"exitCode": code, "reason": "Error" if code else "Completed"}
            containers = [{"name": "manager", "state": {"terminated": ended}}]
            pod["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": containers}
            if "deletionTimestamp" in pod["metadata"]:
                del self.pods[name]


def problem(status: int, message: str) -> dict[str, Any]:
    """A refusal, as the API words it."""
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}


class _Handler(BaseHTTPRequestHandler):
    server_of_pods: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        server = self.server_of_pods
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        server.requests.append(f"{self.command} {url.path}")
        match = _PODS.fullmatch(url.path)
        status: int
        answer: object
        if match is None or self.headers.get("authorization") != "Bearer secret":
            status, answer = 400, problem(400, f"not what is expected: {self.path}")
        elif self.command in server.refuse:
            code, message = server.refuse[self.command]
            status, answer = code, problem(code, message)
        elif match["namespace"] != "default":
            status, answer = 404, problem(404, f'namespaces "{match["namespace"]}" not found')
        elif self.command == "POST":
            status, answer = server.create(body)
        elif self.command == "DELETE":
            grace = int(query.get("gracePeriodSeconds", [str(body.get("gracePeriodSeconds", 30))])[0])
            status, answer = server.delete(str(match["name"]), grace)
        elif match["log"]:
            status, answer = server.log(str(match["name"]), query)
        else:
            status, answer = server.find(query)
        if self.command in server.silent:
            server.go_on.wait(30)
            self.close_connection = True
            return
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - http.server's names


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """A server that is closed at the end."""
    server = ApiServer(folder)
    try:
        yield server
    finally:
        server.close()
