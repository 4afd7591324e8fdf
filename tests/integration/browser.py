"""A real Chromium without a window, driven by W3C's WebDriver: JSON over HTTP to Debian's chromedriver."""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import NO_BROWSER

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
CONTROL, ENTER, ESCAPE, TAB = "\ue009", "\ue007", "\ue00c", "\ue004"
SECONDS = 60.0


class Browser:
    """One session. An element is its WebDriver id."""

    def __init__(self, address: str, options: list[str]) -> None:
        self._http = requests.Session()
        self._http.trust_env = False
        wanted = {
            "goog:chromeOptions": {"args": options, "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "timeouts": {"script": 20_000, "pageLoad": 30_000},
        }
        self._address = address
        made = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._address = f"{address}/session/{made['sessionId']}"

    def _ask(self, method: str, path: str, data: dict[str, Any] | None = None) -> Any:
        answer = self._http.request(
            method, self._address + path, json=data if method == "POST" else None, timeout=SECONDS
        )
        value = answer.json()["value"]
        assert answer.ok, value
        return value

    def open(self, address: str) -> None:
        self._ask("POST", "/url", {"url": address})

    def close(self) -> None:
        self._ask("DELETE", "")

    @property
    def address(self) -> str:
        return str(self._ask("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, selector: str) -> str:
        return str(self._ask("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT])

    def click(self, selector: str) -> None:
        self._ask("POST", f"/element/{self.find(selector)}/click", {})

    def role(self, selector: str) -> tuple[str, str]:
        """What a screen reader is told: role and name."""
        element = self.find(selector)
        kind, name = (self._ask("GET", f"/element/{element}/computed{what}") for what in ("role", "label"))
        return str(kind), str(name)

    def keys(self, *strokes: str) -> None:
        """Type on the keyboard, wherever the focus is; Control is held for the key after it."""
        steps: list[dict[str, str]] = []
        held = False
        for stroke in strokes:
            for key in [stroke] if stroke == CONTROL else stroke:
                steps.append({"type": "keyDown", "value": key})
                if key != CONTROL:
                    steps += [{"type": "keyUp", "value": key}]
                    steps += [{"type": "keyUp", "value": CONTROL}] if held else []
                held = key == CONTROL
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements that can be seen, as they are seen."""
        found = "[...document.querySelectorAll(arguments[0])]"
        script = f"return {found}.filter(e => e.checkVisibility()).map(e => e.innerText)"
        return [str(text) for text in self.run(script, selector)]

    def log(self) -> list[str]:
        """What the browser complained of: scripts, the page's policy, files that it did not get."""
        return [str(line["message"]) for line in self._ask("POST", "/se/log", {"type": "browser"})]

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, *, dark: bool = False, width: int = 1280, height: int = 900, scripts: bool = True) -> None:
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.devtools("Emulation.setEmulatedMedia", features=scheme)
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        self.devtools("Emulation.setScriptExecutionDisabled", value=not scripts)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        taken = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextlib.contextmanager
def started(folder: Path, *options: str) -> Iterator[Browser]:
    """A browser with its files in `folder`; the test is skipped where none is installed."""
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip(NO_BROWSER)
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        said = (re.search(r"started successfully on port (\d+)", line) for line in process.stdout)
        port = next(found[1] for found in said if found)
        # As root there is no sandbox, and a small /dev/shm is what containers have.
        always = [
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--no-proxy-server",
        ]
        # A click would go where its target was before a smooth scroll.
        always.append("--force-prefers-reduced-motion")
        browser = Browser(f"http://127.0.0.1:{port}", [*always, f"--user-data-dir={folder}", *options])
        try:
            yield browser
        finally:
            browser.close()
    finally:
        process.terminate()
        process.wait(SECONDS)
