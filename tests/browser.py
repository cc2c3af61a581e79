"""A real headless Chromium without a network, driven over the DevTools protocol by a pipe."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

WAIT_S = 60.0
OFFLINE = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking")
QUIET = ("--no-first-run", "--disable-sync", "--disable-extensions", "--disable-component-update")


class Browser:
    """One page of a browser; what it asked for and what went wrong on it are kept.

    `requests` are the addresses that it asked for, but those inside itself; `errors` what its
    console and its script reported.
    """

    def __init__(self) -> None:
        if not (chromium := shutil.which("chromium")):
            pytest.skip("chromium is not installed")
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        commands, self._out = os.pipe()
        self._in, answers = os.pipe()
        command = [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", *OFFLINE, *QUIET]
        command += ["--remote-debugging-pipe", f"--user-data-dir={self._home.name}"]
        # The protocol is spoken through descriptors 3 and 4: ours are others.
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        shell = 'exec "$@" 3<&{} 4>&{}'.format(*theirs)
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=theirs,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for end in (commands, answers, *theirs):
            os.close(end)
        self._left, self._numbers, self._session = b"", itertools.count(1), None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._session = None
            self._ask("Browser.close")
        self._process.wait(WAIT_S)
        os.close(self._in)
        os.close(self._out)
        self._home.cleanup()

    def open(self, address: str | Path) -> None:
        """Go to an address, or open a file, and wait until all of it is loaded."""
        where = address.as_uri() if isinstance(address, Path) else address
        self._events.clear()
        self._ask("Page.navigate", url=where)
        self._until("Page.loadEventFired")

    def look(self, width: int, height: int, dark: bool = False) -> None:
        """Give the window a size, and the system a theme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[theme])

    def run(self, script: str) -> Any:
        """Return the value of an expression on the page; a promise is waited for."""
        answer = self._ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    def click(self, selector: str, number: int = 0) -> None:
        """Click the middle of the element with this number of those that a selector means."""
        found = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        box = self.run(
            f"(r => [r.x + r.width / 2, r.y + r.height / 2])({found}.getClientRects()[0])"
        )
        for kind in ("mousePressed", "mouseReleased"):
            spot = {"type": kind, "x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self._ask("Input.dispatchMouseEvent", **spot)

    def press(self, key: str, text: str = "") -> None:
        """Press a key, by its name; `text` is what it types."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        told = {"key": key, "windowsVirtualKeyCode": codes.get(key, 0)}
        told |= {"text": text} if text else {}
        self._ask("Input.dispatchKeyEvent", type="keyDown", **told)
        self._ask("Input.dispatchKeyEvent", type="keyUp", **told)

    def type(self, text: str) -> None:
        """Type a text into what has the focus."""
        self._ask("Input.insertText", text=text)

    def picture(self, file: Path, whole: bool = False) -> None:
        """Write what is seen, or the whole page, as a PNG."""
        shot = self._ask("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        told = {"id": number, "method": method, "params": parameters}
        if self._session:
            told["sessionId"] = self._session
        os.write(self._out, json.dumps(told).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _until(self, method: str) -> None:
        end = time.monotonic() + WAIT_S
        while not any(event["method"] == method for event in self._events):
            assert time.monotonic() < end, f"no {method}"
            self._read()

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._in, 1 << 16)
            if not part:
                raise BrokenPipeError("the browser is gone")
            self._left += part
        line, _, self._left = self._left.partition(b"\0")
        told = json.loads(line)
        if "method" in told:
            self._notice(told)
        return told

    def _notice(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        told = event["params"]
        match event["method"]:
            case "Network.requestWillBeSent":
                if not told["request"]["url"].startswith("data:"):
                    self.requests.append(told["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(told["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled":
                if told["type"] in ("error", "warning", "assert"):
                    self.errors.append(str(told["args"]))
            case "Log.entryAdded":
                if told["entry"]["level"] in ("error", "warning"):
                    self.errors.append(told["entry"]["text"])
