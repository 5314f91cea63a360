"""Which manager has which task, in little memory: a place for each task, and one block of bytes for each assignment.

With thousands of managers, most of what is assigned lies in memory that no cache holds, so what is touched for a task
is what it costs. A task that is assigned has a place in a page, next to those of the tasks that were submitted before
and after it, and there is nothing else of it by itself: the tasks of one assignment are kept together, encoded as they
were sent, until all of them have ended, or until somebody wants one of them back.

- Pages are made where a task is assigned, and dropped with the last of its tasks. A task that is alone in its page
  takes `PAGE` words and what surrounds them: about 0.7 KiB, and no more.
- A block whose tasks have ended in part is kept whole. At most `SMALL_BYTES` of it are for nothing, or else its holder
  has blocks of which most has ended, of more than `WASTE_BYTES`: these are packed anew, each with what is left. Such
  a look at a holder's blocks is paid for by the bytes that ended since the last one.
- Assignments of more than `PACKED_BYTES` are not packed: each of their tasks is kept until it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Generic, TypeVar

import msgspec

from throughway.protocol import codec
from throughway.protocol.messages import Task, decode_tasks

PAGE_BITS = 6

PAGE = 1 << PAGE_BITS
"""Places in a page."""

PACKED_BYTES = 1 << 16
"""A block of more bytes is not packed."""

SMALL_BYTES = 1 << 10
"""A block of fewer bytes is left as it is until all of its tasks have ended."""

WASTE_BYTES = 1 << 16
"""What ended tasks may take in a holder's blocks before anything is done about it."""

_LAST = PAGE - 1


class _Number(msgspec.Struct, array_like=True, gc=False):
    """A task of which only the number is decoded."""

    id: int


_unpack_numbers = msgspec.msgpack.Decoder(list[_Number]).decode


class Holder:
    """Somebody who has tasks. Only `AssignedTasks` changes these fields."""

    # No msgspec.Struct, unlike most records: setting a field of one costs several times as much.
    __slots__ = ("first", "kept", "last", "load", "waste")

    def __init__(self) -> None:
        self.load = 0
        """how many tasks it has"""
        self.first: Block | None = None
        self.last: Block | None = None
        """its blocks, in the order in which they were assigned"""
        self.kept = 0
        """bytes of those of its blocks that are packed and not small"""
        self.waste = 0
        """what ended tasks take of them"""


class Block(msgspec.Struct, eq=False):
    """The tasks of one assignment, until all of them have ended."""

    holder: Any
    left: int
    """how many have not ended"""
    packed: bytes
    loose: dict[int, Task] | None
    """instead, where they are too large to be packed: those that have not ended"""
    weight: int = 0
    """bytes of one packed task on average; 0 if the block is small, or loose"""
    count: int = 0
    """how many are packed"""
    before: Block | None = None
    after: Block | None = None
    """the neighbours among the holder's blocks"""


_Places = list[Any]
"""A page: the block of each of its tasks or None, and at the end, how many are not None."""

H = TypeVar("H", bound=Holder)


class AssignedTasks(Mapping[int, H], Generic[H]):
    """Maps the number of each task that is assigned to who has it. Asking costs O(1)."""

    __slots__ = ("_pages",)

    def __init__(self) -> None:
        self._pages: dict[int, _Places] = {}

    def __len__(self) -> int:
        """O(pages)."""
        return sum(page[PAGE] for page in self._pages.values())

    def __bool__(self) -> bool:
        """Whether anything is assigned. O(1)."""
        return bool(self._pages)

    def __iter__(self) -> Iterator[int]:
        for key, page in self._pages.items():
            first = key << PAGE_BITS
            for place in range(PAGE):
                if page[place] is not None:
                    yield first + place

    def __getitem__(self, task: int) -> H:
        holder: H | None = self.get(task)
        if holder is None:
            raise KeyError(task)
        return holder

    def get(self, task: int, default: Any = None) -> Any:
        """Who has this task; ``default`` for nobody."""
        page = self._pages.get(task >> PAGE_BITS)
        block = None if page is None else page[task & _LAST]
        return default if block is None else block.holder

    def __contains__(self, task: object) -> bool:
        return self.get(task) is not None  # type: ignore[arg-type]

    # ------------------------------------------------------------------------------------------------------- changes

    def put(self, holder: H, numbers: Sequence[int], tasks: Sequence[Task], packed: bytes) -> None:
        """These tasks are with this holder now. Nobody had them.

        Args:
            numbers: their numbers.
            tasks: themselves.
            packed: themselves as `codec.encode` makes it of their list.
        """
        count = len(numbers)
        size = len(packed)
        if size <= SMALL_BYTES:
            block = Block(holder, count, packed, None)
        elif size <= PACKED_BYTES:
            weight = size // count
            block = Block(holder, count, packed, None, weight, count)
            holder.kept += weight * count
        else:
            block = Block(holder, count, b"", {task.id: task for task in tasks})
        last = holder.last
        if last is None:
            holder.first = block
        else:
            last.after = block
            block.before = last
        holder.last = block
        holder.load += count
        pages = self._pages
        for first, stop in _runs(sorted(numbers)):
            at = first
            while at < stop:
                key = at >> PAGE_BITS
                place = at & _LAST
                some = min(stop - at, PAGE - place)
                page = pages.get(key)
                if page is None:
                    page = pages[key] = _EMPTY.copy()
                page[place : place + some] = [block] * some
                page[PAGE] += some
                at += some

    def end(self, holder: H, numbers: Iterable[int]) -> int:
        """These tasks have ended; those that the holder does not have are left alone. Returns how many it had."""
        pages = self._pages
        former = holder.load
        page = _EMPTY
        first = -PAGE
        block = _NONE
        loose: dict[int, Task] | None = None
        count = 0
        for number in numbers:
            place = number - first
            if not 0 <= place < PAGE:
                if count:
                    self._ended(block, count, page, first)
                    count = 0
                first = number & -PAGE
                place = number - first
                page = pages.get(number >> PAGE_BITS, _EMPTY)
            found = page[place]
            if found is not block:
                if found is None or found.holder is not holder:
                    continue
                if count:
                    self._ended(block, count, page, first)
                    count = 0
                block = found
                loose = block.loose
            page[place] = None
            count += 1
            if loose is not None:
                del loose[number]
        if count:
            self._ended(block, count, page, first)
        if holder.waste > WASTE_BYTES and 3 * holder.waste > 2 * holder.kept:
            self._repack(holder)
        return former - holder.load

    def _ended(self, block: Block, count: int, page: _Places, first: int) -> None:
        """Tasks of a block have ended, and are not in their page any more."""
        used = page[PAGE] - count
        if used:
            page[PAGE] = used
        else:
            # Nobody refers to it any more, but `end`, which finds no more in it.
            del self._pages[first >> PAGE_BITS]
        holder = block.holder
        holder.load -= count
        left = block.left - count
        weight = block.weight
        if left:
            block.left = left
            if weight:
                holder.waste += weight * count
            return
        if weight:
            holder.waste -= weight * (block.count - count)
            holder.kept -= weight * block.count
        before = block.before
        after = block.after
        if before is None:
            holder.first = after
        else:
            before.after = after
        if after is None:
            holder.last = before
        else:
            after.before = before

    def _repack(self, holder: H) -> None:
        """Of blocks of which most has ended, keep what is left."""
        block = holder.first
        while block is not None:
            if block.weight and 2 * block.left <= block.count:
                holder.kept -= block.weight * block.count
                holder.waste -= block.weight * (block.count - block.left)
                block.packed = codec.encode(list(self._tasks(block)))
                block.count = block.left
                size = len(block.packed)
                block.weight = size // block.count if size > SMALL_BYTES else 0
                holder.kept += block.weight * block.count
            block = block.after

    def take(self, holder: H, numbers: Iterable[int]) -> list[Task]:
        """These tasks are with nobody any more. Returns those of them that the holder had, in the same order."""
        blocks: dict[int, Block] = {}
        for number in numbers:
            page = self._pages.get(number >> PAGE_BITS)
            block = None if page is None else page[number & _LAST]
            if block is not None and block.holder is holder:
                blocks[number] = block
        tasks: dict[int, Task] = {}
        for block in dict.fromkeys(blocks.values()):
            tasks.update((task.id, task) for task in self._tasks(block))
        self.end(holder, blocks)
        return [tasks[number] for number in blocks]

    # ----------------------------------------------------------------------------------------------------- questions

    def numbers(self, holder: H) -> list[int]:
        """The numbers of all tasks that a holder has, in the order in which it got them. O(its blocks)."""
        found: list[int] = []
        block = holder.first
        while block is not None:
            if block.loose is not None:
                found += block.loose
            else:
                found += [task.id for task in _unpack_numbers(block.packed) if self._is_in(task.id, block)]
            block = block.after
        return found

    def tasks(self, holder: H) -> dict[int, Task]:
        """The same, with the tasks themselves."""
        found: dict[int, Task] = {}
        block = holder.first
        while block is not None:
            found.update((task.id, task) for task in self._tasks(block))
            block = block.after
        return found

    def by_holder(self) -> dict[H, list[int]]:
        """The numbers of everybody's tasks, in order. O(tasks), and faster than to ask for each holder."""
        found: dict[H, list[int]] = {}
        for key, page in self._pages.items():
            number = key << PAGE_BITS
            for block, run in groupby(page[:PAGE]):
                count = len(list(run))
                if block is not None:
                    theirs = found.get(block.holder)
                    if theirs is None:
                        theirs = found[block.holder] = []
                    theirs.extend(range(number, number + count))
                number += count
        return found

    def _tasks(self, block: Block) -> Iterable[Task]:
        """Those of a block that have not ended."""
        if block.loose is not None:
            return list(block.loose.values())
        return [task for task in decode_tasks(block.packed) if self._is_in(task.id, block)]

    def _is_in(self, number: int, block: Block) -> bool:
        page = self._pages.get(number >> PAGE_BITS)
        return page is not None and page[number & _LAST] is block

    def sanity_check(self, holders: Iterable[H]) -> None:
        """Places, blocks and holders agree, and these are all the holders."""
        places: dict[int, int] = {}
        for page in self._pages.values():
            used = [block for block in page[:PAGE] if block is not None]
            assert len(page) == PAGE + 1 and len(used) == page[PAGE] > 0, (
                "pages are counted, and none is empty"
            )
            for block in used:
                places[id(block)] = places.get(id(block), 0) + 1
        total = 0
        for holder in holders:
            load = kept = waste = 0
            before: Block | None = None
            block = holder.first
            while block is not None:
                assert block.holder is holder and block.before is before
                assert places.pop(id(block), 0) == block.left > 0, "a block has as many places as tasks"
                tasks = list(self._tasks(block))
                assert len({task.id for task in tasks}) == len(tasks) == block.left, "a block has its tasks"
                load += block.left
                kept += block.weight * block.count
                waste += block.weight * (block.count - block.left) if block.weight else 0
                before, block = block, block.after
            assert holder.last is before
            assert (holder.load, holder.kept, holder.waste) == (load, kept, waste)
            assert waste <= WASTE_BYTES or 3 * waste <= 2 * kept, "what ended does not dominate"
            total += load
        assert not places, "who has a task is known"
        assert total == len(self), "each task has one holder"
        assert _EMPTY == [None] * PAGE + [0]


_EMPTY: _Places = [*[None] * PAGE, 0]

_NONE = Block(None, 0, b"", None)
"""A block that is in no page."""


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as first and stop; ``numbers`` rise strictly, and there is one.

    O(runs * log(length of a run)).
    """
    count = len(numbers)
    first = numbers[0]
    if numbers[-1] - first == count - 1:
        return [(first, first + count)]
    found: list[tuple[int, int]] = []
    at = 0
    while at < count:
        first = numbers[at] - at
        low, high = at, at + 1
        while high < count and numbers[high] - first == high:
            low, high = high, 2 * high - at
        high = min(high, count)
        while high - low > 1:
            middle = (low + high) // 2
            if numbers[middle] - first == middle:
                low = middle
            else:
                high = middle
        found.append((first + at, first + low + 1))
        at = low + 1
    return found
