"""The steps of the plan's own test script, as a program.

Run by the tests with our package and, unmodified, with ``sandboxai-client``
0.0.2 from PyPI. Arguments: ``embedded`` or a base URL.
"""

import sys
import time

from sandboxai import Sandbox

HOW = {"embedded": True} if sys.argv[1] == "embedded" else {"base_url": sys.argv[1]}


def test_basic_operations() -> None:
    with Sandbox(**HOW) as box:
        result = box.run_ipython_cell("print('Hello from SandboxAI')")
        assert "Hello from SandboxAI" in result.output

        result = box.run_shell_command("echo 'Shell test'")
        assert "Shell test" in result.output

        box.run_ipython_cell("with open('/tmp/test.txt', 'w') as f: f.write('test content')")
        result = box.run_shell_command("cat /tmp/test.txt")
        assert "test content" in result.output


def test_performance() -> float:
    start = time.time()
    with Sandbox(**HOW) as box:
        result = box.run_ipython_cell("import numpy as np; print(np.array([1,2,3]))")
        # The plan's script does not look at the output; we do.
        assert result.output == "[1 2 3]\n", result.output
    return time.time() - start


if __name__ == "__main__":
    test_basic_operations()
    print(f"Sandbox creation + execution time: {test_performance():.2f}s")
