"""Answers that arrive in parts: how far it is, pictures as plain bytes, numbers; who leaves ends the work.

A part is two lengths as little-endian uint32, a JSON head of the first length and bytes of the second. Pictures are
sent as they lie in memory, because a page paints them faster than it unpacks files. A page that no longer waits
closes the connection, and the work behind it ends at its next step; so nothing is kept for anybody.
"""

from __future__ import annotations

import json
import math
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.streams.memory import MemoryObjectSendStream
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from torch import Tensor

from trilemma.faults import bug, in_words
from trilemma.images import to_display
from trilemma.text import printable

KIND = "application/x-trilemma-parts"
SIDE_BY_SIDE = 2
"""Long works that are computed at a time for all pages together; the others wait for their turn."""


class Gone(Exception):
    """Nobody waits for it any more."""


def part(head: Mapping[str, Any], content: bytes = b"") -> bytes:
    """One part of an answer."""
    text = json.dumps(head).encode()
    return struct.pack("<II", len(text), len(content)) + text + content


def pictures(images: Tensor, levels: int, **head: Any) -> bytes:
    """Images uint8 [N, C, H, W] as a part: its ``shape`` is [N, H, W, C]; vectors [N, D] as float32 [N, D]."""
    if levels == 0:
        values = images.detach().float().cpu().contiguous()
        return part({"shape": list(values.shape), "floats": True, **head}, values.numpy().tobytes())
    shown = to_display(images, levels).cpu().permute(0, 2, 3, 1).contiguous()
    return part({"shape": list(shown.shape), **head}, shown.numpy().tobytes())


def floats(values: Tensor, **head: Any) -> bytes:
    """Numbers of any shape as a part of float32."""
    return pictures(values, 0, **head)


class Hearer:
    """Where a work that runs in a thread says what it has.

    Args:
        send: takes a part.
        gone: set when nobody waits any more.
    """

    def __init__(self, send: Callable[[bytes], None], gone: threading.Event) -> None:
        self._send, self._gone = send, gone
        self._said = -1.0

    def give(self, content: bytes) -> None:
        """Send a part; the place where a work that nobody waits for ends."""
        if self._gone.is_set():
            raise Gone
        self._send(content)

    def tell(self, done: float, total: float) -> None:
        """Send how far it is, in steps of a hundredth."""
        if self._gone.is_set():
            raise Gone
        share = done / total if total else 0.0
        if share >= self._said + 0.01 or share < self._said:
            self._said = share
            self._send(part({"done": share}))


Work = Callable[[Hearer], None]


class Parts(Response):
    """A response of parts that ``work`` gives from a thread.

    What goes wrong in it is a last part with ``error``, in one line.
    """

    media_type = KIND

    def __init__(self, work: Work, limiter: anyio.CapacityLimiter) -> None:
        super().__init__()
        self._work, self._limiter = work, limiter
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = threading.Event()
        sender, receiver = anyio.create_memory_object_stream[bytes](math.inf)

        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            gone.set()
            group.cancel_scope.cancel()

        async def compute(sender: MemoryObjectSendStream[bytes]) -> None:
            async with sender:
                if self._limiter.available_tokens < 1:
                    await sender.send(part({"waiting": True}))
                async with self._limiter:  # which counts it; the thread has a limiter of its own
                    await anyio.to_thread.run_sync(_worked, self._work, sender, gone, limiter=anyio.CapacityLimiter(1))

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            group.start_soon(compute, sender)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                async with receiver:
                    async for content in receiver:
                        await send({"type": "http.response.body", "body": content, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            except OSError:  # it left while something was on its way
                gone.set()
            group.cancel_scope.cancel()


def _worked(work: Work, sender: MemoryObjectSendStream[bytes], gone: threading.Event) -> None:
    def put(content: bytes) -> None:
        anyio.from_thread.run_sync(sender.send_nowait, content)

    try:
        work(Hearer(put, gone))
    except Gone:
        return
    except Exception as error:  # of whatever kind, it is of this answer alone
        if not gone.is_set():
            put(part({"error": printable(in_words(error) or bug(error))[:600]}))
