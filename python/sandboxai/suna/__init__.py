"""SandboxAI for SUNA: an adapter, a factory that switches backends, a rollout, and what goes with them.

>>> from sandboxai.suna import get_sandbox_client
>>> client = get_sandbox_client("project-1")     # by SANDBOX_BACKEND or the rollout
>>> client.connect()
True
>>> client.write_file("hello.txt", "hi")["success"]
True
"""

from typing import Any, Dict

from .adapter_aio import AsyncSandboxAIClient as AsyncSandboxAIClient
from .adapter_aio import AsyncSandboxAIContext as AsyncSandboxAIContext
from .adapter_aio import create_async_sandbox_client as create_async_sandbox_client
from .browser_support import Browser as Browser
from .browser_support import BrowserError as BrowserError
from .browser_support import BrowserResult as BrowserResult
from .browser_support import run_browser_script as run_browser_script
from .browser_support import setup_browser_in_sandbox as setup_browser_in_sandbox
from .cache import SandboxCache as SandboxCache
from .cache import cache_sandbox as cache_sandbox
from .cache import get_cached_sandbox as get_cached_sandbox
from .cache_aio import AsyncSandboxCache as AsyncSandboxCache
from .file_upload import upload_file_to_sandbox as upload_file_to_sandbox
from .monitoring import monitor_sandbox_operation as monitor_sandbox_operation
from .rollout import DAYTONA, choose_backend
from .rollout import decisions as decisions
from .rollout import set_override as set_override
from .sandboxai_adapter import SandboxAIClient as SandboxAIClient
from .sandboxai_adapter import SandboxAIContext as SandboxAIContext
from .sandboxai_adapter import create_sandbox_client as create_sandbox_client


#: Settings of the SandboxAI side that Daytona's has no place for.
_SANDBOXAI_ONLY = ("base_url", "embedded", "space", "image", "memory_mb", "cpu")


def _for_daytona(settings: Dict[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _SANDBOXAI_ONLY}


def get_sandbox_client(workspace_id: str, **kwargs: Any) -> Any:
    """A client for the workspace on its backend, not yet connected.

    The backend is that of :func:`sandboxai.suna.rollout.choose_backend`.
    """
    if choose_backend(workspace_id) == DAYTONA:
        from .daytona_adapter import DaytonaClient

        return DaytonaClient(workspace_id, **_for_daytona(kwargs))
    return SandboxAIClient(workspace_id, **kwargs)


def get_async_sandbox_client(workspace_id: str, **kwargs: Any) -> Any:
    """As :func:`get_sandbox_client`, asynchronous."""
    if choose_backend(workspace_id) == DAYTONA:
        from .daytona_aio import AsyncDaytonaClient

        return AsyncDaytonaClient(workspace_id, **_for_daytona(kwargs))
    return AsyncSandboxAIClient(workspace_id, **kwargs)
