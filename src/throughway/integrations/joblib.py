"""joblib on Throughway: after ``import throughway.integrations.joblib`` there is ``backend="throughway"``."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

try:
    import joblib
    from joblib._parallel_backends import (
        AutoBatchingMixin,
        FallbackToBackend,
        ParallelBackendBase,
        SequentialBackend,
        ThreadingBackend,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"throughway.integrations.joblib needs the package {error.name!r}, which is not installed: "
        "pip install 'throughway[joblib]'",
        name=error.name,
    ) from error

from throughway.executors.high_throughput import HighThroughputExecutor
from throughway.integrations import batches
from throughway.integrations.own import AnyExecutor, base_of, check_executor, own_executor
from throughway.integrations.shared_arrays import SharedArrays
from throughway.integrations.threads import set_variables, thread_variables
from throughway.manager.sizing import cores_available

NAME = "throughway"

_log = logging.getLogger("throughway.joblib")

Batch = Callable[[], list[Any]]
Callback = Callable[[Any], object]


class _Call:
    """One call of `joblib.Parallel`, or one ``with`` block of it: its batches, and the thread of its callbacks.

    joblib's callbacks take a lock, read the user's iterable and submit the next batch. They must not do that in the
    executor's thread, which would then wait for what only it can bring.
    """

    def __init__(self, executor: AnyExecutor, limit: int | None, arrays: SharedArrays | None) -> None:
        self._executor = executor
        self._limit = limit
        """batches that are with the executor, at most"""
        self._arrays = arrays
        self._lock = threading.RLock()  # pickling runs the user's code
        self._waiting: deque[tuple[Batch, Callback | None]] = deque()
        self._running: dict[Future[Any], tuple[Callback | None, list[Any]]] = {}
        self._ended: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="throughway: joblib", daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, callback: Callback | None) -> None:
        """Run a batch, now or once there is room; ``callback`` gets its future."""
        with self._lock:
            if self._closed:
                return  # aborted meanwhile: joblib asks for no result
            if self._limit is not None and len(self._running) >= self._limit:
                self._waiting.append((batch, callback))
                return
            # Its end cannot be handled before it is entered: that takes the lock, too.
            future, files = self._start(batch)
            self._running[future] = callback, files
        future.add_done_callback(self._ended.put)

    def _start(self, batch: Batch) -> tuple[Future[Any], list[Any]]:
        if self._arrays is not None:
            try:
                data, buffers, files = self._arrays.dump(batch)
            except Exception:  # noqa: BLE001, S110 - pickled below as any argument is, it fails with a reason
                pass
            else:
                return self._submit(batches.run_pickled, data, buffers), files
        return self._submit(batches.run, batch), []

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return self._executor.submit(function, *arguments)
        except Exception as error:  # noqa: BLE001 - it is the batch's outcome, in whichever thread
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _run(self) -> None:
        while (future := self._ended.get()) is not None:
            with self._lock:
                callback, files = self._running.pop(future)
                started = self._start_next()
            if started is not None:
                started.add_done_callback(self._ended.put)
            if self._arrays is not None:
                self._arrays.release(files)
            if callback is not None:
                try:
                    callback(future)
                except Exception:  # noqa: BLE001 - the thread goes on, for the other batches
                    _log.exception("joblib's callback failed")
            del future, callback, started

    def _start_next(self) -> Future[Any] | None:
        if not self._waiting:
            return None
        batch, callback = self._waiting.popleft()
        future, files = self._start(batch)
        self._running[future] = callback, files
        return future

    def abort(self) -> None:
        """End what waits and what runs."""
        with self._lock:
            self._waiting.clear()
            running = list(self._running)
        executor = base_of(self._executor)
        for future in running:
            if not future.done():
                executor.kill(future)

    def close(self) -> None:
        """No batch comes any more."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
        self._ended.put(None)  # not waited for: the thread may be reading the user's iterable
        if self._arrays is not None:
            self._arrays.close()


class ThroughwayBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's backend that runs batches on a `HighThroughputExecutor`.

    Args:
        executor: use this executor, or view of one, and leave it running. None: without further ``parameters`` one that
            all such backends of this process share, with ``n_jobs`` workers on this machine, which lives until the
            process ends or `shutdown` is called; with them one of this backend's own.
        parameters: those of `HighThroughputExecutor`, such as ``provider``.
    """

    supports_retrieve_callback = True
    supports_return_generator = True
    supports_timeout = True
    supports_inner_max_num_threads = True
    uses_threads = False
    supports_sharedmem = False
    default_n_jobs = -1

    def __init__(
        self,
        executor: AnyExecutor | None = None,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **parameters: Any,
    ) -> None:
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        if executor is not None:
            check_executor(executor, 'backend="throughway"')
            if parameters:
                raise ValueError(
                    f"{', '.join(parameters)}: a given executor has its own parameters; "
                    "give them to it, or leave executor away"
                )
        self._given = executor
        self._parameters = parameters
        self._own: HighThroughputExecutor | None = None
        self._call: _Call | None = None

    # ------------------------------------------------------------------------------------------ what joblib asks for

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at a time: ``n_jobs``, or for negative numbers all workers but -1 - ``n_jobs``."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        if n_jobs > 0:
            return n_jobs
        return max(self._workers() + 1 + n_jobs, 1)

    def _workers(self) -> int:
        if self._given is not None:
            return self._given._max_workers
        if self._own is not None:
            return self._own._max_workers
        if self._parameters:
            # Asked of an executor that is never started.
            return own_executor(None, "joblib", self._parameters)._max_workers
        return cores_available()

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        prefer: str | None = None,
        require: str | None = None,
        *,
        temp_folder: str | None = None,
        max_nbytes: int | None = None,
        mmap_mode: str | None = None,
        **others: Any,
    ) -> int:
        """Get ready for a call of ``parallel``; returns how many batches run at a time.

        The arguments are those that `joblib.Parallel` takes for its own process backends, and mean the same.
        """
        if self._given is None and batches.in_worker():
            # As joblib does below its own process backends: threads, and nothing below them.
            raise FallbackToBackend(ThreadingBackend(nesting_level=1))
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        executor = self._executor(n_jobs)
        base = base_of(executor)
        folder = temp_folder or os.environ.get("JOBLIB_TEMP_FOLDER")
        shared = max_nbytes is not None and mmap_mode is not None and (base.provider.local or bool(folder))
        arrays = SharedArrays(folder, int(max_nbytes or 0), mmap_mode or "r") if shared else None
        base.start()
        limit = n_jobs if self._given is not None and n_jobs < executor._max_workers else None
        self._call = _Call(executor, limit, arrays)
        return n_jobs

    def _executor(self, n_jobs: int) -> AnyExecutor:
        if self._given is not None:
            if self.inner_max_num_threads is not None:
                raise ValueError(
                    f"inner_max_num_threads={self.inner_max_num_threads} cannot be set for the workers of a given "
                    "executor: give it an initializer that limits them, or cpu_affinity"
                )
            return self._given
        threads = self.inner_max_num_threads or max(1, cores_available() // n_jobs)
        variables = thread_variables(threads, os.environ, explicit=self.inner_max_num_threads is not None)
        if not self._parameters:
            return _shared_executor(n_jobs, variables)
        if self._own is None:
            given = dict(self._parameters)
            start = (variables, given.pop("initializer", None), tuple(given.pop("initargs", ())))
            workers = None if "provider" in given else n_jobs
            self._own = own_executor(
                workers, "joblib", {"initializer": set_variables, "initargs": start, **given}
            )
        return self._own

    def submit(self, func: Batch, callback: Callback | None = None) -> Future[Any]:
        """Run a batch."""
        assert self._call is not None
        self._call.submit(func, callback)
        return _NO_FUTURE

    def apply_async(self, func: Batch, callback: Callback | None = None) -> Future[Any]:
        """What `submit` was called before joblib 1.5."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """The results of a batch that has ended."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """End all batches: those that run are killed with their workers, as joblib's own backends do it."""
        if self._call is not None:
            self._call.abort()
        self.reset_batch_stats()

    def terminate(self) -> None:
        """The call is over. The executor goes on, for the next one."""
        call, self._call = self._call, None
        if call is not None:
            call.close()
        self.reset_batch_stats()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()  # in a worker there is no such executor


_NO_FUTURE: Future[Any] = Future()
"""joblib keeps what `submit` returns, and never looks at it: results come by the callback."""

_lock = threading.Lock()
_shared: tuple[tuple[int, int, tuple[tuple[str, str], ...]], HighThroughputExecutor] | None = None
"""what the executor below was made for, with the process it belongs to, and the executor itself"""


def _shared_executor(workers: int, variables: dict[str, str]) -> HighThroughputExecutor:
    """The executor that all backends without one of their own share; another one where more or fewer workers are asked
    for, or the last one failed."""
    global _shared  # noqa: PLW0603 - there is one for the process
    key = (os.getpid(), workers, tuple(sorted(variables.items())))
    with _lock:
        if _shared is not None:
            known, executor = _shared
            if known == key and not executor._shut_down and not _broken(executor):
                return executor
            executor.shutdown(wait=False)  # whoever uses it still gets what it was given
        executor = own_executor(
            workers, "joblib", {"initializer": set_variables, "initargs": (variables, None, ())}
        )
        _shared = key, executor
        return executor


def _broken(executor: HighThroughputExecutor) -> bool:
    return executor._run is not None and executor._run.reactor.broken is not None


def shutdown() -> None:
    """End the executor that backends without one of their own share, if there is one; the next call makes another."""
    global _shared
    with _lock:
        shared, _shared = _shared, None
    if shared is not None:
        shared[1].shutdown()


def _after_fork() -> None:
    global _lock, _shared  # noqa: PLW0603
    _lock = threading.Lock()
    _shared = None


os.register_at_fork(after_in_child=_after_fork)
joblib.register_parallel_backend(NAME, ThroughwayBackend)
