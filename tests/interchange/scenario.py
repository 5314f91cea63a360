"""Golden scenarios: a text of events, each followed by the trace of what the interchange did.

An event is a line; the trace below it is indented by two spaces, and written by the test. Lines that begin with ``#``
and empty lines are kept. Numbers of tasks are written ``1..5,8``. These are the events:

    interchange selector=packing period=10 threshold=60   first of all, where the defaults will not do
    expect a 1..3 received=2 held                         a former interchange had this manager with these tasks
    restart lost=c,d                                      another interchange begins, and is told of all those
    manager a workers=2 capacity=4 block=0 ends_in=90     a manager introduces itself
    back a held=1,2 ended=3:4..5/4:6 draining=late        ... again, with what it has and the results that it keeps
    submit 1..5 fn=1 priority=0 walltime=60 frames=1      the executor submits tasks
    forget 1                                              it has no more use for a function
    cancel 1,2 kill                                       it cancels tasks
    ask explain 3                                         it asks
    shutdown bye                                          it ends the run
    acknowledge a=2 b=7                                   it has these results
    results a 1,2 capacity=4 number=3 waiting=1           a manager reports tasks that ended
    started a 1                                           ... that run
    verdicts a cancelled=1 refused=2                      ... what it could cancel
    returned a 3,4 capacity=1                             ... what it gives back
    draining a its time is over                           it takes nothing new
    leaving a its time is over                            it goes
    failing a no worker gets ready                        it goes, and has failed
    answer a running                                      it answers the last question that it was asked
    heartbeat a · broken a · close a reset                and so on
    cut a reset                                           its connection breaks, and it lives
    died a killed by signal 9                             somebody on its node tells that it does not
    observe status                                        somebody watches
    garbage 3                                             a peer sends what is no message
    tick 31                                               seconds pass
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from tests.interchange.harness import Bench, Observed, task
from throughway.interchange.actions import EXECUTOR, Action, Disconnect, Exit, Forward, Log, Note, Send
from throughway.interchange.selectors import BlockPackingSelector, LeastLoadedSelector, ManagerSelector
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.views import Explanation

SELECTORS: dict[str, type[ManagerSelector]] = {"loaded": LeastLoadedSelector, "packing": BlockPackingSelector}
OBSERVER = 1000


def run_scenario(text: str, observed: Observed | None = None) -> str:
    """The same text, with the traces as they are now; ``observed`` gathers transitions of lifecycles."""
    scenario = _Scenario({} if observed is None else observed)
    lines = []
    for line in text.splitlines():
        if line.startswith("  "):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"  {entry}" for entry in scenario.run(line)]
    return "\n".join(lines) + "\n"


class _Scenario:
    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.bench = Bench(observed=observed)
        self.options: dict[str, Any] = {}
        self.expected: list[m.Expected] = []
        self.requests = 0

    def run(self, line: str) -> list[str]:
        verb, *words = line.split()
        bench = self.bench
        began, seen = bench.now, len(bench.history)
        getattr(self, f"on_{verb}")(words)
        if self.bench is not bench:
            bench, seen = self.bench, 0
        trace = [_entry(self.names(), action, moment - began) for moment, action in bench.history[seen:]]
        return trace or ["nothing"]

    def names(self) -> dict[int, str]:
        names = {peer: name for name, peer in self.bench.peers.items()}
        return {**names, EXECUTOR: "executor", OBSERVER: "observer"}

    # ------------------------------------------------------------------------------------------- the executor

    def on_interchange(self, words: list[str]) -> None:
        options = _options(words)
        selector = SELECTORS[options.pop("selector", "loaded")]
        seconds = {name: float(value) for name, value in options.items()}
        self.options = {"selector": selector, **seconds, "observed": self.observed}
        self.bench = Bench(**self.options)

    def on_expect(self, words: list[str]) -> None:
        held = words[-1] == "held"
        options = _options(word for word in words[1:] if "=" in word)
        numbers = _numbers(words[1]) if words[1][0].isdigit() else []
        received = int(options.get("received", 0))
        self.expected.append(m.Expected(words[0], f"host-{words[0]}", "0", numbers, received, held))

    def on_restart(self, words: list[str]) -> None:
        lost = [name for name in _options(words).get("lost", "").split(",") if name]
        restore = m.Restore(True, self.expected, lost)
        self.expected = []
        options = self.options or {"observed": self.observed}
        self.bench = Bench(**options, restore=restore, now=self.bench.now)

    def on_submit(self, words: list[str]) -> None:
        options = _options(words[1:])
        frames = int(options.get("frames", 0))
        numbers = _numbers(words[0])
        tasks = [
            task(
                number,
                fn=int(options.get("fn", 1)),
                frames=frames,
                priority=int(options.get("priority", 0)),
                walltime=float(options.get("walltime", 0)),
            )
            for number in numbers
        ]
        sent = int(options.get("sent", frames * len(numbers)))
        large = [b"frame %d of %d" % (index, number) for number in numbers for index in range(frames)]
        self.bench.submit(tasks, large[:sent])

    def on_forget(self, words: list[str]) -> None:
        self.bench.submit([], forget=_numbers(words[0]))

    def on_cancel(self, words: list[str]) -> None:
        self.bench.executor(m.Cancel(_numbers(words[0]), "kill" in words))

    def on_ask(self, words: list[str]) -> None:
        self.requests += 1
        self.bench.ask(*words, request=self.requests)

    def on_acknowledge(self, words: list[str]) -> None:
        received = {name: int(value) for name, value in _options(words).items()}
        self.bench.executor(m.Acknowledge(received))

    def on_shutdown(self, words: list[str]) -> None:
        self.bench.executor(m.Shutdown(" ".join(words)))

    # ------------------------------------------------------------------------------------------- the managers

    def on_manager(self, words: list[str]) -> None:
        options: dict[str, Any] = dict(_options(words[1:]))
        for name, kind in (("workers", int), ("capacity", int), ("protocol", int), ("ends_in", float)):
            if name in options:
                options[name] = kind(options[name])
        self.bench.say_hello(words[0], **options)

    def on_back(self, words: list[str]) -> None:
        options: dict[str, Any] = dict(_options(words[1:]))
        for name in ("held", "functions"):
            options[name] = _numbers(options.get(name, ""))
        ended = [part.split(":") for part in options.get("ended", "").split("/") if part]
        options["ended"] = [(int(number), _numbers(numbers)) for number, numbers in ended]
        for name in ("workers", "capacity"):
            if name in options:
                options[name] = int(options[name])
        self.bench.say_hello(words[0], again=True, **options)

    def on_results(self, words: list[str]) -> None:
        options = {name: int(value) for name, value in _options(words[2:]).items()}
        waiting = bool(options.pop("waiting", 0))
        self.bench.results(words[0], *_numbers(words[1]), **options, waiting=waiting)

    def on_started(self, words: list[str]) -> None:
        numbers = _numbers(words[1])
        self.bench.manager(words[0], m.Started(words[0], numbers, list(range(len(numbers)))))

    def on_verdicts(self, words: list[str]) -> None:
        options = {name: _numbers(value) for name, value in _options(words[1:]).items()}
        self.bench.manager(words[0], m.Verdicts(options.get("cancelled", []), options.get("refused", [])))

    def on_returned(self, words: list[str]) -> None:
        capacity = int(_options(words[2:])["capacity"])
        self.bench.manager(words[0], m.Returned(words[0], _numbers(words[1]), capacity))

    def on_draining(self, words: list[str]) -> None:
        self.bench.manager(words[0], m.Draining(words[0], " ".join(words[1:])))

    def on_leaving(self, words: list[str]) -> None:
        self.bench.manager(words[0], m.Leaving(words[0], " ".join(words[1:])))

    def on_failing(self, words: list[str]) -> None:
        self.bench.manager(words[0], m.Leaving(words[0], " ".join(words[1:]), failed=True))

    def on_heartbeat(self, words: list[str]) -> None:
        self.bench.manager(words[0], m.Heartbeat())

    def on_broken(self, words: list[str]) -> None:
        self.bench.manager(words[0], m.Broken(words[0], " ".join(words[1:]), b"record"))

    def on_answer(self, words: list[str]) -> None:
        asked = [
            action.message
            for _, action in self.bench.history
            if isinstance(action, Send)
            and isinstance(action.message, m.Ask)
            and action.peer == self.bench.peers[words[0]]
        ]
        question = asked[-1]
        answer: Any = {"throughway": words[1]}
        if question.topic == "explain":
            answer = Explanation(int(question.subject), words[1], manager=words[0])
        self.bench.manager(words[0], m.Answer(question.request, codec.encode(answer)))

    def on_close(self, words: list[str]) -> None:
        self.bench.close(words[0], " ".join(words[1:]) or "closed")

    def on_cut(self, words: list[str]) -> None:
        self.bench.close(words[0], " ".join(words[1:]) or "reset", gone=False)

    def on_died(self, words: list[str]) -> None:
        self.bench.die(words[0], " ".join(words[1:]))

    # ------------------------------------------------------------------------------------------- all the rest

    def on_observe(self, words: list[str]) -> None:
        self.requests += 1
        self.bench.observe(OBSERVER, m.Ask(self.requests, *words))

    def on_garbage(self, words: list[str]) -> None:
        self.bench.reactor.malformed(int(words[0]), "malformed header of 5 bytes")
        self.bench.step()

    def on_tick(self, words: list[str]) -> None:
        self.bench.tick(float(words[0]))


# ------------------------------------------------------------------------------------------------------- text


def _options(words: Iterable[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words)


def _numbers(text: str) -> list[int]:
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("..")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _spelled(numbers: Iterable[int]) -> str:
    """``[1, 2, 3, 8]`` → ``1..3,8``, in the order given."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}..{last}" for first, last in runs) or "none"


def _entry(names: dict[int, str], action: Action, after: float) -> str:
    """An action as a line of a trace."""
    when = f"+{after:g}s " if after else ""
    match action:
        case Send(peer=peer, message=message, frames=frames):
            name = names.get(peer, f"peer {peer}")
            return f"{when}{name} < {_message(message, len(frames))}"
        case Note(manager=manager, tasks=tasks):
            return f"{when}note {_spelled(tasks)} at {manager or 'none'}"
        case Forward(peer=peer, frames=frames):
            return f"{when}{names[peer]} << {_message(codec.decode_to_executor(frames[0]), 0)}"
        case Disconnect(peer=peer):
            return f"{when}{names.get(peer, f'peer {peer}')} is let go"
        case Exit(reason=reason):
            return f"{when}exit: {reason}"
        case Log(level=level, text=text):
            return f"{when}log {level}: {text}"


def _message(message: m.Message, frames: int) -> str:
    name = type(message).__name__
    match message:
        case m.PackedAssign(tasks=tasks, functions=functions, forget=forget, received=received):
            text = f"Assign {_spelled(task.id for task in tasks)}"
            text += "".join(f" +{function.name}" for function in functions)
            text += "".join(f" -f{number}" for number in forget)
            text += f" and {frames} frames" if frames else ""
            return text + (f", has results up to {received}" if received else "")
        case m.Acknowledged(received=received):
            return f"Acknowledged up to {received}"
        case m.Results(manager=manager, tasks=tasks, number=number):
            return f"{name} {number} of {manager}: {_spelled(tasks)}"
        case m.Started(manager=manager, tasks=tasks) | m.Returned(manager=manager, tasks=tasks):
            return f"{name} of {manager}: {_spelled(tasks)}"
        case m.Lost(manager=manager, tasks=tasks):
            return f"Lost with {manager}: {_spelled(tasks)}"
        case m.Cancel(tasks=tasks, kill=kill):
            return f"Cancel {_spelled(tasks)}" + (", kill" if kill else "")
        case m.Verdicts(cancelled=cancelled, refused=refused):
            return f"Verdicts: cancelled {_spelled(cancelled)}, refused {_spelled(refused)}"
        case m.Answer(request=request, payload=payload, error=error):
            return f"Answer {request}: {error or _plain(msgspec.msgpack.decode(payload)) or 'nothing'}"
        case m.Welcome(received=received, seen=seen):
            return "Welcome" + (f": received {received}, seen {seen}" if received or seen else "")
        case _:
            return f"{name} {_plain(msgspec.structs.asdict(message))}".rstrip()


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_nested(item)}" for name, item in value.items())
    return _nested(value)


def _nested(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + _plain(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else repr(value)
