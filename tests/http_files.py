"""A web server on loopback that misbehaves as asked; the first part of a path says how."""

import contextlib
import http.server
import threading
from collections import Counter


class Files:
    """What a server serves and what it was asked.

    Attributes:
        files: contents by name.
        address: of the server, without a slash at the end.
        requests: how often each path was asked for.
        ranges: the Range headers received, in order.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: Counter = Counter()
        self.ranges: list[str | None] = []
        self.address = ""

    def url(self, way: str, name: str) -> str:
        """The address of a file that is served in one of the ways of `_Handler`."""
        return f"{self.address}/{way}/{name}"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        served: Files = self.server.served
        _, way, name = self.path.split("/", 2)
        served.requests[self.path] += 1
        served.ranges.append(self.headers.get("Range"))
        if self.headers.get("User-Agent", "").startswith("Python"):
            self.send_error(403)  # As the mirror of WikiText does.
            return
        getattr(self, "way_" + way)(name, served.files.get(name, b""), served)

    def way_right(self, name, data, served):
        start = 0
        if given := self.headers.get("Range"):
            start = int(given.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.begin(data, start)
        self.wfile.write(data[start:])

    def way_no_ranges(self, name, data, served):
        """Cuts the first time, and knows nothing of ranges."""
        self.begin(data, 0)
        self.wfile.write(data[: len(data) // 2] if self.is_first() else data)

    def way_cut(self, name, data, served):
        """Half of what is missing, every time, but the end when little is missing."""
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.begin(data, start)
        stop = len(data) if len(data) - start < 2000 else (start + len(data)) // 2
        self.wfile.write(data[start:stop])

    def way_truncated(self, name, data, served):
        """A shorter file, which claims to be whole."""
        self.begin(data[:-100], 0)
        self.wfile.write(data[:-100])

    def way_no_more(self, name, data, served):
        """Never sends the last bytes."""
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.begin(data, start)
        self.wfile.write(data[start:-100])

    def way_wrong(self, name, data, served):
        self.begin(data, 0)
        self.wfile.write(data[::-1])

    def way_endless(self, name, data, served):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1000):
                self.wfile.write(bytes(1 << 20))

    def way_slow(self, name, data, served):
        """Sends half, then nothing for a long time, at the first request."""
        if not self.is_first():
            self.way_right(name, data, served)
            return
        self.begin(data, 0)
        self.wfile.write(data[: len(data) // 2])
        self.wfile.flush()
        served.released.wait(20)

    def way_busy(self, name, data, served):
        if self.is_first():
            self.send_error(503)
        else:
            self.way_right(name, data, served)

    def way_redirect(self, name, data, served):
        self.send_response(302)
        self.send_header("Location", f"/right/{name}")
        self.end_headers()

    def way_file_redirect(self, name, data, served):
        self.send_response(302)
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()

    def way_403(self, name, data, served):
        self.send_error(403)

    def way_404(self, name, data, served):
        self.send_error(404)

    def is_first(self):
        return self.server.served.requests[self.path] == 1

    def begin(self, data, start):
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving():
    """A running server's `Files`."""
    served = Files()
    served.released = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.served = served
    served.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served
    finally:
        served.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
