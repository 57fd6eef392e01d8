"""One server per process, started on first use and gone when the process is gone.

The server is the program ``sandboxai`` that this package carries. It listens
on a free loopback port, manages only the sandboxes of its own random scope,
and removes them when it ends. It ends with this process, however that ends:
by ``atexit``, or because its standard output, a pipe that only this process
reads, is closed by the kernel.
"""

from __future__ import annotations

import atexit
import collections
import json
import logging
import os
import select
import shutil
import subprocess
import sys
import sysconfig
import threading
import uuid
from typing import Deque, List, Optional

from .errors import ServerUnavailableError

log = logging.getLogger(__name__)

#: How long the server may take to say where it listens, seconds.
START_TIMEOUT_S = 20.0
#: How long the server may take to remove its sandboxes, seconds.
STOP_TIMEOUT_S = 30.0


def find_binary() -> str:
    """The program this package carries: in the environment's scripts folder, or the PATH.

    The variable ``SANDBOXAI_BINARY`` names another one.
    """
    override = os.environ.get("SANDBOXAI_BINARY")
    if override:
        return override
    here = os.path.dirname(os.path.abspath(__file__))
    candidates: List[Optional[str]] = [
        os.path.join(here, "bin", "sandboxai"),
        os.path.join(sysconfig.get_path("scripts"), "sandboxai"),
        os.path.join(os.path.dirname(sys.executable), "sandboxai"),
        shutil.which("sandboxai"),
    ]
    for candidate in candidates:
        if candidate and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise ServerUnavailableError(
        "the program `sandboxai` was not found; install the `sandboxai` wheel for this platform, "
        "or set SANDBOXAI_BINARY to its path",
        kind="unavailable",
    )


class Server:
    """A running embedded server."""

    def __init__(self, binary: Optional[str] = None) -> None:
        self._tail: Deque[str] = collections.deque(maxlen=20)
        command = [binary or find_binary(), "serve", "--port", "0"]
        command += ["--scope", f"embedded-{uuid.uuid4().hex}", "--delete-on-shutdown", "--exit-with-client"]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C belongs to this program: it still deletes its sandboxes on the way out.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read_log, name="sandboxai-log", daemon=True)
        self._reader.start()
        try:
            self.base_url = self._read_address()
        except BaseException:
            self.stop()
            raise

    def _read_log(self) -> None:
        stream = self._process.stderr
        assert stream is not None
        with stream:
            for line in stream:
                self._tail.append(line.rstrip())
                log.debug("server: %s", line.rstrip())

    def _read_address(self) -> str:
        stream = self._process.stdout
        assert stream is not None
        ready, _, _ = select.select([stream], [], [], START_TIMEOUT_S)
        line = stream.readline().strip() if ready else ""
        try:
            address = json.loads(line)
            return f"http://{address['host']}:{address['port']}/v1"
        except (ValueError, KeyError, TypeError):
            self._process.terminate()
            self._reader.join(timeout=2)
            why = "; ".join(self._tail) or f"it said {line!r}"
            raise ServerUnavailableError(f"the embedded server did not start: {why}", kind="unavailable") from None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ends the server and, with it, every sandbox it made."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                log.warning("the embedded server did not stop within %s s, killing it", STOP_TIMEOUT_S)
                self._process.kill()
                self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._reader.join(timeout=2)


_lock = threading.Lock()
_server: Optional[Server] = None
_owner_pid: Optional[int] = None


def start_server() -> Server:
    """The server of this process, started if need be. A forked child gets one of its own."""
    global _server, _owner_pid
    with _lock:
        if _server is None or _owner_pid != os.getpid() or not _server.running:
            _server = Server()
            _owner_pid = os.getpid()
            atexit.register(_server.stop)
        return _server


def stop_server() -> None:
    """Ends the server of this process, if there is one."""
    global _server
    with _lock:
        if _server is not None and _owner_pid == os.getpid():
            atexit.unregister(_server.stop)
            _server.stop()
        _server = None


def is_running() -> bool:
    """Whether this process has a running server."""
    return _server is not None and _owner_pid == os.getpid() and _server.running


def get_base_url() -> Optional[str]:
    """Where the server of this process listens."""
    return _server.base_url if is_running() and _server else None
