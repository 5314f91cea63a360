"""The executor that users construct."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from throughway import errors
from throughway.blocks.controller import BlockController, ErrorHandler
from throughway.blocks.plan import Strategy
from throughway.blocks.policy import MAX_IDLETIME, policy_for
from throughway.blocks.strategies import none as no_strategy
from throughway.blocks.strategies import strategy_for
from throughway.executors import capacity, documents, futures, mapping, parameters, scaling
from throughway.executors.actions import Tell
from throughway.executors.futures import TaskFuture
from throughway.executors.interrupts import DeferredInterrupt
from throughway.executors.options import DEFAULT, ResourceSpecification
from throughway.executors.questions import Questions
from throughway.executors.run import Run
from throughway.executors.serving import FEW_TASKS
from throughway.executors.view import ExecutorView
from throughway.interchange.selectors import (
    BlockPackingSelector,
    ManagerSelector,
    RandomSelector,
    selector_config,
)
from throughway.manager.accelerators import accelerator_names
from throughway.manager.affinity import validate_affinity
from throughway.manager.sizing import validate_sizing
from throughway.protocol.messages import Cancel, Task
from throughway.providers.interface import Provider
from throughway.providers.local import LocalProvider
from throughway.serialize.functions import FunctionTable
from throughway.serialize.payloads import pack_call

if TYPE_CHECKING:
    from throughway.executors.journal import Journal
    from throughway.transport.arena import Arena, Lease

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_live: weakref.WeakSet[HighThroughputExecutor] = weakref.WeakSet()

_runs: weakref.WeakSet[Run] = weakref.WeakSet()
"""Those whose threads have not ended: these keep them."""


class HighThroughputExecutor(Questions, Executor):
    """Runs functions on the nodes that a provider gives: a `concurrent.futures.Executor` for clusters.

    It starts at its first use, or by `start`. All methods may be called from any thread.

    Args:
        label: name in logs and process titles.
        provider: where nodes come from; None for this machine, all the time: ``LocalProvider(min_blocks=1)``.
        launch_cmd: shell command that starts a manager, with ``{config}`` for the path of its document, and
            ``{python}`` and ``{block}`` where wanted; None for ``{python} -P -m throughway.manager {config}``.
        address: address at which managers on other machines reach this one. None: all addresses of this machine are
            tried where the provider's nodes are other machines, and nothing listens at all where they are not.
        worker_port: port for managers of other machines; None for a free one in ``worker_port_range``.
        worker_port_range: lowest and highest port to choose from.
        worker_debug: interchange and managers log every message.
        cores_per_worker: cores for each worker; a node with 8 cores and 2.0 has 4 workers; below 1 shares cores.
        mem_per_worker: memory for each worker in GB (2^30 bytes), which limits how many there are; None for no limit.
        max_workers_per_node: workers on a node, at most; None for no limit.
        cpu_affinity: how workers are pinned to cores: ``none``, ``block``, ``block-reverse``, ``alternating``, or
            ``list:0,1:2,3`` with the cores of each worker.
        available_accelerators: number or names of the accelerators on a node. Each worker gets one to itself, by
            ``CUDA_VISIBLE_DEVICES``, ``ROCR_VISIBLE_DEVICES`` and ``ZE_AFFINITY_MASK``.
        prefetch_capacity: tasks that a manager holds beyond one for each worker; None adapts to how long tasks take.
        heartbeat_period: seconds of silence after which interchange and managers send each other a heartbeat.
        heartbeat_threshold: seconds of silence after which a manager is lost, and a manager gives up.
        drain_period: seconds after which a manager takes nothing new, finishes and ends; None for never.
        address_probe_timeout: seconds for a manager to find an address that answers.
        worker_logdir_root: folder for the logs of managers and workers; None for the run folder. Managers must be
            able to write it.
        manager_selector: which manager gets the next task: `RandomSelector`, `LeastLoadedSelector`,
            `BlockPackingSelector`, or one's own subclass of `ManagerSelector`. None packs blocks where their number
            follows the load, so that some of them run empty, and is random elsewhere.
        strategy: how many blocks there are: ``none`` keeps the first ones, ``simple`` starts more for tasks and ends
            them once nothing is left to do, ``htex_auto_scale`` also ends single ones; or a pure function
            ``(view, policy, now)`` that returns a `throughway.blocks.Wish`.
        max_idletime: seconds after which a block that is not needed is scaled in.
        block_error_handler: True to give up when blocks fail again and again, False never to, or a callable
            ``(executor_view, {block: JobStatus})`` that decides.
        encrypted: encrypt and authenticate (CurveZMQ) the wire to managers on other machines.
        working_dir: working directory of workers; None for the current one.
        run_dir: folder in which the run's folder is made; None for the user's state folder.
        initializer: callable that each worker runs first; if it raises, every future fails.
        initargs: its arguments.
        max_tasks_per_child: tasks after which a worker is replaced; None for never.
        max_outstanding: tasks without an outcome, at most: `submit` blocks while there are as many.
        max_payload_bytes: bytes of one task's arguments or result, at most; None for no limit.
        journal: file in which results are kept, so that a script which starts again finds what is done; None for none.

    Raises:
        ConfigurationError: a parameter cannot work; the message says what can.
    """

    _future: type[TaskFuture[Any]] = TaskFuture
    """what `submit` returns; integrations have their own"""
    _controller: Callable[..., BlockController] = BlockController
    """what keeps the blocks; an integration may start them itself"""

    def __init__(
        self,
        label: str = "HighThroughputExecutor",
        provider: Provider | None = None,
        *,
        launch_cmd: str | None = None,
        address: str | None = None,
        worker_port: int | None = None,
        worker_port_range: tuple[int, int] = (54000, 55000),
        worker_debug: bool = False,
        cores_per_worker: float = 1.0,
        mem_per_worker: float | None = None,
        max_workers_per_node: int | None = None,
        cpu_affinity: str = "none",
        available_accelerators: int | Sequence[str] = (),
        prefetch_capacity: int | None = None,
        heartbeat_period: float = 30.0,
        heartbeat_threshold: float = 120.0,
        drain_period: float | None = None,
        address_probe_timeout: float = 30.0,
        worker_logdir_root: str | os.PathLike[str] | None = None,
        manager_selector: ManagerSelector | type[ManagerSelector] | None = None,
        strategy: str | Strategy | None = "simple",
        max_idletime: float = MAX_IDLETIME,
        block_error_handler: bool | ErrorHandler = True,
        encrypted: bool = True,
        working_dir: str | os.PathLike[str] | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: Sequence[Any] = (),
        max_tasks_per_child: int | None = None,
        max_outstanding: int = 1_000_000,
        max_payload_bytes: int | None = None,
        journal: str | os.PathLike[str] | None = None,
    ) -> None:
        self.label = parameters.label(label)
        self.provider: Provider = LocalProvider(min_blocks=1) if provider is None else provider
        parameters.provider(self.provider)
        self.launch_cmd = parameters.launch_command(launch_cmd)
        self.address = parameters.address(address)
        self.worker_port = parameters.port("worker_port", worker_port)
        self.worker_port_range = parameters.port_range("worker_port_range", worker_port_range)
        self.worker_debug = parameters.flag("worker_debug", worker_debug)
        validate_sizing(
            cores_per_worker=cores_per_worker,
            mem_per_worker=mem_per_worker,
            max_workers_per_node=max_workers_per_node,
        )
        self.cores_per_worker = float(cores_per_worker)
        self.mem_per_worker = mem_per_worker
        self.max_workers_per_node = max_workers_per_node
        validate_affinity(cpu_affinity)
        self.cpu_affinity = cpu_affinity
        self.available_accelerators = accelerator_names(available_accelerators)
        self.prefetch_capacity = parameters.positive(
            "prefetch_capacity", prefetch_capacity, optional=True, zero=True
        )
        self.heartbeat_period, self.heartbeat_threshold = parameters.heartbeats(
            heartbeat_period, heartbeat_threshold
        )
        self.drain_period = parameters.seconds("drain_period", drain_period, optional=True)
        self.address_probe_timeout = parameters.seconds("address_probe_timeout", address_probe_timeout) or 0.0
        self.worker_logdir_root = parameters.folder("worker_logdir_root", worker_logdir_root)
        self.strategy = strategy
        self.max_idletime = parameters.seconds("max_idletime", max_idletime) or 0.0
        follows = strategy_for(strategy) is not no_strategy
        if self._controller is BlockController:
            policy_for(self.provider, max_idletime=self.max_idletime, follows=follows)
        usual = BlockPackingSelector() if scaling.scales(self.provider, strategy) else RandomSelector()
        self._selector = selector_config(usual if manager_selector is None else manager_selector)
        parameters.error_handler(block_error_handler)
        self.block_error_handler = block_error_handler
        self.encrypted = parameters.flag("encrypted", encrypted)
        self.working_dir = parameters.folder("working_dir", working_dir)
        if self.working_dir is not None and self.provider.local and not os.path.isdir(self.working_dir):
            raise parameters.reject(
                "working_dir", self.working_dir, "give a folder that is there: workers run in it"
            )
        self.run_dir = parameters.folder("run_dir", run_dir)
        parameters.initializer(initializer, initargs)
        self._initializer = initializer
        self._initargs = tuple(initargs)
        self.max_tasks_per_child = parameters.positive(
            "max_tasks_per_child", max_tasks_per_child, optional=True
        )
        self.max_outstanding = parameters.positive("max_outstanding", max_outstanding) or 0
        self.max_payload_bytes = parameters.positive("max_payload_bytes", max_payload_bytes, optional=True)
        self.journal = parameters.journal(journal)
        self._journal: Journal | None = None
        if self.journal is not None:
            from throughway.executors.journal import Journal

            self._journal = Journal(self.journal, self.label)

        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._arena: Arena | None = None
        self._functions = FunctionTable(max_bytes=self.max_payload_bytes)
        self._lookup = self._functions.lookup
        documents.worker_document(self)  # refuses an initializer that cannot travel
        self._run: Run | None = None
        self._notice_at = math.inf
        self._ready = False
        """whether tasks may be submitted right now: started, and neither shut down nor broken"""
        self._shut_down = False
        self._forked_from = 0
        """in a forked child, the process id of the parent, which goes on using it"""
        self._room = threading.Condition()
        self._crowd = 0
        """threads that wait for room"""
        _live.add(self)

    # ----------------------------------------------------------------------------------------------------- starting

    def start(self) -> None:
        """Start now rather than at the first use: the interchange and the first blocks. May be called again.

        Raises:
            ThroughwayError: it cannot be started; the message says why.
            RuntimeError: it was shut down.
        """
        with DeferredInterrupt(), self._lock:
            if self._shut_down:
                raise RuntimeError(self._refusal("cannot start an executor after its shutdown"))
            if self._run is not None:
                return
            if self._journal is not None:
                self._journal.open()
            self._run = Run(
                self.label,
                self.provider,
                run_dir=self.run_dir,
                forgotten=self._functions.forgotten,
                interchange=functools.partial(documents.interchange_document, self),
                manager=functools.partial(documents.manager_document, self),
                command=functools.partial(documents.manager_command, self.launch_cmd),
                block_error_handler=self.block_error_handler,
                address=self.address,
                encrypted=self.encrypted,
                heartbeats=(self.heartbeat_period, self.heartbeat_threshold),
                on_batch=_forwarded(self, "_on_batch"),
                on_broken=_forwarded(self, "_on_broken"),
                controller=self._controller,
                journal=self._journal,
                # Else somebody may wait for the room that each result makes.
                spins=self.max_outstanding > FEW_TASKS,
                scaling={
                    "strategy": self.strategy,
                    "max_idletime": self.max_idletime,
                    "workers_per_node": scaling.workers_per_node(self),
                    "notice": _forwarded(self, "_notice"),
                },
                guarded=scaling.guarded(self, own_command=self.launch_cmd != parameters.LAUNCH_COMMAND),
            )
            _runs.add(self._run)
            self._futures = self._run.reactor.futures
            self._outbox = self._run.reactor.outbox
            self._arena = self._run.arena
            self._ready = True

    # --------------------------------------------------------------------------------------------------- submitting

    def submit(
        self, fn: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> TaskFuture[Result]:
        """Run ``fn(*args, **kwargs)`` on a worker; see `concurrent.futures.Executor.submit`.

        Arguments are pickled in this call; what changes afterwards does not reach the worker. The exceptions are large
        arrays and bytearrays (`serialize.pickling.LARGE_FRAME_BYTES`). On one machine they too are copied in this
        call, into memory that the workers share, as long as it has room; else, and to other machines, they are sent
        from where they are: do not change them before the future is running, or with retries done.
        Arguments that cannot be pickled fail the future, not the call.

        Raises:
            RuntimeError: the executor was shut down.
            BrokenExecutor: the executor failed; the message says why.
        """
        return self._submit(fn, args, kwargs, DEFAULT)

    def _submit(
        self,
        fn: Callable[..., Result],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        specification: ResourceSpecification,
    ) -> TaskFuture[Result]:
        if self._journal is not None:
            return self._submit_kept(self._journal, fn, args, kwargs, specification)
        if not self._ready:
            self._start_or_refuse()
        if len(self._futures) >= self.max_outstanding:
            self._wait_for_room()
        try:
            entry = self._lookup(fn)
            function = entry.function
            payload, frames = pack_call(args, kwargs, name=function.name, max_bytes=self.max_payload_bytes)
        except errors.SerializationError as error:
            return self._failed(error)
        priority, walltime, retries, _ = specification
        number = next(self._ids)
        where, lasting = self._place(number, frames) if frames else (0, ())
        task = Task(number, function.id, payload, where, priority, walltime)
        future: TaskFuture[Result] = self._future(self, task, entry, lasting, retries)
        try:
            self._futures[task.id] = future
            self._outbox.append(task)
            self._submitted()
        except BaseException:
            # Ctrl-C, most likely: the caller gets no future, so nothing may wait for one.
            self._disown(task.id)
            raise
        if not self._ready:
            self._refuse_late(number)
        return future

    def _refuse_late(self, task: int) -> None:
        """The executor has begun to end, or broke, while this task was made: nobody may be there to run it, or to end
        its future."""
        run = self._run
        if run is not None and run.reactor.closed and self._futures.pop(task, None) is not None:
            self._start_or_refuse()

    def _notice(self, count: float) -> None:
        """Called by the controller of the blocks: with ``count`` outstanding tasks it wants to know, inf for never.

        Until then each submission looks whether there are as many; it costs nothing where that cannot matter.
        """
        self._notice_at = count
        if count != math.inf:
            with contextlib.suppress(AttributeError):
                del self._submitted

    def _submitted(self) -> None:
        """A task is in the outbox. While nothing is to be noticed, the shell's own method hides this one."""
        run = self._run
        assert run is not None
        if len(self._futures) >= self._notice_at:
            # The controller tells what to notice next, once it has looked.
            self._notice_at = math.inf
            run.controller.demand()
        elif self._notice_at == math.inf:
            self._submitted = run.shell.submitted  # type: ignore[method-assign]
            # It may have been set at this very moment, in the controller's thread.
            self._notice(self._notice_at)
        run.shell.submitted()

    def _submit_kept(
        self,
        journal: Journal,
        fn: Callable[..., Result],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        specification: ResourceSpecification,
    ) -> TaskFuture[Result]:
        """As `_submit`, for an executor with a journal: what is done already comes from there, and starts nothing."""
        if self._shut_down:
            self._start_or_refuse()
        with self._lock:
            journal.open()
        priority, walltime, retries, label = specification
        try:
            entry = self._lookup(fn)
            function = entry.function
            payload, frames = pack_call(args, kwargs, name=function.name, max_bytes=self.max_payload_bytes)
        except errors.SerializationError as error:
            return self._failed(error)
        key = journal.key(fn, entry, args, kwargs, payload, frames, label)
        kept = None if key is None else journal.recall(key)
        if kept is not None:
            done: TaskFuture[Result] = self._future(self, Task(next(self._ids), 0, b""), None, (), 0)
            done.from_journal = True
            done._set_value(kept[0])
            return done
        if not self._ready:
            self._start_or_refuse()
        if len(self._futures) >= self.max_outstanding:
            self._wait_for_room()
        number = next(self._ids)
        where, lasting = self._place(number, frames) if frames else (0, ())
        task = Task(number, function.id, payload, where, priority, walltime)
        future: TaskFuture[Result] = self._future(self, task, entry, lasting, retries)
        if key is not None:
            journal.submitted(key, future, label)
        try:
            self._futures[task.id] = future
            self._outbox.append(task)
            self._submitted()
        except BaseException:
            self._disown(task.id)
            raise
        if not self._ready:
            self._refuse_late(number)
        return future

    def _place(self, task: int, frames: list[memoryview]) -> tuple[int, Sequence[memoryview] | Lease]:
        """Where a task's frames are, as `Task.frames` has it, and what keeps them there."""
        lease = None if self._arena is None else self._arena.put(task, frames)
        return (len(frames), frames) if lease is None else (-lease.place, lease)

    def _disown(self, task: int) -> None:
        """Forget a task whose `submit` was cut short, and have it killed should it be on its way: nobody could."""
        self._futures.pop(task, None)
        if self._run is not None:
            self._run.shell.request(lambda reactor: reactor._actions.append(Tell(Cancel([task], kill=True))))

    def _failed(self, error: BaseException) -> TaskFuture[Any]:
        future: TaskFuture[Any] = self._future(self, Task(next(self._ids), 0, b""), None, (), 0)
        future._set_error(error)
        return future

    def _start_or_refuse(self) -> None:
        if self._shut_down:
            raise RuntimeError(self._refusal("cannot schedule new futures after shutdown"))
        self.start()
        assert self._run is not None
        broken = self._run.reactor.broken
        if broken is not None:
            raise broken

    def _refusal(self, reason: str) -> str:
        if self._forked_from:
            return (
                f"executor {self.label!r} belongs to process {self._forked_from}, of which this one is a fork: "
                "make an executor in this process"
            )
        return reason

    def _wait_for_room(self) -> None:
        assert self._run is not None
        if self._run.shell.in_thread or self._run.shell.engaged:
            # It must not wait for what only this thread can bring, or lets the executor's bring.
            return
        self._run.shell.serving.recall()
        self._run.shell.wake()
        with self._room:
            self._crowd += 1
            self._room.wait_for(lambda: len(self._futures) < self.max_outstanding or not self._ready)
            self._crowd -= 1
        if not self._ready:
            self._start_or_refuse()

    def map(
        self,
        fn: Callable[..., Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
        progress: bool | str = False,
    ) -> Iterator[Result]:
        """Like the builtin `map`, with calls running on workers; see `concurrent.futures.Executor.map`.

        Args:
            timeout: seconds from this call after which `next` raises `TimeoutError`; None for no limit.
            chunksize: calls in one task. Tiny tasks are sent together anyway: it is seldom worth setting.
            buffersize: tasks submitted ahead of the result that is yielded next, at most; None submits all at once.
            progress: True, or a title, to show how far it is: on a terminal, in a notebook, or as lines of a log.
        """
        mapping.check(timeout, chunksize, buffersize, progress)
        return mapping.run(self._submit_plain, fn, iterables, timeout, chunksize, buffersize, progress)

    def _submit_plain(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> TaskFuture[Any]:
        return self._submit(fn, args, {}, DEFAULT)

    @property
    def _max_workers(self) -> int:
        """As the standard library's executors have it, for libraries that look there, such as Dask."""
        return capacity.most_workers(self)

    def options(self, **options: Any) -> ExecutorView:
        """A view on this executor whose tasks have a resource specification.

        Args:
            priority: lower is sooner, FIFO within; an int, 0 by default.
            walltime: seconds that a task may run before it is killed; None for no limit.
            retries: how often a task that was lost with its worker or manager is run again. One whose function
                raised is not.
            key: names the task in the journal, in place of its function and arguments; `map` numbers it.

        Raises:
            InvalidResourceSpecification: an option is unknown or cannot work; the message says what is accepted.
        """
        return self._view(DEFAULT.changed(options))

    def _view(self, specification: ResourceSpecification) -> ExecutorView:
        scaling.check_walltime(self, specification)
        if specification.key is not None and self._journal is None:
            raise errors.InvalidResourceSpecification(
                f"key={specification.key!r} names a task in a journal, and executor {self.label!r} keeps none: "
                "give it one, as in HighThroughputExecutor(journal='results.journal')"
            )
        return ExecutorView(self, specification)

    # --------------------------------------------------------------------------------------------------- cancelling

    def _cancel(self, future: TaskFuture[Any]) -> bool:
        run = self._run
        if run is None:
            return False
        verdict: list[bool] = []
        told = threading.Event()

        def tell(cancelled: bool) -> None:
            verdict.append(cancelled)
            told.set()

        run.shell.request(lambda reactor: reactor.cancel([future.task_id], tell))
        if run.shell.in_thread:
            run.shell.wait_in_thread(told.is_set, self.heartbeat_threshold)
        else:
            told.wait(self.heartbeat_threshold)
        return bool(verdict) and verdict[0]

    def _cancel_many(self, tasks: list[int]) -> None:
        run = self._run
        if run is not None:
            run.shell.request(lambda reactor: reactor.cancel(tasks, None))

    def kill(self, future: Future[Any]) -> None:
        """End a task now. One that runs is killed with its worker and its future gets `TaskKilled`; one that waits
        is cancelled. Returns at once; the future tells the end.

        Raises:
            ValueError: the future is not one of this executor.
        """
        task = self._task_of(future)
        run = self._run
        if run is not None and not future.done():
            run.shell.request(lambda reactor: reactor.cancel([task], None, kill=True))

    def _task_of(self, future: Future[Any]) -> int:
        if not isinstance(future, TaskFuture) or future._executor not in (self, None):
            raise ValueError(f"{future!r} is not a future of executor {self.label!r}")
        return future.task_id

    # ------------------------------------------------------------------------------------------------------- ending

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks, and end once those submitted have ended; see `concurrent.futures.Executor.shutdown`.

        Args:
            wait: return only when every future is done and every process of the run is gone.
            cancel_futures: cancel what has not started.
        """
        self._end(wait, cancel_futures=cancel_futures, kill=False)

    def _end(self, wait: bool, *, cancel_futures: bool, kill: bool) -> None:
        with self._lock:
            self._shut_down = True
            self._ready = False
            run = self._run
        with self._room:
            self._room.notify_all()
        _live.discard(self)
        if run is None:
            if self._journal is not None:
                self._journal.close()
            return
        if cancel_futures or kill:
            run.cancel_all(kill=kill)
        run.end()
        if wait and not run.shell.in_thread:
            run.shell.join()

    def _forget_run(self) -> None:
        """In a forked child. Whatever other threads held or waited for, they are not here."""
        self._ready = False
        self._shut_down = True
        self._forked_from = os.getppid()
        self._lock = threading.Lock()
        self._room = threading.Condition()
        run, self._run = self._run, None
        if self._journal is not None:
            self._journal.abandon()
        if run is None:
            return
        _inherited.append(run)
        run.forsake()
        error = RuntimeError(self._refusal(""))
        for future in run.reactor.futures.values():
            future._fail_in_child(error)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: object
    ) -> bool | None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        # Whoever presses Ctrl-C wants an end, not the rest of the work.
        self._end(True, cancel_futures=interrupted, kill=interrupted)
        return None

    def __del__(self) -> None:
        if getattr(self, "_run", None) is not None and not self._shut_down:
            self._end(False, cancel_futures=False, kill=False)

    def __repr__(self) -> str:
        state = "shut down" if self._shut_down else "new" if self._run is None else "running"
        return f"<HighThroughputExecutor {self.label!r}: {state}, {self.outstanding} tasks outstanding>"

    # ------------------------------------------------------------------------------------- called in the run's thread

    def _on_batch(self) -> None:
        # Who joins the crowd after this look finds the room that this batch made.
        if self._crowd and len(self._futures) < self.max_outstanding:
            with self._room:
                self._room.notify_all()

    def _on_broken(self) -> None:
        self._ready = False
        with self._room:
            self._room.notify_all()


def _forwarded(executor: HighThroughputExecutor, method: str) -> Callable[..., None]:
    """A method of an executor, without keeping the executor alive."""
    reference = weakref.ref(executor)

    def call(*arguments: object) -> None:
        target = reference()
        if target is not None:
            getattr(target, method)(*arguments)

    return call


def _end_all() -> None:
    """At the interpreter's end: wait for what was submitted, as the standard library does; not after Ctrl-C."""
    interrupted = issubclass(getattr(sys, "last_type", None) or Exception, KeyboardInterrupt)
    for executor in list(_live):
        executor._end(True, cancel_futures=interrupted, kill=interrupted)
    for run in list(_runs):
        # Shut down without waiting, or forgotten: what was submitted runs all the same.
        if interrupted:
            run.cancel_all(kill=True)
        run.shell.join()


_inherited: list[Run] = []
"""In a forked child, the parent's runs: kept, so that nothing of them is closed or waited for here."""


def _after_fork() -> None:
    """In a forked child: the parent's executors are not the child's, nor can it wait for the parent's futures."""
    futures._making = threading.Lock()
    for executor in list(_live):
        executor._forget_run()
    _live.clear()
    _runs.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_after_fork)
