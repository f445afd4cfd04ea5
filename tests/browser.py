"""A real browser for tests: Debian's chromium without a window, driven through two pipes."""

import base64
import fcntl
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One page, spoken to in the DevTools protocol: JSON, a zero byte after each message.

    Attributes:
        requests: addresses that the page asked for, in order.
    """

    def __init__(self, profile: Path) -> None:
        to_browser, self._say = os.pipe()
        self._hear, from_browser = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]
        command = [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", 'exec "$@" 3<&{} 4>&{}'.format(*theirs), "bash", *command],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_browser, from_browser, *theirs):
            os.close(end)
        self._ids, self._rest, self._loads = itertools.count(1), b"", 0
        self._session: dict[str, str] = {}
        self.requests: list[str] = []
        targets = self.tell("Target.getTargets")["targetInfos"]
        target = next(one["targetId"] for one in targets if one["type"] == "page")
        attached = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network"):
            self.tell(f"{domain}.enable")
        self.tell("Emulation.setFocusEmulationEnabled", enabled=True)

    def tell(self, method: str, **params: object) -> dict:
        """Calls a method of the protocol and waits for its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": params, **self._session}
        os.write(self._say, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._next()
            if heard.get("id") == number:
                assert "error" not in heard, heard
                return heard["result"]

    def visit(self, address: str) -> None:
        """Goes to an address and waits until its page is there."""
        before = self._loads
        if "loaderId" in self.tell("Page.navigate", url=address):  # else only the fragment changed
            while self._loads == before:
                self._next()

    def value(self, expression: str) -> object:
        """What an expression of JavaScript is on the page."""
        told = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def point(self, x: float, y: float) -> None:
        """Moves the mouse."""
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        for kind in ("keyDown", "keyUp"):
            self.tell("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def prefer(self, scheme: str) -> None:
        """Sets the preferred colour scheme: `light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.tell("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot")["data"])

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._say)
        self._process.wait(timeout=30)
        os.close(self._hear)

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._hear, 1 << 16)
            assert part, "the browser is gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        heard = json.loads(message)
        if heard.get("method") == "Network.requestWillBeSent":
            self.requests.append(heard["params"]["request"]["url"])
        self._loads += heard.get("method") == "Page.loadEventFired"
        return heard
