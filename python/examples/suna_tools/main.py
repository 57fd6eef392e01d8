"""Runs the three tools on one workspace and prints what they return.

    SANDBOX_BACKEND=sandboxai SANDBOXAI_URL=http://127.0.0.1:5266 python3 main.py
    SANDBOX_BACKEND=daytona DAYTONA_API_URL=http://127.0.0.1:5266/api DAYTONA_API_KEY=any python3 main.py
"""

from __future__ import annotations

import asyncio
import sys
import uuid

from tools import AsyncShellTool, FilesTool, PythonTool, ShellTool


def main(workspace_id: str) -> int:
    files, shell, python = FilesTool(workspace_id), ShellTool(workspace_id), PythonTool(workspace_id)
    try:
        results = [
            files.execute("write", file_path="src/hello.py", content="print('hello')"),
            files.execute("read", file_path="src/hello.py"),
            files.execute("list", directory="src"),
            shell.execute("python3 src/hello.py"),
            shell.execute("exit 3"),
            python.execute("x = 6 * 7"),
            python.execute("print(x)"),
            asyncio.run(AsyncShellTool(workspace_id).execute("ls src")),
        ]
        for result in results:
            print(result)
        expected = [True, True, True, True, False, True, True, True]
        return 0 if [result["success"] for result in results] == expected else 1
    finally:
        files.client.delete()
        for tool in (files, shell, python):
            tool.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else f"example-{uuid.uuid4()}"))
