"""One browser on the sandbox's screen, driven over HTTP. Port 8004.

    GET  /api              200 once the browser runs, 500 before
    POST /api/init         {} starts the browser; again: nothing new
    POST /api/navigate     {"url": "..."}
    POST /api/screenshot   {}

Answers hold url, title and screenshot_base64 (PNG). What needs a language model (act,
extract, observe) is not part of this stand-in and answers 501.
"""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any, Dict, Optional

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from playwright.async_api import BrowserContext, Error, Page, Playwright, async_playwright
from pydantic import BaseModel

PORT = 8004
PROFILE = os.environ.get("CHROME_USER_DATA") or "/app/data/chrome_data"
FLAGS = os.environ.get("CHROME_FLAGS", "--no-sandbox").split()
#: How long one page may take to load, milliseconds.
LOAD_LIMIT_MS = 30_000


class Address(BaseModel):
    url: str


class Browser:
    """The one browser of the sandbox. Calls come one after the other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.playwright: Optional[Playwright] = None
        self.context: Optional[BrowserContext] = None

    async def start(self) -> None:
        if self.context:
            return
        self.playwright = self.playwright or await async_playwright().start()
        os.makedirs(PROFILE, exist_ok=True)
        self.context = await self.playwright.chromium.launch_persistent_context(
            PROFILE,
            executable_path="/usr/bin/chromium",
            headless=False,
            args=FLAGS,
            viewport={
                "width": int(os.environ.get("RESOLUTION_WIDTH", "1048")),
                "height": int(os.environ.get("RESOLUTION_HEIGHT", "768")),
            },
        )
        self.context.on("close", lambda _: self.forget())

    def forget(self) -> None:
        """The browser ended: the next init starts another."""
        self.context = None

    async def page(self) -> Page:
        if not self.context:
            raise Error("the browser is not started: POST /api/init first")
        return self.context.pages[-1] if self.context.pages else await self.context.new_page()


app = FastAPI(title="Browser of the sandbox")
browser = Browser()


async def view(page: Page, message: str) -> Dict[str, Any]:
    return {
        "success": True,
        "message": message,
        "url": page.url,
        "title": await page.title(),
        "screenshot_base64": base64.b64encode(await page.screenshot()).decode(),
    }


def failed(error: Exception) -> JSONResponse:
    return JSONResponse({"success": False, "error": str(error)}, 500)


@app.get("/api")
async def state() -> JSONResponse:
    if browser.context:
        return JSONResponse({"status": "healthy", "service": "browserApi"})
    return JSONResponse({"status": "error", "error": "the browser is not started"}, 500)


@app.post("/api/init")
async def init() -> Any:
    async with browser.lock:
        try:
            await browser.start()
            return {"status": "initialized", **await view(await browser.page(), "the browser runs")}
        except Error as error:
            return failed(error)


@app.post("/api/navigate")
async def navigate(address: Address) -> Any:
    async with browser.lock:
        try:
            page = await browser.page()
            await page.goto(address.url, timeout=LOAD_LIMIT_MS)
            return await view(page, f"opened {address.url}")
        except Error as error:
            return failed(error)


@app.post("/api/screenshot")
async def screenshot() -> Any:
    async with browser.lock:
        try:
            return await view(await browser.page(), "as it is")
        except Error as error:
            return failed(error)


@app.post("/api/{action}")
async def other(action: str) -> JSONResponse:
    return JSONResponse({"success": False, "error": f"{action} needs a language model, which this image has not"}, 501)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=PORT, log_level="warning")
