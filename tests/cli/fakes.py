"""An interchange that says what a test wants, at a real socket."""

from __future__ import annotations

import selectors
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec

from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.views import ManagerView, RunView, StatusView
from throughway.transport.interface import Arrival
from throughway.transport.unix import UnixWire, listening_socket

HANG_UP = None

Reply = Callable[[m.ObserverHello | m.Ask], list[m.Message] | None]


class FakeInterchange:
    """Listens at ``path``, and answers each message of an observer with what ``reply`` gives, or hangs up."""

    def __init__(self, path: str, reply: Reply) -> None:
        self.heard: list[m.ObserverHello | m.Ask] = []
        self._reply = reply
        self._wire = UnixWire.listen(listening_socket(path))
        self._selector = selectors.DefaultSelector()
        self._wire.register(self._selector)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        greeted: set[int] = set()
        while not self._end.is_set():
            for key, mask in self._selector.select(0.01):
                key.data(mask)
            for event in self._wire.receive():
                if not isinstance(event, Arrival):
                    continue
                message: object
                if event.peer in greeted:
                    message = codec.decode_from_executor(event.frames[0])
                else:
                    greeted.add(event.peer)
                    message = codec.decode_hello(event.frames[0])
                assert isinstance(message, m.ObserverHello | m.Ask)
                self.heard.append(message)
                answers = self._reply(message)
                for answer in answers or []:
                    self._wire.send(event.peer, [codec.encode(answer)])
                if answers is HANG_UP:
                    self._wire.disconnect(event.peer, "as the test wants")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._wire.close()
        self._selector.close()


def answer(request: int, view: RunView) -> m.Answer:
    """The answer to a question for the whole run."""
    return m.Answer(request, msgspec.msgpack.encode(view))


def run_view(managers: int = 2, **status: float) -> RunView:
    """A view of a run with some managers of 4 workers."""
    given = {"managers": managers, "workers": 4 * managers, **status}
    whole = StatusView("ab12cd34", "docking", 100.0)
    for name, value in given.items():
        setattr(whole, name, value)
    return RunView(whole, [manager_view(number) for number in range(managers)])


def manager_view(number: int, **fields: object) -> ManagerView:
    """A view of the manager with this number."""
    view = ManagerView(
        manager=f"{number:012x}",
        host=f"node{number}.cluster",
        block=str(number // 2),
        pid=4000000 + number,
        worker_count=4,
        idle_workers=1,
        tasks=3,
        idle_duration=0.0,
        active=True,
        draining=False,
        python_version="3.11.7",
        throughway_version="0.1.0",
        cores=4,
        memory=1 << 34,
        age=100.0,
        tasks_done=1000,
    )
    for name, value in fields.items():
        setattr(view, name, value)
    return view
