"""An asyncio service whose requests are computed by Throughway's workers, and beside it by a process pool.

    pip install throughway
    python async_service.py          # some seconds; --quick for a first look

The service speaks a line protocol: a number in, the count of the primes below it out, or an error after `DEADLINE`
seconds. A request that takes too long is cancelled, and with it the task in the worker. The process pool cannot do
that: its workers go on with what nobody waits for.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor

from throughway.integrations.aio import AsyncExecutor

DEADLINE = 2.0
"""Seconds that a request may take."""

CLIENTS = 50
"""Clients at a time, each of which sends one request after the other."""

Compute = Callable[[int], Awaitable[int]]


def count_primes(limit: int) -> int:
    """How many primes there are below ``limit``; negative numbers take for ever."""
    while limit < 0:
        time.sleep(0.1)
    return sum(
        all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in range(2, limit)
    )


class Service:
    """Listens at a free port of this machine, and answers with what ``compute`` gives."""

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._clients: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]  # type: ignore[no-any-return]

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await asyncio.gather(*(client for client in self._clients if client is not None))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                try:
                    async with asyncio.timeout(DEADLINE):
                        answer = str(await self._compute(int(line)))
                except TimeoutError:
                    answer = "error: too slow"
                except ValueError as error:
                    answer = f"error: {error}"
                writer.write(f"{answer}\n".encode())
                await writer.drain()
        writer.close()
        self._clients.discard(asyncio.current_task())


async def ask(port: int, requests: list[str]) -> tuple[list[str], list[float]]:
    """What one client is answered, and how many seconds each answer took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers, seconds = [], []
    for request in requests:
        began = time.perf_counter()
        writer.write(f"{request}\n".encode())
        answers.append((await reader.readline()).decode().strip())
        seconds.append(time.perf_counter() - began)
    writer.close()
    await writer.wait_closed()
    return answers, seconds


async def load(name: str, compute: Compute, requests: int) -> None:
    """Start the service, have all clients ask, and say how that went."""
    async with Service(compute) as port:
        await ask(port, ["10"])  # the workers are up
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            clients = [group.create_task(ask(port, ["200"] * requests)) for _ in range(CLIENTS)]
        seconds = time.perf_counter() - began
        taken = sorted(second for client in clients for second in client.result()[1])
        assert all(answer == "46" for client in clients for answer in client.result()[0])
        print(
            f"{name:>20}: {len(taken)} requests of {CLIENTS} clients in {seconds:.2f} seconds, "
            f"{len(taken) / seconds:,.0f}/s, median {1e3 * statistics.median(taken):.1f} ms, "
            f"99% within {1e3 * taken[int(0.99 * len(taken))]:.1f} ms"
        )


async def main() -> None:
    """The same load on both."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few requests, for a first look")
    requests = 10 if parser.parse_args().quick else 200

    async with AsyncExecutor() as executor:

        async def on_throughway(limit: int) -> int:
            return await executor.run(count_primes, limit)

        await load("AsyncExecutor", on_throughway, requests)

        async with Service(on_throughway) as port:
            answers, seconds = await ask(port, ["-1", "soon", "100"])
            print(
                f"A task that never ends, then nonsense, then a number: {answers}, after {sum(seconds):.1f} seconds"
            )

    # A forked worker would inherit the clients' connections, and keep them open.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:

        async def on_process_pool(limit: int) -> int:
            return await asyncio.get_running_loop().run_in_executor(pool, count_primes, limit)

        await load("ProcessPoolExecutor", on_process_pool, requests)


if __name__ == "__main__":
    asyncio.run(main())
