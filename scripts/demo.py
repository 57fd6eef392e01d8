"""The main job through the Python client; prints each step and how long it took."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import Iterator, List


def url(address_file: str) -> str:
    with open(address_file) as file:
        address = json.load(file)
    return f"http://{address['host']}:{address['port']}/v1"


@contextmanager
def step(name: str, shown: List[str]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    took = (time.perf_counter() - started) * 1000
    print(f"  {took:8.1f} ms  {name}")
    for text in shown:
        for line in text.rstrip("\n").splitlines():
            print(f"               | {line}")
    shown.clear()


def main(base_url: str) -> None:
    from sandboxai import Sandbox

    shown: List[str] = []
    with step("create a sandbox", shown):
        box = Sandbox(base_url)
    with box:
        with step("first Python cell (starts the kernel)", shown):
            shown.append(box.run_ipython_cell("x = 6 * 7; print('x is', x)").output)
        with step("second cell, state kept", shown):
            shown.append(box.run_ipython_cell("x + 1").output)
        with step("numpy", shown):
            shown.append(box.run_ipython_cell("import numpy as np; print(np.arange(6).reshape(2, 3))").output)
        with step("shell command", shown):
            result = box.run_shell_command("uname -s; id -un; exit 3")
            shown.append(f"{result.output}exit code {result.exit_code}")
        with step("write a file", shown):
            box.write_file("/workspace/hello.txt", "hello from the host\n")
        with step("read it inside, and back", shown):
            shown.append(box.run_shell_command("cat /workspace/hello.txt").output)
            assert box.read_file("/workspace/hello.txt") == b"hello from the host\n"
        started = time.perf_counter()
    print(f"  {(time.perf_counter() - started) * 1000:8.1f} ms  delete the sandbox")


if __name__ == "__main__":
    if sys.argv[1] == "--url":
        print(url(sys.argv[2]).removesuffix("/v1"))
    else:
        main(url(sys.argv[1]))
