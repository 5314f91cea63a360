"""Headers to bytes and back. A header that does not decode raises `ProtocolError`; shells count and drop it."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from throughway.errors import ProtocolError
from throughway.protocol import messages

Union = TypeVar("Union")
Buffer = bytes | bytearray | memoryview

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode


class Decoder(Generic[Union]):
    """Decodes one closed union of messages."""

    def __init__(self, union: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(union)

    def __call__(self, header: Buffer) -> Union:
        try:
            message: Union = self._decoder.decode(header)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolError(f"malformed header of {len(header)} bytes: {error}") from error
        return message


decode_from_executor: Decoder[messages.FromExecutor] = Decoder(messages.FromExecutor)
decode_from_manager: Decoder[messages.FromManager] = Decoder(messages.FromManager)
decode_version: Decoder[messages.AnyHello] = Decoder(messages.AnyHello)
decode_hello: Decoder[messages.Hello] = Decoder(messages.Hello)
decode_greeting: Decoder[messages.Greeting] = Decoder(messages.Greeting)
decode_to_manager: Decoder[messages.ToManager] = Decoder(messages.ToManager)
decode_to_executor: Decoder[messages.ToExecutor] = Decoder(messages.ToExecutor)
decode_result_body: Decoder[list[bytes]] = Decoder(list[bytes])
decode_loss: Decoder[messages.Loss] = Decoder(messages.Loss)
