"""What the generations of Daytona's SDK do differently, as far as the adapter uses them.

SUNA pins ``daytona-sdk`` 0.21.0 or ``daytona`` 0.115.0; the package was renamed
in between. Sandboxes have names since 0.110 and a Python interpreter that keeps
its state since 0.120. An error class for what is not there came after 0.115.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

logger = logging.getLogger(__name__)

#: The label that finds a workspace's sandbox where sandboxes have no names.
LABEL = "sandboxai-workspace"


def load() -> Any:
    """The module of the SDK that is installed.

    :raises RuntimeError: when none is.
    """
    try:
        import daytona

        return daytona
    except ImportError:
        pass
    try:
        import daytona_sdk

        return daytona_sdk
    except ImportError as error:
        raise RuntimeError("the Daytona backend needs its SDK: pip install daytona") from error


def has_names(sdk: Any) -> bool:
    """Whether sandboxes can be made and found by name."""
    return "name" in sdk.CreateSandboxFromSnapshotParams.model_fields


def is_missing(sdk: Any, error: Exception) -> bool:
    """Whether an error says that a sandbox is not there."""
    kind = getattr(sdk, "DaytonaNotFoundError", None)
    if kind is not None:
        return isinstance(error, kind)
    return isinstance(error, sdk.DaytonaError) and "not found" in str(error).lower()


def has_interpreter(box: Any) -> bool:
    """Whether Python keeps its variables from call to call; says once in the log that it does not."""
    if hasattr(box, "code_interpreter"):
        return True
    _say_stateless()
    return False


@functools.lru_cache(maxsize=None)
def _say_stateless() -> None:
    logger.warning(
        "the installed Daytona SDK has no code interpreter, so Python variables are lost from call to call; "
        "daytona 0.120 or later keeps them"
    )
