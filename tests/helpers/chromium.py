"""A real browser for tests: Chromium without a window, spoken to over its debugging pipe, with the standard library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
)
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Tab": 9, "Enter": 13, " ": 32}


class Chromium:
    """One tab. ``requests`` are the addresses that it asked for, ``errors`` what its scripts threw."""

    def __init__(self, profile: Path, seconds: float = 60.0) -> None:
        there, here = os.pipe()
        answers, back = os.pipe()
        flags = [*FLAGS.split(), f"--user-data-dir={profile}"]

        def wire() -> None:  # the browser reads commands from descriptor 3 and answers on 4
            os.dup2(there, 63)
            os.dup2(back, 64)
            os.dup2(63, 3)
            os.dup2(64, 4)

        self._process = subprocess.Popen(
            [PROGRAM, *flags, "about:blank"], preexec_fn=wire, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there)
        os.close(back)
        self._write, self._read, self._rest, self._last = here, answers, b"", 0
        self._seconds, self._session = seconds, None
        self.requests: list[str] = []
        self.errors: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        for descriptor in (self._write, self._read):
            os.close(descriptor)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result; events that come before are noted."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def open(self, file: Path | str, width: int, height: int = 900) -> None:
        """Load a page of the disk, or of an address, at a width in CSS pixels, and wait for it."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.requests.clear()
        self.call("Page.navigate", url=file if isinstance(file, str) else file.as_uri())
        deadline = time.monotonic() + self._seconds
        while self.run("document.readyState") != "complete":
            if time.monotonic() > deadline:
                raise TimeoutError("the page does not finish loading")
            time.sleep(0.05)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description", "exception"))
        return answer["result"].get("value")

    def choose_file(self, selector: str, file: Path) -> None:
        """Put a file into an input of the page, as a user's choice would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + self._seconds
        while not self.run(f"!!({script})"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"never true: {script}")
            time.sleep(0.1)

    def press(self, key: str) -> None:
        """A key pressed and let go, wherever the focus is."""
        typed = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": {"Enter": "\r", " ": " "}[key]} if key in ("Enter", " ") else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **typed, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **typed)

    def screenshot(self, file: Path, whole: bool = True) -> None:
        """The page as PNG, all of it or what is in view."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + self._seconds
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser does not answer")
            found = os.read(self._read, 1 << 16)
            if not found:
                raise RuntimeError("the browser has ended")
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"])[:500])
