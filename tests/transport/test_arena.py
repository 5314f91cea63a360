"""Shared memory: what was put is read, what was given back is never taken for somebody's, and all of it comes back."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.serialize import fresh
from throughway.errors import ProtocolError, TransportError
from throughway.transport import arena as arena_module
from throughway.transport.arena import UNIT_BYTES, Arena, ArenaReader, Lease

SIZE = 1 << 20
UNITS = SIZE // UNIT_BYTES

MakeArena = Callable[[int], tuple[Arena, ArenaReader]]


@pytest.fixture
def make_arena() -> Iterator[MakeArena]:
    """Makes an arena of a size, and its reader."""
    made: list[tuple[Arena, ArenaReader]] = []

    def make(size: int) -> tuple[Arena, ArenaReader]:
        arena = Arena(size)
        made.append((arena, ArenaReader(arena.descriptor, arena.key)))
        return made[-1]

    yield make
    for arena, reader in made:
        reader.close()
        arena.close()


@pytest.fixture
def pair(make_arena: MakeArena) -> tuple[Arena, ArenaReader]:
    return make_arena(SIZE)


@pytest.fixture
def arena(pair: tuple[Arena, ArenaReader]) -> Arena:
    return pair[0]


@pytest.fixture
def reader(pair: tuple[Arena, ArenaReader]) -> ArenaReader:
    return pair[1]


def data_of(task: int, size: int) -> bytes:
    """What a test puts for a task, derived from its number."""
    return random.Random(task * 1_000_003 + size).randbytes(size)


def put(arena: Arena, task: int, *sizes: int) -> Lease:
    """Put read-only frames of these sizes, for which there is room."""
    lease = arena.put(task, [memoryview(data_of(task, size)) for size in sizes])
    assert lease is not None, f"no room for {sizes}"
    return lease


def no_room(arena: Arena, size: int) -> bool:
    return arena.put(0, [memoryview(bytes(size))]) is None


def free_units(arena: Arena) -> int:
    """The units that nobody has, those that came back included."""
    free = sum(len(units) << power for power, units in enumerate(arena._free))
    return free + sum(1 << power for power, _ in arena._freed)


# ------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        UNIT_BYTES - 1,
        UNIT_BYTES,
        UNIT_BYTES + 1,
        4 * UNIT_BYTES,
        4 * UNIT_BYTES + 1,
        SIZE // 2 + 1,
        SIZE,
    ],
)
def test_one_frame_there_and_back(arena: Arena, reader: ArenaReader, size: int) -> None:
    lease = put(arena, 7, size)
    (frame,) = reader.read(lease.place, 7)
    assert type(frame) is bytes
    assert frame == data_of(7, size)
    units = 1 << (max(1, -(-size // UNIT_BYTES)) - 1).bit_length()
    assert free_units(arena) == UNITS - units, "it takes the next power of two of units"


def test_what_was_writable_arrives_writable_and_nobody_elses(arena: Arena, reader: ArenaReader) -> None:
    data = bytearray(data_of(1, 20_000))
    lease = arena.put(1, [memoryview(data)])
    assert lease is not None
    data[:] = bytes(len(data))
    (frame,) = reader.read(lease.place, 1)
    assert type(frame) is bytearray
    assert frame == data_of(1, 20_000)
    frame[:] = bytes(len(frame))
    (again,) = reader.read(lease.place, 1)
    assert again == data_of(1, 20_000), "each reader has its own"


@pytest.mark.parametrize(
    "sizes",
    [
        (16_384, 16_384),
        (0, 20_000),
        (20_000, 0),
        (0, 0, 0),
        (1, 63, 64, 65, 100_000),
        tuple(range(300)),
        (SIZE - 3 * 64, 64),
        (SIZE // 2 - 64, SIZE // 2),
    ],
)
def test_several_frames_there_and_back(arena: Arena, reader: ArenaReader, sizes: tuple[int, ...]) -> None:
    expected = [data_of(index, size) for index, size in enumerate(sizes)]
    frames = [
        memoryview(data) if index % 2 else memoryview(bytearray(data)) for index, data in enumerate(expected)
    ]
    lease = arena.put(9, frames)
    assert lease is not None
    found = reader.read(lease.place, 9)
    assert found == expected
    assert [type(frame) for frame in found] == [
        bytes if index % 2 else bytearray for index in range(len(sizes))
    ]


def test_frames_next_to_each_other_do_not_touch(arena: Arena, reader: ArenaReader) -> None:
    leases = [put(arena, task, UNIT_BYTES) for task in range(1, UNITS + 1)]
    assert sorted(lease.place for lease in leases) == list(range(1, UNITS + 1))
    assert all(
        reader.read(lease.place, task) == [data_of(task, UNIT_BYTES)] for task, lease in enumerate(leases, 1)
    )


# --------------------------------------------------------------------------------------------------------- room


@pytest.mark.parametrize("sizes", [(SIZE + 1,), (SIZE - 2 * 64, 65), (SIZE, 0), (SIZE * 3,), (SIZE, SIZE)])
def test_what_is_larger_than_the_arena_has_no_room(arena: Arena, sizes: tuple[int, ...]) -> None:
    assert arena.put(1, [memoryview(bytes(size)) for size in sizes]) is None
    assert free_units(arena) == UNITS


@pytest.mark.parametrize(
    ("size", "units"),
    [(0, 1), (UNIT_BYTES, 1), (2 * UNIT_BYTES - 1, 1), (2 * UNIT_BYTES, 2), (SIZE - 1, UNITS // 2)],
)
def test_its_size_is_rounded_down_to_a_power_of_two(make_arena: MakeArena, size: int, units: int) -> None:
    arena, reader = make_arena(size)
    assert free_units(arena) == units
    lease = put(arena, 1, units * UNIT_BYTES)
    assert reader.read(lease.place, 1) == [data_of(1, units * UNIT_BYTES)]
    with pytest.raises(ProtocolError):
        reader.read(units + 1, 1)


def test_by_default_it_takes_a_part_of_the_machines_memory_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "ARENA_BYTES", SIZE)
    for pages, expected in ((1 << 30, UNITS), (arena_module.MEMORY_SHARE * 8 * UNIT_BYTES // 4096, 8)):
        known = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": pages}
        monkeypatch.setattr(os, "sysconf", known.__getitem__)
        arena = Arena()
        assert free_units(arena) == expected
        arena.close()


def test_full_means_no_room_until_a_lease_goes(arena: Arena) -> None:
    leases = [put(arena, task, SIZE // 4) for task in range(4)]
    assert no_room(arena, 1)
    place = leases[2].place
    del leases[2]
    assert put(arena, 5, SIZE // 4).place == place


def test_what_came_back_last_is_taken_first(arena: Arena) -> None:
    leases = {task: put(arena, task, UNIT_BYTES) for task in range(8)}
    places = [leases.pop(task).place for task in (3, 6, 1)]
    again = [put(arena, task, UNIT_BYTES) for task in range(20, 23)]
    assert [lease.place for lease in again] == places[::-1]


def test_many_small_ones_are_joined_again_for_a_large_one(arena: Arena) -> None:
    leases = [put(arena, task, UNIT_BYTES) for task in range(UNITS)]
    random.Random(1).shuffle(leases)
    leases.clear()
    assert put(arena, 1, SIZE).place == 1


@pytest.mark.parametrize("count", [1, 2, 3, 10, 63])
def test_what_is_all_free_has_room_for_all_however_few_have_come_back(arena: Arena, count: int) -> None:
    leases = [put(arena, task, UNIT_BYTES) for task in range(count)]
    leases.clear()
    lease = put(arena, 1, SIZE)
    del lease
    leases = [put(arena, task, SIZE // 2) for task in range(2)]
    leases.clear()
    put(arena, 2, SIZE)


def test_joining_is_left_out_where_little_came_back(make_arena: MakeArena) -> None:
    """Else, each task of a full arena would go through all free slots."""
    units = 1024
    arena, _ = make_arena(units * UNIT_BYTES)
    leases = [put(arena, task, 0) for task in range(units)]
    assert [lease.place for lease in leases] == list(range(1, units + 1))
    kept = leases[::2]
    leases.clear()
    assert no_room(arena, 2 * UNIT_BYTES)
    joined: list[int] = []
    join = arena._join
    arena._join = lambda: (joined.append(1), join())[1]  # type: ignore[method-assign, func-returns-value]
    del kept[0]
    for _ in range(10):
        assert no_room(arena, 2 * UNIT_BYTES)
    assert not joined, "1 of 513"
    del kept[:8]
    assert not no_room(arena, 2 * UNIT_BYTES)
    assert joined == [1]
    arena.sanity_check()


def test_no_room_where_the_system_has_no_memory_left(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """To write to a page that cannot be had would end the process with SIGBUS."""
    asked: list[int] = []
    reserve = os.posix_fallocate

    def refuse(descriptor: int, offset: int, size: int) -> None:
        asked.append(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert arena.put(1, [memoryview(bytes(40_000))]) is None
    assert asked == [3 * UNIT_BYTES]
    assert free_units(arena) == UNITS
    monkeypatch.setattr(os, "posix_fallocate", reserve)
    del asked[:]
    lease = put(arena, 1, SIZE)
    del lease
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    put(arena, 2, SIZE)
    put(arena, 3, 1000)
    assert asked == [], "what was there once is there"


def test_every_page_is_asked_for_before_it_is_written_to(
    make_arena: MakeArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the table as well."""
    asked: set[int] = set()
    reserve = os.posix_fallocate

    def note(descriptor: int, offset: int, size: int) -> None:
        reserve(descriptor, offset, size)
        asked.update(range(offset // 4096, (offset + size - 1) // 4096 + 1))

    monkeypatch.setattr(os, "posix_fallocate", note)
    made, _ = make_arena(4096 * UNIT_BYTES)

    def there() -> int:
        return os.fstat(made.descriptor).st_blocks * 512 // 4096

    assert there() == len(asked) == 1
    leases = [put(made, 1, 20 * UNIT_BYTES), put(made, 2, 1000 * UNIT_BYTES, 100)]
    leases += [put(made, task, 100) for task in range(3, 200)]
    assert there() == len(asked)
    leases.clear()
    assert not no_room(made, 4096 * UNIT_BYTES)
    assert there() == len(asked) > 4096 * UNIT_BYTES // 4096


def test_pages_exist_once_they_are_needed(arena: Arena) -> None:
    def resident() -> int:
        return os.fstat(arena.descriptor).st_blocks * 512

    assert resident() < UNIT_BYTES
    lease = put(arena, 1, 40_000)
    assert 40_000 <= resident() < 100_000
    del lease
    put(arena, 2, 40_000)
    assert resident() < 100_000, "the same again"


# ---------------------------------------------------------------------------------------------------- stale readers


def test_a_reader_comes_too_late_for_a_place_that_another_has(arena: Arena, reader: ArenaReader) -> None:
    lease = put(arena, 1, 20_000)
    place = lease.place
    del lease
    other = put(arena, 2, 20_000)
    assert other.place == place
    with pytest.raises(ProtocolError, match="task 1 are no longer"):
        reader.read(place, 1)
    assert reader.read(place, 2) == [data_of(2, 20_000)]


def test_a_reader_comes_too_late_for_a_place_that_is_free(arena: Arena, reader: ArenaReader) -> None:
    first, second = put(arena, 1, 20_000), put(arena, 2, 20_000)
    place = first.place
    del first
    put(arena, 3, SIZE // 2)
    with pytest.raises(ProtocolError, match="settled without this worker"):
        reader.read(place, 1)
    assert reader.read(second.place, 2) == [data_of(2, 20_000)]


def test_a_reader_comes_too_late_for_several_frames(arena: Arena, reader: ArenaReader) -> None:
    lease = put(arena, 1, 20_000, 30_000)
    place = lease.place
    del lease
    other = put(arena, 2, 60_000)
    assert other.place == place
    with pytest.raises(ProtocolError, match="task 1"):
        reader.read(place, 1)


class Moment:
    """Stands in for what reads a stamp or an entry: lets something happen just before that, or just after."""

    def __init__(self, original: Any, happens: Callable[[], object], *, late: bool = False) -> None:
        self._original = original
        self._happens = happens
        self._late = late
        self.pack_into = original.pack_into
        self.size = original.size

    def unpack_from(self, *arguments: object) -> Any:
        if not self._late:
            self._happens()
        found = self._original.unpack_from(*arguments)
        if self._late:
            self._happens()
        return found


@pytest.mark.parametrize("sizes", [(20_000,), (20_000, 100)])
def test_what_changes_while_it_is_copied_is_refused(
    arena: Arena, reader: ArenaReader, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = [put(arena, 1, *sizes)]
    place = leases[0].place

    def overtake() -> None:
        if leases and leases[0].place == place:
            leases.clear()
            leases.append(put(arena, 2, 25_000))

    monkeypatch.setattr(arena_module, "_STAMP", Moment(arena_module._STAMP, overtake))
    with pytest.raises(ProtocolError, match="task 1"):
        reader.read(place, 1)


def test_sizes_that_are_none_any_more_are_not_copied(
    arena: Arena, reader: ArenaReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = [put(arena, 1, 100, 100)]
    place = leases[0].place

    large = memoryview(b"\x7f" * SIZE)

    def overtake() -> None:
        leases.clear()
        lease = arena.put(2, [large])
        assert lease is not None and lease.place == place
        leases.append(lease)

    monkeypatch.setattr(arena_module, "_ENTRY", Moment(arena_module._ENTRY, overtake, late=True))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="task 1"):
            reader.read(place, 1)
        assert tracemalloc.get_traced_memory()[1] < SIZE // 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", [0, -1, UNITS + 1, 1 << 40])
def test_places_that_are_none(arena: Arena, reader: ArenaReader, place: int) -> None:
    put(arena, 1, 100)
    with pytest.raises(ProtocolError, match=f"place {place} is not in"):
        reader.read(place, 1)


@pytest.mark.parametrize("place", [1, 2, 3, UNITS])
def test_places_that_are_not_the_tasks(arena: Arena, reader: ArenaReader, place: int) -> None:
    leases = put(arena, 5, 4 * UNIT_BYTES), put(arena, 6, 100)
    for task in (0, 1, 7):
        with pytest.raises(ProtocolError):
            reader.read(place, task)
    del leases


# ------------------------------------------------------------------------------------------------------ opening it


def test_another_path_is_refused(arena: Arena, tmp_path: Path) -> None:
    folder, nothing, text = tmp_path / "folder", tmp_path / "nothing", tmp_path / "text"
    folder.mkdir()
    text.write_text("x" * 100_000)
    empty = tmp_path / "empty"
    empty.touch()
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (folder, nothing, text, empty, fifo, Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(TransportError, match=f"shared memory {path}: "):
            ArenaReader(str(path), arena.key)


def test_the_memory_of_another_executor_is_refused(arena: Arena) -> None:
    """As where another process has this one's id in its namespace."""
    with pytest.raises(TransportError, match="something else"):
        ArenaReader(arena.path, arena.key ^ 2)
    with pytest.raises(TransportError, match="something else"):
        ArenaReader(arena.descriptor, 0)


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_no_key_fits_nothing(tmp_path: Path, size: int) -> None:
    path = tmp_path / "zeros"
    path.write_bytes(bytes(size))
    with pytest.raises(TransportError, match="something else"):
        ArenaReader(str(path), 0)


def test_a_descriptor_that_is_none_is_refused(arena: Arena) -> None:
    with pytest.raises(TransportError, match="shared memory 987654"):
        ArenaReader(987654, arena.key)


def test_after_the_end_nobody_opens_it_and_who_has_it_keeps_it() -> None:
    arena = Arena(SIZE)
    reader = ArenaReader(arena.path, arena.key)
    lease = put(arena, 1, 20_000)
    path, key = arena.path, arena.key
    arena.close()
    with pytest.raises(TransportError):
        ArenaReader(path, key)
    assert reader.read(lease.place, 1) == [data_of(1, 20_000)]
    reader.close()


def test_after_the_end_there_is_no_room() -> None:
    arena = Arena(SIZE)
    leases = [put(arena, task, 20_000) for task in range(3)]
    del leases[0]
    arena.close()
    assert arena.put(9, [memoryview(b"x")]) is None
    leases.clear()
    assert arena.put(9, [memoryview(b"x")]) is None


def test_to_close_again_closes_nobody_elses_descriptor() -> None:
    arena = Arena(SIZE)
    arena.close()
    ends = [os.pipe() for _ in range(4)]
    arena.close()
    for end in (end for both in ends for end in both):
        os.close(end)


def test_a_reader_can_change_nothing(arena: Arena) -> None:
    before = set(os.listdir("/proc/self/fd"))
    reader = ArenaReader(arena.path, arena.key)
    lease = put(arena, 1, 20_000)
    with pytest.raises(TypeError):
        reader._map[0:1] = b"x"
    with pytest.raises(TypeError):
        reader._view[0] = 1
    # Not even a task that writes into everything that is open.
    for name in set(os.listdir("/proc/self/fd")) - before:
        try:
            flags = fcntl.fcntl(int(name), fcntl.F_GETFL)
        except OSError:  # that of the listing
            continue
        assert flags & os.O_ACCMODE == os.O_RDONLY
        assert not os.get_inheritable(int(name))
    assert reader.read(lease.place, 1) == [data_of(1, 20_000)]
    reader.close()


def test_what_is_started_does_not_inherit_it(arena: Arena) -> None:
    assert not os.get_inheritable(arena.descriptor)


def test_nobody_can_shorten_what_others_have_mapped(arena: Arena) -> None:
    for size in (0, 2 * SIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(arena.descriptor, size)


def test_what_the_system_refuses_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(OSError, match="memory"):
        Arena(SIZE)
    assert os.listdir("/proc/self/fd") == before


READ = """
import sys
from throughway.transport.arena import ArenaReader
source, key, place, task = sys.argv[1:]
reader = ArenaReader(source if source.startswith("/") else int(source), int(key))
frames = reader.read(int(place), int(task))
sys.stdout.buffer.write(b"|".join(type(frame).__name__.encode() + b" " + frame for frame in frames))
"""


def test_another_process_reads_over_the_path(arena: Arena) -> None:
    lease = arena.put(3, [memoryview(b"fixed"), memoryview(bytearray(b"loose"))])
    assert lease is not None
    arguments = [arena.path, str(arena.key), str(lease.place), "3"]
    assert fresh.run(["-c", READ, *arguments]) == b"bytes fixed|bytearray loose"


def test_another_process_reads_over_an_inherited_descriptor(arena: Arena) -> None:
    lease = put(arena, 3, 1000)
    arguments = [str(arena.descriptor), str(arena.key), str(lease.place), "3"]
    done = subprocess.run(
        [sys.executable, "-c", READ, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(fresh.PATHS)},
        pass_fds=[arena.descriptor],
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == b"bytes " + data_of(3, 1000)
    without = subprocess.run(
        [sys.executable, "-c", READ, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(fresh.PATHS)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert b"TransportError" in without.stderr, "it is inherited only where that is asked for"


# ---------------------------------------------------------------------------------- threads, forks and interruptions


def test_a_forked_child_that_drops_leases_does_not_disturb_its_parent(
    arena: Arena, reader: ArenaReader
) -> None:
    leases = [put(arena, task, 20_000) for task in range(10)]
    child = os.fork()
    if not child:
        leases.clear()
        gc.collect()
        os._exit(len(arena._freed))
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 10
    more = put(arena, 10, 20_000)
    leases.append(more)
    assert len({lease.place for lease in leases}) == 11
    for task, lease in enumerate(leases):
        assert reader.read(lease.place, task) == [data_of(task, 20_000)]


def test_a_forked_child_lets_go_of_it_whoever_had_the_lock(arena: Arena, reader: ArenaReader) -> None:
    lease = put(arena, 1, 20_000)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with arena._lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if not child:
        signal.alarm(20)
        arena.forsake()
        maps = Path("/proc/self/maps").read_text().count("throughway-arena")
        left = arena.put(2, [memoryview(bytes(20_000))]) is None
        # The reader's own mapping is the only one.
        os._exit(0 if maps == 1 and left else 1)
    done.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert reader.read(lease.place, 1) == [data_of(1, 20_000)]
    assert put(arena, 2, 20_000).place != lease.place


@pytest.mark.parametrize("units", [UNITS, 8])
def test_threads_that_put_at_once(make_arena: MakeArena, units: int) -> None:
    arena, reader = make_arena(units * UNIT_BYTES)
    wrong: list[object] = []
    refused = 0
    together = threading.Barrier(6)
    interval = sys.getswitchinterval()

    def work(first: int) -> None:
        nonlocal refused
        choose = random.Random(first)
        together.wait(20)
        held: dict[int, tuple[Lease, bytes]] = {}
        for task in range(first, first + 300):
            data = choose.randbytes(choose.choice([100, UNIT_BYTES, 30_000, 60_000]))
            lease = arena.put(task, [memoryview(data)] * choose.choice([1, 1, 2]))
            if lease is None:
                refused += 1
            else:
                held[task] = (lease, data)
            while len(held) > 4 or (lease is None and held):
                done = choose.choice(list(held))
                lease, data = held.pop(done)
                try:
                    if set(reader.read(lease.place, done)) != {data}:
                        wrong.append(done)
                except ProtocolError as error:
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(1000 * number,)) for number in range(1, 7)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert refused, "it was full now and then"
    assert free_units(arena) == units
    assert put(arena, 1, units * UNIT_BYTES).place == 1
    arena.sanity_check()


def test_a_put_in_the_middle_of_a_put_does_not_wait_for_itself(arena: Arena) -> None:
    """A finalizer or a signal's handler may submit a task at any moment."""
    with arena._lock:
        assert no_room(arena, 100)
    put(arena, 1, 100)


class Interfering(list[memoryview]):
    """Frames of which something happens after the first was copied."""

    happens: Callable[[], object]
    rounds = 0

    def __iter__(self) -> Iterator[memoryview]:
        self.rounds += 1
        for index in range(len(self)):
            if index and self.rounds == 3:
                self.happens()
            yield self[index]


def test_an_interrupted_put_gives_its_slot_back(arena: Arena) -> None:
    def interrupt() -> None:
        assert free_units(arena) < UNITS, "it is in the middle"
        raise KeyboardInterrupt

    frames = Interfering([memoryview(bytes(UNIT_BYTES))] * 3)
    frames.happens = interrupt
    with pytest.raises(KeyboardInterrupt):
        arena.put(1, frames)
    assert free_units(arena) == UNITS
    put(arena, 2, SIZE)


def test_an_interrupted_request_for_pages_gives_its_slot_back(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            put(arena, 1, 20_000)
    assert free_units(arena) == UNITS
    put(arena, 2, SIZE)


def test_a_put_during_the_end_has_no_room() -> None:
    arena = Arena(SIZE)
    frames = Interfering([memoryview(bytes(UNIT_BYTES))] * 3)
    frames.happens = arena.close
    assert arena.put(1, frames) is None
    assert frames.rounds == 3


def test_a_frame_that_is_gone_is_an_error(arena: Arena) -> None:
    frame = memoryview(bytearray(20_000))
    frames = [memoryview(bytes(100)), frame]
    arena.put(1, frames)
    frame.release()
    with pytest.raises(ValueError, match="released"):
        arena.put(1, frames)
    assert free_units(arena) == UNITS


# ------------------------------------------------------------------------------------------------------- at random


class ArenaMachine(RuleBasedStateMachine):
    """Tasks come and go in any order. What is held is there, what is not is refused, and what fits has room."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = Arena(SIZE)
        self.reader = ArenaReader(self.arena.path, self.arena.key)
        self.held: dict[int, tuple[Lease, list[bytes | bytearray]]] = {}
        self.dropped: list[tuple[int, int]] = []
        """tasks and places that were given back before something was put again"""
        self.fresh: list[tuple[int, int]] = []
        """those given back since"""
        self.next_task = 0

    def teardown(self) -> None:
        self.reader.close()
        self.arena.close()

    @rule(
        sizes=st.lists(
            st.sampled_from(
                [0, 1, 64, 1000, UNIT_BYTES, UNIT_BYTES + 1, 65_536, 200_000, SIZE // 2, SIZE - 256, SIZE]
            ),
            min_size=1,
            max_size=4,
        ),
        writable=st.integers(0, 15),
    )
    def put(self, sizes: list[int], writable: int) -> None:
        task = self.next_task = self.next_task + 1
        expected: list[bytes | bytearray] = [
            bytearray(data_of(task, size)) if writable >> index & 1 else data_of(task, size)
            for index, size in enumerate(sizes)
        ]
        fits = self._fits(sizes)
        lease = self.arena.put(task, [memoryview(frame) for frame in expected])
        self.dropped += self.fresh
        self.fresh.clear()
        assert (lease is not None) == fits
        if lease is not None:
            self.held[task] = (lease, expected)

    def _fits(self, sizes: list[int]) -> bool:
        size = sizes[0]
        if len(sizes) > 1:
            size = 64 * (1 + sum(-(-size // 64) for size in sizes))
        wanted = 1 << (max(1, -(-size // UNIT_BYTES)) - 1).bit_length()
        taken = {unit for lease, _ in self.held.values() for unit in self._units(lease)}
        return any(
            taken.isdisjoint(range(first, first + wanted)) for first in range(0, UNITS - wanted + 1, wanted)
        )

    @staticmethod
    def _units(lease: Lease) -> range:
        power, unit = lease._slot
        return range(unit, unit + (1 << power))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1 << 16))
    def drop(self, which: int) -> None:
        task = sorted(self.held)[which % len(self.held)]
        lease, _ = self.held.pop(task)
        self.fresh.append((task, lease.place))

    @precondition(lambda self: self.held)
    @rule(keep=st.integers(0, 3))
    def drop_nearly_all(self, keep: int) -> None:
        for task in sorted(self.held)[: len(self.held) - keep]:
            lease, _ = self.held.pop(task)
            self.fresh.append((task, lease.place))
            del lease

    @invariant()
    def what_is_held_is_there(self) -> None:
        for task, (lease, expected) in self.held.items():
            found = self.reader.read(lease.place, task)
            assert found == expected
            assert [type(frame) for frame in found] == [type(frame) for frame in expected]

    @invariant()
    def what_is_not_is_refused(self) -> None:
        for task, place in self.dropped:
            with pytest.raises(ProtocolError):
                self.reader.read(place, task)

    @invariant()
    def every_unit_is_somewhere_once(self) -> None:
        self.arena.sanity_check()
        units = [unit for lease, _ in self.held.values() for unit in self._units(lease)]
        units += [
            unit + index
            for power, slots in enumerate(self.arena._free)
            for unit in slots
            for index in range(1 << power)
        ]
        units += [unit + index for power, unit in self.arena._freed for index in range(1 << power)]
        assert sorted(units) == list(range(UNITS))


TestArenaAgainstModel = ArenaMachine.TestCase
TestArenaAgainstModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def trim(arena: arena_module.Arena) -> None:
    """Nothing has been left for long."""
    arena.trim(0.0)
    arena.trim(arena_module.IDLE_SECONDS)


class TestTrimming:
    """Memory that was used is given back once no task is left, but for a part."""

    @pytest.fixture
    def arena(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[arena_module.Arena]:
        monkeypatch.setattr(arena_module, "KEPT_BYTES", 4 * UNIT_BYTES)
        arena = arena_module.Arena(64 * UNIT_BYTES)
        yield arena
        arena.close()

    @staticmethod
    def used(arena: arena_module.Arena) -> int:
        return 512 * os.fstat(arena.descriptor).st_blocks

    def test_pages_beyond_what_is_kept_go(self, arena: arena_module.Arena) -> None:
        empty = self.used(arena)
        lease = arena.put(1, [memoryview(bytes(32 * UNIT_BYTES))])
        assert lease is not None
        assert self.used(arena) >= 32 * UNIT_BYTES
        del lease
        trim(arena)
        assert self.used(arena) <= empty + 5 * UNIT_BYTES
        arena.sanity_check()

    def test_nothing_goes_while_a_task_is_left(self, arena: arena_module.Arena) -> None:
        data = os.urandom(32 * UNIT_BYTES)
        one, other = arena.put(1, [memoryview(data)]), arena.put(2, [memoryview(data)])
        assert one is not None
        assert other is not None
        before = self.used(arena)
        del one
        trim(arena)
        assert self.used(arena) == before
        assert ArenaReader(arena.path, arena.key).read(other.place, 2) == [data]

    def test_what_is_put_afterwards_arrives(self, arena: arena_module.Arena) -> None:
        for number in range(3):
            data = os.urandom(60 * UNIT_BYTES)
            lease = arena.put(number, [memoryview(data)])
            assert lease is not None
            assert ArenaReader(arena.path, arena.key).read(lease.place, number) == [data]
            del lease
            trim(arena)

    def test_it_is_not_given_back_between_two_tasks(self, arena: arena_module.Arena) -> None:
        before = 0
        for moment in range(5):
            lease = arena.put(moment, [memoryview(bytes(32 * UNIT_BYTES))])
            assert lease is not None
            before = self.used(arena)
            del lease
            arena.trim(float(moment))
            arena.trim(moment + 0.99 * arena_module.IDLE_SECONDS)
            assert self.used(arena) == before
        arena.trim(4.0 + arena_module.IDLE_SECONDS)
        assert self.used(arena) < before

    def test_a_little_is_kept(self, arena: arena_module.Arena) -> None:
        lease = arena.put(1, [memoryview(bytes(UNIT_BYTES))])
        before = self.used(arena)
        del lease
        trim(arena)
        assert self.used(arena) == before

    def test_after_the_end(self, arena: arena_module.Arena) -> None:
        arena.put(1, [memoryview(bytes(32 * UNIT_BYTES))])
        arena.close()
        trim(arena)

    def test_a_system_that_takes_nothing_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []

        class Stubborn(mmap.mmap):
            def madvise(self, option: int, *arguments: int) -> None:
                asked.append(option)
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        monkeypatch.setattr(arena_module, "KEPT_BYTES", 4 * UNIT_BYTES)
        with monkeypatch.context() as patches:
            patches.setattr(mmap, "mmap", Stubborn)
            stubborn = arena_module.Arena(64 * UNIT_BYTES)
        data = os.urandom(32 * UNIT_BYTES)
        try:
            for task in (1, 2, 3):
                lease = stubborn.put(task, [memoryview(data)])
                assert lease is not None
                assert ArenaReader(stubborn.path, stubborn.key).read(lease.place, task) == [data]
                del lease
                trim(stubborn)
                stubborn.sanity_check()
        finally:
            stubborn.close()
        assert asked == [mmap.MADV_REMOVE], "it is not asked again and again"
