"""Whole blocks at the interchange: what they have to do, drained at once and for good, hosts that are left out."""

from __future__ import annotations

import msgspec
import pytest

from tests.interchange.harness import Bench, hello, tasks
from throughway.interchange import blocks
from throughway.interchange.reactor import OBITUARY_SECONDS
from throughway.protocol import messages as m
from throughway.protocol.views import BlockLoad, DrainView, LoadView


def drain(bench: Bench, block: str, topic: str = "drain_block") -> DrainView:
    bench.ask(topic, block)
    return msgspec.msgpack.decode(bench.answer(), type=DrainView)


def loads(bench: Bench) -> LoadView:
    bench.ask("blocks")
    return msgspec.msgpack.decode(bench.answer(), type=LoadView)


def test_what_blocks_have_to_do(bench: Bench) -> None:
    bench.join("a", block="0", workers=2)
    bench.join("b", block="0", workers=2)
    bench.join("c", block="1", workers=4, ends_in=500.0)
    bench.join("d", block="1", workers=4, ends_in=300.0)
    bench.submit(tasks(*range(5)))
    for name in "abcd":
        bench.told(name)
    bench.tick(10.0)
    bench.results("c", *bench.state.owners.numbers(bench.state.managers["c"]))
    bench.told("executor")
    bench.results("d", *bench.state.owners.numbers(bench.state.managers["d"]))
    bench.told("executor")
    bench.tick(20.0)
    found = {load.block: load for load in loads(bench).blocks}
    left = len(bench.state.owners)
    assert found["0"] == BlockLoad("0", 2, 4, left)
    assert found["1"] == BlockLoad("1", 2, 8, 0, 20.0, 270.0)
    for name in "abcd":
        assert set(map(type, bench.told(name))) == {m.Heartbeat}


def test_a_drained_block_takes_nothing_and_gives_back(bench: Bench) -> None:
    bench.join("a", block="0")
    bench.submit(tasks(1, 2, 3))
    assert bench.assigned("a") == [1, 2]
    assert drain(bench, "0") == DrainView(True, 1, 2)
    assert bench.told("a") == [m.Drain(blocks.DRAIN_REASON)]
    bench.manager("a", m.Returned("a", [2], 0))
    assert bench.waiting() == [2, 3]
    assert drain(bench, "0") == DrainView(True, 1, 1)
    assert bench.told("a") == [], "it is told once"
    bench.join("b", block="1")
    assert bench.assigned("b") == [2, 3]


def test_a_manager_that_registers_later_from_a_drained_block_drains_at_once(bench: Bench) -> None:
    assert drain(bench, "3") == DrainView(True, 0, 0)
    bench.submit(tasks(1))
    bench.say_hello("late", block="3")
    assert bench.told("late")[1:] == [m.Drain(blocks.DRAIN_REASON)]
    assert [type(said) for said in bench.told("executor")] == [m.ManagerJoined]
    assert bench.waiting() == [1]
    bench.manager("late", m.Leaving("late", blocks.DRAIN_REASON))
    (left,) = bench.told("executor")
    assert isinstance(left, m.ManagerLeft)
    assert not left.lost
    bench.told("late")


def test_only_an_idle_block_is_drained_if_so_asked(bench: Bench) -> None:
    bench.join("a", block="0")
    bench.submit(tasks(1))
    assert bench.assigned("a") == [1]
    assert drain(bench, "0", "drain_idle_block") == DrainView(False, 1, 1)
    assert bench.told("a") == []
    bench.results("a", 1)
    bench.told("executor")
    assert drain(bench, "0", "drain_idle_block") == DrainView(True, 1, 0)
    assert bench.told("a") == [m.Drain(blocks.DRAIN_REASON)]


def test_what_is_remembered_of_drained_blocks_is_bounded(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "DRAINED_REMEMBERED", 3)
    for number in range(5):
        drain(bench, str(number))
    assert list(bench.state.drained_blocks) == ["2", "3", "4"]


def test_a_host_that_is_left_out(bench: Bench) -> None:
    bench.join("a")
    bench.ask("refuse_host", "host-a")
    assert msgspec.msgpack.decode(bench.answer()) is True
    (told,) = bench.told("a")
    assert isinstance(told, m.Drain)
    bench.say_hello("b", host="host-a")
    (refused,) = [said for said in bench.told("executor") if isinstance(said, m.ManagerRefused)]
    assert "host host-a is left out" in refused.reason
    bench.told("b")
    bench.logged("ERROR")
    bench.join("c", host="elsewhere")


def test_a_manager_that_is_cut_off_is_lost_when_its_block_has_ended(bench: Bench) -> None:
    bench.join("a", block="0")
    bench.join("b", block="1")
    bench.submit(tasks(1, 2))
    (task,) = bench.assigned("a")
    assert len(bench.assigned("b")) == 1
    bench.close("a", "connection lost", gone=False)
    bench.logged("WARNING")
    bench.ask("block_ended", "1")
    assert msgspec.msgpack.decode(bench.answer()) is True
    assert bench.told("executor") == [], "that is another's block, and it is connected"
    bench.ask("block_ended", "0")
    bench.answer()
    bench.tick(OBITUARY_SECONDS - 1)
    assert bench.told("executor") == [], "its node may tell which had started"
    bench.told("b")
    bench.tick(1)
    left, lost = bench.told("executor")
    assert (left.manager, left.lost, left.reason) == ("a", True, blocks.ENDED_REASON)
    assert (lost.manager, lost.tasks) == ("a", [task])
    bench.logged("ERROR")


def test_one_that_is_connected_goes_on_and_is_lost_with_its_connection(bench: Bench) -> None:
    bench.join("a", block="0", workers=1)
    bench.submit(tasks(1, 2))
    assert bench.assigned("a") == [1]
    bench.ask("block_ended", "0")
    bench.answer()
    bench.results("a", 1)
    bench.told("executor")
    assert bench.assigned("a") == [2], "it is alive, whatever the scheduler says"
    bench.close("a", "connection lost", gone=False)
    bench.logged("WARNING")
    bench.tick(OBITUARY_SECONDS)
    _, lost = bench.told("executor")
    assert (lost.tasks, lost.reason) == ([2], blocks.ENDED_REASON)
    bench.told("a")
    bench.logged("ERROR")


def test_one_that_comes_back_is_not_doubted_any_more(bench: Bench) -> None:
    bench.join("a", block="0")
    bench.submit(tasks(1))
    assert bench.assigned("a") == [1]
    bench.ask("block_ended", "0")
    bench.answer()
    former = bench.peers["a"]
    bench.resume("a", block="0", held=[1], functions=[1])
    bench.boxes.pop(former)
    bench.close("a", "connection lost", gone=False)
    bench.logged("WARNING")
    bench.tick(OBITUARY_SECONDS)
    assert bench.told("executor") == []


def test_what_a_node_tells_of_a_death_counts_also_after_the_provider(bench: Bench) -> None:
    bench.join("a", block="0")
    bench.submit(tasks(1, 2))
    assert bench.assigned("a") == [1, 2]
    bench.close("a", "connection lost", gone=False)
    bench.logged("WARNING")
    bench.ask("block_ended", "0")
    bench.answer()
    bench.boxes.pop(bench.die("a", given=[1]))
    _, lost = bench.told("executor")
    assert lost.tasks == [1]
    assert bench.waiting() == [2]
    bench.logged("ERROR")


def test_an_observer_may_not_drain(bench: Bench) -> None:
    bench.join("a", block="0")
    for topic in ("drain_block", "drain_idle_block", "block_ended", "refuse_host", "tell_stranded"):
        bench.observe(999, m.Ask(1, topic, "0"))
    assert all(answer.message.error for answer in bench.boxes.pop(999))  # type: ignore[union-attr]
    assert bench.told("a") == []


# ----------------------------------------------------------------------------------------------------------- stranded


def test_the_executor_hears_once_of_tasks_for_which_nobody_has_the_time(bench: Bench) -> None:
    bench.ask("tell_stranded")
    bench.answer()
    bench.join("a", ends_in=100.0, block="0")
    bench.submit(tasks(1, 2, walltime=200.0))
    assert bench.told("executor") == [m.Stranded()]
    assert loads(bench).stranded == 2
    bench.submit(tasks(3, walltime=50.0))
    assert bench.assigned("a") == [3]
    assert bench.told("executor") == []
    bench.join("b", ends_in=300.0, block="1")
    assert bench.assigned("b") == [1, 2]
    assert loads(bench).stranded == 0
    bench.submit(tasks(4, walltime=400.0))
    assert bench.told("executor") == [m.Stranded()], "and again of others"


def test_who_did_not_ask_does_not_hear_of_them(bench: Bench) -> None:
    bench.join("a", ends_in=100.0)
    bench.submit(tasks(1, walltime=200.0))
    assert bench.told("executor") == []


def test_nobody_is_stranded_where_a_manager_has_no_end(bench: Bench) -> None:
    bench.join("a", ends_in=100.0, workers=1)
    bench.join("b", workers=1)
    bench.submit(tasks(1, 2, 3, walltime=200.0))
    assert bench.assigned("b") == [1]
    assert loads(bench).stranded == 0


def test_a_hello_has_no_objection_where_no_host_is_left_out(bench: Bench) -> None:
    assert blocks.objection(bench.state, hello("a")) is None
