"""Parsl's high-throughput executor, run by Throughway."""

from __future__ import annotations

import atexit
import functools
import importlib.metadata
import logging
import math
import os
import shlex
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import parsl
from parsl.executors.base import ParslExecutor
from parsl.executors.errors import BadStateException, ScalingFailed
from parsl.executors.high_throughput.executor import HighThroughputExecutor as ParslHtex
from parsl.executors.high_throughput.manager_selector import BlockIdManagerSelector, RandomManagerSelector
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.states import TERMINAL_STATES, JobStatus
from parsl.monitoring.radios.htex import HTEXRadio

from throughway import errors as core_errors
from throughway.executors.high_throughput import HighThroughputExecutor as Core
from throughway.executors.options import DEFAULT
from throughway.executors.reactor import ExecutorReactor
from throughway.integrations.parsl import errors, worker
from throughway.integrations.parsl.blocks import ParslBlocks
from throughway.integrations.parsl.errors import ParslFuture, adapted
from throughway.integrations.parsl.nodes import NodeReporter
from throughway.integrations.parsl.providers import ParslProvider, is_local, parsl_provider
from throughway.integrations.parsl.radio import StreamRadio
from throughway.interchange.selectors import BlockPackingSelector, ManagerSelector, RandomSelector
from throughway.protocol.views import ManagerView

logger = logging.getLogger("throughway.parsl")

LOOPBACK = "127.0.0.1"

END_SECONDS = 3.0
"""How long the end waits for the managers on this machine to be gone."""


class _ParslCore(Core):
    """Throughway's executor, whose blocks Parsl starts. It does not keep its owner alive."""

    _future = ParslFuture

    def __init__(self, owner: HighThroughputExecutor, **parameters: Any) -> None:
        self._owner = weakref.ref(owner)
        super().__init__(**parameters)

    def _controller(self, provider: object, **settings: Any) -> ParslBlocks:
        owner = self._owner()
        assert owner is not None, "its owner starts it"
        return owner._make_blocks(provider, settings)

    def _on_broken(self) -> None:
        super()._on_broken()
        owner = self._owner()
        if owner is not None and self._run is not None and self._run.reactor.broken is not None:
            owner._broke(self._run.reactor.broken)


class HighThroughputExecutor(ParslHtex):
    """Takes the place of ``parsl.HighThroughputExecutor`` in a ``parsl.Config``.

    The parameters are Parsl's, with the same meaning, but for these:

    Args:
        provider: one of Parsl's or of Throughway's; None for ``parsl.providers.LocalProvider()``.
        launch_cmd: shell command that starts a manager; ``{command}`` stands for Throughway's own, ``{config}`` for
            the path of its document, ``{python}`` for this interpreter and ``{block_id}`` for the block. None for
            ``{command}``.
        address: where managers find this machine. None: with a local provider nothing listens, otherwise all
            addresses of this machine are tried. No address is looked up in the internet.
        prefetch_capacity: tasks that a manager holds beyond one for each worker; None adapts to how long tasks take.
        heartbeat_period: seconds; where it is more than half of ``heartbeat_threshold``, half of that is taken.
        manager_selector: Parsl's ``RandomManagerSelector`` or ``BlockIdManagerSelector``, or one of Throughway's.
        remote_monitoring_radio: None for a `StreamRadio`, which takes the place of Parsl's ``HTEXRadio``, too.
        interchange_launch_cmd: no effect, as `loopback_address`, `interchange_port_range` and `poll_period`: the
            interchange is started as a child, a socket pair leads to it, and nothing polls.
        initializer: callable that each worker runs first.
        initargs: its arguments.
        max_tasks_per_child: tasks after which a worker is replaced; None for never.
        max_outstanding: tasks without an outcome, at most: `submit` blocks while there are as many.
        max_payload_bytes: bytes of one task's arguments or result, at most; None for no limit.

    Raises:
        ConfigurationError: a parameter cannot work; both Throughway's and Parsl's.
    """

    def __init__(
        self,
        label: str = "HighThroughputExecutor",
        provider: Any = None,
        launch_cmd: str | None = None,
        interchange_launch_cmd: Sequence[str] | None = None,
        address: str | None = None,
        loopback_address: str = LOOPBACK,
        worker_port: int | None = None,
        worker_port_range: tuple[int, int] | None = (54000, 55000),
        interchange_port_range: tuple[int, int] | None = (55000, 56000),
        storage_access: list[Any] | None = None,
        working_dir: str | None = None,
        worker_debug: bool = False,
        cores_per_worker: float = 1.0,
        mem_per_worker: float | None = None,
        max_workers_per_node: int | None = None,
        cpu_affinity: str = "none",
        available_accelerators: int | Sequence[str] = (),
        prefetch_capacity: int | None = None,
        heartbeat_threshold: float = 120,
        heartbeat_period: float = 30,
        drain_period: float | None = None,
        poll_period: int = 10,
        address_probe_timeout: float | None = None,
        worker_logdir_root: str | None = None,
        manager_selector: Any = None,
        block_error_handler: bool | Callable[..., Any] = True,
        encrypted: bool = True,
        remote_monitoring_radio: Any = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        max_tasks_per_child: int | None = None,
        max_outstanding: int = 1_000_000,
        max_payload_bytes: int | None = None,
    ) -> None:
        # Not the constructor of Parsl's class, which looks addresses up in the internet.
        BlockProviderExecutor.__init__(
            self, provider=parsl_provider(provider), block_error_handler=block_error_handler
        )
        self.label = label
        self.launch_cmd = "{command}" if launch_cmd is None else launch_cmd
        self.interchange_launch_cmd = interchange_launch_cmd
        self.address = address
        self.loopback_address = loopback_address
        self.worker_port = worker_port
        self.worker_port_range = worker_port_range
        self.interchange_port_range = interchange_port_range
        self.storage_access = storage_access
        self.working_dir = working_dir
        self.worker_debug = worker_debug
        self.cores_per_worker = cores_per_worker
        self.mem_per_worker = mem_per_worker
        self.max_workers_per_node = max_workers_per_node or math.inf
        self.cpu_affinity = cpu_affinity
        if isinstance(available_accelerators, int):
            available_accelerators = [str(number) for number in range(available_accelerators)]
        self.available_accelerators = list(available_accelerators)
        self.prefetch_capacity = prefetch_capacity
        self.heartbeat_threshold = heartbeat_threshold
        self.heartbeat_period = heartbeat_period
        self.drain_period = drain_period
        self.poll_period = poll_period
        self.address_probe_timeout = address_probe_timeout
        self.worker_logdir_root = worker_logdir_root
        self.manager_selector = RandomManagerSelector() if manager_selector is None else manager_selector
        self.encrypted = encrypted
        if remote_monitoring_radio is None or isinstance(remote_monitoring_radio, HTEXRadio):
            remote_monitoring_radio = StreamRadio(self._radio_addresses())
        self.remote_monitoring_radio = remote_monitoring_radio
        self.initializer = initializer
        self.initargs = initargs
        self.max_tasks_per_child = max_tasks_per_child
        self.max_outstanding = max_outstanding
        self.max_payload_bytes = max_payload_bytes

        self.run_dir = "."
        self._workers_per_node = self._expected_workers()
        self._core: _ParslCore | None = None
        self._blocks: ParslBlocks | None = None
        self._reporter: NodeReporter | None = None
        self._ended = False
        self._parsl_versions: dict[str, str] = {}
        """manager → the version of Parsl on its node"""
        self._make_core()  # refuses what cannot work now; what is changed until `start` counts there

    def _radio_addresses(self) -> list[str] | None:
        if self.address is not None:
            return [self.address]
        return [LOOPBACK] if is_local(self.provider) else None

    def _expected_workers(self) -> int:
        """Workers of a node, as far as the parameters tell: what the strategy reckons with. At least 1."""
        cap = self._cap()
        if self.available_accelerators:
            cap = min(cap, len(self.available_accelerators))
        return 1 if cap == math.inf else int(cap)

    def _cap(self) -> float:
        """What the user and the provider's hints allow for a node."""
        cap = self.max_workers_per_node
        cores = getattr(self.provider, "cores_per_node", None)
        if cores is not None:
            cap = min(cap, math.floor(cores / self.cores_per_worker))
        memory = getattr(self.provider, "mem_per_node", None)
        if memory is not None and self.mem_per_worker:
            cap = min(cap, math.floor(memory / self.mem_per_worker))
        return cap

    def _make_core(self) -> _ParslCore:
        cap = self._cap()
        period, threshold = self.heartbeat_period, self.heartbeat_threshold
        if threshold > 0:
            period = min(period, threshold / 2)
        logs = None if self.worker_logdir_root is None else os.path.join(self.worker_logdir_root, self.label)
        try:
            return _ParslCore(
                self,
                label=self.label,
                provider=ParslProvider(local=is_local(self.provider)),
                address=self.address,
                worker_port=self.worker_port,
                worker_port_range=self.worker_port_range or (54000, 55000),
                worker_debug=self.worker_debug,
                cores_per_worker=self.cores_per_worker,
                mem_per_worker=self.mem_per_worker,
                max_workers_per_node=None if cap == math.inf else int(cap),
                cpu_affinity=self.cpu_affinity,
                available_accelerators=self.available_accelerators,
                prefetch_capacity=self.prefetch_capacity,
                heartbeat_period=period,
                heartbeat_threshold=threshold,
                drain_period=self.drain_period,
                address_probe_timeout=self.address_probe_timeout or 30.0,
                worker_logdir_root=logs,
                manager_selector=_selector(self.manager_selector),
                strategy="none",
                encrypted=self.encrypted,
                run_dir=os.path.join(self.run_dir, self.label),
                initializer=worker.prepare,
                initargs=(self.initializer, tuple(self.initargs)),
                max_tasks_per_child=self.max_tasks_per_child,
                max_outstanding=self.max_outstanding,
                max_payload_bytes=self.max_payload_bytes,
            )
        except core_errors.ConfigurationError as error:
            raise errors.ConfigurationError(str(error)) from error

    # ----------------------------------------------------------------------------------------- starting and ending

    def start(self) -> None:
        """Start the interchange. The data flow kernel calls it; its strategy then starts the blocks."""
        if self._core is not None:
            return
        BlockProviderExecutor.start(self)
        core = self._make_core()
        os.makedirs(self.logdir, exist_ok=True)
        try:
            core.start()
        except core_errors.ThroughwayError as error:
            raise adapted(error) from error
        self._core = core
        if core.run_folder is not None:
            _link(os.path.join(self.logdir, "interchange.log"), core.run_folder / "interchange.log")
        if self.submit_monitoring_radio is not None:
            self._reporter = NodeReporter(
                str(self.run_id), core.connected_managers, self.submit_monitoring_radio.send
            )
        # Else the end of the interpreter would wait for tasks whose blocks nobody starts any more.
        self._at_exit = functools.partial(_shut_down, weakref.ref(self))
        atexit.register(self._at_exit)

    def _make_blocks(self, provider: object, settings: dict[str, Any]) -> ParslBlocks:
        self._blocks = ParslBlocks(
            provider, on_change=self._on_change, statuses=lambda: dict(self._status), **settings
        )
        return self._blocks

    def _on_change(self) -> None:
        if self._reporter is not None:
            self._reporter.change()

    def shutdown(self, timeout: float = 10.0) -> None:
        """End at once: what has no outcome yet fails, and managers and the interchange end.

        Whoever wants the results waits for them first, as ``parsl.wait_for_current_tasks()`` does. ``timeout`` has
        no effect: every step of the end has a limit of its own.
        """
        core, self._core = self._core, None
        self._ended = True
        if core is not None:
            if self._reporter is not None:
                self._reporter.stop()
            if core.outstanding:
                _fail(core, errors.ExecutorFailed(f"executor {self.label!r} was shut down"))
            if self.bad_state_is_set:
                self._cancel_all()
            core.shutdown(wait=True)
            if self._blocks is not None:
                self._blocks.wait(END_SECONDS)
            atexit.unregister(self._at_exit)
        ParslExecutor.shutdown(self)

    def _cancel_all(self) -> None:
        """Cancel the jobs of an executor that has failed, which Parsl's poller leaves alone."""
        live = [block for block, status in self._status.items() if status.state not in TERMINAL_STATES]
        jobs = [self.blocks_to_job_id[block] for block in live if block in self.blocks_to_job_id]
        if not jobs:
            return
        try:
            self.provider.cancel(jobs)
        except Exception:
            logger.warning("the jobs %s could not be cancelled", jobs, exc_info=True)

    # ------------------------------------------------------------------------------------------------- bad state

    def set_bad_state_and_fail_all(self, exception: Exception) -> None:
        """Give up: every future gets a ``BadStateException``, and `submit` raises ``exception``."""
        logger.error("executor %r gives up: %s", self.label, exception)
        self._executor_exception = exception
        self._executor_bad_state.set()
        if self._core is not None:
            # In Parsl's words, and of both classes, so that either is caught.
            error = errors.ExecutorFailed(str(BadStateException(self, exception)))
            error.__cause__ = exception
            _fail(self._core, error)

    def _broke(self, error: BaseException) -> None:
        """Called in the run's thread: nothing can run any more."""
        if not self._ended and not self.bad_state_is_set:
            found = adapted(error)
            self._executor_exception = found if isinstance(found, Exception) else RuntimeError(repr(found))
            self._executor_bad_state.set()

    # ------------------------------------------------------------------------------------------------ submitting

    def submit(
        self, func: Callable[..., Any], resource_specification: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> ParslFuture[Any]:
        """Run ``func(*args, **kwargs)`` on a worker.

        Args:
            resource_specification: ``priority``: lower is sooner, FIFO within; ``walltime``: seconds after which the
                task is killed; ``retries``: how often it is run again after its worker or manager was lost, which
                are retries beside the data flow kernel's. Its workers see each as ``PARSL_PRIORITY`` and so on.

        Raises:
            InvalidResourceSpecification: another key, or a value that cannot work.
            BadStateException: the executor has failed, or was shut down.
        """
        self.validate_resource_spec(resource_specification)
        core = self._running()
        if not resource_specification:
            return core.submit(func, *args, **kwargs)  # type: ignore[return-value]
        variables = {f"PARSL_{name.upper()}": str(value) for name, value in resource_specification.items()}
        view = core.options(**resource_specification)
        return view.submit(worker.in_environment, variables, func, args, kwargs)  # type: ignore[return-value]

    def submit_payload(self, context: Mapping[str, Any], buffer: bytes) -> ParslFuture[Any]:
        """Run what Parsl's ``pack_apply_message`` has packed, or what the function of ``context`` makes of it."""
        specification = context.get("resource_spec") or {}
        self.validate_resource_spec(specification)
        executor = context.get("task_executor") or {}
        view = self._running().options(**specification)
        function, args, kwargs = executor.get("f"), executor.get("a", ()), executor.get("k", {})
        return view.submit(worker.run_payload, buffer, function, args, kwargs)  # type: ignore[return-value]

    def _running(self) -> _ParslCore:
        if self.bad_state_is_set:
            raise self.executor_exception
        if self._core is None:
            state = (
                "was shut down" if self._ended else "was not started: the data flow kernel does, or start()"
            )
            raise errors.ExecutorFailed(f"executor {self.label!r} {state}")
        return self._core

    def validate_resource_spec(self, resource_specification: Mapping[str, Any]) -> None:
        """Refuse keys that are not known, and values that cannot work.

        Raises:
            InvalidResourceSpecification: both Throughway's and Parsl's.
        """
        if not resource_specification:
            return
        unknown = frozenset(resource_specification) - set(DEFAULT._fields)
        if unknown:
            raise errors.InvalidResourceSpecification(
                f"resource specification {dict(resource_specification)!r}: unknown is {', '.join(sorted(unknown))}; "
                f"accepted are {', '.join(DEFAULT._fields)}",
                unknown,
            )
        try:
            DEFAULT.changed(dict(resource_specification))
        except core_errors.InvalidResourceSpecification as error:
            raise errors.InvalidResourceSpecification(
                f"resource specification: {error}", frozenset(resource_specification)
            ) from error

    # ------------------------------------------------------------------------------------------------- questions

    def outstanding(self) -> int:
        """How many tasks have no outcome yet."""
        return self._core.outstanding if self._core is not None else 0

    @property
    def tasks(self) -> dict[object, Any]:
        """Task id → the future of each task that has no outcome yet."""
        run = self._core._run if self._core is not None else None
        return run.reactor.futures if run is not None else {}  # type: ignore[return-value]

    @property
    def throughway(self) -> Core:
        """The executor inside, for what Parsl has no names for: `explain`, `kill`, `status_report`, ...

        Raises:
            BadStateException: it does not run.
        """
        return self._running()

    def _managers(self) -> list[ManagerView]:
        if self._core is None or self.bad_state_is_set:
            return []
        try:
            return self._core.connected_managers()
        except (core_errors.ExecutorFailed, RuntimeError):
            # It broke, or ended, while it was asked; the futures say why.
            return []

    def connected_managers(self) -> list[dict[str, Any]]:
        """The registered managers, with Parsl's keys, and ``hostname``, ``idle_workers`` and ``log`` beside them."""
        views = self._managers()
        if any(view.manager not in self._parsl_versions for view in views):
            mine = importlib.metadata.version("parsl")
            for manager, packages in self.connected_managers_packages().items():
                found = packages.get("parsl", "")
                self._parsl_versions[manager] = parsl.__version__ if found == mine else found
        return [
            {
                "manager": view.manager,
                "block_id": view.block,
                "worker_count": view.worker_count,
                "tasks": view.tasks,
                "idle_duration": view.idle_duration,
                "active": view.active,
                "parsl_version": self._parsl_versions.get(view.manager, ""),
                "python_version": view.python_version,
                "draining": view.draining,
                "hostname": view.host,
                "idle_workers": view.idle_workers,
                "log": view.log,
            }
            for view in views
        ]

    @property
    def connected_workers(self) -> int:
        """How many workers the registered managers have."""
        return sum(view.worker_count for view in self._managers())

    def connected_managers_packages(self) -> dict[str, dict[str, str]]:
        """For each manager's id, the installed packages and their versions."""
        return self._core.managers_packages() if self._core is not None and not self.bad_state_is_set else {}

    def connected_blocks(self) -> list[str]:
        """The ids of all blocks from which a manager has ever registered."""
        return self._blocks.connected() if self._blocks is not None else []

    def status(self) -> dict[str, JobStatus]:
        """The state of each block, and why its managers left; one that ended without any is MISSING."""
        statuses: dict[str, JobStatus] = super().status()
        for block, status in statuses.items():
            said = self._blocks.said(block) if self._blocks is not None else ""
            if said and status.terminal and said not in (status.message or ""):
                status.message = f"{status.message}; {said}" if status.message else said
        return statuses

    # --------------------------------------------------------------------------------------------------- scaling

    @property
    def workers_per_node(self) -> int:
        """What the strategy reckons with."""
        return self._workers_per_node

    def _get_launch_command(self, block_id: str) -> str:
        if self._blocks is None:
            raise ScalingFailed(self, "it was not started")
        command = self._blocks.command(block_id)
        config = shlex.split(command)[-1]
        fields = {
            "command": command,
            "config": shlex.quote(config),
            "python": shlex.quote(sys.executable),
            "block_id": block_id,
        }
        try:
            # Commands that were written for Parsl have doubled braces here.
            return self.launch_cmd.format(**fields).replace("{block_id}", block_id)
        except (KeyError, ValueError, IndexError) as error:
            raise ScalingFailed(
                self,
                f"launch_cmd={self.launch_cmd!r} cannot be filled in ({error!r}): the fields are "
                f"{', '.join(fields)}; commands for Parsl's process_worker_pool.py do not start Throughway's managers",
            ) from error

    def _hold_manager(self, manager_id: str) -> None:
        """Give a manager nothing new. One that has gone meanwhile is no error."""
        try:
            self._running().hold_manager(manager_id)
        except ValueError:
            return
        self._on_change()

    def scale_in(self, blocks: int, max_idletime: float | None = None) -> list[str]:
        """End some blocks, those first that have been idle longest; returns their ids.

        Args:
            blocks: how many.
            max_idletime: only those that have been idle for more seconds than this, and that get no task while they
                are being held. None for any: their managers finish what runs as far as the resource manager lets
                them.
        """
        idle: dict[str, float] = {
            block: math.inf for block, status in self._status.items() if status.state not in TERMINAL_STATES
        }
        tasks = dict.fromkeys(idle, 0)
        managers: dict[str, list[str]] = {}
        for view in self._managers():
            if view.active:
                idle[view.block] = min(idle.get(view.block, math.inf), view.idle_duration)
                tasks[view.block] = tasks.get(view.block, 0) + view.tasks
                managers.setdefault(view.block, []).append(view.manager)
        chosen = sorted(idle, key=lambda block: (-idle[block], tasks[block]))
        if max_idletime is not None:
            chosen = [block for block in chosen if idle[block] > max_idletime and not tasks[block]]
        chosen = chosen[:blocks]
        for block in chosen:
            for manager in managers.get(block, ()):
                self._hold_manager(manager)
        if max_idletime is not None:
            chosen = self._without_busy(chosen, managers)
        jobs = [self.blocks_to_job_id[block] for block in chosen if block in self.blocks_to_job_id]
        cancelled = self._filter_scale_in_ids(jobs, self.provider.cancel(jobs)) if jobs else []
        return [self.job_ids_to_block[job] for job in cancelled]

    def _without_busy(self, blocks: list[str], managers: dict[str, list[str]]) -> list[str]:
        """Those of the held blocks that got no task just before they were held; the others go on."""
        busy = {view.block for view in self._managers() if view.tasks}
        for block in blocks:
            if block in busy and self._core is not None:
                for manager in managers.get(block, ()):
                    try:
                        self._core.release_manager(manager)
                    except ValueError:
                        continue
        return [block for block in blocks if block not in busy]


def _selector(selector: Any) -> ManagerSelector | type[ManagerSelector]:
    if isinstance(selector, BlockIdManagerSelector):
        return BlockPackingSelector()
    if isinstance(selector, RandomManagerSelector):
        return RandomSelector()
    if isinstance(selector, ManagerSelector) or (
        isinstance(selector, type) and issubclass(selector, ManagerSelector)
    ):
        return selector
    raise core_errors.ConfigurationError(
        f"manager_selector={selector!r}: give Parsl's RandomManagerSelector() or BlockIdManagerSelector(), or a "
        "subclass of throughway.ManagerSelector: the interchange does not run those of Parsl"
    )


def _fail(core: Core, error: errors.ExecutorFailed) -> None:
    """End the run: every future gets ``error``. Does not wait."""
    run = core._run
    if run is None:
        return

    def fail(reactor: ExecutorReactor) -> None:
        reactor.fail(error)
        # At once: the run's thread may otherwise wait for an event before it looks.
        run._after_batch()

    run.shell.request(fail)


def _link(path: str, target: os.PathLike[str]) -> None:
    """Put a link where Parsl's users look for a log."""
    try:
        # It may not have been written to yet.
        with open(target, "a", encoding="utf-8"):
            pass
        if os.path.islink(path):
            os.unlink(path)
        os.symlink(os.path.abspath(target), path)
    except OSError as error:
        logger.info("no link %s to the interchange's log: %s", path, error)


def _shut_down(reference: weakref.ref[HighThroughputExecutor]) -> None:
    executor = reference()
    if executor is not None:
        executor.shutdown()
