from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from throughway.transport.interface import MAX_FRAMES, Buffer
from throughway.transport.records import HEAD, MAX_RECORD_BYTES, READ_BYTES, Record, RecordReader, pack_record

DIRECT_BYTES = 1 << 17
"""From here on a record is read straight into its own buffers."""


class Pipe:
    """A pipe with a reader at its end; the writer may be slow, and cut anywhere."""

    def __init__(self) -> None:
        self.descriptor, self.writer = os.pipe()
        for end in (self.descriptor, self.writer):
            os.set_blocking(end, False)
        self.reader = RecordReader(self.descriptor)
        self.records: list[Record] = []

    def feed(self, data: Buffer) -> None:
        """Write all of this, reading when the pipe is full and once at the end."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.writer, rest) :]
            except BlockingIOError:
                self.records += self.reader.read()
        self.records += self.reader.read()

    def end(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.end()
        os.close(self.descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def packed(record: Record) -> bytes:
    return b"".join(pack_record(*record))


def plain(records: Sequence[Record]) -> list[Record]:
    """The same, with bytes for every frame."""
    return [record._replace(frames=[bytes(frame) for frame in record.frames]) for record in records]


def record(
    number: int = 1, payload: bytes = b"value", frames: Sequence[bytes] = (), outcome: int = 0
) -> Record:
    return Record(number, outcome, 0.5, payload, list(frames))


SIZES = st.one_of(
    st.integers(0, 40),
    st.sampled_from(
        [DIRECT_BYTES - HEAD.size, DIRECT_BYTES - 1, DIRECT_BYTES, READ_BYTES - HEAD.size, READ_BYTES + 1]
    ),
)
RECORDS = st.lists(
    st.builds(
        lambda number, outcome, seconds, size, frames: Record(
            number, outcome, seconds, os.urandom(size), [os.urandom(frame) for frame in frames]
        ),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, 255),
        st.floats(width=32, allow_nan=False),
        SIZES,
        st.lists(SIZES, max_size=3),
    ),
    max_size=6,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(records=RECORDS, cuts=st.lists(st.floats(0, 1, exclude_max=True), max_size=8))
def test_records_arrive_whole_and_in_order_however_the_stream_is_cut(
    records: list[Record], cuts: list[float]
) -> None:
    pipe = Pipe()
    try:
        stream = b"".join(map(packed, records))
        places = sorted(int(cut * len(stream)) for cut in cuts)
        for start, end in zip([0, *places], [*places, len(stream)], strict=True):
            pipe.feed(stream[start:end])
        assert plain(pipe.records) == records
        assert not pipe.reader.partial
        assert not pipe.reader.ended
        pipe.end()
        assert pipe.reader.read() == []
        assert pipe.reader.ended
    finally:
        pipe.close()


@settings(max_examples=15)
@given(
    st.lists(
        st.builds(
            record, st.integers(0, 9), st.binary(max_size=5), st.lists(st.binary(max_size=5), max_size=2)
        )
    )
)
def test_records_arrive_byte_by_byte(records: list[Record]) -> None:
    pipe = Pipe()
    try:
        for byte in b"".join(map(packed, records)):
            pipe.feed(bytes([byte]))
        assert plain(pipe.records) == records
    finally:
        pipe.close()


def test_a_record_is_seen_only_when_it_is_whole(pipe: Pipe) -> None:
    data = packed(record(frames=[b"a", b"bc"]))
    for size in range(len(data)):
        assert pipe.reader.partial == (size > 0)
        assert pipe.records == []
        pipe.feed(data[size : size + 1])
    assert plain(pipe.records) == [record(frames=[b"a", b"bc"])]
    assert not pipe.reader.partial


def test_many_records_come_in_one_read(pipe: Pipe) -> None:
    records = [record(number, b"%d" % number) for number in range(500)]
    os.write(pipe.writer, b"".join(map(packed, records)))
    assert plain(pipe.reader.read()) == records


def test_an_empty_record(pipe: Pipe) -> None:
    pipe.feed(packed(Record(0, 200, 0.0, b"", [])))
    assert plain(pipe.records) == [Record(0, 200, 0.0, b"", [])]


def test_empty_frames_between_others(pipe: Pipe) -> None:
    records = [record(frames=[b"", b"x", b""]), record(2, b"", [b"", b""]), record(3)]
    pipe.feed(b"".join(map(packed, records)))
    assert plain(pipe.records) == records


def test_a_record_of_many_frames(pipe: Pipe) -> None:
    whole = record(frames=[b"%d" % number for number in range(3000)])
    pipe.feed(packed(whole) + packed(record(2)))
    assert plain(pipe.records) == [whole, record(2)]


@pytest.mark.parametrize("size", [DIRECT_BYTES - 1, DIRECT_BYTES, 3 * READ_BYTES + 17, 8 << 20])
def test_a_large_frame_between_small_records(pipe: Pipe, size: int) -> None:
    large = record(2, b"", [os.urandom(size), b"tail"])
    for part in (record(1), large, record(3)):
        pipe.feed(packed(part))
    assert plain(pipe.records) == [record(1), large, record(3)]
    assert all(not memoryview(frame).readonly for frame in pipe.records[1].frames), "arrays are made of them"


def test_a_large_payload_without_frames(pipe: Pipe) -> None:
    large = record(payload=os.urandom(3 * READ_BYTES))
    pipe.feed(packed(large))
    assert plain(pipe.records) == [large]
    assert type(pipe.records[0].payload) is bytes


def test_a_large_record_under_way_is_partial(pipe: Pipe) -> None:
    data = packed(record(payload=bytes(READ_BYTES)))
    pipe.feed(data[: DIRECT_BYTES + 100])
    assert pipe.reader.partial
    pipe.feed(data[DIRECT_BYTES + 100 :])
    assert not pipe.reader.partial
    assert len(pipe.records) == 1


@pytest.mark.parametrize("size", [10, 3 * READ_BYTES])
@pytest.mark.parametrize("part", [0.1, 0.9])
def test_a_record_that_its_writer_did_not_finish_is_none(pipe: Pipe, size: int, part: float) -> None:
    data = packed(record(2, bytes(size)))
    pipe.feed(packed(record(1)) + data[: int(part * len(data))])
    pipe.end()
    assert pipe.reader.read() == []
    assert plain(pipe.records) == [record(1)]
    assert pipe.reader.ended
    assert pipe.reader.partial


def test_reading_an_empty_pipe_does_not_wait(pipe: Pipe) -> None:
    assert pipe.reader.read() == []
    assert not pipe.reader.ended


def test_a_record_of_exactly_one_read(pipe: Pipe) -> None:
    whole = record(payload=bytes(READ_BYTES - HEAD.size))
    pipe.feed(packed(whole))
    assert plain(pipe.records) == [whole]


def test_the_running_time_travels_as_a_32_bit_float(pipe: Pipe) -> None:
    pipe.feed(packed(Record(1, 0, 1 / 3, b"", [])))
    assert math.isclose(pipe.records[0].seconds, 1 / 3, rel_tol=1e-6)


def test_parts_are_not_copied() -> None:
    frame = memoryview(bytearray(100))
    head, *rest = pack_record(1, 0, 0.0, b"payload", [frame, frame])
    assert bytes(head).endswith(b"payload")
    assert rest == [frame, frame]
    assert all(part.obj is frame.obj for part in rest if isinstance(part, memoryview))


@pytest.mark.parametrize(
    "head",
    [
        HEAD.pack(1, MAX_RECORD_BYTES + 1, 0.0, 0, 0),
        HEAD.pack(1, (1 << 64) - 1, 0.0, 0, 0),
        HEAD.pack(1, 0, 0.0, MAX_FRAMES + 1, 0),
        HEAD.pack(1, 0, 0.0, (1 << 32) - 1, 0),
        HEAD.pack(1, 0, 0.0, 1, 0) + struct.pack("<Q", (1 << 64) - 1),
        HEAD.pack(1, 0, 0.0, 2, 0) + struct.pack("<QQ", 1 << 62, 1 << 62),
    ],
)
def test_what_cannot_be_a_record_is_a_fault_and_nothing_is_read_any_more(pipe: Pipe, head: bytes) -> None:
    pipe.feed(packed(record(1)) + head)
    assert plain(pipe.records) == [record(1)]
    assert pipe.reader.fault.startswith("wrote the head of a record of")
    assert not pipe.reader.partial, "nobody waits for the rest"
    os.write(pipe.writer, packed(record(2)))
    assert pipe.reader.read() == []


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_garbage_is_read_as_something_or_is_a_fault(garbage: bytes) -> None:
    pipe = Pipe()
    try:
        pipe.feed(garbage)
        read = sum(len(packed(one)) for one in pipe.records)
        assert read <= len(garbage)
    finally:
        pipe.close()
