from __future__ import annotations

import contextlib
import os
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.ends import resident_bytes
from throughway.errors import ProtocolError, TransportError
from throughway.transport import buffers
from throughway.transport.buffers import LAZY_BYTES
from throughway.transport.framing import DIRECT_BYTES, Unframer, frame_bytes, preamble
from throughway.transport.interface import MAX_FRAMES

Messages = list[list[bytes]]


def stream_of(messages: Messages) -> bytes:
    return b"".join(preamble(frames) + b"".join(frames) for frames in messages)


def unframe(unframer: Unframer, stream: bytes, cuts: list[int]) -> Messages:
    """What the unframer makes of the stream, when it is read in pieces that end at the cuts."""
    messages = []
    at = 0
    for end in [*sorted(cuts), len(stream)]:
        while at < end:
            if unframer.direct is not None:
                piece = stream[at : min(end, at + len(unframer.direct))]
                unframer.direct[: len(piece)] = piece
                messages += unframer.fed(len(piece))
            else:
                piece = stream[at:end]
                messages += unframer.feed(piece)
            at += len(piece)
    return [[bytes(frame) for frame in frames] for frames in messages]


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[Messages, list[int]]:
    sizes = st.one_of(st.integers(0, 40), st.sampled_from([DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 9]))
    frame = st.builds(lambda size, value: bytes([value]) * size, sizes, st.integers(0, 255))
    messages = draw(st.lists(st.lists(frame, min_size=1, max_size=4), max_size=5))
    size = len(stream_of(messages))
    return messages, draw(st.lists(st.integers(0, size), max_size=12))


@given(cut_streams())
def test_however_a_stream_is_cut_it_holds_the_same_messages(case: tuple[Messages, list[int]]) -> None:
    messages, cuts = case
    unframer = Unframer()
    assert unframe(unframer, stream_of(messages), cuts) == messages
    assert not unframer.partial


@given(st.lists(st.lists(st.binary(max_size=5), min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_stream_read_byte_by_byte(messages: Messages) -> None:
    stream = stream_of(messages)
    assert unframe(Unframer(), stream, list(range(len(stream)))) == messages


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_garbage_is_refused_or_waited_out_and_never_more_than_it_announces(chunks: list[bytes]) -> None:
    unframer = Unframer(max_message_bytes=10_000)
    for chunk in chunks:
        try:
            messages = unframer.feed(chunk)
        except ProtocolError:
            return
        for frames in messages:
            assert frames
            assert sum(map(frame_bytes, frames)) <= 10_000
        assert unframer.direct is None


def test_a_large_frame_is_read_into_a_buffer_of_its_own() -> None:
    content = os.urandom(DIRECT_BYTES + 100)
    unframer = Unframer()
    assert unframer.feed(preamble([content]) + content[:60]) == []
    assert unframer.direct is not None
    assert len(unframer.direct) == len(content) - 60
    unframer.direct[:] = content[60:]
    (message,) = unframer.fed(len(content) - 60)
    assert message == [content]


def test_a_frame_beyond_the_heap_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "LAZY_BYTES", DIRECT_BYTES)
    content = os.urandom(3 * DIRECT_BYTES)
    stream = stream_of([[b"before"], [b"header", content, content], [b"behind"]])
    assert unframe(Unframer(), stream, list(range(0, len(stream), 50_000))) == [
        [b"before"],
        [b"header", content, content],
        [b"behind"],
    ]


@pytest.mark.parametrize("length", [LAZY_BYTES, 1 << 34, 1 << 40])
def test_announcing_a_huge_frame_takes_no_memory(length: int) -> None:
    before = resident_bytes()
    unframers = [Unframer() for _ in range(10)]
    for unframer in unframers:
        # Whether the kernel promises that much is its own affair.
        with contextlib.suppress(ProtocolError):
            assert unframer.feed(struct.pack("<IQ", 1, length)) == []
            assert unframer.partial
    assert resident_bytes() - before < LAZY_BYTES


@pytest.mark.parametrize("frames", [0, MAX_FRAMES + 1, 0xFFFFFFFF])
def test_impossible_numbers_of_frames_are_refused(frames: int) -> None:
    with pytest.raises(ProtocolError, match=f"{frames} frames was announced"):
        Unframer().feed(struct.pack("<I", frames))


def test_the_limit_is_for_all_frames_together() -> None:
    unframer = Unframer(max_message_bytes=100)
    assert unframer.feed(preamble([bytes(50), bytes(50)]) + bytes(100))
    with pytest.raises(ProtocolError, match=r"101 bytes was announced \(limit: 100\)"):
        unframer.feed(preamble([bytes(50), bytes(51)]))


def test_lengths_that_overflow_when_added_are_refused() -> None:
    with pytest.raises(ProtocolError, match="was announced"):
        Unframer().feed(struct.pack("<I3Q", 3, 2**64 - 1, 2**64 - 1, 5))


def test_partial_tells_whether_a_message_is_under_way() -> None:
    unframer = Unframer()
    stream = preamble([b"header", b"payload"]) + b"headerpayload"
    assert not unframer.partial
    for byte in stream[:-1]:
        assert unframer.feed(bytes([byte])) == []
        assert unframer.partial
    assert unframer.feed(stream[-1:]) == [[b"header", b"payload"]]
    assert not unframer.partial


@pytest.mark.parametrize("count", [0, MAX_FRAMES + 1])
def test_a_preamble_of_impossible_messages_is_refused(count: int) -> None:
    with pytest.raises(TransportError, match=f"not {count}"):
        preamble([b""] * count)


def test_frames_are_measured_in_bytes() -> None:
    numbers: Any = memoryview(bytes(80)).cast("d")
    assert frame_bytes(numbers) == 80
    assert preamble([numbers]) == struct.pack("<IQ", 1, 80)
    assert preamble([numbers, b"x"]) == struct.pack("<I2Q", 2, 80, 1)
