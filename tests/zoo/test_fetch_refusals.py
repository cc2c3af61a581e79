"""Fetching: whatever else than the file comes is named in a sentence, and costs nothing."""

import io
import shutil
import socket
import threading
from http.client import HTTPMessage
from urllib.error import URLError
from urllib.request import Request

import pytest

from tests.zoo.site import (
    PAGE,
    SHA256,
    WEIGHTS,
    Site,
    interrupted,
    is_whole,
    leaves_nothing,
    refused,
    serving,
    silent,
)
from zoo import fetch as module
from zoo.catalog import ZooError
from zoo.fetch import fetch


@pytest.fixture
def site():
    with serving(Site()) as server:
        yield server
        server.gate.set()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "zoo" / "weights.pth"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(module, "BACK_OFF_S", (0.0, 0.0, 0.0))
    monkeypatch.setenv("no_proxy", "*")


NOT_WEIGHTS = [
    (PAGE, {}, "sends a web page"),
    (b"\xef\xbb\xbf\n <html>", {}, "sends a web page"),
    (WEIGHTS, {"Content-Type": "text/html; charset=utf-8"}, "sends a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", {}, "sends a git-lfs pointer"),
    (b"", {}, "sends an empty file"),
    (WEIGHTS, {"Content-Encoding": "gzip"}, "sends the file compressed (gzip)"),
]


@pytest.mark.parametrize(("content", "headers", "said"), NOT_WEIGHTS)
def test_what_is_no_weight_file_is_named_and_not_kept(site, path, content, headers, said):
    site.content, site.headers = content, headers
    assert said in refused(site.url, path)
    assert leaves_nothing(path)


@pytest.mark.parametrize(("content", "headers", "said"), NOT_WEIGHTS)
def test_what_is_no_weight_file_does_not_cost_what_is_there(site, path, content, headers, said):
    size = interrupted(site.url, path)
    site.content, site.headers, site.ranges = content, headers, False
    assert said in refused(site.url, path)
    site.content, site.headers, site.ranges = WEIGHTS, {"ETag": '"one"'}, True
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked[-1] == f"bytes={size}-"


@pytest.mark.parametrize("start", [b"<\0\0\0\0\0\0\0{", b" <\0\0\0\0\0\0{"])
def test_weights_may_begin_like_a_tag(site, path, start):
    site.content = start + WEIGHTS
    fetch(site.url, path, progress=silent)
    assert is_whole(path, site.content)


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (403, "answers 403 (Forbidden)"),
        (404, "answers 404 (Not Found)"),
        (416, "answers 416 (Requested Range Not Satisfiable)"),
        (503, "answers 503 (Service Unavailable)"),
        (206, "answers 206 (Partial Content)"),
        (299, "answers 299 (no known status)"),
    ],
)
def test_an_answer_without_the_file_is_told_in_one_sentence(site, path, status, said):
    site.status = status
    assert refused(site.url, path) == f"weights.pth: 127.0.0.1:{site.server_port} {said}."
    assert site.asked == [None]
    assert leaves_nothing(path)


def test_a_server_that_fails_meanwhile_does_not_cost_what_is_there(site, path):
    size = interrupted(site.url, path)
    site.status = 503
    assert f"{size:,} of 1,000,003 bytes are here" in refused(site.url, path)
    site.status = None
    fetch(site.url, path, progress=silent)
    assert site.asked[-1] == f"bytes={size}-"
    assert is_whole(path)


def test_a_redirect_is_followed_and_continued(site, path):
    url = f"http://127.0.0.1:{site.server_port}/to?{site.url}"
    size = interrupted(url, path)
    assert fetch(url, path, progress=silent) == SHA256
    assert site.asked == [None, None, f"bytes={size}-", f"bytes={size}-"]
    assert site.sent[1] == len(WEIGHTS) - size


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "file:///etc/hostname",
            "it redirects to file:///etc/hostname, and from http to file is not followed.",
        ),
        ("ftp://127.0.0.1/weights.pth", "from http to ftp is not followed"),
        ("data:,weights", "from http to data is not followed"),
        ("http://[", "cannot be asked"),
        ("", "redirects in circles, or to nowhere"),
    ],
)
def test_a_redirect_to_anywhere_but_the_web_is_refused(site, path, target, said):
    assert said in refused(f"http://127.0.0.1:{site.server_port}/to?{target}", path)
    assert leaves_nothing(path)


def test_a_redirect_in_circles_ends(site, path):
    site.status, site.headers = 302, {"Location": site.url}
    assert "redirects in circles" in refused(site.url, path)


def test_a_redirect_does_not_lead_out_of_https():
    request, headers = Request("https://weights.org/a"), HTTPMessage()
    headers["Location"] = "http://weights.org/a"
    with pytest.raises(URLError, match="from https to http is not followed"):
        module._Redirects().http_error_302(request, io.BytesIO(), 302, "Found", headers)


def saying(answer):
    """Listen once and give these bytes as the answer; return the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer_once():
        with listener, listener.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    threading.Thread(target=answer_once, daemon=True).start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/weights.pth"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "cannot be asked: Remote end closed connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "cannot be asked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc", "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nmany\r\nabc", "broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", "ended before the first byte"),
    ],
)
def test_a_server_that_does_not_speak_http_is_named(path, answer, said):
    assert said in refused(saying(answer), path)
    assert leaves_nothing(path)


def test_a_body_that_just_ends_is_taken_as_it_is(path):
    answer = b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n" + WEIGHTS
    assert fetch(saying(answer), path, progress=silent) == SHA256
    assert is_whole(path)


def test_a_refused_connection_is_named(path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    said = refused(f"http://{host}/weights.pth", path)
    assert said == f"weights.pth: {host} refuses the connection."


def test_a_server_that_never_answers_is_given_up(path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        said = refused(f"http://{host}/weights.pth", path)
    assert said == f"weights.pth: {host} did not answer within 0.1 s."


def test_an_unknown_name_is_named(path, monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "the name weights.org is not known here" in refused("https://weights.org/a", path)


def test_a_proxy_is_used(site, path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{site.server_port}")
    assert fetch("http://weights.example/weights.pth", path, progress=silent) == SHA256


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/weights.pth",
        "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
        "/home/me/weights.pth",
        "http:///weights.pth",
        "http://[::1/weights.pth",
        "https://wéights.org/a",
    ],
)
def test_an_address_that_is_not_of_the_web_is_refused(path, url):
    assert url in refused(url, path)
    assert leaves_nothing(path)


@pytest.mark.parametrize(
    "url", ["http://a..b/c", f"http://127.0.0.1:{10**30}/a", "http://127.0.0.1/a b"]
)
def test_an_address_that_is_none_is_refused(path, url):
    assert "cannot be asked" in refused(url, path)


def test_google_drive_is_left_to_browsers(path):
    url = "https://drive.google.com/file/d/1w8cO8VyTUhyOY55nd"
    said = refused(url, path)
    assert "Google Drive" in said
    assert url in said


@pytest.mark.parametrize("door", ["https://storage.cloud.google.com/", "gs://"])
def test_googles_storage_is_asked_where_no_login_is_wanted(door):
    open_door = "https://storage.googleapis.com/simclr-gcs/checkpoints/ResNet50_1x.zip"
    assert module._address(f"{door}simclr-gcs/checkpoints/ResNet50_1x.zip", "x") == open_door


def test_a_file_that_does_not_fit_is_not_begun(site, path):
    site.length = 10**15
    said = refused(site.url, path)
    assert "weights.pth needs 1,000,000,000,000,000 more bytes" in said
    assert f"{path.parent} has " in said
    assert leaves_nothing(path)


def test_of_a_file_that_is_there_in_part_only_the_rest_must_fit(site, path, monkeypatch):
    size = interrupted(site.url, path)
    missing = len(WEIGHTS) - size
    usage = shutil.disk_usage(path.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=missing - 1))
    assert f"needs {missing:,} more bytes" in refused(site.url, path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=missing))
    assert fetch(site.url, path, progress=silent) == SHA256


def test_a_folder_that_cannot_be_written_is_named(site, path):
    path.parent.write_text("a file where the folder should be")
    with pytest.raises(ZooError, match=f"Cannot write {path}: File exists"):
        fetch(site.url, path, progress=silent)
