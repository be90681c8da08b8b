"""Who may talk to the studio, and how much: one layer around every route.

A page that listens on this machine can be reached by any web page that the same browser has open. So the ``Host`` must
be this machine's (DNS rebinding), what changes anything must come from the studio's own page (cross-site requests),
and whoever listens beyond this machine must know the token. Bodies are bounded while they arrive, whatever they
announce; nothing is asked of any other host.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "trilemma_token"
MEGABYTE = 2**20
BODY = 2 * MEGABYTE
"""Most bytes of a request that uploads nothing."""
UPLOAD = 2048 * MEGABYTE
"""Most bytes of an upload."""
RATE = 400.0
"""Requests a second of one address over a longer time; twice as many in a burst."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "font-src 'self'; frame-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
"""What the pages may load: what this server gives and nothing else, and no script or style inside the page."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass
class Guard:
    """The layer around ``app``.

    Args:
        app: what is guarded.
        token: who does not listen on this machine alone must have one; empty for none.
        names: host names that this server may be called by, besides addresses and this machine's own.
        uploads: paths that take bodies of up to `UPLOAD` bytes.
        samesite: of the cookie; ``lax`` lets a link with the token be opened from a message of another site.
    """

    app: ASGIApp
    token: str = ""
    names: frozenset[str] = frozenset()
    uploads: tuple[str, ...] = ("/api/uploads",)
    samesite: Literal["strict", "lax"] = "strict"
    clock: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no websockets here
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        status, why = self.refused(scope, headers)
        if not status and self.token and (given := self._from_query(scope)):
            # The link that was printed; the token goes on as a cookie and leaves the address.
            response = RedirectResponse(scope["path"] or "/", 303)
            response.set_cookie(COOKIE, given, httponly=True, samesite=self.samesite, max_age=30 * 86400)
            await response(scope, receive, send)
            return
        if not status and self.token and not self._known(headers):
            status, why = 401, "open the studio by the link that it printed, which holds the token"
        if status:
            await JSONResponse({"error": why}, status, dict(HEADERS))(scope, receive, send)
            return
        most = UPLOAD if scope["path"].startswith(self.uploads) else BODY
        announced = headers.get("content-length", "0")
        if not announced.isdigit() or int(announced) > most:
            line = f"more than {most // MEGABYTE} MB at once"
            await JSONResponse({"error": line}, 413, dict(HEADERS))(scope, receive, send)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:  # it announced less, or nothing
                raise TooMuch(f"more than {most // MEGABYTE} MB at once")
            return message

        started = False

        async def headed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    present.setdefault(name, value)
                present.setdefault("cache-control", "no-store")
            await send(message)

        try:
            await self.app(scope, bounded, headed)
        except TooMuch as error:
            if not started:
                await JSONResponse({"error": str(error)}, 413, dict(HEADERS))(scope, receive, send)

    def refused(self, scope: Scope, headers: Headers) -> tuple[int, str]:
        """The status and the line by which a request is refused before anything reads it; 0 where it is not."""
        host = headers.get("host", "")
        if not self.here(host):
            return 421, f"this studio is not called {host[:80]!r}: open it by the address that it printed"
        if scope["method"] not in ("GET", "HEAD"):
            origin = headers.get("origin")
            foreign = origin is not None and urlsplit(origin).netloc != host
            if foreign or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
                return 403, "a request from another site"
        if self._too_fast(str((scope.get("client") or ("?",))[0])):
            return 429, "too many requests: wait a second"
        return 0, ""

    def here(self, host: str) -> bool:
        """Whether a ``Host`` header names this machine: its addresses, ``localhost``, or a name it was given."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name == "localhost" or name in self.names or (self.token and name == socket.gethostname().lower()):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False  # a name of another site, whatever it resolves to
        return address.is_loopback or bool(self.token)

    def _too_fast(self, address: str) -> bool:
        """A bucket of twice `RATE` tokens for each address, of which a request takes one."""
        now = time.monotonic()
        tokens, before = self.clock.pop(address, (2 * RATE, now))
        tokens = min(2 * RATE, tokens + (now - before) * RATE)
        self.clock[address] = (max(tokens - 1, 0), now)
        while len(self.clock) > 1000:
            self.clock.popitem(last=False)
        return tokens < 1

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _from_query(self, scope: Scope) -> str:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return given if scope["method"] == "GET" and given and self._same(given) else ""

    def _known(self, headers: Headers) -> bool:
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return self._same(morsel.value if morsel else bearer)


class TooMuch(Exception):
    """A body went on beyond its bound."""
