"""A server for the tests of fetching: it breaks off, changes its file and lies."""

import hashlib
import random
import socket
import struct
import threading
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from zoo.catalog import ZooError
from zoo.fetch import fetch

WEIGHTS = random.Random(0).randbytes(1_000_003)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
OTHER = random.Random(1).randbytes(900_001)
PAGE = b"<!DOCTYPE html><html>Quota exceeded</html>"


class Site(ThreadingHTTPServer):
    """One file, and the ways in which its server misbehaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = WEIGHTS
        self.headers = {"ETag": '"one"'}
        self.status = None  # of every answer, whatever was asked
        self.ranges = True  # whether Range is understood
        self.if_range = True  # whether If-Range is
        self.cuts = []  # after how many bytes of its body each answer breaks off
        self.ending = "close"  # how it breaks off
        self.length = None  # what is announced, if not the truth
        self.chunked = False
        self.most = None  # bytes in the answer to a range
        self.says_size = True  # in the answer to a range
        self.content_range = None  # what is said of a range, if not the truth
        self.asked = []  # the Range of each request
        self.sent = []  # the bytes of each body, as far as they were sent
        self.gate = threading.Event()  # what a stalling answer waits for

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/weights.pth"

    def handle_error(self, request, client_address):
        """Say nothing when a client goes away."""


class Answer(BaseHTTPRequestHandler):
    server: Site  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format, *args):
        pass

    def do_GET(self):
        site = self.server
        site.asked.append(self.headers["Range"])
        if self.path.startswith("/to?"):
            return self.redirect(self.path.removeprefix("/to?"))
        status, body, headers = self.choose()
        length = len(body) if site.length is None else site.length
        self.send_response(site.status or status)
        framing = {"Transfer-Encoding": "chunked"} if site.chunked else {"Content-Length": length}
        for name, value in {**framing, **site.headers, **headers}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else None
        site.sent.append(len(body[:cut]))
        self.send_body(body[:cut], whole=cut is None)
        return None

    def redirect(self, target):
        self.send_response(302)
        if target:
            self.send_header("Location", target)
        self.end_headers()

    def choose(self):
        """Answer as RFC 9110 says: a part if the file is still the one that was asked for."""
        site, size = self.server, len(self.server.content)
        known = [mark for mark in site.headers.values() if not mark.startswith("W/")]
        same = not site.if_range or self.headers["If-Range"] in known
        if not (self.headers["Range"] and site.ranges and same):
            return 200, site.content, {}
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= size:
            return 416, b"", {"Content-Range": f"bytes */{size}"}
        body = site.content[start:][: site.most]
        told = f"bytes {start}-{start + len(body) - 1}/{size if site.says_size else '*'}"
        return 206, body, {"Content-Range": site.content_range or told}

    def send_body(self, body, *, whole):
        site = self.server
        if site.chunked:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body) + b"0\r\n\r\n" * whole)
        else:
            self.wfile.write(body)
        if not whole and site.ending in ("stall", "reset"):
            site.gate.wait(20)
        if not whole and site.ending == "reset":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()


@contextmanager
def serving(server):
    """Answer requests in a thread until the test has ended."""
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def silent(done, total):
    """Show nobody how far it is."""


def part(path):
    """Where the file grows."""
    return path.with_name(".weights.pth.part")


def is_whole(path, content=WEIGHTS):
    """Whether the file is there and nothing beside it."""
    return path.read_bytes() == content and [f.name for f in path.parent.iterdir()] == [path.name]


def leaves_nothing(path):
    return not path.parent.exists() or list(path.parent.iterdir()) == []


def refused(url, path, **given):
    """Return why it was not fetched."""
    with pytest.raises(ZooError) as caught:
        fetch(url, path, progress=silent, **given)
    assert not path.exists()
    return str(caught.value)


def interrupted(url, path):
    """Press Ctrl-C when half of the file is there; return how much the part holds."""

    def halfway(done, total):
        if done > 500_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url, path, progress=halfway)
    size = part(path).stat().st_size
    assert not path.exists()
    assert 500_000 < size < len(WEIGHTS)
    return size
