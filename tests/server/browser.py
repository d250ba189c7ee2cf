"""Debian's chromium without a window, driven over its DevTools protocol. For tests of pages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root runs it, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
START_SECONDS = 60.0
PATIENCE = 20.0


def chromium() -> str:
    """The browser's path. Without one the test is skipped; on the machine that checks commits it fails."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no chromium: apt-get install chromium")
    return found


class Browser:
    """One page. `problems` are its exceptions, its errors on the console and everything that its policy refused;
    `requests` are the URLs that it asked for. Use as an async context manager."""

    def __init__(self, width: int = 1200, height: int = 900, *, scale: float = 1.0) -> None:
        self.problems: list[str] = []
        self.requests: list[str] = []
        self._size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}

    async def __aenter__(self) -> Browser:
        self._folder = Path(tempfile.mkdtemp(prefix="flover-browser-"))
        command = [chromium(), *FLAGS, f"--user-data-dir={self._folder}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(self._folder)},  # what chromium leaves there goes with the folder
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._session = aiohttp.ClientSession()
        try:
            self._socket = await self._session.ws_connect(await self._page_address(), max_msg_size=0)
            self._reader = asyncio.create_task(self._read())
            for domain in ("Page", "Runtime", "Log", "Network"):
                await self.call(f"{domain}.enable")
            await self.call("Emulation.setDeviceMetricsOverride", **self._size)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.cancel()
        await self._socket.close()
        await self._end()

    async def _end(self) -> None:
        await self._session.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        async with asyncio.timeout(START_SECONDS):
            while self._folder.exists():  # the killed children may still be writing
                shutil.rmtree(self._folder, ignore_errors=True)
                await asyncio.sleep(0.02)

    async def _page_address(self) -> str:
        port = self._folder / "DevToolsActivePort"
        async with asyncio.timeout(START_SECONDS):
            while not (port.exists() and port.read_text().count("\n")):
                assert self._process.poll() is None, "chromium ended"
                await asyncio.sleep(0.02)
            while True:
                async with self._session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list") as answer:
                    pages = [page for page in await answer.json() if page["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
                await asyncio.sleep(0.02)

    async def _read(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                self._answers.pop(content["id"]).set_result(content)
            else:
                self._note(content["method"], content["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.problems.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    async def call(self, method: str, **params: Any) -> Any:
        """One command of the protocol; its result."""
        number = next(self._numbers)
        self._answers[number] = answer = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps({"id": number, "method": method, "params": params}))
        content = await asyncio.wait_for(answer, PATIENCE)
        assert "error" not in content, (method, content["error"])
        return content["result"]

    async def open(self, url: str) -> None:
        """Go there."""
        await self.call("Page.navigate", url=url)

    async def value(self, expression: str) -> Any:
        """What a JavaScript expression is worth in the page, as JSON; promises are waited for."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = PATIENCE) -> None:
        """Wait for an expression to become true."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.value(f"Boolean({expression})"):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"never true: {expression}; problems: {self.problems}") from None

    async def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format="png"))["data"])
