"""The simulation: seeds go well, runs are the same each time, and failures are shown small enough to read."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Collection

import msgspec
import pytest

from tests.testing.test_mutations import MUTATIONS
from throughway.executors.reactor import ExecutorReactor
from throughway.interchange.state import InterchangeState
from throughway.testing.simulation.__main__ import main
from throughway.testing.simulation.clock import Clock
from throughway.testing.simulation.ledger import Ledger, Violation
from throughway.testing.simulation.network import Arrived, Broke, Link, Network
from throughway.testing.simulation.plan import Fault, Job, Plan, Request, Site, make_plan
from throughway.testing.simulation.shrinking import failure_of, shrink
from throughway.testing.simulation.world import World, simulate

SEEDS = 200


def test_seeds_go_well():
    failures = {
        seed: failure.text
        for seed in range(SEEDS)
        if (failure := simulate(make_plan(seed)).failure) is not None
    }
    assert not failures


def test_much_happens_in_them():
    """Seeds that never come to the difficult parts would prove nothing."""
    wanted = {
        "an interchange takes over": r"executor .* → interchange: Restore m",
        "one dies while it takes over": r"interchange[2-9] +(is killed|dies in)",
        "one dies in the middle of a turn": r"interchange\d +dies in the middle",
        "a hung one is replaced": r"kills the interchange: it was silent",
        "managers come back": r"is back: [1-9]\d* tasks go on",
        "tasks never reached a manager": r"is back: .*, [1-9]\d* never reached it",
        "results are sent again": r"Welcome received=\d+ seen=\d+",
        "strangers are returned": r"→ executor: Returned",
        "a manager comes too late": r"was given up before it came back",
        "it starts over": r" m\d\.\d +is m\d\.\d\+\d now",
        "a zygote tells of a death": r"reads obituary",
        "a provider tells of a job's end": r"left: its block's job has ended",
        "partitions": r"is cut off for",
        "cancelled": r"future \d+ gets cancelled",
        "killed": r"future \d+ gets TaskKilled",
        "walltimes": r"future \d+ gets WalltimeExceeded",
        "lost workers": r"future \d+ gets WorkerLost",
        "lost managers": r"future \d+ gets ManagerLost",
        "retries": r"task \d+ may run again",
        "claims are taken back": r"takes [1-9]\d* claims",
        "bundles are discarded": r"discards \[",
        "drains": r"→ interchange: Leaving",
        "acknowledgements alone": r"→ m\S+: Acknowledged",
    }
    missing = dict(wanted)
    for seed in range(400):
        text = "\n".join(simulate(make_plan(seed), tracing=True).trace)
        missing = {what: pattern for what, pattern in missing.items() if not re.search(pattern, text)}
        if not missing:
            return
    assert not missing


def digest(seeds: range) -> str:
    """Of the traces of these seeds."""
    found = hashlib.sha256()
    for seed in seeds:
        found.update("\n".join(simulate(make_plan(seed), tracing=True).trace).encode())
    return found.hexdigest()


def test_runs_are_the_same_whatever_the_order_of_hashes():
    program = "from tests.testing.test_simulation import digest; print(digest(range(40)))"
    digests = set()
    for hash_seed in ("0", "1", "2"):
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_tracing_changes_nothing():
    for seed in range(20):
        plain, traced = simulate(make_plan(seed)), simulate(make_plan(seed), tracing=True)
        assert plain.steps == traced.steps
        assert traced.trace
        assert not plain.trace


def test_a_plan_is_plain_data():
    for seed in range(50):
        plan = make_plan(seed)
        assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan


# ------------------------------------------------------------------------------------------------------- failures


def test_a_failure_is_printed_shrunk_and_replayable(monkeypatch, capsys, tmp_path):
    MUTATIONS["executor: notes are not read"](monkeypatch)
    assert main(["--seeds", "0:30"]) == 1
    text = capsys.readouterr().out
    assert "failed; " in text
    shrunk = re.search(r"seed (\d+), shrunk from (\d+) to (\d+) parts:\nplan: (.*)\n", text)
    assert shrunk is not None
    assert int(shrunk[3]) <= 4, "a manager, a task, a dead interchange, and at most one thing more"
    again = tmp_path / "plan.json"
    again.write_text(shrunk[4])
    assert main(["--plan", str(again), "--trace"]) == 1
    assert "Restore" in capsys.readouterr().out
    assert main(["--seed", shrunk[1], "--no-shrink"]) == 1
    monkeypatch.undo()
    assert main(["--plan", str(again)]) == 0


def test_shrinking_keeps_the_kind_of_failure(monkeypatch):
    MUTATIONS["manager: acknowledgements are dropped"](monkeypatch)
    plan = next(plan for seed in range(50) if failure_of(plan := make_plan(seed)))
    failure = failure_of(plan)
    assert failure is not None
    small = shrink(plan, failure.kind)
    assert small.size < plan.size
    found = failure_of(small)
    assert found is not None
    assert found.kind == failure.kind


def test_seeds_in_several_processes(capsys):
    assert main(["--seeds", "0:60", "--processes", "2"]) == 0
    assert "60 seeds from 0 on: 0 failed" in capsys.readouterr().out


def test_a_wrong_range_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["--seeds", "many"])
    assert "'many'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- single plans


def plan_of(*faults: Fault, local: bool = True, jobs: int = 1, seconds: float = 1.0, **options) -> Plan:
    """One manager with one worker from the start, and tasks from a tenth of a second on."""
    return Plan(
        seed=1,
        local=local,
        period=1.5,
        threshold=6.0,
        sites=[Site(0, 0.0, 1)],
        jobs=[Job(number + 1, 0.1, 1, seconds, **options) for number in range(jobs)],
        requests=[],
        faults=list(faults),
    )


def ends_of(plan: Plan) -> tuple[list[str], World]:
    """How the futures end, and the world that is left."""
    world = World(plan, tracing=True)
    world.run()
    return [fate.future.outcome for fate in world.ledger.fates.values()], world


def starts(world: World) -> list[int]:
    return [fate.starts for fate in world.ledger.fates.values()]


def test_a_dead_interchange_costs_nothing():
    ends, world = ends_of(plan_of(Fault(0.5, "kill interchange"), jobs=5))
    assert ends == ["a value"] * 5
    assert starts(world) == [1] * 5


def test_five_dead_interchanges_in_a_minute_cost_nothing_and_six_end_it():
    def deaths(count: int) -> list[Fault]:
        return [Fault(0.5 + number, "kill interchange") for number in range(count)]

    ends, _ = ends_of(plan_of(*deaths(5), seconds=8.0))
    assert ends == ["a value"]
    ends, _ = ends_of(plan_of(*deaths(6), seconds=8.0))
    assert ends == ["InterchangeLost"]


def test_a_hung_interchange_is_replaced_before_its_managers_give_up():
    for local in (True, False):
        ends, world = ends_of(
            plan_of(Fault(0.5, "stop interchange", seconds=30.0), local=local, seconds=20.0)
        )
        assert ends == ["a value"]
        assert starts(world) == [1]


@pytest.mark.parametrize("what", ["cut", "cut and break", "half-break", "stop manager"])
def test_a_manager_that_is_away_for_less_than_the_threshold_goes_on(what):
    ends, world = ends_of(plan_of(Fault(0.5, what, seconds=2.5), local=False, jobs=3))
    assert ends == ["a value"] * 3
    assert starts(world) == [1] * 3
    assert not world.ledger.given_up


@pytest.mark.parametrize("retries", [0, 1])
def test_one_that_is_away_for_longer_is_lost_and_comes_back_as_another(retries):
    plan = plan_of(Fault(0.5, "cut", seconds=20.0), local=False, seconds=2.0, retries=retries)
    plan.sites.append(Site(1, 12.0, 1))
    ends, world = ends_of(plan)
    assert ends == ["a value" if retries else "ManagerLost"]
    assert starts(world) == [1 + retries]
    assert "m0.1" in world.ledger.given_up


def test_a_dead_manager_costs_what_it_had():
    ends, world = ends_of(plan_of(Fault(0.5, "kill manager"), local=False, jobs=3))
    assert ends.count("ManagerLost") == 1
    assert ends.count("a value") == 2
    assert starts(world) == [1] * 3


def test_a_cancelled_task_that_waits_never_runs():
    plan = plan_of(jobs=2)
    plan.requests.append(Request(0.5, "cancel", 2))
    ends, world = ends_of(plan)
    assert ends == ["a value", "cancelled"]
    assert starts(world) == [1, 0]


@pytest.mark.parametrize("end", ["shutdown", "vanish", "vanish with interchange"])
@pytest.mark.parametrize("local", [True, False])
def test_all_processes_end(end, local):
    _, world = ends_of(msgspec.structs.replace(plan_of(local=local), end=end))
    assert not world.managers
    assert not any(process.alive for process in world.everyone)


def deaths_together(local: bool) -> int:
    """A manager dies, and the interchange after each of the actions by which it tells so. How often that went wrong."""
    failures = 0
    for actions in range(8):
        plan = plan_of(
            Fault(0.5, "kill interchange", actions=actions),
            Fault(0.505, "kill manager"),
            local=local,
            seconds=3.0,
        )
        failures += failure_of(plan) is not None
    return failures


@pytest.mark.parametrize("local", [True, False])
def test_manager_and_interchange_die_together_at_any_moment(local):
    assert not deaths_together(local)


def test_what_a_dying_interchange_did_not_tell_is_read_from_its_notes(monkeypatch):
    monkeypatch.setattr(ExecutorReactor, "_lose_untold", lambda reactor, assigned: None)
    assert deaths_together(True)


def unheard_results() -> int:
    """The executor is stopped while results come, and then the interchange dies. How often that went wrong."""
    failures = 0
    for seed in range(40):
        faults = [Fault(0.1, "stop executor", seconds=1.5), Fault(1.0, "kill interchange")]
        plan = plan_of(*faults, local=False, jobs=20, seconds=0.05)
        plan.jobs = [msgspec.structs.replace(job, at=0.05) for job in plan.jobs]
        failures += failure_of(msgspec.structs.replace(plan, seed=seed)) is not None
    return failures


def test_results_that_an_interchange_took_with_it_come_again():
    assert not unheard_results()


def test_notes_must_know_of_results_that_were_not_heard(monkeypatch):
    def assignments(state: InterchangeState) -> list[tuple[str, Collection[int]]]:
        return [(manager.id, tasks) for manager, tasks in state.owners.by_holder().items()]

    monkeypatch.setattr(InterchangeState, "assignments", assignments)
    assert unheard_results()


# -------------------------------------------------------------------------------------------------- what is checked


def test_what_must_not_happen_is_a_violation():
    world = World(plan_of(jobs=3))
    world._schedule()
    ledger: Ledger = world.ledger
    while not (ledger.fates and ledger.fates[1].starts):
        world.clock.step()
    manager = world.managers[0]
    with pytest.raises(Violation, match=r"begun for the 2\. time"):
        ledger.started(1, manager)
    future = ledger.fates[2].future
    with pytest.raises(Violation, match=r"no retries left|uses up a retry"):
        future._retries -= 1
    with pytest.raises(Violation, match=r"computed \[\], and its future got"):
        future._set_value((2, 1, []))
    with pytest.raises(Violation, match="gets cancelled after it got a value"):
        future._set_cancelled()
    with pytest.raises(Violation, match="nothing like that was planned"):
        ledger.fates[3].future._set_error(ValueError("nobody knows why"))
    with pytest.raises(Violation, match="lives, was out of reach for 0 s"):
        ledger.gave_up(manager.id, "no reason")


# ---------------------------------------------------------------------------------------------------------- network


class End:
    """A process that writes down what it hears."""

    stopped = 0

    def __init__(self) -> None:
        self.heard: list[str] = []

    def hear(self, event: Arrived | Broke) -> None:
        self.heard.append(event.reason if isinstance(event, Broke) else event.frames[0].decode())


class Wires:
    """Two ends and a connection, at site 0."""

    def __init__(self, seed: int = 0) -> None:
        self.clock = Clock()
        self.network = Network(self.clock, str(seed))
        self.client, self.server = End(), End()
        self.link: Link = self.network.connect("wire", 0, self.client, self.server)  # type: ignore[arg-type]

    def send(self, count: int) -> None:
        for number in range(count):
            self.link.send(self.client, [b"%d" % number])  # type: ignore[arg-type]

    def settle(self) -> None:
        while self.clock.step():
            pass


NUMBERS = [str(number) for number in range(20)]


def test_one_connection_keeps_its_order_and_two_overtake_each_other():
    wires = Wires()
    wires.send(20)
    wires.settle()
    assert wires.server.heard == NUMBERS
    mixed = Wires(1)
    other = mixed.network.connect("other", 0, mixed.client, mixed.server)  # type: ignore[arg-type]
    mixed.send(20)
    for number in range(20):
        other.send(mixed.client, [b"x%d" % number])  # type: ignore[arg-type]
    mixed.settle()
    assert [word for word in mixed.server.heard if word[0] != "x"] == NUMBERS
    assert sorted(mixed.server.heard[:20]) != sorted(NUMBERS)


def test_a_broken_connection_loses_what_was_under_way_from_some_message_on():
    survivors = set()
    for seed in range(30):
        wires = Wires(seed)
        wires.send(20)
        wires.link.broken("broken", dict.fromkeys(wires.link.ways, 0.01))
        wires.send(1)
        wires.settle()
        *arrived, end = wires.server.heard
        assert end == "broken"
        assert arrived == NUMBERS[: len(arrived)]
        survivors.add(len(arrived))
        assert wires.client.heard == ["broken"]
    assert len(survivors) > 5


def test_one_end_may_notice_long_before_the_other():
    wires = Wires()
    wires.link.broken("broken", {wires.client: 0.01, wires.server: 5.0})  # type: ignore[dict-item]
    begun = wires.clock.now
    wires.clock.step()
    assert wires.client.heard == ["broken"]
    assert not wires.server.heard
    wires.settle()
    assert wires.clock.now == begun + 5.0


def test_nothing_moves_in_a_partition_and_all_goes_on_afterwards():
    wires = Wires()
    wires.send(10)
    wires.network.cut(0)
    wires.settle()
    assert not wires.server.heard
    wires.network.cut(0)
    wires.network.heal(0)
    assert not wires.server.heard, "two partitions overlap"
    wires.network.heal(0)
    assert wires.server.heard == NUMBERS[:10]


def test_a_node_that_vanishes_says_nothing():
    wires = Wires()
    wires.send(1)
    wires.settle()
    wires.link.close(wires.client, "gone", silent=True)  # type: ignore[arg-type]
    wires.settle()
    assert wires.server.heard == ["0"]
