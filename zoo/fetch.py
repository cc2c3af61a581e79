"""Fetching a published file: what broke off is continued, and no half file is taken for a whole.

Until it is whole, NAME grows as `.NAME.part` in the folder where it will lie. Beside that,
`.NAME.part.json` says of which file, in which version, these are the first bytes. Standard library
only, and nothing is printed.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import time
import urllib.request as web
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from http.client import HTTPException, HTTPMessage, HTTPResponse, responses
from io import FileIO
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urljoin, urlsplit

from zoo.catalog import ZooError

TIMEOUT_S = 30.0
BACK_OFF_S = (1.0, 2.0, 4.0, 8.0)  # before each further try in one call
CHUNK = 1 << 17
OK, PARTIAL, RANGE_BEYOND = 200, 206, 416
PART, NOTE = ".part", ".part.json"
REDIRECTS = (301, 302, 303, 307, 308)
OPEN_STORAGE = "https://storage.googleapis.com/"

Progress = Callable[[int, int | None], None]

# A tag or a declaration. Weights may begin with a bare "<": it can be a safetensors header's size.
MARKUP = re.compile(rb"(\xef\xbb\xbf)?\s*<[!?a-zA-Z]")
LFS_POINTER = b"version https://git-lfs"

CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d{1,18})-\d+|\*)/(?P<total>\d{1,18}|\*)")


# What the network fails with, and what http.client makes of addresses and lengths that are none.
NO_ANSWER = (OSError, HTTPException, ValueError, OverflowError)


class _BrokenOff(Exception):
    """The connection ended before the file did; says how, as the end of a sentence."""


@dataclass(frozen=True, kw_only=True)
class _Version:
    """One version of a file on a server: its address, its marks, its size in bytes if known."""

    url: str
    etag: str | None = None
    last_modified: str | None = None
    total: int | None = None

    @property
    def mark(self) -> tuple[str, str] | None:
        """The header, with its value, by which a server tells whether it still has this version.

        None if it has none: weak ETags promise the same meaning, not the same bytes.
        """
        if self.etag and not self.etag.startswith("W/"):
            return "ETag", self.etag
        return ("Last-Modified", self.last_modified) if self.last_modified else None


@dataclass
class _Part:
    """The first `size` bytes of a file that is to lie at `path`, open and locked."""

    path: Path
    file: FileIO
    version: _Version
    size: int

    @property
    def conditions(self) -> dict[str, str]:
        """What to ask for in order to continue; nothing where all has to be asked for."""
        if not self.size or self.version.mark is None:
            return {}
        return {"Range": f"bytes={self.size}-", "If-Range": self.version.mark[1]}

    def begin(self, version: _Version) -> None:
        """Drop what is here and become an empty part of this version."""
        self.version, self.size = version, 0
        with _on_disk(self.path):
            self.file.truncate(0)
            unfinished = _beside(self.path, NOTE + ".tmp")
            unfinished.write_text(json.dumps(asdict(version)) + "\n", "utf-8")
            os.replace(unfinished, _beside(self.path, NOTE))

    def append(self, chunk: bytes) -> None:
        """Add the bytes that follow; ZooError if the disk is full."""
        with _on_disk(self.path):
            while chunk:
                written = self.file.write(chunk)
                self.size += written
                chunk = chunk[written:]

    def remove(self) -> None:
        """Leave nothing behind."""
        _beside(self.path, PART).unlink(missing_ok=True)
        _beside(self.path, NOTE).unlink(missing_ok=True)

    def here(self) -> str:
        """How much there is and what happens to it, as sentences."""
        of = "" if self.version.total is None else f" of {self.version.total:,}"
        then = "continues" if self.conditions else "starts again"
        return f" {self.size:,}{of} bytes are here: the same command {then}." if self.size else ""


def fetch(url: str, path: Path, *, sha256: str = "", progress: Progress) -> str:
    """Download a file to `path` and return its SHA-256, 64 hex digits.

    `sha256` is as many of its first digits as are known. `progress` is called with the bytes that
    are here and the bytes of the whole file (None: the server does not say); whatever it raises,
    and Ctrl-C, leaves the part, which the next call continues if the server still has the same
    version. `path` is replaced when everything is there. A server that announces fewer bytes than
    the file has is noticed only by the checksum.

    ZooError, one or two sentences, where the address cannot be fetched, the server or the network
    fails, something else than weights comes, the checksum differs, the disk is too small, or
    another process is fetching to the same `path`.
    """
    address = _address(url, path.name)
    with _locked_part(path, address) as part:
        _complete(part, progress)
        return _put_in_place(part, sha256.lower())


def _address(url: str, name: str) -> str:
    """The address to ask: Google's storage has a second door, which wants no login."""
    address = re.sub(r"^(gs:/|https://storage\.cloud\.google\.com)/", OPEN_STORAGE, url)
    try:
        parts = urlsplit(address)
    except ValueError as error:
        raise ZooError(f"{name}: '{url}' is not an address: {error}.") from error
    if parts.hostname in ("drive.google.com", "docs.google.com"):
        raise ZooError(f"{name} is on Google Drive, which serves only browsers: open {url} in one.")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise ZooError(f"{name}: '{url}' is not an http or https address, and only those are used.")
    return address


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise ZooError(f"Cannot write {path}: {why}. Is there another folder for it?") from error


@contextmanager
def _locked_part(path: Path, address: str) -> Iterator[_Part]:
    """Open the part that is there or a new one, for this process alone; none is left empty."""
    with _on_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _beside(path, PART).open("ab", buffering=0)
    with file:
        if not _lock(file, path):
            raise ZooError(f"{path.name}: another process is fetching it. Wait until it has ended.")
        version = _read_note(path, address)
        part = _Part(path, file, version, os.fstat(file.fileno()).st_size)
        try:
            yield part
        finally:
            if not part.size:
                part.remove()


def _lock(file: FileIO, path: Path) -> bool:
    """Whether the part is now ours; one that was renamed or removed meanwhile is nobody's."""
    with _on_disk(path):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(file.fileno()), _beside(path, PART).stat())
        except (BlockingIOError, FileNotFoundError):
            return False


def _read_note(path: Path, address: str) -> _Version:
    """The version that the part is of; one without any mark if that is not known."""
    try:
        version = _Version(**json.loads(_beside(path, NOTE).read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return _Version(url=address)
    return version if version.url == address else _Version(url=address)


def _complete(part: _Part, progress: Progress) -> None:
    """Ask until everything is here, again after a break as long as each try brings more."""
    for pause in (*BACK_OFF_S, None):
        before = part.size
        try:
            _continue(part, progress)
            return
        except _BrokenOff as error:
            if pause is None or part.size <= before:
                raise ZooError(f"{part.path.name}: {error}.{part.here()}") from error
            time.sleep(pause)


def _continue(part: _Part, progress: Progress) -> None:
    """Receive what is missing, in one answer; `_BrokenOff` if that ends early."""
    progress(part.size, part.version.total)
    if part.size and part.size == part.version.total:
        return
    with _ask(part) as response:
        if response.status == RANGE_BEYOND:
            return
        chunk = _first_chunk(part, response)
        _check_space(part)
        while chunk:
            part.append(chunk)
            progress(part.size, part.version.total)
            chunk = _read(response)
    total = part.version.total or part.size
    if response.length or part.size < total:
        raise _BrokenOff("the connection ended before the file did")
    if part.size > total:
        part.remove()
        more = f"{part.size:,} bytes came, the file has {total:,}"
        raise ZooError(f"{part.path.name}: {more}. Removed: the same command starts again.")


def _ask(part: _Part) -> HTTPResponse:
    """The answer that continues the part, or that begins it again, or that it is all (416)."""
    if part.conditions:
        response = _request(part, (OK, PARTIAL, RANGE_BEYOND))
        if response.status == OK or _belongs(part, response):
            return response
        response.close()
        part.begin(_Version(url=part.version.url))
    return _request(part, (OK,))


def _request(part: _Part, wanted: tuple[int, ...]) -> HTTPResponse:
    """The answer to one request, its status among those wanted; ZooError says why there is none."""
    request = web.Request(part.version.url, headers=part.conditions)
    try:
        response = _opener().open(request, timeout=TIMEOUT_S)
    except NO_ANSWER as error:
        why = _why(error, _host(request.full_url))
        raise ZooError(f"{part.path.name}: {why}.{part.here()}") from error
    if response.status in wanted:
        return response
    response.close()
    status = f"{response.status} ({responses.get(response.status, 'no known status')})"
    raise ZooError(f"{part.path.name}: {_host(response.url)} answers {status}.{part.here()}")


def _opener() -> web.OpenerDirector:
    """What urllib does by itself, without file: and ftp:."""
    opener = web.OpenerDirector()
    opener.addheaders = [("User-Agent", "lv-adapter-bench")]  # some servers refuse Python's own
    kinds = web.ProxyHandler, web.HTTPHandler, web.HTTPSHandler, web.UnknownHandler
    for kind in (*kinds, web.HTTPDefaultErrorHandler, _Redirects):
        opener.add_handler(kind())
    return opener


class _Redirects(web.HTTPRedirectHandler):
    """Follows redirects, none to a less safe scheme; leaves every other status as an answer."""

    def http_response(self, request: web.Request, response: HTTPResponse) -> Any:
        if response.status not in REDIRECTS:
            return response
        message, headers = response.msg, response.headers
        return self.parent.error("http", request, response, response.status, message, headers)

    https_response = http_response

    def http_error_302(
        self, req: web.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage
    ) -> Any:
        fp.close()  # a body, perhaps without end, that urllib would read
        target = urljoin(req.full_url, headers.get("Location", ""))
        scheme = urlsplit(target).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            jump = f"from {req.type} to {scheme or 'nothing'} is not followed"
            raise URLError(f"it redirects to {target}, and {jump}")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def _why(error: Exception, host: str) -> str:
    if isinstance(error, HTTPError):
        return f"{host} redirects in circles, or to nowhere ({error.code})"
    match error.reason if isinstance(error, URLError) else error:
        case socket.gaierror():
            return f"the name {host} is not known here: no network, or no such server"
        case TimeoutError():
            return f"{host} did not answer within {TIMEOUT_S:g} s"
        case ConnectionRefusedError():
            return f"{host} refuses the connection"
        case reason:
            return f"{host} cannot be asked: {reason}"


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _belongs(part: _Part, response: HTTPResponse) -> bool:
    """Whether an answer about a range is about the bytes that follow, of the same version."""
    said = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if said is None or part.version.mark is None:
        return False
    header, mark = part.version.mark
    total = part.version.total if said["total"] == "*" else int(said["total"])
    if response.headers.get(header, mark) != mark or part.version.total not in (None, total):
        return False
    part.version = replace(part.version, total=total)
    if response.status == RANGE_BEYOND:
        return total == part.size
    return said["first"] == str(part.size)


def _first_chunk(part: _Part, response: HTTPResponse) -> bytes:
    """Read the first bytes; what is here is dropped for them only if they can be weights."""
    announced = response.length
    chunk = _read(response)
    if not chunk and announced:
        raise _BrokenOff("the connection ended before the first byte")
    if other := _other_than_weights(response, chunk):
        said = f"{_host(response.url)} sends {other}"
        raise ZooError(f"{part.path.name}: {said}.{part.here()}")
    if response.status == OK:
        etag, date = response.headers["ETag"], response.headers["Last-Modified"]
        url = part.version.url
        part.begin(_Version(url=url, etag=etag, last_modified=date, total=announced))
    return chunk


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK)
    except TimeoutError as error:
        raise _BrokenOff(f"nothing came for {TIMEOUT_S:g} s") from error
    except NO_ANSWER as error:
        raise _BrokenOff(f"the connection broke off ({type(error).__name__})") from error


def _other_than_weights(response: HTTPResponse, chunk: bytes) -> str | None:
    """What an answer is, by its headers and first bytes, if it cannot be weights."""
    if response.headers.get_content_type() == "text/html":
        return "a web page, not weights"
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        return f"the file compressed ({encoding}), unasked"
    if response.status != OK:
        return None  # from the middle of the file: any bytes will do
    if not chunk:
        return "an empty file"
    if chunk.startswith(LFS_POINTER):
        return "a git-lfs pointer, not the weights it points to"
    return "a web page, not weights" if MARKUP.match(chunk) else None


def _check_space(part: _Part) -> None:
    folder, missing = part.path.parent, (part.version.total or 0) - part.size
    free = shutil.disk_usage(folder).free
    if missing > free:
        space = f"{missing:,} more bytes, {folder} has {free:,} free"
        raise ZooError(f"{part.path.name} needs {space}. Make room, or name another folder.")


def _put_in_place(part: _Part, wanted: str) -> str:
    """Give the whole part its name if it is the file that was published; return its SHA-256."""
    source = _beside(part.path, PART)
    with _on_disk(part.path):
        os.fsync(part.file.fileno())
        with source.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(wanted):
        part.remove()
        hashes = f"came with the SHA-256 {found}, published is {wanted}"
        raise ZooError(f"{part.path.name} {hashes}. Removed: it is damaged or another release.")
    with _on_disk(part.path):
        os.replace(source, part.path)
        _beside(part.path, NOTE).unlink(missing_ok=True)
    return found
