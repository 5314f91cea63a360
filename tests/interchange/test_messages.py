"""The wire's unions: every message comes out of its bytes as it went in, and what is no message is refused."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from throughway.errors import ProtocolError
from throughway.protocol import codec
from throughway.protocol import messages as m
from throughway.protocol.version import PROTOCOL_VERSION, minor_version, refusal

UNIONS: dict[str, tuple[typing.Any, codec.Decoder[typing.Any]]] = {
    "FromExecutor": (m.FromExecutor, codec.decode_from_executor),
    "FromManager": (m.FromManager, codec.decode_from_manager),
    "Hello": (m.Hello, codec.decode_hello),
    "Greeting": (m.Greeting, codec.decode_greeting),
    "ToManager": (m.ToManager, codec.decode_to_manager),
    "ToExecutor": (m.ToExecutor, codec.decode_to_executor),
}

CASES = [
    pytest.param(kind, decode, id=f"{name}-{kind.__name__}")
    for name, (union, decode) in UNIONS.items()
    for kind in typing.get_args(union)
]


def made(kind: type[msgspec.Struct]) -> st.SearchStrategy[msgspec.Struct]:
    """Any message of a kind, from the types of its fields. Numbers fit into 64 bits, as MessagePack has them."""
    return st.builds(kind, **{field.name: _value(field.type) for field in msgspec.structs.fields(kind)})


def _value(annotation: typing.Any) -> st.SearchStrategy[typing.Any]:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is list:
        return st.lists(_value(arguments[0]), max_size=3)
    if origin is tuple:
        return st.tuples(*map(_value, arguments))
    if origin is dict:
        return st.dictionaries(_value(arguments[0]), _value(arguments[1]), max_size=3)
    if arguments:
        return st.one_of(*map(_value, arguments))
    if annotation is int:
        return st.integers(-(1 << 63), (1 << 64) - 1)
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return made(annotation)
    if annotation is float:
        return st.floats(allow_nan=False)
    return st.from_type(annotation)


@pytest.mark.parametrize(("kind", "decode"), CASES)
@given(data=st.data())
def test_a_message_survives_the_wire(kind, decode, data):
    message = data.draw(made(kind))
    assert decode(codec.encode(message)) == message


@pytest.mark.parametrize("name", UNIONS)
@given(header=st.binary(max_size=60))
def test_garbage_is_refused_and_nothing_worse(name, header):
    union, decode = UNIONS[name]
    try:
        message = decode(header)
    except ProtocolError:
        return
    assert type(message) in typing.get_args(union)


@pytest.mark.parametrize("header", [b"", b"\x93", b"\x81" * 5000, b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff"])
def test_nasty_headers_are_refused(header):
    for _, decode in UNIONS.values():
        with pytest.raises(ProtocolError):
            decode(header)


@pytest.mark.parametrize(
    ("message", "decode"),
    [
        (m.Assign([]), codec.decode_from_executor),
        (m.Submit([]), codec.decode_from_manager),
        (m.Leaving("a", ""), codec.decode_to_manager),
        (m.Drain(), codec.decode_to_executor),
        (m.Heartbeat(), codec.decode_hello),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_message_of_another_direction_is_refused(message, decode):
    with pytest.raises(ProtocolError):
        decode(codec.encode(message))


def test_tags_are_unique_over_all_directions():
    kinds = {kind for union, _ in UNIONS.values() for kind in typing.get_args(union)}
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds)


def test_hellos_are_maps_so_that_other_versions_can_read_them():
    for kind in (*typing.get_args(m.Hello), *typing.get_args(m.Greeting)):
        assert not kind.__struct_config__.array_like
    header = msgspec.msgpack.encode({"type": "observer", "protocol": 99, "of a later version": True})
    assert codec.decode_hello(header) == m.ObserverHello(99)


def test_a_trailing_field_with_a_default_keeps_the_version():
    # The rule of protocol/version.py: older and newer ends understand each other then.
    assert codec.decode_to_manager(msgspec.msgpack.encode([16])) == m.Drain()
    assert codec.decode_to_manager(msgspec.msgpack.encode([16, "why", "of a later version"])) == m.Drain(
        "why"
    )


def test_the_version_rule():
    fine = {"expected_python": "3.11.4", "host": "n1"}
    assert refusal(PROTOCOL_VERSION, "3.11.9", **fine) is None
    other_protocol = refusal(PROTOCOL_VERSION + 1, "3.11.9", **fine)
    assert other_protocol is not None
    assert "n1" in other_protocol
    other_python = refusal(PROTOCOL_VERSION, "3.10.1", **fine)
    assert other_python is not None
    assert "Python 3.10.1" in other_python
    assert "worker_init" in other_python
    assert minor_version("3.11.7") == "3.11"
    assert minor_version("3.13.0rc1") == "3.13"
