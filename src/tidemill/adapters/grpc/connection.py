"""One HTTP/2 connection of a gRPC client: frames in, calls out, answers back under the peer's flow control.

Why our own: every Python binding of a gRPC or HTTP/2 server costs more for a call than all of Tidemill's work on it (docs/adr has the
figures). A call here needs no task of its own, and what answers together leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from hpack import Decoder, HPACKError

from tidemill.adapters.grpc import frames as f

_HANDSHAKE_S = 10.0
_MAX_STREAMS, _MAX_BLOCK, _MAX_KNOWN = 1000, 16_384, 64
_BUFFERED = 64 << 20
_TRACE = ("traceparent", "tracestate")
_RESETS = 500
Start = Callable[["Connection", "Stream"], None]
"""Begins to answer a call whose body is whole."""


class Stream:
    """One call. `headers` are those that matter; `answer` is what still waits for the peer's window; `traceparent` its span's, if it is traced."""

    __slots__ = ("answer", "body", "call", "ended", "headers", "number", "timer", "traceparent", "window")

    def __init__(self, number: int, headers: Headers, window: int) -> None:
        self.number, self.headers, self.window = number, headers, window
        self.body = bytearray()
        self.call: asyncio.Future[Any] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.answer = memoryview(b"")
        self.ended = False
        self.traceparent = ""


class Headers:
    """What a call's headers say."""

    __slots__ = ("authorization", "content_type", "encoding", "method", "path", "timeout", "trace")

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        self.method, self.path = fields.get(b":method", b""), fields.get(b":path", b"").decode("latin1")
        self.content_type = fields.get(b"content-type", b"")
        self.authorization = fields.get(b"authorization", b"").decode("latin1")
        self.encoding = fields.get(b"grpc-encoding", b"").decode("latin1")
        self.timeout = fields.get(b"grpc-timeout")
        self.trace = {k: fields[k.encode()].decode("latin1") for k in _TRACE if k.encode() in fields}


class Connection(asyncio.Protocol):
    """Reads frames and answers; `open` is told of every connection for a stop that waits for calls in flight."""

    def __init__(self, start: Start, connections: set[Connection], loop: asyncio.AbstractEventLoop, max_body: int) -> None:
        self._start, self._connections, self._loop, self._max_body = start, connections, loop, max_body
        self._transport: Any = None
        self._buffer = bytearray()
        self._greeted = self._closing = False
        self._decoder = Decoder(_MAX_BLOCK)
        self._known: dict[bytes, Headers] = {}
        self._block: tuple[int, int, list[bytes]] | None = None
        self.streams: dict[int, Stream] = {}
        self._last = 0
        self._window, self._first_window, self._max_frame = 65_535, 65_535, f.MAX_FRAME
        self._blocked: deque[Stream] = deque()
        self._out: list[bytes] = []
        self._buffered = self._taken = self._resets = 0
        self._greeting: asyncio.TimerHandle | None = None

    # asyncio's side

    def connection_made(self, transport: Any) -> None:
        """Greet with the settings; a peer that does not greet back is let go."""
        self._transport = transport
        self._connections.add(self)
        window = min(f.MAX_WINDOW, self._max_body + f.MAX_FRAME)
        settings = b"".join(
            number.to_bytes(2, "big") + value.to_bytes(4, "big") for number, value in ((3, _MAX_STREAMS), (4, window), (6, _MAX_BLOCK))
        )
        self.send(f.frame(f.SETTINGS, 0, 0, settings) + f.frame(f.WINDOW_UPDATE, 0, 0, (_BUFFERED - 65_535).to_bytes(4, "big")))
        self._greeting = self._loop.call_later(_HANDSHAKE_S, transport.close)

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole."""
        self._buffer += data
        try:
            self._frames()
        except f.ConnectionError2 as error:
            self._give_up(error.code, str(error))
        except HPACKError as error:
            self._give_up(f.COMPRESSION_ERROR, str(error))

    def connection_lost(self, _error: BaseException | None) -> None:
        """Nobody waits for the calls in flight any more."""
        self._connections.discard(self)
        for stream in list(self.streams.values()):
            self._forget(stream, cancel=True)

    def pause_writing(self) -> None:
        """The peer does not read, so neither do we."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The peer reads again."""
        self._transport.resume_reading()

    # out

    def send(self, data: bytes) -> None:
        """Send with all else that this turn of the event loop has to say."""
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)

    def _flush(self) -> None:
        data, self._out = b"".join(self._out), []
        if not self._transport.is_closing():
            self._transport.write(data)

    def answer(self, stream: Stream, message: bytes) -> None:
        """Send a call's answer."""
        if stream.number not in self.streams:
            return
        size = len(message) + 5
        if size <= self._window and size <= stream.window and size <= self._max_frame:
            self._window -= size
            number = stream.number
            self.send(f.head(number, stream.traceparent) + f.frame(f.DATA, 0, number, f.pack(message)) + f.done(number))
            self._forget(stream)
            return
        self.send(f.head(stream.number, stream.traceparent))
        stream.answer = memoryview(f.pack(message))
        self._continue(stream)

    def fail(self, stream: Stream, code: int, reason: str) -> None:
        """Answer a call with a status; what it still sends is not wanted."""
        if stream.number not in self.streams:
            return
        self.send(f.failed(stream.number, code, reason, stream.traceparent))
        if not stream.ended:
            self.send(f.frame(f.RST_STREAM, 0, stream.number, f.NO_ERROR.to_bytes(4, "big")))
        self._forget(stream)

    def _continue(self, stream: Stream) -> None:
        """Send as much of an answer as the peer's windows allow."""
        while stream.answer:
            size = min(len(stream.answer), self._max_frame, self._window, stream.window)
            if size <= 0:
                if stream not in self._blocked:
                    self._blocked.append(stream)
                return
            self.send(f.frame(f.DATA, 0, stream.number, bytes(stream.answer[:size])))
            stream.answer = stream.answer[size:]
            self._window -= size
            stream.window -= size
        self.send(f.done(stream.number))
        self._forget(stream)

    def _resume(self) -> None:
        waiting, self._blocked = self._blocked, deque()
        for stream in waiting:
            if stream.number in self.streams:
                self._continue(stream)

    def _forget(self, stream: Stream, *, cancel: bool = False) -> None:
        self.streams.pop(stream.number, None)
        self._buffered -= len(stream.body)
        stream.body = bytearray()
        if stream.timer is not None:
            stream.timer.cancel()
        if cancel and stream.call is not None:
            stream.call.cancel()

    def _give_up(self, code: int, reason: str) -> None:
        if not self._closing or code:
            self.send(f.frame(f.GOAWAY, 0, 0, self._last.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode()[:200]))
        self._closing = True
        self._buffer.clear()
        self._loop.call_soon(self._transport.close)

    def drain(self) -> None:
        """Take no new calls; those that came are answered."""
        self._closing = True
        self.send(f.frame(f.GOAWAY, 0, 0, self._last.to_bytes(4, "big") + f.NO_ERROR.to_bytes(4, "big")))

    def close(self) -> None:
        """Send what is to be sent and end."""
        self._loop.call_soon(self._transport.close)

    # in

    def _greet(self) -> None:
        """Look for the preface of HTTP/2."""
        if bytes(self._buffer[:24]) != f.PREFACE[: len(self._buffer)]:
            how = "with" if self._transport.get_extra_info("ssl_object") is not None else "without"
            raise f.ConnectionError2(f.PROTOCOL_ERROR, f"this port speaks gRPC over HTTP/2 {how} TLS")
        if len(self._buffer) >= 24:
            self._greeted = True
            if self._greeting is not None:
                self._greeting.cancel()
            del self._buffer[:24]

    def _frames(self) -> None:
        if not self._greeted:
            self._greet()
        buffer = self._buffer
        at, end = 0, len(buffer) if self._greeted else 0
        while end - at >= 9:
            size = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            if size > f.MAX_FRAME:
                raise f.ConnectionError2(f.FRAME_SIZE_ERROR, f"a frame of {size} bytes; {f.MAX_FRAME} at most")
            if end - at < 9 + size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            number = int.from_bytes(buffer[at + 5 : at + 9], "big") & f.MAX_WINDOW
            payload = bytes(buffer[at + 9 : at + 9 + size])
            at += 9 + size
            if self._block is not None and kind != f.CONTINUATION:
                raise f.ConnectionError2(f.PROTOCOL_ERROR, "a header block is not continued")
            handler = _HANDLERS.get(kind)
            if handler is not None:
                handler(self, flags, number, payload)
        del buffer[:at]

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if number % 2 == 0:
            raise f.ConnectionError2(f.PROTOCOL_ERROR, f"headers of stream {number}")
        payload = _unpadded(flags, payload)
        if flags & f.PRIORITISED:
            payload = payload[5:]
        if flags & f.END_HEADERS:
            self._begin(flags, number, payload)
        else:
            self._block = (flags, number, [payload])

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or self._block[1] != number:
            raise f.ConnectionError2(f.PROTOCOL_ERROR, "a continuation of no header block")
        first, _, parts = self._block
        parts.append(payload)
        if sum(map(len, parts)) > _MAX_BLOCK or len(parts) > 16:
            raise f.ConnectionError2(f.ENHANCE_YOUR_CALM, f"headers of more than {_MAX_BLOCK} bytes")
        if flags & f.END_HEADERS:
            self._block = None
            self._begin(first, number, b"".join(parts))

    def _begin(self, flags: int, number: int, block: bytes) -> None:
        headers = self._known.get(block) or self._decoded(block)
        known = self.streams.get(number)
        if known is not None:  # trailers
            if not flags & f.END_STREAM:
                raise f.ConnectionError2(f.PROTOCOL_ERROR, "a second header block that ends nothing")
            self._whole(known)
            return
        if number <= self._last:
            return  # of a call that is over
        if self._closing or len(self.streams) >= _MAX_STREAMS:
            self.send(f.frame(f.RST_STREAM, 0, number, f.REFUSED_STREAM.to_bytes(4, "big")))
            return
        self._last = number
        stream = self.streams[number] = Stream(number, headers, self._first_window)
        if flags & f.END_STREAM:
            self._whole(stream)

    def _decoded(self, block: bytes) -> Headers:
        """The headers of a block. A block that leaves the decoder's table as it was means the same when it comes again."""
        table = self._decoder.header_table
        before = (table.maxsize, len(table.dynamic_entries), table.dynamic_entries[0] if table.dynamic_entries else None)
        fields = {bytes(name): bytes(value) for name, value in self._decoder.decode(block, raw=True)}
        headers = Headers(fields)
        after = (table.maxsize, len(table.dynamic_entries), table.dynamic_entries[0] if table.dynamic_entries else None)
        if before[:2] != after[:2] or before[2] is not after[2] or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        else:
            self._known[block] = headers
        return headers

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        if number == 0 or (number > self._last and not self._closing):
            raise f.ConnectionError2(f.PROTOCOL_ERROR, f"data of stream {number}, which is not open")
        self._taken += size
        if self._taken > _BUFFERED // 4:
            self.send(f.frame(f.WINDOW_UPDATE, 0, 0, self._taken.to_bytes(4, "big")))
            self._taken = 0
        stream = self.streams.get(number)
        if stream is None or stream.ended:
            return
        before = len(stream.body)
        stream.body += _unpadded(flags, payload) if flags & f.PADDED else payload
        self._buffered += len(stream.body) - before
        if len(stream.body) > self._max_body + 5 or self._buffered > _BUFFERED:
            self.fail(stream, 8, f"the message has more than {self._max_body} bytes, the limit of this server; send fewer rows at once")
        elif flags & f.END_STREAM:
            self._whole(stream)

    def _whole(self, stream: Stream) -> None:
        if not stream.ended:
            stream.ended = True
            self._start(self, stream)

    def _reset(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise f.ConnectionError2(f.FRAME_SIZE_ERROR, "a reset has four bytes")
        if number == 0 or (number > self._last and not self._closing):
            raise f.ConnectionError2(f.PROTOCOL_ERROR, f"a reset of stream {number}, which is not open")
        stream = self.streams.get(number)
        if stream is not None:
            self._forget(stream, cancel=True)
            self._resets += 2
            if self._resets > _RESETS:
                raise f.ConnectionError2(f.ENHANCE_YOUR_CALM, "more calls are begun and cancelled than answered")

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) % 6 or (flags & f.ACK and payload):
            raise f.ConnectionError2(f.FRAME_SIZE_ERROR, "malformed settings")
        if flags & f.ACK:
            return
        for at in range(0, len(payload), 6):
            self._setting(int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big"))
        self.send(f.frame(f.SETTINGS, f.ACK, 0))
        self._resume()

    def _setting(self, name: int, value: int) -> None:
        if name == 4:
            if value > f.MAX_WINDOW:
                raise f.ConnectionError2(f.FLOW_CONTROL_ERROR, "a window of more than 31 bits")
            for stream in self.streams.values():
                stream.window += value - self._first_window
            self._first_window = value
        elif name == 5:
            if not 16_384 <= value <= 2**24 - 1:
                raise f.ConnectionError2(f.PROTOCOL_ERROR, "frames of a size that HTTP/2 does not have")
            self._max_frame = min(value, 1 << 20)

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise f.ConnectionError2(f.FRAME_SIZE_ERROR, "a ping has eight bytes")
        if not flags & f.ACK:
            self.send(f.frame(f.PING, f.ACK, 0, payload))

    def _window_update(self, _flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise f.ConnectionError2(f.FRAME_SIZE_ERROR, "a window update has four bytes")
        more = int.from_bytes(payload, "big") & f.MAX_WINDOW
        stream = self.streams.get(number)
        if more == 0 or (number == 0 and self._window + more > f.MAX_WINDOW) or (stream and stream.window + more > f.MAX_WINDOW):
            raise f.ConnectionError2(f.FLOW_CONTROL_ERROR, "a window that is no more or too much")
        if number == 0:
            self._window += more
        elif stream is not None:
            stream.window += more
        if self._blocked:
            self._resume()

    def _forbidden(self, _flags: int, _number: int, _payload: bytes) -> None:
        raise f.ConnectionError2(f.PROTOCOL_ERROR, "a client does not push")

    def answered(self) -> None:
        """A call was answered, so one more may be cancelled."""
        if self._resets:
            self._resets -= 1


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & f.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise f.ConnectionError2(f.PROTOCOL_ERROR, "more padding than there is")
    return payload[1 : len(payload) - payload[0]]


_HANDLERS: dict[int, Callable[[Connection, int, int, bytes], None]] = {
    f.DATA: Connection._data,
    f.HEADERS: Connection._headers,
    f.RST_STREAM: Connection._reset,
    f.SETTINGS: Connection._settings,
    f.PUSH_PROMISE: Connection._forbidden,
    f.PING: Connection._ping,
    f.WINDOW_UPDATE: Connection._window_update,
    f.CONTINUATION: Connection._continuation,
}
