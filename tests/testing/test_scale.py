"""Recovery with many managers and tasks: nothing is lost, and it costs no more for each than with few."""

from __future__ import annotations

import pytest

from tests.interchange.test_scale import bytecodes
from throughway.testing.simulation.__main__ import main
from throughway.testing.simulation.ledger import Violation
from throughway.testing.simulation.scale import Hall, cpu_seconds, recover

ALLOWED = 1.3


def test_a_dead_interchange_among_hundreds_of_managers(capsys):
    assert main(["--scale", "300:30000"]) == 0
    assert "and each ran once" in capsys.readouterr().out


def test_all_is_assigned_when_it_dies():
    report = recover(50, 600, measure=cpu_seconds)
    assert report.waiting == 0
    assert report.assigned == 200


def test_a_manager_costs_the_same_among_few_and_many():
    few = recover(8, 8 * 20, measure=bytecodes).restoring / 8
    many = recover(256, 256 * 20, measure=bytecodes).restoring / 256
    assert many / few <= ALLOWED


def test_a_waiting_task_costs_the_same_among_few_and_many():
    def cost(tasks: int) -> float:
        return recover(4, tasks, measure=bytecodes).restoring

    base = cost(100)
    few = (cost(1_100) - base) / 1_000
    many = (cost(10_100) - base) / 10_000
    assert many / few <= ALLOWED


def test_what_is_lost_is_seen():
    hall = Hall(2, 40, workers=4, prefetch=4)
    try:
        hall.join()
        hall.submit()
        hall.peers[0].held.popleft()
        hall.work()
        with pytest.raises(Violation, match="ended 0 times"):
            hall.check()
    finally:
        hall.close()
