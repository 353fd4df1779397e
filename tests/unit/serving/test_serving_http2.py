"""The gRPC connection against peers that break the protocol, ask for too much, or send frames at random."""

import asyncio
import struct
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hpack import Decoder, Encoder
from hypothesis import given, settings
from tests.support.serving_kit import FULL, Local, Stack
from tests.unit.serving.test_serving_grpc import typed

from tidemill.adapters.grpc import frames as f
from tidemill.adapters.grpc.connection import Connection, Stream
from tidemill.adapters.grpc.messages import SERVICE, message
from tidemill.adapters.grpc.serving import open_grpc
from tidemill.core.errors import InvalidError

PATH = f"/{SERVICE}/ModelInfer"
CALL = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "a"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]


class Peer:
    """A client that sends whatever frames it likes and reads what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer, self.encoder, self.decoder = reader, writer, Encoder(), Decoder()

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    def headers(self, number: int, *more: tuple[str, str], flags: int = f.END_HEADERS) -> bytes:
        return f.frame(f.HEADERS, flags, number, self.encoder.encode([*CALL, *more]))

    def call(self, number: int, sent: bytes, *more: tuple[str, str]) -> bytes:
        return self.headers(number, *more) + f.frame(f.DATA, f.END_STREAM, number, f.pack(sent))

    async def frame(self) -> tuple[int, int, int, bytes]:
        head = await asyncio.wait_for(self.reader.readexactly(9), 10)
        size = int.from_bytes(head[:3], "big")
        return head[3], head[4], int.from_bytes(head[5:], "big"), await self.reader.readexactly(size)

    async def until(self, *kinds: int) -> tuple[int, int, int, bytes]:
        while (got := await self.frame())[0] not in kinds:
            if got[0] == f.HEADERS:
                self.decoder.decode(got[3])
        return got

    async def status(self) -> tuple[int, str]:
        """Number and status of the next call that ends."""
        while True:
            _kind, flags, number, block = await self.until(f.HEADERS)
            fields = dict(self.decoder.decode(block, raw=True))
            if flags & f.END_STREAM:
                return number, fields[b"grpc-status"].decode()

    async def goaway(self) -> tuple[int, bytes]:
        """Code and reason with which the server ends the connection."""
        *_, payload = await self.until(f.GOAWAY)
        assert await asyncio.wait_for(self.reader.read(), 10) == b""
        return int.from_bytes(payload[4:8], "big"), payload[8:]


def run(stack: Stack, script: Callable[[Peer, Any], Any], **given: Any) -> Any:
    async def go() -> Any:
        async with Local(stack, **given) as local:
            beside = open_grpc(local.app, "127.0.0.1", 0)
            await beside.start()
            peer = Peer(*await asyncio.open_connection("127.0.0.1", beside.port))
            try:
                await peer.send(f.PREFACE, f.frame(f.SETTINGS, 0, 0))
                return await asyncio.wait_for(script(peer, beside), 60)
            finally:
                peer.writer.close()
                await beside.stop()

    return asyncio.run(go())


GOOD = message("ModelInferRequest")(**typed(FULL)).SerializeToString()
PING = f.frame(f.PING, 0, 0, b"12345678")


async def answered(peer: Peer, number: int = 1) -> None:
    await peer.send(peer.call(number, GOOD))
    assert await peer.status() == (number, "0")


def test_what_the_protocol_allows(stack: Stack) -> None:
    async def script(peer: Peer, _beside: Any) -> None:
        await answered(peer)
        block = peer.encoder.encode(CALL)
        padded = f.frame(f.HEADERS, f.PADDED | f.PRIORITISED, 3, bytes([2]) + b"\0\0\0\0\0" + block[:4] + b"\0\0")
        body = f.frame(f.DATA, f.PADDED, 3, bytes([3]) + f.pack(GOOD)[:20] + b"\0\0\0")
        rest = f.frame(f.DATA, 0, 3, f.pack(GOOD)[20:])
        trailers = f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 3, b"\x00\x01a\x01b")
        await peer.send(padded, f.frame(f.CONTINUATION, 0, 3, block[4:6]), f.frame(f.CONTINUATION, f.END_HEADERS, 3, block[6:]))
        await peer.send(body, f.frame(f.PRIORITY, 0, 3, b"\0" * 5), f.frame(99, 0, 0, b"unknown"), rest, trailers)
        assert await peer.status() == (3, "0")
        await peer.send(PING)
        assert await peer.until(f.PING) == (f.PING, f.ACK, 0, b"12345678")
        for byte in peer.call(5, GOOD):
            await peer.send(bytes([byte]))
        assert await peer.status() == (5, "0")
        await peer.send(f.frame(f.RST_STREAM, 0, 5, b"\0\0\0\x08"), f.frame(f.WINDOW_UPDATE, 0, 5, b"\0\0\0\x01"))
        await answered(peer, 7)

    run(stack, script)


def test_a_message_in_frames_of_nothing_and_of_one_byte(stack: Stack) -> None:
    """Work and memory follow the bytes, not the frames: a peer may send as many empty ones as it likes."""

    async def script(peer: Peer, beside: Any) -> None:
        sent = f.pack(GOOD)
        await peer.send(peer.headers(1), f.frame(f.DATA, 0, 1) * 20_000)
        await peer.send(*(f.frame(f.DATA, 0, 1, sent[i : i + 1]) + f.frame(f.DATA, 0, 1) for i in range(len(sent))))
        await peer.send(f.frame(f.DATA, f.END_STREAM, 1))
        assert await peer.status() == (1, "0")

    run(stack, script)


def test_an_answer_waits_for_the_window_that_its_peer_gives(stack: Stack) -> None:
    async def script(peer: Peer, _beside: Any) -> bytes:
        await peer.send(f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", 4, 10)), peer.call(1, GOOD))
        got = (await peer.until(f.DATA))[3]
        assert len(got) == 10
        await peer.send(f.frame(f.WINDOW_UPDATE, 0, 1, (20).to_bytes(4, "big")))
        got += (await peer.until(f.DATA))[3]
        assert len(got) == 30
        await peer.send(f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", 4, 60_000)))
        got += (await peer.until(f.DATA))[3]
        assert (await peer.status())[1] == "0"
        return got

    assert message("ModelInferResponse").FromString(f.unpack(run(stack, script), "", 10_000)).model_name == "late"


CALLS: dict[str, tuple[Callable[[Peer], bytes], str]] = {
    "no message": (lambda p: p.headers(1, flags=f.END_HEADERS | f.END_STREAM), "3"),
    "half a prefix": (lambda p: p.headers(1) + f.frame(f.DATA, f.END_STREAM, 1, b"\0\0"), "3"),
    "another length": (lambda p: p.headers(1) + f.frame(f.DATA, f.END_STREAM, 1, b"\0\0\0\0\x09abc"), "3"),
    "another flag": (lambda p: p.headers(1) + f.frame(f.DATA, f.END_STREAM, 1, b"\7\0\0\0\0"), "3"),
    "no gzip": (lambda p: p.headers(1, ("grpc-encoding", "gzip")) + f.frame(f.DATA, f.END_STREAM, 1, b"\1\0\0\0\1x"), "3"),
    "an encoding of its own": (lambda p: p.headers(1, ("grpc-encoding", "x")) + f.frame(f.DATA, f.END_STREAM, 1, b"\1\0\0\0\1x"), "3"),
    "a timeout of its own": (lambda p: p.call(1, GOOD, ("grpc-timeout", "1 day")), "3"),
    "a timeout too long": (lambda p: p.call(1, GOOD, ("grpc-timeout", "123456789S")), "3"),
    "a deadline that has passed": (lambda p: p.call(1, GOOD, ("grpc-timeout", "0n")), "4"),
    "another content type": (lambda p: p.call(1, GOOD, ("content-type", "text/html")), "12"),
    "GET": (lambda p: p.call(1, GOOD, (":method", "GET")), "12"),
    "no such method": (lambda p: p.call(1, GOOD, (":path", "/nothing")), "12"),
    "too large": (lambda p: p.headers(1) + b"".join(f.frame(f.DATA, 0, 1, b"\0" * 16_000) for _ in range(3)), "8"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_told_so_and_the_connection_goes_on(stack: Stack, name: str) -> None:
    make, status = CALLS[name]

    async def script(peer: Peer, _beside: Any) -> tuple[int, str]:
        await peer.send(make(peer))
        got = await peer.status()
        await peer.send(peer.call(3, GOOD))
        assert await peer.status() == (3, "0")
        return got

    assert run(stack, script, max_body_bytes=40_000) == (1, status)


BREAKS: dict[str, tuple[Callable[[Peer], bytes], int]] = {
    "a large frame": (lambda _: f.frame(f.DATA, 0, 1, b"x" * 20_000), f.FRAME_SIZE_ERROR),
    "headers of stream 0": (lambda p: p.headers(0), f.PROTOCOL_ERROR),
    "headers of an even stream": (lambda p: p.headers(2), f.PROTOCOL_ERROR),
    "data of stream 0": (lambda _: f.frame(f.DATA, 0, 0, b"x"), f.PROTOCOL_ERROR),
    "data of a stream that is not open": (lambda _: f.frame(f.DATA, 0, 9, b"x"), f.PROTOCOL_ERROR),
    "a reset of a stream that is not open": (lambda _: f.frame(f.RST_STREAM, 0, 9, b"\0\0\0\0"), f.PROTOCOL_ERROR),
    "a short reset": (lambda _: f.frame(f.RST_STREAM, 0, 9, b"\0"), f.FRAME_SIZE_ERROR),
    "a continuation alone": (lambda _: f.frame(f.CONTINUATION, f.END_HEADERS, 1, b""), f.PROTOCOL_ERROR),
    "a block that is not continued": (lambda p: p.headers(1, flags=0) + PING, f.PROTOCOL_ERROR),
    "a block without end": (lambda p: p.headers(1, flags=0) + f.frame(f.CONTINUATION, 0, 1, b"\0") * 40, f.ENHANCE_YOUR_CALM),
    "a large block": (lambda p: p.headers(1, flags=0) + f.frame(f.CONTINUATION, 0, 1, b"\0" * 9_000) * 3, f.ENHANCE_YOUR_CALM),
    "headers that are none": (lambda _: f.frame(f.HEADERS, f.END_HEADERS, 1, b"\xff\xff\xff\xff\xff"), f.COMPRESSION_ERROR),
    "a bomb of headers": (lambda p: p.headers(1, ("a", "b" * 3_900)) + p.headers(3, *[("a", "b" * 3_900)] * 9), f.COMPRESSION_ERROR),
    "padding without payload": (lambda _: f.frame(f.HEADERS, f.PADDED | f.END_HEADERS, 1, b""), f.PROTOCOL_ERROR),
    "more padding than payload": (lambda p: p.headers(1) + f.frame(f.DATA, f.PADDED, 1, b"\x09x"), f.PROTOCOL_ERROR),
    "a block that ends nothing": (lambda p: p.headers(1) + p.headers(1), f.PROTOCOL_ERROR),
    "odd settings": (lambda _: f.frame(f.SETTINGS, 0, 0, b"12345"), f.FRAME_SIZE_ERROR),
    "settings of a stream": (lambda _: f.frame(f.SETTINGS, 0, 1), f.FRAME_SIZE_ERROR),
    "a large window": (lambda _: f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", 4, 2**31)), f.FLOW_CONTROL_ERROR),
    "a small frame size": (lambda _: f.frame(f.SETTINGS, 0, 0, struct.pack(">HI", 5, 1)), f.PROTOCOL_ERROR),
    "a short ping": (lambda _: f.frame(f.PING, 0, 0, b"1"), f.FRAME_SIZE_ERROR),
    "a short update": (lambda _: f.frame(f.WINDOW_UPDATE, 0, 0, b"1"), f.FRAME_SIZE_ERROR),
    "an update by nothing": (lambda _: f.frame(f.WINDOW_UPDATE, 0, 0, b"\0" * 4), f.FLOW_CONTROL_ERROR),
    "an update by too much": (lambda _: f.frame(f.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff"), f.FLOW_CONTROL_ERROR),
    "a push": (lambda _: f.frame(f.PUSH_PROMISE, 0, 1, b"\0" * 4), f.PROTOCOL_ERROR),
    "calls begun and cancelled": (
        lambda p: b"".join(p.headers(n) + f.frame(f.RST_STREAM, 0, n, b"\0\0\0\x08") for n in range(1, 1001, 2)),
        f.ENHANCE_YOUR_CALM,
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_peer_that_breaks_the_protocol_is_told_and_let_go(stack: Stack, name: str) -> None:
    make, code = BREAKS[name]

    async def script(peer: Peer, beside: Any) -> int:
        await peer.send(make(peer))
        got, reason = await peer.goaway()
        assert reason
        other = Peer(*await asyncio.open_connection("127.0.0.1", beside.port))
        await other.send(f.PREFACE, f.frame(f.SETTINGS, 0, 0))
        await answered(other)
        other.writer.close()
        return got

    assert run(stack, script) == code


def test_another_protocol_is_let_go(stack: Stack) -> None:
    async def script(_peer: Peer, beside: Any) -> tuple[int, bytes]:
        other = Peer(*await asyncio.open_connection("127.0.0.1", beside.port))
        await other.send(b"GET / HTTP/1.1\r\n\r\n")
        return await other.goaway()

    assert run(stack, script) == (f.PROTOCOL_ERROR, b"this port speaks gRPC over HTTP/2 without TLS")


def test_more_calls_at_once_than_allowed_are_refused(stack: Stack) -> None:
    async def script(peer: Peer, _beside: Any) -> Any:
        for number in range(1, 2003, 2):
            await peer.send(peer.headers(number))
        return await peer.until(f.RST_STREAM)

    assert run(stack, script)[2:] == (2001, f.REFUSED_STREAM.to_bytes(4, "big"))


def test_a_stop_waits_for_calls_and_refuses_new_ones(stack: Stack) -> None:
    async def script(peer: Peer, beside: Any) -> list[Any]:
        await peer.send(peer.headers(1))
        await peer.send(PING)
        await peer.until(f.PING)
        stopping = asyncio.ensure_future(beside.stop())
        last = int.from_bytes((await peer.until(f.GOAWAY))[3][:4], "big")
        await peer.send(peer.call(3, GOOD))
        refused = await peer.until(f.RST_STREAM)
        assert not stopping.done()
        await peer.send(f.frame(f.DATA, f.END_STREAM, 1, f.pack(GOOD)))
        answered = await peer.status()
        await stopping
        return [last, refused[2], answered]

    assert run(stack, script) == [1, 3, (1, "0")]


class Wire:
    """A transport in memory."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def _frames() -> st.SearchStrategy[bytes]:
    numbers, small = st.integers(0, 9), st.binary(max_size=40)
    blocks = small | st.just(Encoder().encode(CALL))
    return st.builds(f.frame, st.integers(0, 11), st.integers(0, 63), numbers, small | blocks)


@given(parts=st.lists(_frames() | st.binary(max_size=30), max_size=30), cut=st.integers(1, 200))
@settings(deadline=None)
def test_no_bytes_at_all_get_past_the_connection(parts: list[bytes], cut: int) -> None:
    async def go() -> None:
        loop, connections = asyncio.get_running_loop(), set[Connection]()
        begun: list[Stream] = []

        def start(connection: Connection, stream: Stream) -> None:
            begun.append(stream)
            if len(begun) % 2:
                connection.answer(stream, b"x" * 100)
            else:
                connection.fail(stream, 3, "§ no")

        connection = Connection(start, connections, loop, 100)
        connection.connection_made(Wire())
        for piece in _cut(f.PREFACE + b"".join(parts), cut):
            connection.data_received(piece)
            await asyncio.sleep(0)
        connection.connection_lost(None)
        assert not connection.streams
        assert connection._buffered == 0
        assert not connections
        if connection._greeting is not None:
            connection._greeting.cancel()

    asyncio.run(go())


def _cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def test_reasons_of_any_length_and_alphabet_are_headers() -> None:
    for reason in ("", "a" * 126, "a" * 127, "ä%\n" * 400):
        block = f.failed(1, 3, reason)[9:]
        fields = dict(Decoder().decode(block, raw=True))
        assert fields[b"grpc-status"] == b"3"
        assert fields[b"grpc-message"].startswith(b"" if not reason else {"a": b"a", "ä": b"%C3%A4%25%0A"}[reason[0]])


@pytest.mark.parametrize(("text", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9)])
def test_timeouts(text: bytes, seconds: float) -> None:
    assert f.timeout_s(text) == pytest.approx(seconds)
    with pytest.raises(InvalidError):
        f.timeout_s(text[1:])
