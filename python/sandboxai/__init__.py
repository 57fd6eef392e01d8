"""Isolated computers for AI agents, on your own machine.

>>> from sandboxai import Sandbox
>>> with Sandbox(embedded=True) as box:
...     print(box.run_ipython_cell("print(6 * 7)").output)
"""

from .aio import AsyncSandbox as AsyncSandbox
from .errors import AuthenticationError as AuthenticationError
from .errors import InvalidRequestError as InvalidRequestError
from .errors import LimitReachedError as LimitReachedError
from .errors import SandboxConflictError as SandboxConflictError
from .errors import SandboxError as SandboxError
from .errors import SandboxExistsError as SandboxExistsError
from .errors import SandboxLostError as SandboxLostError
from .errors import SandboxNotFoundError as SandboxNotFoundError
from .errors import SandboxTimeoutError as SandboxTimeoutError
from .errors import ServerError as ServerError
from .errors import ServerUnavailableError as ServerUnavailableError
from .results import CellError as CellError
from .results import FileInfo as FileInfo
from .results import IPythonCellResult as IPythonCellResult
from .results import RichOutput as RichOutput
from .results import ShellCommandResult as ShellCommandResult
from .aio import DEFAULT_IMAGE as DEFAULT_IMAGE
from .sandbox import Sandbox as Sandbox
