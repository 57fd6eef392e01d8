"""Files of /workspace over HTTP, and presentations as PDF. Port 8080.

    GET  /health                        which services of this sandbox answer
    GET  /<path>                        a file below /workspace; index.html for a folder
    POST /presentation/convert-to-pdf   {"presentation_path": "presentations/x", "download": false}
    POST /presentation/html-to-pdf      {"html": "<h1>..."}

A presentation is a folder with ``metadata.json``, whose ``slides`` names an HTML file
for each number: {"title": "...", "slides": {"1": {"file_path": "presentations/x/1.html"}}}.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Sequence

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from playwright.async_api import Error, async_playwright
from pydantic import BaseModel

WORKSPACE = Path("/workspace")
DOWNLOADS = WORKSPACE / "downloads"
PORT = 8080
#: Slides are printed at the size of a screen, in CSS pixels.
SLIDE_SIZE = (1920, 1080)
#: How long the browser may take for one slide, seconds.
SLIDE_LIMIT_S = 60
#: Browsers that print at the same time.
PRINTING_AT_ONCE = 2
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
SERVICES = {"x11vnc": 5901, "novnc": 6080, "http_server": PORT, "browserApi": 8004}

app = FastAPI(title="Files of the workspace")
printing = asyncio.Semaphore(PRINTING_AT_ONCE)


class Presentation(BaseModel):
    presentation_path: str
    download: bool = False


class Page(BaseModel):
    html: str


def inside(path: str) -> Path:
    """The file below the workspace that a request names."""
    relative = path.removeprefix(str(WORKSPACE)).lstrip("/")
    full = (WORKSPACE / relative).resolve()
    if not full.is_relative_to(WORKSPACE):
        raise HTTPException(403, f"{path} is outside of {WORKSPACE}")
    return full


async def run(*command: str) -> None:
    """Runs a program to its end; its last words are the error."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    try:
        _, stderr = await asyncio.wait_for(process.communicate(), SLIDE_LIMIT_S)
    except asyncio.TimeoutError:
        process.kill()
        raise HTTPException(504, f"{command[0]} took longer than {SLIDE_LIMIT_S} seconds") from None
    if process.returncode != 0:
        raise HTTPException(500, f"{command[0]} ended with {process.returncode}: {stderr.decode()[-500:]}")


async def print_pages(pages: Sequence[Path], sheets: Sequence[Path]) -> None:
    """Prints HTML files, each on one sheet, by a browser without a screen."""
    width, height = SLIDE_SIZE
    async with printing, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path="/usr/bin/chromium", args=BROWSER_FLAGS)
        try:
            page = await browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(SLIDE_LIMIT_S * 1000)
            for source, sheet in zip(pages, sheets):
                await page.goto(source.as_uri())
                await page.pdf(path=sheet, width=f"{width}px", height=f"{height}px", print_background=True)
        except Error as error:
            raise HTTPException(500, f"the browser could not print: {error}") from None
        finally:
            await browser.close()


def slides_of(folder: Path) -> List[Path]:
    metadata = folder / "metadata.json"
    if not metadata.is_file():
        raise HTTPException(404, f"no presentation in {folder}: metadata.json not found")
    slides: Dict[str, Any] = json.loads(metadata.read_text()).get("slides") or {}
    pages = [inside(slide["file_path"]) for _, slide in sorted(slides.items(), key=lambda item: int(item[0]))]
    if not pages:
        raise HTTPException(400, f"{metadata} names no slides")
    for page in pages:
        if not page.is_file():
            raise HTTPException(404, f"slide {page} not found")
    return pages


@app.post("/presentation/convert-to-pdf")
async def convert_to_pdf(request: Presentation) -> Response:
    folder = inside(request.presentation_path)
    pages = slides_of(folder)
    with tempfile.TemporaryDirectory() as scratch:
        sheets = [Path(scratch) / f"{number}.pdf" for number in range(len(pages))]
        await print_pages(pages, sheets)
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        result = DOWNLOADS / f"{folder.name}.pdf"
        if len(sheets) == 1:
            shutil.copyfile(sheets[0], result)
        else:
            await run("pdfunite", *map(str, sheets), str(result))
    if request.download:
        return FileResponse(result, media_type="application/pdf", filename=result.name)
    return JSONResponse(
        {
            "success": True,
            "message": f"{len(pages)} slides printed",
            "pdf_url": f"/downloads/{result.name}",
            "filename": result.name,
            "total_slides": len(pages),
        }
    )


@app.post("/presentation/html-to-pdf")
async def html_to_pdf(request: Page) -> Response:
    with tempfile.TemporaryDirectory() as scratch:
        page, sheet = Path(scratch) / "page.html", Path(scratch) / "page.pdf"
        page.write_text(request.html)
        await print_pages([page], [sheet])
        return Response(sheet.read_bytes(), media_type="application/pdf")


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


@app.get("/health")
async def health() -> JSONResponse:
    states = await asyncio.gather(*(asyncio.to_thread(answers, port) for port in SERVICES.values()))
    services = {name: "running" if up else "down" for name, up in zip(SERVICES, states)}
    services["xvfb"] = "running" if os.path.exists("/tmp/.X11-unix/X99") else "down"
    healthy = all(state == "running" for state in services.values())
    return JSONResponse(
        {"status": "healthy" if healthy else "unhealthy", "services": services}, 200 if healthy else 503
    )


if __name__ == "__main__":
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    app.mount("/", StaticFiles(directory=WORKSPACE, html=True))
    uvicorn.run(app, host="0.0.0.0", port=PORT, log_level="warning")
