"""Anything may happen in any order: random managers join, leave, report, cancel and drain, and nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.interchange.cluster import Cluster, ModelManager
from tests.interchange.harness import Observed
from tests.interchange.scenario import run_scenario
from tests.interchange.test_scenarios import SCENARIOS
from throughway.interchange.selectors import BlockPackingSelector, LeastLoadedSelector, RandomSelector
from throughway.scheduling import lifecycles

SELECTORS = [lambda: RandomSelector(seed=5), LeastLoadedSelector, BlockPackingSelector]

SPECIFICATION = st.tuples(
    st.integers(1, 3),  # function
    st.integers(-1, 1),  # priority
    st.sampled_from([0.0, 0.0, 15.0, 16.0, 300.0]),  # walltime
    st.sampled_from([0, 0, 0, 1, 2]),  # frames
)


class ClusterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.joined = 0

    @initialize(selector=st.sampled_from(SELECTORS))
    def begin(self, selector) -> None:
        self.cluster = Cluster(selector)

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.finish()

    def draw_manager(self, data) -> str:
        return data.draw(st.sampled_from(sorted(self.cluster.managers)))

    # ------------------------------------------------------------------------------------------- the executor

    @rule(specifications=st.lists(SPECIFICATION, min_size=1, max_size=8))
    def submit(self, specifications) -> None:
        self.cluster.submit(specifications)

    @precondition(lambda self: self.cluster.lost)
    @rule()
    def retry(self) -> None:
        self.cluster.retry()

    @precondition(lambda self: self.cluster.attempts)
    @rule(data=st.data(), kill=st.booleans())
    def cancel(self, data, kill) -> None:
        numbers = self.cluster.open() or sorted(self.cluster.attempts)
        self.cluster.cancel(
            data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=4, unique=True)), kill=kill
        )

    @rule()
    def forget(self) -> None:
        self.cluster.forget()

    @precondition(lambda self: self.cluster.unsaid)
    @rule()
    def acknowledge(self) -> None:
        self.cluster.acknowledge()

    @precondition(lambda self: self.cluster.managers)
    @rule()
    def restart(self) -> None:
        self.cluster.restart()

    @precondition(lambda self: self.cluster.managers)
    @rule(data=st.data(), topic=st.sampled_from(["hold", "release", "drain"]))
    def direct(self, data, topic) -> None:
        self.cluster.ask(topic, self.draw_manager(data))

    @rule(data=st.data(), topic=st.sampled_from(["explain", "packages", "status", "managers"]))
    def ask(self, data, topic) -> None:
        number = data.draw(st.integers(0, self.cluster.next_task))
        self.cluster.ask(topic, str(number))

    # ------------------------------------------------------------------------------------------- the managers

    @precondition(lambda self: len(self.cluster.managers) < 4)
    @rule(
        workers=st.integers(1, 3),
        prefetch=st.integers(0, 3),
        ends_in=st.sampled_from([None, None, 15.5, 60.0, 1.0]),
    )
    def join(self, workers, prefetch, ends_in) -> None:
        self.joined += 1
        self.cluster.join(f"m{self.joined}", workers, prefetch, ends_in)

    @precondition(lambda self: any(manager.inbox for manager in self.cluster.managers.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def hear(self, data, count) -> None:
        name = self.draw_manager(data)
        for _ in range(count):
            self.cluster.hear(name)

    @precondition(lambda self: any(manager.outbox for manager in self.cluster.managers.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def deliver(self, data, count) -> None:
        name = self.draw_manager(data)
        for _ in range(count):
            if name in self.cluster.managers:
                self.cluster.deliver(name)

    @precondition(lambda self: any(not manager.left for manager in self.cluster.managers.values()))
    @rule(
        data=st.data(),
        deed=st.sampled_from(["start", "start", "finish", "finish", "tell", "give back", "drain"]),
        count=st.integers(1, 3),
        prefetch=st.integers(0, 3),
    )
    def act(self, data, deed, count, prefetch) -> None:
        active = sorted(name for name, manager in self.cluster.managers.items() if not manager.left)
        manager = self.cluster.managers[data.draw(st.sampled_from(active))]
        match deed:
            case "start":
                manager.start(self.cluster.starter(manager))
            case "finish":
                manager.finish(count, prefetch)
            case "tell":
                manager.tell_started(count)
            case "give back":
                manager.give_back(count)
            case "drain":
                manager.drain("as it likes")

    @precondition(lambda self: self.cluster.managers)
    @rule(data=st.data(), deed=st.sampled_from(["close", "die", "cut", "cut", "cut"]))
    def lose(self, data, deed) -> None:
        getattr(self.cluster, deed)(self.draw_manager(data))

    @precondition(lambda self: self.cluster.managers)
    @rule(data=st.data())
    def reconnect(self, data) -> None:
        self.cluster.reconnect(self.draw_manager(data))

    @rule(seconds=st.sampled_from([0.5, 5.0, 12.0, 31.0]))
    def tick(self, seconds) -> None:
        self.cluster.tick(seconds)


TestNothingIsLost = ClusterMachine.TestCase
TestNothingIsLost.settings = settings(max_examples=80, stateful_step_count=40)


class Wanderer:
    """Long runs without a plan, the same for each seed: so many things are under way at once that all of them meet."""

    def __init__(self, seed: int, observed: Observed) -> None:
        self.random = random.Random(seed)
        self.cluster = Cluster(SELECTORS[seed % len(SELECTORS)], observed)
        self.joined = 0
        calm = seed % 3
        """how seldom connections break: what takes long to come about needs some peace"""
        self.deeds: dict[Callable[[], None], float] = {
            self.submit: 5,
            self.cancel: 4,
            self.join: 3,
            self.hear: 20,
            self.deliver: 20,
            self.start: 10,
            self.finish: 10,
            self.tell: 8,
            self.give_back: 3,
            self.drain: 1,
            self.close: 0.5,
            self.die: 0.5,
            self.cut: 2 / 10**calm,
            self.reconnect: 2,
            self.cluster.restart: 0.5 / 10**calm,
            self.cluster.acknowledge: 3,
            self.tick: 1,
            self.direct: 2,
            self.ask: 2,
            self.cluster.retry: 2,
            self.cluster.forget: 1,
        }

    def run(self, steps: int) -> None:
        for deed in self.random.choices(list(self.deeds), list(self.deeds.values()), k=steps):
            deed()
        self.cluster.finish()

    def manager(self) -> ModelManager | None:
        managers = [manager for manager in self.cluster.managers.values() if not manager.left]
        return self.random.choice(managers) if managers else None

    def name(self) -> str | None:
        return self.random.choice(sorted(self.cluster.managers)) if self.cluster.managers else None

    def submit(self) -> None:
        pick = self.random.choice
        count = self.random.randint(1, 10)
        self.cluster.submit(
            (pick([1, 2, 3]), pick([-1, 0, 1]), pick([0.0, 0.0, 15.0, 16.0, 300.0]), pick([0, 0, 1, 2]))
            for _ in range(count)
        )

    def cancel(self) -> None:
        numbers = self.cluster.open()
        if numbers:
            chosen = self.random.sample(numbers, min(len(numbers), 3))
            self.cluster.cancel(chosen, kill=self.random.random() < 0.5)

    def join(self) -> None:
        if len(self.cluster.managers) < 5:
            self.joined += 1
            ends_in = self.random.choice([None, None, 15.5, 60.0, 1.0])
            self.cluster.join(
                f"m{self.joined}", self.random.randint(1, 3), self.random.randint(0, 3), ends_in
            )

    def hear(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.hear(name)

    def deliver(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.deliver(name)

    def start(self) -> None:
        manager = self.manager()
        if manager is not None:
            manager.start(self.cluster.starter(manager))

    def finish(self) -> None:
        manager = self.manager()
        if manager is not None:
            manager.finish(self.random.randint(1, 3), self.random.randint(0, 3))

    def tell(self) -> None:
        manager = self.manager()
        if manager is not None:
            manager.tell_started(self.random.randint(1, 3))

    def give_back(self) -> None:
        manager = self.manager()
        if manager is not None:
            manager.give_back(self.random.randint(1, 3))

    def drain(self) -> None:
        manager = self.manager()
        if manager is not None:
            manager.drain("as it likes")

    def close(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.close(name)

    def die(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.die(name)

    def cut(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.cut(name)

    def reconnect(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.reconnect(name)

    def tick(self) -> None:
        self.cluster.tick(self.random.choice([0.5, 5.0, 12.0, 31.0]))

    def direct(self) -> None:
        name = self.name()
        if name is not None:
            self.cluster.ask(self.random.choice(["hold", "release", "release", "drain"]), name)

    def ask(self) -> None:
        topic = self.random.choice(["explain", "explain", "packages", "status"])
        self.cluster.ask(topic, str(self.random.choice(self.cluster.open() or [0])))


def test_long_runs_lose_nothing_and_all_that_can_happen_does():
    observed: Observed = {}
    for seed in range(6):
        try:
            Wanderer(seed, observed).run(1500)
        except AssertionError as error:
            error.add_note(f"in the run with seed {seed}")
            raise
    # Refusals are left to the scenarios: those that wander are welcome.
    for path in SCENARIOS:
        run_scenario(path.read_text(), observed)
    for lifecycle in (lifecycles.MANAGER, lifecycles.TASK):
        missing = lifecycle.transitions() - observed[lifecycle.name]
        assert not missing, (
            f"transitions of a {lifecycle.name} that never happened: {sorted(missing, key=str)}"
        )
