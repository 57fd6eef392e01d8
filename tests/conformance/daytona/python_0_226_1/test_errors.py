"""What errors carry: class, status, code, source and a message that helps."""

from __future__ import annotations

import httpx
import pytest
from daytona import (
    CreateSandboxFromImageParams,
    CreateSecretParams,
    Daytona,
    DaytonaBadRequestError,
    DaytonaError,
    DaytonaFileNotFoundError,
    DaytonaNotFoundError,
    DaytonaTimeoutError,
    Resources,
    Sandbox,
)
from daytona_api_client.exceptions import ApiException

from conformance.daytona.access import API_KEY


def test_of_the_control_plane(daytona: Daytona) -> None:
    with pytest.raises(DaytonaNotFoundError) as raised:
        daytona.get("nothing-here")
    assert (raised.value.status_code, raised.value.source) == (404, "DAYTONA_API")
    assert "nothing-here" in raised.value.message


def test_of_the_toolbox(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaFileNotFoundError) as raised:
        sandbox.fs.get_file_info("/no/such/file")
    error = raised.value
    assert (error.status_code, error.code, error.source) == (404, "FILE_NOT_FOUND", "DAYTONA_DAEMON")
    assert "/no/such/file" in error.message


def test_of_a_timeout(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaTimeoutError) as raised:
        sandbox.process.exec("sleep 10", timeout=1)
    assert raised.value.status_code == 408
    assert raised.value.code in ("PROCESS_EXECUTION_TIMEOUT", "REQUEST_TIMEOUT")


def test_of_a_file_that_is_a_folder(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaError) as raised:
        sandbox.fs.download_file(folder)
    assert raised.value.status_code == 400


def test_of_resources_that_no_machine_has(daytona: Daytona) -> None:
    with pytest.raises(DaytonaError) as raised:
        daytona.create(CreateSandboxFromImageParams(image="sandboxai/box", resources=Resources(memory=1_000_000)))
    assert raised.value.status_code in (400, 403, 409, 422, 429, 503)
    assert "memory" in str(raised.value).lower()


def test_bodies_of_the_control_plane(api_url: str) -> None:
    answer = httpx.get(f"{api_url}/sandbox/none", headers={"Authorization": f"Bearer {API_KEY}"})
    body = answer.json()
    assert answer.status_code == body["statusCode"] == 404
    assert body["path"] == "/api/sandbox/none" and body["error"] == "Not Found"
    assert body["timestamp"] and body["message"]


def test_bodies_of_the_toolbox(sandbox: Sandbox) -> None:
    answer = httpx.get(
        f"{sandbox.toolbox_proxy_url}/{sandbox.id}/files/info?path=/none", headers={"Authorization": f"Bearer {API_KEY}"}
    )
    body = answer.json()
    assert answer.status_code == body["statusCode"] == 404
    assert body["method"] == "GET" and body["path"].endswith("/files/info") and body["source"] == "DAYTONA_DAEMON"


def test_a_body_that_is_no_json(api_url: str) -> None:
    answer = httpx.post(
        f"{api_url}/sandbox",
        content=b"{not json",
        headers={"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"},
    )
    assert answer.status_code == 400 and answer.json()["statusCode"] == 400


def test_a_path_that_is_none(api_url: str) -> None:
    answer = httpx.get(f"{api_url}/no-such-path", headers={"Authorization": f"Bearer {API_KEY}"})
    assert answer.status_code == 404 and answer.json()["statusCode"] == 404


def test_the_toolbox_of_no_sandbox(sandbox: Sandbox) -> None:
    answer = httpx.get(
        f"{sandbox.toolbox_proxy_url}/none/work-dir", headers={"Authorization": f"Bearer {API_KEY}"}
    )
    assert answer.status_code == 404


def test_lists_of_what_is_not_served_are_empty(daytona: Daytona) -> None:
    assert daytona.volume.list() == []
    assert daytona.secret.list().items == []


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.volume.create("v"),
        lambda d: d.secret.create(CreateSecretParams(name="s", value="v", hosts=["example.com"])),
    ],
    ids=["volume.create", "secret.create"],
)
def test_what_is_not_served_says_so(daytona: Daytona, call) -> None:
    """Some methods of the SDK let the exception of its generated client through."""
    with pytest.raises((DaytonaError, ApiException)) as raised:
        call(daytona)
    assert (getattr(raised.value, "status_code", None) or raised.value.status) == 501
    assert "not" in str(raised.value)


def test_computer_use_is_not_served(sandbox: Sandbox) -> None:
    with pytest.raises(DaytonaError) as raised:
        sandbox.computer_use.start()
    assert raised.value.status_code == 501


def test_a_bad_search_pattern(sandbox: Sandbox, folder: str) -> None:
    with pytest.raises(DaytonaBadRequestError):
        sandbox.fs.search_files(folder, "[")
