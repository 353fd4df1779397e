"""HTTP/2 frames as gRPC needs them: packing, header blocks that are the same in every answer, and the message prefix.

Sources: RFC 9113 (HTTP/2), RFC 7541 (HPACK) and "gRPC over HTTP2". What we send never uses the peer's dynamic table, so a block is a
constant; what we receive is decoded by the library `hpack`.
"""

from __future__ import annotations

import struct
from urllib.parse import quote

from tidemill.core.errors import InvalidError
from tidemill.serving.protocols.reading import unpacked

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0, 1, 2, 3, 6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 7, 8, 9, 11
MAX_FRAME, MAX_WINDOW = 16_384, 2**31 - 1
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_PACK = struct.Struct(">HBBBI").pack
_PREFIX = struct.Struct(">BI")


class ConnectionError2(Exception):  # noqa: N818 - named after RFC 9113's connection error
    """The peer broke the protocol; the connection ends with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return _PACK(size >> 8, size & 0xFF, kind, flags, stream) + payload


def _literal(name: str, value: str) -> bytes:
    """A header field that is not indexed, lengths below 127."""
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


_STATUS_200 = b"\x88"
_HEAD = _STATUS_200 + _literal("content-type", "application/grpc") + _literal("grpc-accept-encoding", "identity,deflate,gzip")
_DONE = _literal("grpc-status", "0")


def head(stream: int, traceparent: str = "") -> bytes:
    """The headers before an answer's message; with the span of a call that is traced."""
    return frame(HEADERS, END_HEADERS, stream, _HEAD + _literal("traceparent", traceparent) if traceparent else _HEAD)


def done(stream: int) -> bytes:
    """The trailers behind an answer's message."""
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, _DONE)


def failed(stream: int, code: int, reason: str, traceparent: str = "") -> bytes:
    """An answer that is a status alone."""
    told = quote(reason, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()[:2000]
    block = _HEAD + _literal("grpc-status", str(code)) + b"\x00" + bytes([12]) + b"grpc-message" + _length(len(told)) + told
    if traceparent:
        block += _literal("traceparent", traceparent)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def _length(size: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if size < 127:
        return bytes([size])
    out, size = [127], size - 127
    while size >= 128:
        out.append(size % 128 + 128)
        size //= 128
    return bytes([*out, size])


def pack(message: bytes) -> bytes:
    """A message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def unpack(body: bytes, encoding: str, limit: int) -> bytes:
    """The one message of a unary call. Raises `InvalidError`."""
    if len(body) < _PREFIX.size:
        raise InvalidError("the call has no message")
    compressed, size = _PREFIX.unpack_from(body)
    if len(body) != size + _PREFIX.size:
        raise InvalidError(f"the call has {len(body) - _PREFIX.size} bytes and says that its one message has {size}")
    if compressed not in (0, 1):
        raise InvalidError(f"the message's flag for compression is {compressed}")
    message = body[_PREFIX.size :]
    return unpacked(message, encoding, limit) if compressed else message


def timeout_s(text: bytes) -> float:
    """The seconds of a `grpc-timeout`. Raises `InvalidError`."""
    if not 2 <= len(text) <= 9 or not text[:-1].isdigit() or text[-1:] not in _UNITS:
        raise InvalidError(f"grpc-timeout is {text.decode('latin1')!r}; it is at most eight digits and one of H, M, S, m, u, n")
    return int(text[:-1]) * _UNITS[text[-1:]]
