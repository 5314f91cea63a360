"""What can go wrong, by the names that plans use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from throughway.testing.simulation.plan import Fault
from throughway.testing.simulation.processes import Process

if TYPE_CHECKING:
    from throughway.testing.simulation.manager import SimulatedManager
    from throughway.testing.simulation.worker import SimulatedWorker
    from throughway.testing.simulation.world import World

MIDWAY_SECONDS = 1.0
"""A process that is to die in the middle of a turn dies by then at the latest."""

NOTICED_SECONDS = 0.02
"""How long it takes until an end of a connection notices that it is broken, where nothing keeps it from that."""

LOOK_SECONDS = 1.0
"""How far two looks of a provider at its jobs are apart."""


def _kill(process: Process | None, fault: Fault) -> None:
    if process is None or not process.alive:
        return
    if fault.actions is None:
        process.kill()
    else:
        process.say(f"is about to die after {fault.actions} actions")
        process.fuse = fault.actions
        process.clock.after(MIDWAY_SECONDS, process.kill)


def _kill_interchange(world: World, fault: Fault) -> None:
    world.ledger.trouble(None, MIDWAY_SECONDS)
    _kill(world.executor.interchange, fault)


def _stop_interchange(world: World, fault: Fault) -> None:
    interchange = world.executor.interchange
    if interchange is not None and interchange.alive:
        # One that is stopped for longer is taken for hung, and replaced.
        world.ledger.trouble(None, min(fault.seconds, world.executor.reactor.patience + MIDWAY_SECONDS))
        interchange.stop(fault.seconds)


def _stop_executor(world: World, fault: Fault) -> None:
    # An interchange that dies meanwhile is replaced only afterwards.
    world.ledger.trouble(None, fault.seconds)
    if world.executor.alive:
        world.executor.stop(fault.seconds)


def _manager(world: World, fault: Fault) -> SimulatedManager | None:
    return world.manager_at(fault.site)


def _kill_manager(world: World, fault: Fault) -> None:
    _kill(_manager(world, fault), fault)


def _kill_node(world: World, fault: Fault) -> None:
    manager = _manager(world, fault)
    if manager is not None:
        manager.say("vanishes with its node")
        manager.die(silent=True)


def _kill_job(world: World, fault: Fault) -> None:
    """All processes of a block's job die at once. The provider says so before long."""
    manager = _manager(world, fault)
    if manager is not None:
        manager.say("dies with its whole job")
        manager.zygote.die(silent=True)
        manager.die()
        world.clock.after(LOOK_SECONDS * manager.draw.random(), _say_ended, world, manager.block)


def _say_ended(world: World, block: str) -> None:
    if world.executor.alive:
        world.say(f"the provider says that block {block} has ended")
        world.executor.ask("block_ended", block)


def _stop_manager(world: World, fault: Fault) -> None:
    manager = _manager(world, fault)
    if manager is not None:
        world.ledger.trouble(fault.site, fault.seconds)
        manager.stop(fault.seconds)


def _terminate(world: World, fault: Fault) -> None:
    manager = _manager(world, fault)
    if manager is not None:
        manager.terminate()


def _worker(world: World, fault: Fault) -> SimulatedWorker | None:
    manager = _manager(world, fault)
    if manager is None:
        return None
    running = [worker for worker in manager.workers.values() if worker.alive and worker.forked]
    return running[fault.pick % len(running)] if running else None


def _kill_worker(world: World, fault: Fault) -> None:
    worker = _worker(world, fault)
    if worker is not None:
        worker.kill()


def _stop_worker(world: World, fault: Fault) -> None:
    worker = _worker(world, fault)
    if worker is not None:
        worker.stop(fault.seconds)


def _kill_zygote(world: World, fault: Fault) -> None:
    manager = _manager(world, fault)
    if manager is not None:
        manager.zygote.kill()


def _break(world: World, fault: Fault) -> None:
    """The connection breaks; with ``seconds``, one end notices only that much later."""
    manager = _manager(world, fault)
    if manager is None or manager.link is None:
        return
    manager.say("has its connection broken")
    noticed = {end: NOTICED_SECONDS * manager.draw.random() for end in manager.link.ways}
    late = manager if fault.pick % 2 else manager.link.other(manager)
    if fault.what == "half-break":
        noticed[late] += fault.seconds
    world.ledger.trouble(fault.site, max(noticed.values()))
    manager.link.broken("connection lost", noticed)


def _cut(world: World, fault: Fault) -> None:
    """Nothing moves between a site and the interchange for a while; then it goes on, or the connection has broken."""
    world.ledger.trouble(fault.site, fault.seconds)
    world.say(f"site {fault.site} is cut off for {fault.seconds:.6g} s")
    world.network.cut(fault.site)
    world.clock.after(fault.seconds, _heal, world, fault.site)
    manager = _manager(world, fault)
    if fault.what == "cut and break" and manager is not None and manager.link is not None:
        # Time-outs are noticed during the partition, at each end by itself, or only when it is over.
        link = manager.link
        for end in link.ways:
            world.clock.after(fault.seconds * manager.draw.random(), link.expire, end, "timed out")


def _heal(world: World, site: int) -> None:
    world.say(f"site {site} is reached again")
    world.network.heal(site)


FAULTS: dict[str, Callable[[World, Fault], None]] = {
    "kill interchange": _kill_interchange,
    "stop interchange": _stop_interchange,
    "stop executor": _stop_executor,
    "kill manager": _kill_manager,
    "kill node": _kill_node,
    "kill job": _kill_job,
    "stop manager": _stop_manager,
    "terminate": _terminate,
    "kill worker": _kill_worker,
    "stop worker": _stop_worker,
    "kill zygote": _kill_zygote,
    "break": _break,
    "half-break": _break,
    "cut": _cut,
    "cut and break": _cut,
}
