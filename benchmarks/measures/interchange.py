"""What a task costs the interchange's pure core, by the number of managers and of queued tasks.

All managers are full, and a backlog waits. At each step one manager, any of them, says that 16 tasks are
done; the reactor forwards that and gives it 16 new ones. The executor submits as much as was done, in
batches. So messages and tasks in a message are the same whatever the number of managers, and only what
depends on it can differ. The simulated clock moves as it would at a steady rate of tasks, so heartbeats fall
due as they would.

Messages come and go as bytes: decoding and encoding headers is timed too, and the reactor also by itself.
Memory that nobody has touched for a while is part of what many managers cost: with 8,192 of them, as many
times more tasks are out.
"""

from __future__ import annotations

import gc
import random
import time
from array import array
from typing import Any

_STEP = 16
_BATCH = 128
_TASKS_PER_SECOND = 40_000


class _Executor:
    """Makes submissions of no-ops."""

    def __init__(self, messages: Any) -> None:
        self._messages = messages
        self._function = messages.Function(id=1, name="echo", payload=b"x" * 64)
        self.submitted = 0

    def submission(self, count: int, received: dict[str, int] | None = None) -> Any:
        """The next tasks, as one message, which acknowledges results."""
        first = self.submitted
        self.submitted += count
        payload = b"x" * 24
        tasks = [
            self._messages.Task(id=task, function=1, payload=payload) for task in range(first, first + count)
        ]
        functions = [] if first else [self._function]
        return self._messages.Submit(tasks=tasks, functions=functions, received=received or {})


def measure(root: int, *, managers: int, queued: int, workers: int = 16, seconds: float) -> dict[str, Any]:
    """CPU seconds for each task, submission to result, with so many managers and waiting tasks.

    Args:
        workers: of each manager; it is given no more tasks than it has workers.
    """
    import platform

    from throughway.interchange.actions import Send
    from throughway.interchange.reactor import InterchangeReactor
    from throughway.interchange.selectors import make_selector
    from throughway.interchange.state import InterchangeState
    from throughway.protocol import codec, messages
    from throughway.protocol.configuration import InterchangeConfig
    from throughway.protocol.version import PROTOCOL_VERSION

    standard = InterchangeConfig(run="", label="", folder="", python="", executor_descriptor=0)
    selector = standard.selector
    now = 0.0
    state = InterchangeState(
        run="benchmark",
        label="benchmark",
        started=now,
        idle=make_selector(selector),
        roomy=make_selector(selector),
    )
    reactor = InterchangeReactor(
        state, python=platform.python_version(), heartbeat_period=30.0, heartbeat_threshold=120.0
    )
    executor = _Executor(messages)
    # Arrays, so that no objects of the managers lie among those of the interchange: they are in other processes.
    assigned = [array("Q") for _ in range(managers)]

    def take(actions: list[Any]) -> None:
        for action in actions:
            if isinstance(action, Send) and isinstance(action.message, messages.PackedAssign):
                assigned[action.peer].extend(task.id for task in action.message.tasks)

    reactor.executor_said(messages.Restore(), (), now)
    for peer in range(managers):
        hello = messages.ManagerHello(
            protocol=PROTOCOL_VERSION,
            id=f"{peer:012x}",
            host=f"node{peer}",
            block=str(peer // 64),
            pid=peer,
            python=platform.python_version(),
            version="",
            workers=workers,
            capacity=workers,
            cores=workers,
            memory=1 << 34,
            started=0.0,
        )
        reactor.manager_said_hello(peer, hello, now)
        take(reactor.turn(now))
    while executor.submitted < managers * workers + queued:
        reactor.executor_said(executor.submission(_BATCH), (), now)
        take(reactor.turn(now))
    if any(len(assigned[peer]) != workers for peer in range(managers)):
        raise RuntimeError("the managers are not full, although tasks wait")

    gc.collect()
    gc.freeze()  # as the interchange's process does
    gc.set_threshold(100_000, 50, 100)
    choose = random.Random(managers).randrange
    clock = time.thread_time_ns
    encode, decode_manager, decode_executor = (
        codec.encode,
        codec.decode_from_manager,
        codec.decode_from_executor,
    )
    spent = 0
    in_reactor = 0
    done = 0
    wanted = int(seconds * 1e9)
    outcomes, places = bytes(_STEP), list(range(_STEP))
    numbers = [0] * managers
    while spent < wanted:
        received: dict[str, int] = {}
        for _ in range(_BATCH // _STEP):
            peer = choose(managers)
            held = assigned[peer]
            tasks = held[:_STEP].tolist()
            del held[:_STEP]
            numbers[peer] += 1
            received[f"{peer:012x}"] = numbers[peer]
            header = encode(
                messages.Results(
                    manager=f"{peer:012x}",
                    capacity=workers,
                    tasks=tasks,
                    outcomes=outcomes,
                    workers=places,
                    number=numbers[peer],
                )
            )
            now += _STEP / _TASKS_PER_SECOND
            began = clock()
            message = decode_manager(header)
            decoded = clock()
            reactor.manager_said(peer, message, (header, b""), now)
            actions = reactor.turn(now)
            decided = clock()
            sent = [encode(action.message) for action in actions if isinstance(action, Send)]
            ended = clock()
            spent += ended - began
            in_reactor += decided - decoded
            done += len(tasks)
            take(actions)
            if not sent or len(held) != workers:
                raise RuntimeError(f"manager {peer} has {len(held)} tasks instead of {workers}")
        submission = encode(executor.submission(_BATCH, received))
        began = clock()
        submitted = decode_executor(submission)
        decoded = clock()
        reactor.executor_said(submitted, (), now)
        actions = reactor.turn(now)
        ended = clock()
        spent += ended - began
        in_reactor += ended - decoded
        take(actions)
    state.sanity_check()
    if state.completed != done or len(state.queue) + len(state.owners) + done != executor.submitted:
        raise RuntimeError("tasks were lost on the way")
    return {
        "tasks": done,
        "tasks_out": len(state.owners),
        "cpu_per_task": spent / 1e9 / done,
        "reactor_per_task": in_reactor / 1e9 / done,
    }
