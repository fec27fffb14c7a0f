"""Owns a real browser for the tests of the live page: headless Chromium, driven over the W3C WebDriver protocol."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.support import PATIENCE, until

T = TypeVar("T")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "chromium and chromium-driver are not installed"

# No profile of anybody's, nothing that the browser fetches for itself, and no place but this machine.
_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Browser:
    """One window of a browser."""

    def __init__(self, driver: str, capabilities: dict[str, Any]) -> None:
        self._driver = driver
        self._session = ""
        answer = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{answer['sessionId']}"

    def _ask(self, method: str, path: str, value: object = None) -> Any:
        data = None if method in ("GET", "DELETE") else json.dumps(value or {}).encode()
        request = urllib.request.Request(
            f"{self._driver}{path}", data, {"content-type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.loads(response.read())["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.loads(error.read())["value"]["message"]) from error

    def open(self, address: str) -> None:
        """Load a page."""
        self._ask("POST", f"{self._session}/url", {"url": address})

    def run(self, script: str, *arguments: object) -> Any:
        """Run JavaScript in the page; a promise that it returns is waited for."""
        return self._ask("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def text(self, selector: str) -> str:
        """Return the text of the first element, empty if there is none."""
        return str(self.run("const e = document.querySelector(arguments[0]); return e ? e.innerText : ''", selector))

    def wait(self, look: Callable[[Browser], T]) -> T:
        """Wait until *look* returns something true, and return that."""
        found: list[T] = []

        def looked() -> bool:
            found[:] = [look(self)]
            return bool(found[0])

        until(looked)
        return found[0]

    def click(self, selector: str) -> None:
        """Click an element."""
        found = self._ask("POST", f"{self._session}/element", {"using": "css selector", "value": selector})
        self._ask("POST", f"{self._session}/element/{next(iter(found.values()))}/click")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other, on whatever has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._ask("POST", f"{self._session}/actions", {"actions": [source]})

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return what has been added to a log, ``browser`` (the console) or ``performance`` (the network)."""
        answer: list[dict[str, Any]] = self._ask("POST", f"{self._session}/se/log", {"type": kind})
        return answer

    def requested(self) -> set[str]:
        """Return the addresses that were asked for since the last call, by whatever."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        return {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}

    def command(self, name: str, **parameters: object) -> Any:
        """Send a command of the browser's own protocol."""
        return self._ask("POST", f"{self._session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def size(self, width: int, height: int) -> None:
        """Have the page believe that its window is of this size."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scheme(self, name: str) -> None:
        """Have the page believe that its user prefers ``"light"`` or ``"dark"``."""
        features = [{"name": "prefers-color-scheme", "value": name}]
        self.command("Emulation.setEmulatedMedia", features=features)

    def picture(self, path: Path) -> None:
        """Take a picture of the whole page."""
        width, height = self.run("return [innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        answer = self.command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(b64decode(answer["data"]))

    def quit(self) -> None:
        """Close the window."""
        self._ask("DELETE", self._session)


@contextmanager
def browser(flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it afterwards."""
    assert CHROMIUM
    assert DRIVER
    with tempfile.TemporaryDirectory(prefix="offload-db-browser-", ignore_cleanup_errors=True) as profile:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile}
        process = subprocess.Popen(
            [DRIVER, f"--port={port}", "--log-level=SEVERE"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            until(lambda: process.poll() is not None or _answers(address))
            options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}/profile", *flags]}
            window = Browser(
                address,
                {
                    "browserName": "chrome",
                    "goog:chromeOptions": options,
                    "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
                },
            )
            try:
                yield window
            finally:
                window.quit()
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/status", timeout=1) as response:
            return bool(json.loads(response.read())["value"]["ready"])
    except OSError:
        time.sleep(0.02)
        return False
