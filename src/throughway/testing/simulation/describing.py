"""Messages in a trace: short enough to read, long enough to tell what happens."""

from __future__ import annotations

from collections.abc import Iterable

from throughway.protocol import messages as m


def span(numbers: Iterable[int]) -> str:
    """``1-4 7`` for 1, 2, 3, 4 and 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs]
    return "[" + " ".join(words) + "]"


def described(message: m.Message) -> str:
    """A message in a few words."""
    name = type(message).__name__
    match message:
        case m.PackedAssign(tasks=tasks, received=received) | m.Assign(tasks=tasks, received=received):
            return f"Assign {span(task.id for task in tasks)} received={received}"
        case m.Submit(tasks=tasks, received=received):
            return f"{name} {span(task.id for task in tasks)} received={received}"
        case m.Results(tasks=tasks, outcomes=outcomes, number=number, waiting=waiting):
            kinds = " ".join(m.Outcome(kind).name for kind in sorted(set(outcomes)))
            return f"Results #{number} {span(tasks)} {kinds}" + (" waiting" if waiting else "")
        case m.Cancel(tasks=tasks, kill=kill):
            return f"{'Kill' if kill else 'Cancel'} {span(tasks)}"
        case m.Verdicts(cancelled=cancelled, refused=refused):
            return f"Verdicts cancelled={span(cancelled)} refused={span(refused)}"
        case m.ManagerHello():
            ended = " ".join(f"#{number}:{span(tasks)}" for number, tasks in message.ended)
            return f"hello of {message.id}: held={span(message.held)} ended={ended or '[]'} again={message.again}"
        case m.Restore(managers=managers, lost=lost):
            words = [f"{one.manager}:{span(one.tasks)} received={one.received}" for one in managers]
            return f"Restore {' '.join(words)} lost={lost}"
        case m.Lost(manager=manager, tasks=tasks) | m.Returned(manager=manager, tasks=tasks):
            return f"{name} {manager} {span(tasks)}"
        case m.Started(tasks=tasks):
            return f"Started {span(tasks)}"
        case m.ManagerDied(manager=manager):
            return f"obituary of {manager}"
        case m.ManagerJoined(manager=manager) | m.ManagerLeft(manager=manager):
            return f"{name} {manager}" + (" lost" if getattr(message, "lost", False) else "")
        case m.Answer(request=request, error=error):
            return f"Answer {request} {error}"
        case m.Welcome(received=received):
            return f"Welcome received={received} seen={getattr(message, 'seen', '-')}"
        case _:
            return str(message)
