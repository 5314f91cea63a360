"""The way of monitoring messages from the workers to the submitting process."""

from __future__ import annotations

import hmac
import logging
import pickle
import queue
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integrations.libraries import need

need("parsl")

from throughway.integrations.parsl import StreamRadio
from throughway.integrations.parsl.radio import HEAD, MAX_BYTES


@pytest.fixture
def messages() -> Any:
    return queue.Queue()


@pytest.fixture
def radio(messages: Any) -> Iterator[StreamRadio]:
    radio = StreamRadio(["127.0.0.1"])
    receiver = radio.create_receiver(run_dir=".", resource_msgs=messages)
    yield radio
    receiver.shutdown()
    receiver.shutdown()


def test_messages_arrive_in_order(radio: StreamRadio, messages: Any) -> None:
    sender = pickle.loads(pickle.dumps(radio)).create_sender()
    sent = [("kind", {"number": number, "text": "x" * number * 1000}) for number in range(20)]
    for message in sent:
        sender.send(message)
    assert [messages.get_nowait() for _ in sent] == sent, "each is there once `send` has returned"


def test_what_has_no_right_hmac_is_not_opened(
    radio: StreamRadio, messages: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = pickle.dumps("evil")
    forged = HEAD.pack(len(data), hmac.digest(b"another key", data, "sha256")) + data
    for text in (forged, HEAD.pack(MAX_BYTES + 1, b""), b"GET / HTTP/1.0\r\n\r\n" + bytes(100), b"short"):
        with socket.create_connection(("127.0.0.1", radio.port)) as connection:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
    radio.create_sender().send("good")
    assert messages.get_nowait() == "good"
    assert messages.empty()
    assert "its HMAC is wrong" in caplog.text


def test_a_slow_sender_stops_nobody(radio: StreamRadio, messages: Any) -> None:
    with socket.create_connection(("127.0.0.1", radio.port)) as slow:
        slow.sendall(b"\1")
        radio.create_sender().send("good")
        assert messages.get_nowait() == "good"


def test_the_end_takes_in_what_was_sent(messages: Any) -> None:
    radio = StreamRadio(["127.0.0.1"])
    receiver = radio.create_receiver(run_dir=".", resource_msgs=messages)
    radio.create_sender().send(1)
    receiver.shutdown()
    assert messages.get_nowait() == 1


def test_a_message_that_cannot_be_sent_is_logged(messages: Any, caplog: pytest.LogCaptureFixture) -> None:
    radio = StreamRadio(["127.0.0.1"])
    radio.create_receiver(run_dir=".", resource_msgs=messages).shutdown()
    with caplog.at_level(logging.ERROR):
        radio.create_sender().send("lost")
        radio.create_sender().send(lambda: None)
    assert caplog.text.count("a monitoring message was lost") == 2


def test_all_addresses_of_this_machine_are_tried(messages: Any) -> None:
    radio = StreamRadio()
    receiver = radio.create_receiver(run_dir=".", resource_msgs=messages)
    try:
        radio.create_sender().send("here")
        assert messages.get_nowait() == "here"
    finally:
        receiver.shutdown()
