"""What every request passes before a route sees it, and every answer on its way out.

A request has an id, a caller and limits: tokens, requests at a time, bytes and seconds of the body. Each leaves one
line of JSON in the log `vetdino.service`, without anything that the caller wrote but a request id of plain characters.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..config import HOST, Limits
from ..engine.errors import RefusedError, refusal_of
from .auth import AccessTokens, Caller
from .metrics import Metrics

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("vetdino.service")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
OPEN = ("/health/live", "/health/ready")
"""Paths that need no token: an orchestrator has none."""

CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content-Security-Policy: the browser fetches nothing from other servers."""

CLIENT_GONE = 499
"""The status in log and metrics of a request whose client left before its body had arrived; nothing is sent."""

METHODS = ("GET", "HEAD", "POST", "DELETE")


def error_body(refusal: RefusedError, request_id: str) -> dict[str, Any]:
    """The JSON of a refused request."""
    limit = {"limit": refusal.limit} if refusal.limit else {}
    return {"error": str(refusal), "error_type": refusal.kind, **limit, "request_id": request_id}


class Gate:
    """The ASGI middleware of the service. local: only host names of this machine are answered."""

    def __init__(
        self, app: App, *, tokens: AccessTokens, limits: Limits, metrics: Metrics, local: bool
    ) -> None:
        self.app, self.tokens, self.limits, self.metrics, self.local = app, tokens, limits, metrics, local
        self._running: Counter[str] = Counter()
        self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(self, scope, receive, send)
        await exchange.run()

    def admit(self, scope: Scope, headers: dict[str, str]) -> Caller:
        """Who a request is from. Raises RefusedError where it is not let in."""
        path, method = scope["path"], scope["method"]
        if self.local:
            name = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
            if name not in (HOST, "localhost"):
                raise RefusedError(400, "ForeignHost", "this service answers to 127.0.0.1 and localhost only")
        origin = headers.get("origin")
        if origin and origin.partition("://")[2] != headers.get("host", ""):
            raise RefusedError(403, "ForeignOrigin", "a page of another site may not use this service")
        if method not in METHODS or (method in ("POST", "DELETE") and not path.startswith("/v1/")):
            raise RefusedError(405, "MethodNotAllowed", "this path only shows data; it accepts none")
        if path in OPEN:
            return Caller("health", is_admin=False)
        caller = self.tokens.caller(headers.get("authorization", ""))
        if path.startswith("/v1/index") and not caller.is_admin:
            why = "an admin token is needed" if len(self.tokens) else "no admin token is set at this service"
            raise RefusedError(403, "Forbidden", f"{why} to change a gallery")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "UnsupportedEncoding", "a compressed body is not taken; send it as it is")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18:
            raise RefusedError(400, "BadLength", "the Content-Length is not a number")
        self.check_size(int(length))
        return caller

    def check_size(self, size: int) -> None:
        """Raises RefusedError (413) for a body of too many bytes."""
        if size > self.limits.body_mib << 20:
            raise RefusedError(
                413, "TooLarge", f"the body is larger than {self.limits.body_mib} MiB", "body_mib"
            )

    def enter(self, caller: Caller) -> None:
        """Counts a request of a caller. Raises RefusedError (429) where that many run."""
        if self._running[caller.name] >= self.limits.concurrency and caller.name != "health":
            raise RefusedError(
                429,
                "TooManyRequests",
                f"{self.limits.concurrency} requests of this caller are being answered",
                "concurrency",
                1,
            )
        self._running[caller.name] += 1

    def leave(self, caller: Caller) -> None:
        """The end of what `enter` began."""
        self._running[caller.name] -= 1
        if not self._running[caller.name]:
            del self._running[caller.name]

    def hold(self, count: int) -> None:
        """Counts bytes of bodies in memory. Raises RefusedError (503) where all together are too many."""
        if count > 0 and self._bytes + count > self.limits.inflight_mib << 20:
            raise RefusedError(
                503, "Overloaded", "too many uploads at a time; try again in a moment", "inflight_mib", 2
            )
        self._bytes += count


class _Exchange:
    """One request and its answer."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope, self._receive, self._send = gate, scope, receive, send
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        given = self.headers.get("x-request-id", "")
        self.request_id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = self.request_id
        self.status, self.size_in, self.size_out, self.started = 0, 0, 0, False
        self._deadline = time.monotonic() + gate.limits.body_s
        self._body_ended = False

    async def run(self) -> None:
        began = time.perf_counter()
        self.gate.metrics.running.inc()
        try:
            await self._answer()
        finally:
            self.gate.hold(-self.size_in)
            self.gate.metrics.running.dec()
            self._record(time.perf_counter() - began)

    async def _answer(self) -> None:
        from starlette.requests import ClientDisconnect

        caller = None
        try:
            caller = self.gate.admit(self.scope, self.headers)
            self.gate.enter(caller)
        except RefusedError as error:
            await self.refuse(error)
            return
        try:
            await self.gate.app(self.scope, self.receive, self.send)
        except ClientDisconnect:  # nobody is there to answer
            self.status, self.scope["state"]["error_type"] = CLIENT_GONE, "ClientDisconnect"
        except Exception as error:
            refusal = refusal_of(error)
            if refusal is None:
                log.error(json.dumps({"request_id": self.request_id, **fault(error)}))
                refusal = RefusedError(500, "Fault", "an internal error; the log has its place")
            if not self.started:
                await self.refuse(refusal)
        finally:
            self.gate.leave(caller)

    async def receive(self) -> Message:
        """The next part of the body, within the limits of bytes and seconds."""
        if self._body_ended:
            return await self._receive()
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + max(0.0, self._deadline - time.monotonic())
            ):
                message = await self._receive()
        except TimeoutError:
            seconds = self.gate.limits.body_s
            raise RefusedError(
                408, "SlowBody", f"the body did not arrive within {seconds:g} s", "body_s"
            ) from None
        if message["type"] == "http.request":
            count = len(message.get("body", b""))
            self.gate.check_size(self.size_in + count)
            self.gate.hold(count)
            self.size_in += count
            self._body_ended = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """An answer on its way out, with the headers that all have."""
        if message["type"] == "http.response.start":
            self.started, self.status = True, message["status"]
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self.request_id.encode()),
                (b"content-security-policy", CONTENT_POLICY.encode()),
                (b"referrer-policy", b"no-referrer"),
                (b"x-content-type-options", b"nosniff"),
            ]
        elif message["type"] == "http.response.body":
            self.size_out += len(message.get("body", b""))
        await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Answers with an error, and closes the connection where the body was not read to its end."""
        body = json.dumps(error_body(refusal, self.request_id)).encode()
        self.scope["state"]["error_type"] = refusal.kind
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += refusal_headers(refusal)
        if not self._body_ended:
            headers.append((b"connection", b"close"))
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _record(self, seconds: float) -> None:
        route = getattr(self.scope.get("route"), "path", "") or "other"
        error_type = self.scope["state"].get("error_type", "")
        method = self.scope["method"] if self.scope["method"] in METHODS else "OTHER"
        self.gate.metrics.answered(route, method, self.status, seconds, error_type)
        line = {
            "request_id": self.request_id,
            "method": method,
            "route": route,
            "status": self.status,
            "ms": round(seconds * 1000, 1),
            "bytes_in": self.size_in,
            "bytes_out": self.size_out,
        }
        log.info(json.dumps(line | ({"error_type": error_type} if error_type else {})))


def refusal_headers(refusal: RefusedError) -> list[tuple[bytes, bytes]]:
    """The headers that belong to an error."""
    headers = []
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode()))
    if refusal.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return headers


def fault(error: Exception) -> dict[str, str]:
    """What the log says of an error that nobody foresaw: its type and place, not its text, which may quote."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[-4:]]
    return {"fault": type(error).__name__, "at": " ".join(places)}
