"""What an executor tells of itself, and what it has done to managers and blocks on request."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from throughway import errors
from throughway.blocks.state import BlockView
from throughway.executors.reports import StatusReport, TaskExplanation, status_report, task_explanation
from throughway.protocol.messages import Answer
from throughway.protocol.views import Explanation, ManagerView, StatusView

if TYPE_CHECKING:
    from throughway.executors.run import Run

COMMAND_SECONDS = 30.0
"""How long the interchange may take to answer a question."""


class Questions:
    """The part of `HighThroughputExecutor` that asks: every answer is the interchange's, or the controller's."""

    label: str
    cores_per_worker: float
    worker_logdir_root: str | None
    _run: Run | None

    if TYPE_CHECKING:

        def start(self) -> None: ...
        def _task_of(self, future: Future[Any]) -> int: ...

    def _ask(self, topic: str, subject: str = "") -> bytes:
        self.start()
        run = self._run
        assert run is not None
        answers: list[Answer] = []
        told = threading.Event()

        def tell(answer: Answer) -> None:
            answers.append(answer)
            told.set()

        run.shell.request(lambda reactor: reactor.ask(topic, subject, tell))
        if run.shell.in_thread:
            run.shell.wait_in_thread(told.is_set, COMMAND_SECONDS)
        else:
            told.wait(COMMAND_SECONDS)
        if not answers:
            raise errors.CommandTimeout(
                f"the interchange of {self.label!r} (process {run.shell.interchange_pid}) did not answer {topic!r} "
                f"within {COMMAND_SECONDS:g} s: it may be stopped or overloaded; its log is in {run.folder.path}"
            )
        if answers[0].error:
            raise errors.ExecutorFailed(answers[0].error)
        return answers[0].payload

    def connected_managers(self) -> list[ManagerView]:
        """The registered managers: id, host, block, workers, tasks, idle seconds, whether active or draining,
        versions, seconds left, and where their logs are."""
        return msgspec.msgpack.decode(self._ask("managers"), type=list[ManagerView])

    @property
    def connected_workers(self) -> int:
        """How many workers the registered managers have."""
        return sum(manager.worker_count for manager in self.connected_managers())

    def connected_blocks(self) -> list[str]:
        """The ids of the blocks that have registered managers."""
        return sorted(
            {manager.block for manager in self.connected_managers()}, key=lambda block: (len(block), block)
        )

    def managers_packages(self) -> dict[str, dict[str, str]]:
        """For each manager's id, the installed packages and their versions."""
        return msgspec.msgpack.decode(self._ask("packages"), type=dict[str, dict[str, str]])

    def hold_manager(self, manager: str) -> None:
        """Give this manager nothing new until `release_manager`; what it has goes on.

        Raises:
            ValueError: no manager has this id.
        """
        self._command("hold", manager)

    def release_manager(self, manager: str) -> None:
        """Give a held manager tasks again.

        Raises:
            ValueError: no manager has this id.
        """
        self._command("release", manager)

    def drain_manager(self, manager: str) -> None:
        """Let this manager finish what runs on it, and leave.

        Raises:
            ValueError: no manager has this id.
        """
        self._command("drain", manager)

    def _command(self, topic: str, manager: str) -> None:
        if not msgspec.msgpack.decode(self._ask(topic, manager), type=bool):
            known = ", ".join(view.manager for view in self.connected_managers()) or "none"
            raise ValueError(f"no manager {manager!r} is registered: there are {known}")

    def blocks(self) -> list[BlockView]:
        """The blocks, live and lately ended: job id, state, since when, nodes, managers, and what was said of them."""
        return self._run.controller.blocks() if self._run is not None else []

    def scale_out(self, blocks: int = 1) -> list[str]:
        """Start so many more blocks now, whatever the strategy; their ids. Returns at once: `blocks` tells how they do.

        Raises:
            ValueError: there would be more than the provider's ``max_blocks``.
            RuntimeError: it was shut down, or has failed.
        """
        self.start()
        assert self._run is not None
        return self._run.controller.scale_out(blocks)

    def scale_in(self, blocks: int | Iterable[str] = 1, *, force: bool = False) -> list[str]:
        """Let blocks go, so many or those with these ids; the ids of those that go. Returns at once.

        Of a number, those go first that have not begun, then those that are idle for longest. A block takes nothing
        new from now on, what it has not started goes to others, what runs is finished, and then its job is cancelled.
        A strategy starts others if the tasks, or ``min_blocks``, ask for them.

        Args:
            force: end the blocks at once; what runs there is lost (and run again where it has ``retries``).

        Raises:
            ValueError: an id is not that of a live block.
        """
        if self._run is None:
            return []
        self._run.controller.loads(self._ask("blocks"))
        return self._run.controller.scale_in(blocks, force=force)

    def hosts_left_out(self) -> dict[str, str]:
        """Hosts that are given nothing any more since managers kept dying there, and why."""
        return self._run.controller.left_out() if self._run is not None else {}

    @property
    def outstanding(self) -> int:
        """How many tasks have no outcome yet."""
        return len(self._run.reactor.futures) if self._run is not None else 0

    @property
    def run_folder(self) -> Path | None:
        """Where this run keeps its logs; None before it was started."""
        return self._run.folder.path if self._run is not None else None

    def status_report(self) -> StatusReport:
        """Cores, memory, managers, workers, tasks and core-hours at this moment."""
        view = msgspec.msgpack.decode(self._ask("status"), type=StatusView)
        return status_report(view, self.outstanding, self.cores_per_worker)

    def explain(self, future: Future[Any]) -> TaskExplanation:
        """Where the task of this future is, since when, and what it waits for; ``str()`` of it is a sentence.

        Raises:
            ValueError: the future is not one of this executor.
        """
        task = self._task_of(future)
        entry = getattr(future, "_entry", None)
        run = self._run
        if future.done() or entry is None or run is None:
            return self._explained_as_done(task)
        name = entry.function.name
        if not run.shell._sendable:
            unsent = [waiting.id for waiting in run.reactor.outbox.copy()]
            if task in unsent:
                reason = "the interchange to read what was sent before it"
                return TaskExplanation(task, name, "at the executor", reason, ahead=unsent.index(task))
        explanation = msgspec.msgpack.decode(self._ask("explain", str(task)), type=Explanation)
        if future.done():
            return self._explained_as_done(task)
        if explanation.state == "at the interchange" and not self.connected_workers:
            said = [
                f"block {view.id} is {view.state.value}" + (f" ({view.message})" if view.message else "")
                for view in self.blocks()
            ]
            explanation.waits_for += "; " + ("; ".join(said) or "no block was started")
        return task_explanation(name, explanation)

    def _explained_as_done(self, task: int) -> TaskExplanation:
        logs = self.worker_logdir_root or (str(self.run_folder) if self.run_folder is not None else "")
        return TaskExplanation(task, "", "done", log=logs)
