from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.interchange.harness import Bench, tasks
from throughway.errors import ConfigurationError
from throughway.interchange.selectors import (
    BlockPackingSelector,
    LeastLoadedSelector,
    ManagerSelector,
    RandomSelector,
    make_selector,
    selector_config,
)
from throughway.protocol.configuration import SelectorConfig


@dataclass
class Manager:
    id: str
    block: str = "0"
    workers: int = 2
    load: int = 0
    host: str = "host"
    seconds_left: float = float("inf")


class FirstSelector(ManagerSelector):
    """A user's own: the manager whose name comes first."""

    def __init__(self, reverse: bool = False) -> None:
        self.reverse = reverse
        self.managers: dict[str, Manager] = {}

    def arguments(self):
        return {"reverse": self.reverse}

    def __len__(self):
        return len(self.managers)

    def offer(self, manager):
        self.managers[manager.id] = manager

    def withdraw(self, manager):
        self.managers.pop(manager.id, None)

    def pick(self):
        return self.managers[(max if self.reverse else min)(self.managers)]


def all_picks(selector: ManagerSelector) -> list[str]:
    """The order in which managers are picked, each withdrawn once it was."""
    order = []
    while len(selector):
        manager = selector.pick()
        selector.withdraw(manager)
        order.append(manager.id)
    return order


def offered(selector: ManagerSelector, *managers: Manager) -> ManagerSelector:
    for manager in managers:
        selector.offer(manager)
    return selector


def test_random_picks_each_about_as_often():
    selector = offered(RandomSelector(seed=1), *[Manager(name) for name in "abcd"])
    counts = Counter(selector.pick().id for _ in range(4000))
    assert set(counts) == set("abcd")
    assert min(counts.values()) > 800


def test_random_with_a_seed_repeats_itself():
    one, two = (offered(RandomSelector(seed=7), *[Manager(name) for name in "abcd"]) for _ in range(2))
    assert [one.pick().id for _ in range(20)] == [two.pick().id for _ in range(20)]


def test_least_loaded_goes_by_tasks_for_each_worker():
    managers = [
        Manager("a", workers=10, load=9),
        Manager("b", workers=2, load=1),
        Manager("c", workers=1, load=1),
    ]
    assert all_picks(offered(LeastLoadedSelector(), *managers)) == ["b", "a", "c"]


def test_least_loaded_follows_changes():
    a, b = Manager("a", load=0), Manager("b", load=1)
    selector = offered(LeastLoadedSelector(), a, b)
    a.load = 2
    selector.offer(a)
    assert selector.pick().id == "b"


def test_a_manager_without_workers_can_be_ranked():
    assert all_picks(offered(LeastLoadedSelector(), Manager("a", workers=0))) == ["a"]


def test_block_packing_fills_the_newest_block_and_there_the_fullest():
    managers = [
        Manager("a", block="2", load=1),
        Manager("b", block="10", load=0),
        Manager("c", block="10", load=1),
        Manager("d", block="other", load=1),
    ]
    assert all_picks(offered(BlockPackingSelector(), *managers)) == ["c", "b", "a", "d"]


def test_block_packing_lets_old_blocks_run_empty():
    bench = Bench(BlockPackingSelector)
    bench.join("old", block="0", workers=2)
    bench.join("new", block="1", workers=2)
    bench.submit(tasks(1))
    bench.submit(tasks(2))
    assert bench.assigned("new") == [1, 2]
    bench.submit(tasks(3))
    assert bench.assigned("old") == [3]
    bench.emptiness_check()


@pytest.mark.parametrize("kind", [RandomSelector, LeastLoadedSelector, BlockPackingSelector])
def test_offers_may_repeat_and_withdrawals_may_come_for_nothing(kind):
    selector = kind()
    a, b = Manager("a"), Manager("b")
    selector.withdraw(a)
    for _ in range(3):
        selector.offer(a)
    selector.offer(b)
    assert len(selector) == 2
    selector.withdraw(a)
    selector.withdraw(a)
    assert all_picks(selector) == ["b"]


def test_a_rank_that_returns_is_valid_again():
    selector = LeastLoadedSelector()
    a = Manager("a", load=1)
    for load in (1, 2, 1, 0, 1):
        a.load = load
        selector.offer(a)
        assert selector.pick() is a
    selector.withdraw(a)
    selector.offer(a)
    assert selector.pick() is a


@pytest.mark.parametrize("kind", [LeastLoadedSelector, BlockPackingSelector])
def test_old_ranks_do_not_pile_up(kind):
    selector = kind()
    managers = [Manager(str(number)) for number in range(4)]
    for round_ in range(1000):
        for manager in managers:
            manager.load = round_ % 50
            selector.offer(manager)
    assert len(selector._heap) <= 4 * 4 + 65


# -------------------------------------------------------------------------------------- against a naive model


class SelectorMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.managers = [Manager(str(number), block=str(number % 2)) for number in range(5)]
        self.on_offer: set[str] = set()
        self.selectors = {
            RandomSelector(seed=3): lambda manager: 0,
            LeastLoadedSelector(): lambda manager: manager.load / manager.workers,
            BlockPackingSelector(): lambda manager: (-int(manager.block), -manager.load),
        }

    @rule(number=st.integers(0, 4), load=st.integers(0, 6))
    def offer(self, number, load) -> None:
        manager = self.managers[number]
        manager.load = load
        self.on_offer.add(manager.id)
        for selector in self.selectors:
            selector.offer(manager)

    @rule(number=st.integers(0, 4))
    def withdraw(self, number) -> None:
        self.on_offer.discard(str(number))
        for selector in self.selectors:
            selector.withdraw(self.managers[number])

    @precondition(lambda self: self.on_offer)
    @rule()
    def pick(self) -> None:
        candidates = [manager for manager in self.managers if manager.id in self.on_offer]
        for selector, rank in self.selectors.items():
            assert rank(selector.pick()) == min(map(rank, candidates))
            assert selector.pick().id in self.on_offer

    @invariant()
    def counted(self) -> None:
        assert {len(selector) for selector in self.selectors} == {len(self.on_offer)}


TestSelectorsAgainstModel = SelectorMachine.TestCase
TestSelectorsAgainstModel.settings = settings(max_examples=50, stateful_step_count=30)


# ---------------------------------------------------------------------------------------------- configuration


def test_a_selector_travels_as_its_import_path_and_arguments():
    config = selector_config(FirstSelector(reverse=True))
    assert config == SelectorConfig("tests.interchange.test_selectors:FirstSelector", {"reverse": True})
    made = make_selector(config)
    assert type(made).__name__ == "FirstSelector"
    assert made.arguments() == {"reverse": True}


def test_a_class_will_do():
    config = selector_config(LeastLoadedSelector)
    assert type(make_selector(config)) is LeastLoadedSelector


def test_the_user_s_own_selector_is_used():
    bench = Bench(lambda: FirstSelector(reverse=True))
    bench.join("a")
    bench.join("b")
    bench.submit(tasks(1))
    assert bench.assigned("b") == [1]
    bench.emptiness_check()


def local_class():
    class Inner(RandomSelector):
        pass

    return Inner


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (int, "is no ManagerSelector: subclass throughway.ManagerSelector"),
        (42, "is no ManagerSelector"),
        (local_class(), "put the class into a module of its own"),
    ],
    ids=["another class", "no class", "local class"],
)
def test_what_cannot_travel_is_refused(selector, message):
    with pytest.raises(ConfigurationError, match=message):
        selector_config(selector)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SelectorConfig("no.such.module:Thing"), "no.such.module:Thing .* ModuleNotFoundError"),
        (SelectorConfig("throughway.interchange.selectors:Nothing"), "AttributeError"),
        (
            SelectorConfig("throughway.interchange.selectors:RandomSelector", {"sed": 1}),
            "'sed': 1.* TypeError",
        ),
        (SelectorConfig("builtins:list"), "is no ManagerSelector"),
    ],
    ids=["module", "class", "arguments", "kind"],
)
def test_what_cannot_be_made_is_an_error_that_says_why(config, message):
    with pytest.raises(ConfigurationError, match=message):
        make_selector(config)
