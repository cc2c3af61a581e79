"""Fetching: what broke off is continued, and only a whole file gets its name."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.conftest import ROOT
from tests.zoo.site import (
    OTHER,
    PAGE,
    SHA256,
    WEIGHTS,
    Site,
    interrupted,
    is_whole,
    leaves_nothing,
    part,
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


@pytest.fixture
def plain_site(tmp_path):
    """Python's own file server: no Range, no ETag, but Last-Modified."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            pass

    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "weights.pth").write_bytes(WEIGHTS)
    handler = partial(Quiet, directory=tmp_path / "www")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield server


def test_a_file_is_fetched_whole_and_its_progress_is_told(site, path):
    steps = []
    found = fetch(
        site.url, path, sha256=SHA256[:8].upper(), progress=lambda *now: steps.append(now)
    )
    assert found == SHA256
    assert is_whole(path)
    assert steps[0] == (0, None)
    assert steps[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert sorted(steps, key=lambda step: step[0]) == steps
    assert site.asked == [None]


def test_a_file_that_is_there_already_is_replaced_only_by_a_whole_one(site, path):
    path.parent.mkdir()
    path.write_bytes(OTHER)
    site.cuts = [300_000, 0]
    with pytest.raises(ZooError, match="300,000 of 1,000,003 bytes are here"):
        fetch(site.url, path, progress=silent)
    assert path.read_bytes() == OTHER
    fetch(site.url, path, progress=silent)
    assert is_whole(path)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_that_breaks_off_is_continued_where_it_broke(site, path, chunked):
    site.cuts, site.chunked, steps = [400_000, 200_000], chunked, []
    assert fetch(site.url, path, progress=lambda *now: steps.append(now)) == SHA256
    assert is_whole(path)
    assert steps[-1] == (len(WEIGHTS), len(WEIGHTS))
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in site.asked[1:]]
    assert 0 < starts[0] <= 400_000
    assert starts[0] < starts[1] <= 600_000
    assert site.sent == [400_000, 200_000, len(WEIGHTS) - starts[1]]


def test_a_connection_that_is_reset_is_continued(site, path):
    site.cuts, site.ending = [900_000], "reset"
    received = []

    def reset_after_half(done, total):
        received.append(done)
        if done > 500_000:
            site.gate.set()

    assert fetch(site.url, path, progress=reset_after_half) == SHA256
    assert len(site.asked) == 2
    assert int(site.asked[1].removeprefix("bytes=").removesuffix("-")) in received
    assert is_whole(path)


def test_a_connection_that_falls_silent_is_continued(site, path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    site.cuts, site.ending = [600_000], "stall"
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked == [None, f"bytes={600_000 // module.CHUNK * module.CHUNK}-"]


def test_a_server_that_falls_silent_before_the_first_byte_is_given_up(site, path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    site.cuts, site.ending = [0], "stall"
    assert refused(site.url, path) == "weights.pth: nothing came for 0.1 s."


def test_a_line_that_breaks_again_and_again_is_left_to_the_next_command(site, path):
    site.cuts = [200_000] * 4
    said = refused(site.url, path)
    assert said == (
        "weights.pth: the connection ended before the file did. "
        "800,000 of 1,000,003 bytes are here: the same command continues."
    )
    assert len(site.asked) == 4
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked[4] == "bytes=800000-"
    assert site.sent[4] == 200_003
    assert is_whole(path)


def test_a_break_that_brings_nothing_is_not_tried_again(site, path):
    site.cuts = [0]
    assert "ended before the first byte" in refused(site.url, path)
    assert site.asked == [None]
    assert leaves_nothing(path)


def test_between_tries_it_waits_longer_each_time(site, path, monkeypatch):
    pauses = []
    monkeypatch.setattr(module, "BACK_OFF_S", (1.0, 2.0))
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    site.cuts = [200_000] * 3
    refused(site.url, path)
    assert pauses == [1.0, 2.0]


def test_ctrl_c_keeps_what_is_there(site, path):
    size = interrupted(site.url, path)
    steps = []
    found = fetch(site.url, path, sha256=SHA256, progress=lambda *now: steps.append(now))
    assert found == SHA256
    assert steps[0] == (size, len(WEIGHTS))
    assert site.asked == [None, f"bytes={size}-"]
    assert site.sent[1] == len(WEIGHTS) - size
    assert is_whole(path)


def test_a_file_is_continued_by_its_date_where_it_has_no_strong_tag(site, path):
    site.headers = {"ETag": 'W/"one"', "Last-Modified": "Thu, 20 Aug 2020 10:00:00 GMT"}
    size = interrupted(site.url, path)
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.sent[1] == len(WEIGHTS) - size


def test_a_file_without_tag_and_date_is_never_pieced_together(site, path):
    site.headers = {}
    interrupted(site.url, path)
    site.content = OTHER
    fetch(site.url, path, progress=silent)
    assert site.asked == [None, None]
    assert is_whole(path, OTHER)


def test_a_server_without_ranges_sends_all_again(plain_site, path):
    url = f"http://127.0.0.1:{plain_site.server_port}/weights.pth"
    interrupted(url, path)
    steps = []
    fetch(url, path, progress=lambda *now: steps.append(now[0]))
    assert steps[1] == module.CHUNK
    assert is_whole(path)


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changed_on_the_server_is_fetched_anew(site, path, honest):
    interrupted(site.url, path)
    changed = WEIGHTS[::-1]
    site.content, site.headers, site.if_range = changed, {"ETag": '"two"'}, honest
    fetch(site.url, path, progress=silent)
    assert len(site.asked) == (2 if honest else 3)
    assert site.asked[-1] == (site.asked[1] if honest else None)
    assert is_whole(path, changed)


def test_a_range_that_is_answered_in_pieces_is_asked_for_again(site, path):
    size = interrupted(site.url, path)
    site.most = 200_000
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked[1:] == [f"bytes={size + gone}-" for gone in (0, 200_000, 400_000)]


def test_the_size_of_a_file_may_stay_unknown(site, path):
    site.chunked = True
    size = interrupted(site.url, path)
    site.chunked, site.says_size, site.cuts = False, False, [1, 0]
    assert f" {size + 1:,} bytes are here: the same command continues." in refused(site.url, path)
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked[-1] == f"bytes={size + 1}-"


def test_the_middle_of_a_file_may_look_like_a_page(site, path):
    size = interrupted(site.url, path)
    site.content = WEIGHTS[:size] + PAGE + WEIGHTS[size + len(PAGE) :]
    fetch(site.url, path, progress=silent)
    assert site.asked[-1] == f"bytes={size}-"
    assert is_whole(path, site.content)


@pytest.mark.parametrize(
    "said", ["bytes 5-1000002/1000003", "bytes 0-9/10", "nonsense", f"bytes 5-9/{'9' * 5000}"]
)
def test_a_range_that_does_not_follow_is_not_appended(site, path, said):
    interrupted(site.url, path)
    site.content_range = said
    fetch(site.url, path, progress=silent)
    assert site.asked[2] is None
    assert is_whole(path)


def test_a_range_longer_than_the_file_is_refused(site, path):
    size = interrupted(site.url, path)
    site.content += b"more"
    site.content_range = f"bytes {size}-1000002/1000003"
    assert "1,000,007 bytes came, the file has 1,000,003" in refused(site.url, path)
    assert leaves_nothing(path)


def test_another_address_does_not_continue_the_part_of_the_first(site, path):
    interrupted(site.url, path)
    site.content = OTHER
    fetch(site.url + "?release=2", path, progress=silent)
    assert site.asked == [None, None]
    assert is_whole(path, OTHER)


@pytest.mark.parametrize("note", [None, "", "[]", '{"other": 1}'])
def test_a_part_of_unknown_origin_is_not_continued(site, path, note):
    path.parent.mkdir()
    part(path).write_bytes(b"something")
    if note is not None:
        part(path).with_suffix(".part.json").write_text(note)
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked == [None]


def test_a_part_that_was_complete_only_gets_its_name(site, path):
    def at_the_end(done, total):
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site.url, path, progress=at_the_end)
    assert part(path).read_bytes() == WEIGHTS
    assert fetch(site.url, path, progress=silent) == SHA256
    assert len(site.asked) == 1
    assert is_whole(path)


@pytest.mark.parametrize("now", [WEIGHTS, OTHER])
def test_a_part_that_nothing_follows_is_whole_unless_the_file_became_shorter(site, path, now):
    site.chunked = True  # so that nobody knows the size

    def at_the_end(done, total):
        assert total is None
        if done == len(WEIGHTS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(site.url, path, progress=at_the_end)
    site.content, site.if_range = now, False
    fetch(site.url, path, progress=silent)
    assert site.asked == [None, "bytes=1000003-"] + [None] * (now == OTHER)
    assert is_whole(path, now)


def test_a_body_shorter_than_announced_is_never_taken_for_whole(site, path):
    site.length = len(WEIGHTS) + 10
    said = refused(site.url, path)
    assert "1,000,003 of 1,000,013 bytes are here" in said
    assert site.asked == [None, "bytes=1000003-", None]
    site.length = None
    assert fetch(site.url, path, progress=silent) == SHA256


def test_a_body_longer_than_announced_is_found_out_by_its_checksum(site, path):
    site.length = len(WEIGHTS) - 10
    cut = hashlib.sha256(WEIGHTS[:-10]).hexdigest()
    said = refused(site.url, path, sha256=SHA256[:8])
    assert cut in said
    assert SHA256[:8] in said
    assert leaves_nothing(path)


def test_a_file_with_another_checksum_is_removed_and_both_are_told(site, path):
    site.content = OTHER
    said = refused(site.url, path, sha256=SHA256)
    assert hashlib.sha256(OTHER).hexdigest() in said
    assert SHA256 in said
    assert leaves_nothing(path)
    site.content = WEIGHTS
    assert fetch(site.url, path, sha256=SHA256, progress=silent) == SHA256
    assert site.asked == [None, None]


FETCH = """
import resource, sys
from pathlib import Path
from zoo.fetch import fetch
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    print(fetch(sys.argv[1], Path(sys.argv[2]), progress=lambda done, total: None))
except ValueError as error:
    print(error)
print("torch" in sys.modules)
"""


def in_another_process(*arguments):
    """Fetch without torch in a process of its own; return what it says."""
    command = [sys.executable, "-c", FETCH, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    said, _, torch = done.stdout.strip().rpartition("\n")
    assert torch == "False"
    return said


def test_a_disk_that_fills_up_stops_the_download_and_keeps_it(site, path):
    said = in_another_process(site.url, path, 300_000)
    assert said.startswith(f"Cannot write {path}: {os.strerror(errno.EFBIG)}.")
    assert part(path).stat().st_size == 300_000
    assert fetch(site.url, path, progress=silent) == SHA256
    assert site.asked == [None, "bytes=300000-"]


def test_two_never_write_the_same_part(site, path):
    begun, found = threading.Event(), []

    def wait_for_the_others(done, total):
        if done > 500_000 and not begun.is_set():
            begun.set()
            site.gate.wait(20)

    first = threading.Thread(
        target=lambda: found.append(fetch(site.url, path, progress=wait_for_the_others))
    )
    first.start()
    assert begun.wait(20)
    busy = "weights.pth: another process is fetching it. Wait until it has ended."
    assert refused(site.url, path) == busy
    assert in_another_process(site.url, path) == busy
    site.gate.set()
    first.join()
    assert found == [SHA256]
    assert site.asked == [None]
    assert is_whole(path)
    assert in_another_process(site.url, path) == SHA256


def test_a_part_that_another_process_just_finished_is_not_written(site, path, monkeypatch):
    monkeypatch.setattr(module.fcntl, "flock", lambda file, how: os.replace(part(path), path))
    with pytest.raises(ZooError, match="another process is fetching it"):
        fetch(site.url, path, progress=silent)
    assert path.read_bytes() == b""
    assert site.asked == []
