"""A server of a folder over HTTP, with ranges and with the faults that servers have."""

from __future__ import annotations

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class Server:
    """Serves a folder while its block runs.

    Args:
        root: The folder.
        ranges: Whether it answers ranges, or with the whole file as simple servers do.
        delay: Seconds before each answer.
        failing: Each request for part of a file fails so often, with status 503, before it is
            answered.

    Attributes:
        url: Address of the folder.
        sent: Bytes of files sent.
        requests: Ranges asked for, as (name, first, last).
        most: Most requests under way at once.
    """

    def __init__(
        self, root: Path, *, ranges: bool = True, delay: float = 0.0, failing: int = 0
    ) -> None:
        self.root, self.ranges, self.delay, self.failing = root, ranges, delay, failing
        self.sent = 0
        self.requests: list[tuple[str, int, int]] = []
        self.most = 0
        self._now = 0
        self._failed: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                server._answer(self, head=True)

            def do_GET(self) -> None:
                server._answer(self, head=False)

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # clients that leave in the middle of an answer

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler, head: bool) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            time.sleep(self.delay)
            self._send(request, head)
        finally:
            with self._lock:
                self._now -= 1

    def _send(self, request: BaseHTTPRequestHandler, head: bool) -> None:
        path = self.root / request.path.lstrip("/")
        if not path.is_file():
            request.send_error(404)
            return
        size, wanted = path.stat().st_size, request.headers.get("Range", "")
        if wanted and self._fails(request.path, wanted):
            request.send_error(503)
            return
        first, last, status = 0, size - 1, 200
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        if match and self.ranges:
            first, last, status = int(match[1]), min(int(match[2]), size - 1), 206
            if first >= size:
                request.send_error(416)
                return
        request.send_response(status)
        request.send_header("Content-Length", str(last - first + 1))
        if self.ranges:
            request.send_header("Accept-Ranges", "bytes")
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.end_headers()
        if head:
            return
        with path.open("rb") as file:
            file.seek(first)
            left = last - first + 1
            while left and (piece := file.read(min(left, 1 << 16))):
                request.wfile.write(piece)
                left -= len(piece)
                with self._lock:
                    self.sent += len(piece)
        with self._lock:
            if status == 206:
                self.requests.append((path.name, first, last))

    def _fails(self, path: str, wanted: str) -> bool:
        with self._lock:
            self._failed[path, wanted] = self._failed.get((path, wanted), 0) + 1
            return self._failed[path, wanted] <= self.failing
