"""`AsyncExecutor`: what awaits, cancels and bounds tasks, in a real event loop with real workers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from tests.integrations import calls
from throughway import HighThroughputExecutor, TaskKilled, WorkerLost
from throughway.integrations.aio import AsyncExecutor

SECONDS = 40.0

killing = pytest.mark.leaks_allowed("another worker takes the place of the one that was killed")


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    async def limited() -> Any:
        async with asyncio.timeout(SECONDS):
            return await coroutine

    with asyncio.Runner(debug=False) as runner:
        problems: list[Any] = []
        runner.get_loop().set_exception_handler(lambda loop, context: problems.append(context))
        value = runner.run(limited())
    assert problems == []
    return value


async def until(predicate: Callable[[], Any]) -> None:
    while not predicate():
        await asyncio.sleep(0.005)


def test_results_and_exceptions(executor: HighThroughputExecutor) -> None:
    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            assert await ex.run(calls.square, 3) == 9
            assert await ex.run(sorted, [2, 1], reverse=True) == [2, 1]
            assert await asyncio.gather(*(ex.run(calls.square, n) for n in range(500))) == [
                n**2 for n in range(500)
            ]
            with pytest.raises(KeyError, match="3"):
                await ex.run(calls.fail_at_three, 3)
            with pytest.raises(TimeoutError, match="own"):
                await ex.run(calls.raise_timeout)
            with pytest.raises(RuntimeError, match="StopIteration"):
                await ex.run(calls.stop_iteration)
            with pytest.raises(Exception, match="cannot be pickled"):
                await ex.run(calls.square, (n for n in [0]))
            futures = [await ex.submit(calls.square, n) for n in range(5)]
            assert sorted([await future for future in asyncio.as_completed(futures)]) == [0, 1, 4, 9, 16]
            assert await ex.options(priority=2).run(calls.square, 2) == 4

    run(main())
    assert executor.submit(abs, -1).result(30) == 1


@pytest.mark.parametrize("ordered", [True, False])
def test_map(executor: HighThroughputExecutor, ordered: bool) -> None:
    async def slowly(count: int) -> AsyncIterator[int]:
        for number in range(count):
            await asyncio.sleep(0)
            yield number

    async def main() -> None:
        async with AsyncExecutor(executor) as ex:

            async def all_of(*iterables: Any, **options: Any) -> list[Any]:
                found = [value async for value in ex.map(pow, *iterables, ordered=ordered, **options)]
                return found if ordered else sorted(found)

            squares = [n**2 for n in range(1000)]
            assert await all_of(range(1000), [2] * 1000) == squares
            assert await all_of(range(1000), itertools.repeat(2), limit=3) == squares
            assert await all_of(slowly(100), itertools.repeat(2)) == squares[:100]
            assert await all_of(slowly(100), slowly(50)) == sorted(n**n for n in range(50))
            assert await all_of([], []) == []

    run(main())


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_map_is_bounded_and_ends_with_its_loop(
    executor: HighThroughputExecutor, ordered: bool
) -> None:
    taken = itertools.count()

    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            seen = 0
            async for _ in ex.map(calls.square, taken, limit=10, ordered=ordered):
                seen += 1
                assert executor.outstanding <= 10
                if seen == 100:
                    break
            assert next(taken) <= 112

    run(main())
    assert executor.outstanding == 0


@pytest.mark.parametrize("ordered", [True, False])
def test_a_failure_ends_a_map(executor: HighThroughputExecutor, ordered: bool) -> None:
    def broken() -> Iterator[int]:
        yield from range(10)
        raise ArithmeticError("the iterable's own")

    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            with pytest.raises(KeyError, match="3"):
                async for _ in ex.map(calls.fail_at_three, range(100), ordered=ordered):
                    pass
            found = []
            with pytest.raises(ArithmeticError):  # noqa: PT012
                async for value in ex.map(calls.square, broken(), ordered=ordered):
                    found.append(value)  # noqa: PERF401 - what came before the error counts
            assert len(found) == 10

    run(main())


@killing
def test_a_timeout_kills_the_task(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            task = asyncio.create_task(ex.run(calls.start_and_sleep, str(started)))
            await until(started.exists)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await task
            await until(lambda: executor.outstanding == 0)
            assert await ex.run(calls.square, 2) == 4

    run(main())


def test_what_waits_never_runs_once_it_is_cancelled(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    gate, late = str(tmp_path / "gate"), tmp_path / "late"

    async def main() -> None:
        async with AsyncExecutor(executor, kill=False) as ex:
            holding = [
                asyncio.create_task(ex.run(calls.touch_and_hold, str(tmp_path / f"at {n}"), gate))
                for n in range(2)
            ]
            await until(lambda: len(list(tmp_path.glob("at *"))) == 2)
            waiting = asyncio.create_task(ex.run(late.touch))
            await until(lambda: executor.outstanding == 3)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until(lambda: executor.outstanding == 2)
            holding[0].cancel()  # it runs, and goes on
            Path(gate).touch()  # noqa: ASYNC240
            assert await holding[1]

    run(main())
    assert not late.exists()


@killing
def test_a_task_group_ends_the_others(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012
                async with asyncio.TaskGroup() as group:
                    group.create_task(ex.run(calls.start_and_sleep, str(started)))
                    await until(started.exists)
                    group.create_task(ex.run(calls.fail_at_three, 3))
            assert [type(error) for error in raised.value.exceptions] == [KeyError]

    run(main())
    assert executor.outstanding == 0


@killing
def test_a_lost_worker(executor: HighThroughputExecutor) -> None:
    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            with pytest.raises(WorkerLost):
                await ex.run(calls.die)

    run(main())


def test_room_is_given_in_turn(executor: HighThroughputExecutor, tmp_path: Path) -> None:
    async def main() -> None:
        async with AsyncExecutor(executor, limit=2) as ex:
            gate = tmp_path / "gate"
            first = [await ex.submit(calls.hold, str(gate)) for _ in range(2)]
            later = [asyncio.create_task(ex.run(calls.square, n)) for n in range(10)]
            await asyncio.sleep(0)
            assert executor.outstanding == 2
            later[0].cancel()
            later[5].cancel()
            gate.touch()
            done = await asyncio.gather(*later, return_exceptions=True)
            assert [type(value) for value in done] == [
                asyncio.CancelledError if n in (0, 5) else int for n in range(10)
            ]
            assert all([await future for future in first])

    run(main())


def test_the_loop_turns_while_the_executor_is_full(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with HighThroughputExecutor(max_workers_per_node=1, max_outstanding=3, run_dir=tmp_path / "runs") as full:

        async def main() -> None:
            held: list[Future[Any]] = [full.submit(calls.hold, str(gate)) for _ in range(3)]
            async with AsyncExecutor(full) as ex:
                waiting = asyncio.create_task(ex.run(calls.square, 3))
                given_up = asyncio.create_task(ex.run(calls.square, 4))
                for _ in range(20):
                    await asyncio.sleep(0.001)
                given_up.cancel()
                gate.touch()
                assert await waiting == 9
                assert all(future.result(30) for future in held)

        run(main())


def test_an_executor_of_its_own_ends_with_the_block(tmp_path: Path) -> None:
    async def main() -> AsyncExecutor:
        async with AsyncExecutor(max_workers_per_node=1, run_dir=tmp_path / "runs") as ex:
            future = await ex.submit(calls.square, 3)
        assert await future == 9
        with pytest.raises(RuntimeError, match="shutdown"):
            await ex.run(calls.square, 3)
        return ex

    assert "shut down" in repr(run(main()))


def test_an_exception_in_the_block_ends_what_runs(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def main() -> None:
        async with AsyncExecutor(max_workers_per_node=1, run_dir=tmp_path / "runs") as ex:
            future = await ex.submit(calls.start_and_sleep, str(started))
            await until(started.exists)
            raise ArithmeticError(future)

    with pytest.raises(ArithmeticError) as raised:
        run(main())
    assert raised.value.args[0].cancelled()


def test_who_is_cancelled_at_the_end_of_the_block_waits_no_longer(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def main() -> None:
        async with AsyncExecutor(max_workers_per_node=1, kill=False, run_dir=tmp_path / "runs") as ex:
            await ex.submit(calls.start_and_sleep, str(started))

    async def cancelled() -> None:
        task = asyncio.create_task(main())
        await until(started.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    began = time.monotonic()
    run(cancelled())
    assert time.monotonic() - began < SECONDS


@killing
def test_tasks_that_others_kill(executor: HighThroughputExecutor) -> None:
    async def main() -> None:
        async with AsyncExecutor(executor) as ex:
            future: Any = await ex.submit(calls.sleep_for_ever)
            executor.kill(future._task)
            with pytest.raises((TaskKilled, asyncio.CancelledError)):
                await future

    run(main())


def test_what_is_refused(executor: HighThroughputExecutor) -> None:
    with pytest.raises(ValueError, match="limit=0"):
        AsyncExecutor(executor, limit=0)
    with pytest.raises(ValueError, match="label"):
        AsyncExecutor(executor, label="x")
    with pytest.raises(TypeError, match="HighThroughputExecutor"):
        AsyncExecutor(object())  # type: ignore[arg-type]
    ex = AsyncExecutor(executor)

    async def use() -> None:
        assert await ex.run(calls.square, 2) == 4

    run(use())
    with pytest.raises(RuntimeError, match="another event loop"):
        run(use())
