"""A server that speaks S3's protocol, in a process of its own, and a proxy before it that misbehaves on demand.

`python tests/s3_server.py` prints two addresses: the server's, and the proxy's, which answers `POST /fail` with
`STATUS CODE COUNT`: so many requests are then refused with that status and S3's error code (-1: all of them).
"""

from __future__ import annotations

import http.client
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on, but for those that are to fail."""

    protocol_version = "HTTP/1.1"
    target = ""
    lock = threading.Lock()
    failing: ClassVar[list[tuple[int, str]]] = []
    always: tuple[int, str] | None = None
    refused = 0

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/fail":
            status, code, count = body.decode().split()
            with self.lock:
                cls = type(self)
                refused = str(cls.refused)
                cls.refused = 0
                cls.always = (int(status), code) if int(count) < 0 else None
                cls.failing[:] = [(int(status), code)] * max(0, int(count))
            self.reply(200, refused.encode())
            return
        with self.lock:
            failure = self.always or (self.failing.pop() if self.failing else None)
            type(self).refused += failure is not None
        if failure is not None:
            status, code = failure
            self.reply(status, b"" if self.command == "HEAD" else ERROR.format(code=code).encode())
            return
        connection = http.client.HTTPConnection(self.target, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        content = response.read()
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = response.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

    def reply(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    """Serves until its standard input is closed."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    Proxy.target = urlsplit(f"http://{host}:{port}").netloc
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    print(f"http://{host}:{port} http://127.0.0.1:{proxy.server_address[1]}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
