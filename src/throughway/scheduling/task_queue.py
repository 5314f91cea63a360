"""Tasks that wait: lowest priority number first, in order of submission within, each out again by its id.

Tasks of different walltimes are kept apart, so that a manager with little time left is given what fits without
looking at what does not: each walltime has a class of its own while there are few of them, further ones share classes
of similar walltimes, in which a task that does not fit stands in the way of those behind it. Taking a task costs O(1)
with one priority and no walltimes, else O(log priorities) and O(walltime classes), whatever the number of tasks.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterable, Iterator

from throughway.protocol.messages import Task

_OWN_CLASSES = 16
_CLASSES_PER_OCTAVE = 4
_COMPACT_ABOVE = 4096


def walltime_class(walltime: float) -> float:
    """The shared class of a walltime: its bound in seconds, at most 19 % above it; 0 for tasks without one."""
    if walltime <= 0:
        return 0.0
    return float(2.0 ** (math.ceil(math.log2(walltime) * _CLASSES_PER_OCTAVE - 1e-9) / _CLASSES_PER_OCTAVE))


class _Levels:
    """The tasks of one walltime class, a queue for each priority."""

    __slots__ = ("heap", "queues")

    def __init__(self) -> None:
        self.queues: dict[int, deque[Task]] = {}
        self.heap: list[int] = []

    def level(self, priority: int) -> deque[Task]:
        queue = self.queues.get(priority)
        if queue is None:
            queue = self.queues[priority] = deque()
            heapq.heappush(self.heap, priority)
        return queue

    def first(self) -> deque[Task] | None:
        """The queue of the lowest priority number that has tasks."""
        while self.heap:
            queue = self.queues[self.heap[0]]
            if queue:
                return queue
            del self.queues[heapq.heappop(self.heap)]
        return None


class TaskQueue:
    """Waiting tasks. `waiting` maps the id of each to the task."""

    __slots__ = ("_classes", "_dead", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[int, Task] = {}
        self._classes: dict[float, _Levels] = {}
        self._dead: set[int] = set()
        """removed tasks whose places are still there"""

    def __len__(self) -> int:
        return len(self.waiting)

    def __contains__(self, task: int) -> bool:
        return task in self.waiting

    def _level(self, task: Task) -> deque[Task]:
        kind = max(0.0, task.walltime)
        levels = self._classes.get(kind)
        if levels is None:
            if len(self._classes) >= _OWN_CLASSES:
                kind = walltime_class(kind)
                levels = self._classes.get(kind)
            if levels is None:
                levels = self._classes[kind] = _Levels()
        return levels.level(task.priority)

    def push(self, tasks: Iterable[Task]) -> None:
        """Add tasks that were not here before, in order."""
        waiting = self.waiting
        queue: deque[Task] | None = None
        priority: int = 0
        walltime: int | float = 0
        if self._dead:
            tasks = self._buried(tasks)
        for task in tasks:
            if queue is None or task.priority != priority or task.walltime != walltime:
                queue = self._level(task)
                priority, walltime = task.priority, task.walltime
            waiting[task.id] = task
            queue.append(task)

    def push_back(self, tasks: Iterable[Task]) -> None:
        """Put tasks that were taken before at the head of their queues, in the order of their ids."""
        if self._dead:
            tasks = self._buried(tasks)
        for task in sorted(tasks, key=lambda task: task.id, reverse=True):
            self.waiting[task.id] = task
            self._level(task).appendleft(task)

    def remove(self, task: int) -> Task | None:
        """Take this task out, wherever it stands. None where it does not wait here."""
        found = self.waiting.pop(task, None)
        if found is not None:
            # Its place stays until a take comes by.
            self._dead.add(task)
            if len(self._dead) > _COMPACT_ABOVE and len(self._dead) > len(self.waiting):
                self._bury()
        return found

    def take(self, count: int, limit: float = math.inf) -> list[Task]:
        """Take up to ``count`` tasks, none of whose walltime is above ``limit`` seconds."""
        taken: list[Task] = []
        waiting = self.waiting
        dead = self._dead
        while len(taken) < count:
            queue, alone = self._head(limit)
            if queue is None:
                break
            if alone:
                for _ in range(min(count - len(taken), len(queue))):
                    task = queue.popleft()
                    if dead and self._is_dead(task.id):
                        continue
                    del waiting[task.id]
                    taken.append(task)
            else:
                task = queue.popleft()
                if dead and self._is_dead(task.id):
                    continue
                del waiting[task.id]
                taken.append(task)
        return taken

    def take_last(self, count: int) -> list[Task]:
        """Take up to ``count`` tasks from the far end: those that would have waited longest."""
        taken: list[Task] = []
        ends = [queue for levels in self._classes.values() for queue in levels.queues.values()]
        while len(taken) < count:
            if self._dead:
                # A place that is left must not decide which queue is the last.
                for queue in ends:
                    while queue and self._is_dead(queue[-1].id):
                        queue.pop()
            ends = [queue for queue in ends if queue]
            if not ends:
                break
            task = max(ends, key=lambda queue: (queue[-1].priority, queue[-1].id)).pop()
            del self.waiting[task.id]
            taken.append(task)
        return taken

    def shortest(self) -> float:
        """The lowest limit in seconds with which `take` finds a task; infinite where nothing waits."""
        heads = (self._first(levels) for levels in self._classes.values())
        return min((queue[0].walltime for queue in heads if queue), default=math.inf)

    def above(self, limit: float) -> int:
        """About how many tasks wait whose walltime is above ``limit`` seconds: exact but for classes that the limit
        divides, which are counted as a whole or not at all, and for tasks that were removed. O(classes)."""
        counted = (
            len(queue)
            for kind, levels in self._classes.items()
            if kind > limit
            for queue in levels.queues.values()
        )
        return min(sum(counted), len(self.waiting))

    def ahead(self, task: int) -> int:
        """How many tasks will be taken before this one. O(tasks): for explanations only."""
        mine = self.waiting[task]
        count = 0
        for levels in self._classes.values():
            for priority, queue in levels.queues.items():
                if priority > mine.priority:
                    continue
                alive = [other for other in queue if other.id not in self._dead]
                if priority < mine.priority:
                    count += len(alive)
                elif mine in alive:
                    count += alive.index(mine)
                else:
                    count += sum(other.id < task for other in alive)
        return count

    def __iter__(self) -> Iterator[Task]:
        return iter(self.waiting.values())

    def _head(self, limit: float) -> tuple[deque[Task] | None, bool]:
        """The queue whose head is next, and whether no other queue can come in between before it is empty."""
        best: deque[Task] | None = None
        candidates = 0
        key = (0, 0)
        dead = self._dead
        for kind, levels in list(self._classes.items()):
            queue = self._first(levels) if dead else levels.first()
            if queue is None:
                del self._classes[kind]
                continue
            head = queue[0]
            if kind > limit:
                if head.walltime > limit:
                    continue
                # The class's bound does not fit, its head does: judge each of its tasks by itself.
                candidates += 1
            candidates += 1
            if best is None or (head.priority, head.id) < key:
                best = queue
                key = (head.priority, head.id)
        return best, candidates == 1

    def _first(self, levels: _Levels) -> deque[Task] | None:
        """The queue of the lowest priority number, with a task that waits at its head."""
        queue = levels.first()
        while queue is not None and self._is_dead(queue[0].id):
            queue.popleft()
            if not queue:
                queue = levels.first()
        return queue

    def _is_dead(self, task: int) -> bool:
        if task in self._dead:
            self._dead.discard(task)
            return True
        return False

    def _buried(self, tasks: Iterable[Task]) -> list[Task]:
        """The same tasks, without old places of theirs: a task may be removed and come again."""
        tasks = list(tasks)
        if any(task.id in self._dead for task in tasks):
            self._bury()
        return tasks

    def _bury(self) -> None:
        """Give up the places of all tasks that were removed."""
        for levels in self._classes.values():
            for priority, queue in levels.queues.items():
                levels.queues[priority] = deque(task for task in queue if task.id not in self._dead)
        self._dead.clear()

    def sanity_check(self) -> None:
        """Every waiting task has exactly one live place, in the queue of its priority and walltime."""
        places: dict[int, int] = {}
        for kind, levels in self._classes.items():
            assert sorted(levels.heap) == sorted(levels.queues), "each level stands in the heap once"
            for priority, queue in levels.queues.items():
                for task in queue:
                    places[task.id] = places.get(task.id, 0) + 1
                    assert task.priority == priority
                    assert kind in (max(0.0, task.walltime), walltime_class(task.walltime))
        assert all(count == 1 for count in places.values()), "a task waits in one place"
        assert self._dead <= places.keys(), "only places of removed tasks are left"
        assert places.keys() - self._dead == self.waiting.keys(), "places and index agree"
