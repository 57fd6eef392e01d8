#!/usr/bin/env python3
"""Copies sandboxes from one server that speaks Daytona's protocol to another.

    pip install daytona==0.226.1
    DAYTONA_API_KEY=… scripts/move-from-daytona.py --to http://HOST:5266/api --to-key KEY SANDBOX…

The source is https://app.daytona.io/api, or what --from says. Each new sandbox gets the
snapshot, environment, labels and intervals of the old one, and the content of --folder. A
sandbox that was stopped is started for the copy and stopped again. Nothing else is changed at
the source. One line of JSON is printed per sandbox, with the id and the new preview addresses.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
import uuid
from typing import Any, Dict, List

from daytona import CreateSandboxFromSnapshotParams, Daytona, DaytonaConfig, DaytonaError, Sandbox, SandboxState


def run(sandbox: Sandbox, command: str) -> None:
    answer = sandbox.process.exec(command, cwd="/", timeout=1800)
    if answer.exit_code != 0:
        raise DaytonaError(f"in {sandbox.id}: {command} ended with {answer.exit_code}: {answer.result[-500:]}")


def copy_folder(old: Sandbox, new: Sandbox, folder: str) -> None:
    """As an archive, by way of this machine."""
    archive = f"/tmp/move-{uuid.uuid4().hex}.tar.gz"
    inside = shlex.quote(folder.strip("/"))
    run(old, f"tar -C / -czf {archive} {inside}")
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as here:
        old.fs.download_file(archive, here.name)
        run(old, f"rm {archive}")
        new.fs.upload_file(here.name, archive)
    run(new, f"tar -C / -xzpf {archive} && rm {archive}")


def move(source: Daytona, target: Daytona, name: str, folder: str, ports: List[int]) -> Dict[str, Any]:
    old = source.get(name)
    was_started = old.state == SandboxState.STARTED
    if not was_started:
        old.start(timeout=600)
    try:
        new = target.create(
            CreateSandboxFromSnapshotParams(
                snapshot=old.snapshot,
                env_vars=old.env,
                labels=old.labels,
                public=old.public,
                auto_stop_interval=int(old.auto_stop_interval or 0),
                auto_archive_interval=int(old.auto_archive_interval or 0),
            ),
            timeout=1800,
        )
        try:
            copy_folder(old, new, folder)
        except BaseException:
            new.delete()
            raise
    finally:
        if not was_started:
            old.stop()
    return {"old": old.id, "new": new.id, "previews": {str(port): new.get_preview_link(port).url for port in ports}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sandboxes", nargs="+", metavar="SANDBOX", help="ids or names at the source")
    parser.add_argument("--from", dest="source", default="https://app.daytona.io/api", metavar="URL")
    parser.add_argument("--from-key", default=os.environ.get("DAYTONA_API_KEY"), help="default: DAYTONA_API_KEY")
    parser.add_argument("--to", required=True, metavar="URL")
    parser.add_argument("--to-key", required=True)
    parser.add_argument("--target", default="us")
    parser.add_argument("--folder", default="/workspace")
    parser.add_argument("--port", dest="ports", type=int, action="append", help="default: 6080 and 8080")
    given = parser.parse_args()
    source = Daytona(DaytonaConfig(api_key=given.from_key, api_url=given.source, target=given.target))
    target = Daytona(DaytonaConfig(api_key=given.to_key, api_url=given.to, target=given.target))
    failed = 0
    for name in given.sandboxes:
        try:
            print(json.dumps(move(source, target, name, given.folder, given.ports or [6080, 8080])), flush=True)
        except DaytonaError as error:
            failed = 1
            print(f"{name}: {error}", file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
