"""Tests of the Python driver by itself, in the place of the agent.

Run by `tests/driver.rs`; also by hand: `PYTHON driver_test.py`, with a PYTHON
that has IPython (numpy, pandas and matplotlib for the last class).
"""
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import time
import unittest

SOURCE = pathlib.Path(__file__).parent.parent / "src" / "cell" / "driver.py"
BOOTSTRAP = (pathlib.Path(__file__).parent.parent / "src" / "cell" / "bootstrap.py").read_text()
SECONDS_MAX = 30

# Keep 3 and 4 occupied: they are what the driver is given.
while os.open(os.devnull, os.O_RDONLY) < 4:
    pass


class Driver:
    """A kernel process with both ends of everything that the agent would hold."""

    def __init__(self, options=(), **env):
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(SECONDS_MAX)
        source = os.memfd_create("driver")
        os.write(source, SOURCE.read_bytes())
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        descriptors = [(theirs.fileno(), 3), (source, 4)]

        def place():
            high = [os.dup2(fd, 100 + target) for fd, target in descriptors]
            for fd, (_, target) in zip(high, descriptors):
                os.dup2(fd, target)

        self.process = subprocess.Popen(
            [sys.executable, *options, "-c", BOOTSTRAP], stdin=subprocess.DEVNULL, stdout=stdout,
            stderr=stderr, preexec_fn=place, pass_fds=(3, 4), start_new_session=True,
            env={**os.environ, **env})
        for fd in (source, stdout, stderr):
            os.close(fd)
        theirs.close()
        self.texts = {self.stdout: b"", self.stderr: b""}
        self.displays = []
        self.first = self.receive()

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.socket.close()
        os.close(self.stdout)
        os.close(self.stderr)

    def send(self, kind, body=b""):
        self.socket.sendall(len(body).to_bytes(4, "little") + kind + body)

    def receive(self):
        """The next message; output is drained meanwhile, and fully before it returns."""
        deadline = time.monotonic() + SECONDS_MAX
        while time.monotonic() < deadline:
            ready = select.select([self.socket, self.stdout, self.stderr], [], [], 1)[0]
            self.drain()
            if self.socket in ready:
                length = int.from_bytes(self.exactly(4), "little")
                message = self.exactly(1), self.exactly(length)
                self.drain()
                return message
        raise TimeoutError("no message from the driver")

    def exactly(self, count):
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise EOFError("the driver has gone")
            data += part
        return data

    def drain(self):
        for fd in (self.stdout, self.stderr):
            while select.select([fd], [], [], 0)[0]:
                part = os.read(fd, 65536)
                if not part:
                    break
                self.texts[fd] += part

    def start(self, code, merge=False, env=None, quiet=False):
        self.texts = {self.stdout: b"", self.stderr: b""}
        self.displays = []
        order = {"code": code, "merge": merge, "env": env or {}, "quiet": quiet}
        self.send(b"r", json.dumps(order).encode())

    def finish(self):
        while True:
            kind, body = self.receive()
            if kind == b"e":
                return json.loads(body)
            assert kind in (b"d", b"v"), kind
            self.displays.append(
                {"result": kind == b"v", "data": json.loads(body[1:]), "after": self.out})
            if body[:1] == b"a":
                self.send(b"a")

    def sync(self):
        self.send(b"s")
        return self.receive()

    def run(self, code, **options):
        self.start(code, **options)
        return self.finish()

    @property
    def out(self):
        return self.texts[self.stdout].decode()

    @property
    def err(self):
        return self.texts[self.stderr].decode()


class DriverCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.driver = Driver()
        cls.addClassCleanup(cls.driver.close)

    def prints(self, code, text, **options):
        ended = self.driver.run(code, **options)
        self.assertEqual(self.driver.out, text, self.driver.err)
        return ended

    def fails(self, code, name, text=None):
        ended = self.driver.run(code)
        self.assertEqual(ended["name"], name, self.driver.out + self.driver.err)
        if text is not None:
            self.assertIn(text, ended["value"])
        return ended

    def interrupt(self):
        os.killpg(self.driver.process.pid, signal.SIGINT)
        self.sent = time.monotonic()

    def wait_for_text(self, text):
        deadline = time.monotonic() + SECONDS_MAX
        while text not in self.driver.out:
            self.assertLess(time.monotonic(), deadline)
            select.select([self.driver.stdout], [], [], 1)
            self.driver.drain()


class Output(DriverCase):
    def test_it_is_ready(self):
        self.assertEqual(self.driver.first, (b"r", b""))

    def test_the_original_servers_cases(self):
        self.prints("print(123)", "123\n")
        self.prints("123", "Out[1]: 123\n")
        self.prints("456", "Out[1]: 456\n")
        self.prints("x = 123", "")
        self.prints("import sys", "")
        self.prints("print('e', file=sys.stderr)", "e\n", merge=True)
        self.prints("! echo -n $MY_TEST_VAR", "v", env={"MY_TEST_VAR": "v"})
        ended = self.driver.run("foo")
        self.assertIn("name 'foo' is not defined", self.driver.out)
        self.assertIn("\x1b[", self.driver.out)
        self.assertEqual((ended["name"], ended["value"]),
                         ("NameError", "name 'foo' is not defined"))
        self.assertTrue(ended["traceback"])

    def test_outputs_are_apart_or_merged_in_order(self):
        code = ("import os, sys, subprocess\n"
                "for n in range(3):\n"
                "    print(n, end='')\n"
                "    print('e%d' % n, end=' ', file=sys.stderr)\n"
                "    subprocess.run(['echo', 's'])\n"
                "    os.write(2, b'w')\n")
        self.prints(code, "0s\n1s\n2s\n")
        self.assertEqual(self.driver.err, "e0 we1 we2 w")
        self.prints(code, "0e0 s\nw1e1 s\nw2e2 s\nw", merge=True)

    def test_output_of_c_code_is_in_order(self):
        self.prints("import ctypes\nlibc = ctypes.CDLL(None)\n"
                    "print('a', end='')\nn = libc.printf(b'b')\nprint('c', end='')", "abc")

    def test_output_comes_while_the_cell_runs(self):
        self.driver.start("import time\nprint('half', end='')\ntime.sleep(60)")
        self.wait_for_text("half")
        self.interrupt()
        self.assertEqual(self.driver.finish()["name"], "KeyboardInterrupt")

    def test_any_text_can_be_printed(self):
        self.prints(r"print('\udcff \u20ac')", "\\udcff \u20ac\n")
        self.prints("print('x' * 3000000)", "x" * 3000000 + "\n")

    def test_a_semicolon_silences_the_last_expression(self):
        self.prints("5;", "")
        self.prints("5; # why", "")
        self.prints("';'", "Out[1]: ';'\n")

    def test_a_quiet_cell_prints_only_what_its_code_prints(self):
        self.prints("print('p'); 5", "p\n", quiet=True)
        self.driver.start("print('q'); 1/0", quiet=True)
        end = self.driver.finish()
        self.assertEqual((end["name"], self.driver.out), ("ZeroDivisionError", "q\n"))
        self.assertIn("division by zero", "".join(end["traceback"]))
        self.prints("4", "Out[1]: 4\n")

    def test_underscore_is_the_last_result(self):
        self.driver.run("41")
        self.prints("_ + 1", "Out[1]: 42\n")

    def test_closed_and_misdirected_outputs_are_repaired(self):
        self.driver.run("import os, sys\nsys.stdout.close()\nos.close(1)\nos.close(2)")
        self.prints("print('back')", "back\n")
        self.driver.run("sys.stderr.close()")
        self.prints("print('err', file=sys.stderr)", "err\n", merge=True)

    def test_a_pipe_left_non_blocking_loses_nothing(self):
        self.prints("import os\nos.set_blocking(1, False)\nprint('x' * 1000000)",
                    "x" * 1000000 + "\n")

    def test_nothing_is_kept_of_what_was_printed(self):
        self.driver.run("for n in range(1000): print(n)\n'kept?'")
        self.prints("len(get_ipython().history_manager.outputs)"
                    " if hasattr(get_ipython().history_manager, 'outputs') else 0", "Out[1]: 0\n")


class Displays(DriverCase):
    def test_a_result_is_sent_with_its_representations(self):
        self.driver.run("class H:\n    def _repr_html_(self): return '<b>h</b>'\n"
                        "    def __repr__(self): return 'H!'\nprint('first')\nH()")
        display, = self.driver.displays
        self.assertTrue(display["result"])
        self.assertEqual(display["data"], {"text/plain": "H!", "text/html": "<b>h</b>"})
        self.assertEqual(self.driver.out, "first\nOut[1]: H!\n")

    def test_display_prints_and_sends_in_order(self):
        self.driver.run("print('a')\ndisplay(1)\nprint('b')\ndisplay('two')\nprint('c')")
        self.assertEqual(self.driver.out, "a\n1\nb\n'two'\nc\n")
        self.assertEqual([(d["result"], d["data"], d["after"]) for d in self.driver.displays],
                         [(False, {"text/plain": "1"}, "a\n1\n"),
                          (False, {"text/plain": "'two'"}, "a\n1\nb\n'two'\n")])

    def test_bytes_and_values_become_json(self):
        self.driver.run(
            "display({'image/png': b'\\x89PNG', 'application/json': {'a': [1, None]},"
            " 'application/x-nan': float('nan'), 'application/x-big': 10 ** 30,"
            " 'text/html': '\\udcff'}, raw=True)")
        self.assertEqual(self.driver.displays[0]["data"], {
            "image/png": "iVBORw==", "application/json": {"a": [1, None]},
            "application/x-nan": "nan", "application/x-big": "1" + "0" * 30, "text/html": "?"})

    def test_too_deep_json_becomes_text(self):
        self.driver.run("d = []\nfor n in range(500): d = [d]\n"
                        "display({'application/json': d}, raw=True)")
        self.assertTrue(self.driver.displays[0]["data"]["application/json"].startswith("[[["))

    def test_a_too_long_representation_is_left_out(self):
        self.driver.run("display({'text/plain': 'short', 'text/html': 'x' * (13 << 20)}, raw=True)")
        self.assertEqual(self.driver.displays[0]["data"], {"text/plain": "short"})

    def test_threads_may_display(self):
        self.driver.run("import threading\nt = threading.Thread(target=lambda: display('t'))\n"
                        "t.start(); t.join()")
        self.assertEqual(self.driver.displays[0]["data"], {"text/plain": "'t'"})


class Shell(DriverCase):
    def test_magics(self):
        self.prints("%%bash\necho from bash", "from bash\n")
        self.driver.run("%timeit -n1 -r1 pass")
        self.assertIn("per loop", self.driver.out)
        self.driver.run("%%time\nx = 1")
        self.assertIn("Wall time", self.driver.out)
        self.driver.run("%pip --version")
        self.assertIn("pip", self.driver.out)
        self.prints("%cd -q /\nimport os; print(os.getcwd())", "/\n")
        self.prints("v = !printf 'a\\nb'\nprint(list(v))", "['a', 'b']\n")

    def test_commands_set_the_exit_code(self):
        self.prints("!exit 3\nprint(_exit_code)", "3\n")
        self.prints("!kill -TERM $$\nprint(_exit_code)", "-15\n")

    def test_environment_is_set_for_the_cell_alone(self):
        self.driver.run("import os; os.environ['OLD'] = 'old'")
        self.prints("!echo $OLD $NEW", "1 2\n", env={"OLD": "1", "NEW": "2"})
        self.prints("print(os.environ['OLD'], 'NEW' in os.environ)", "old False\n")

    def test_await_at_top_level_uses_one_loop(self):
        self.driver.run("import asyncio\nawait asyncio.sleep(0)\nloop = asyncio.get_running_loop()")
        self.prints("await asyncio.sleep(0.01)\nloop is asyncio.get_running_loop()",
                    "Out[1]: True\n")
        self.prints("print(asyncio.run(asyncio.sleep(0, 'run')))", "run\n")
        self.prints("await asyncio.sleep(0, 'again')", "Out[1]: 'again'\n")

    def test_exit_ends_the_cell_and_not_the_kernel(self):
        self.driver.run("state = 7")
        for code in ("exit()", "quit()", "import sys; sys.exit(3)", "raise SystemExit"):
            self.fails(code + "\nprint('not reached')", "SystemExit")
            self.assertNotIn("not reached", self.driver.out)
            self.assertNotIn("To exit", self.driver.err)
        self.prints("state", "Out[1]: 7\n")

    def test_what_needs_a_terminal_fails_clearly(self):
        self.fails("input('name? ')", "EOFError", "no standard input")
        self.fails("import getpass; getpass.getpass()", "EOFError", "no standard input")
        self.fails("breakpoint()", "RuntimeError", "terminal")
        self.fails("import pdb; pdb.set_trace()\nx = 1", "BdbQuit", "terminal")
        self.driver.run("1/0")
        self.driver.run("%debug")
        self.prints("print(1)", "1\n")

    def test_syntax_and_usage_errors(self):
        self.fails("1 +", "SyntaxError")
        self.fails("%no_such_magic", "UsageError")
        self.fails("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E",
                   "cannot be made")

    def test_a_forked_child_ends_with_its_cell(self):
        ended = self.prints("import os\npid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\n"
                            "else:\n    display('child')\nprint('both')",
                            "'child'\nboth\nboth\n")
        self.assertIsNone(ended["name"])
        self.assertEqual(self.driver.displays, [])
        self.prints("print('alive')", "alive\n")

    def test_multiprocessing(self):
        self.prints("import multiprocessing\ndef double(n): return 2 * n\n"
                    "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
                    "    print(pool.map(double, [1, 2]))", "[2, 4]\n")

    def test_children_do_not_get_the_channel(self):
        self.driver.run("import subprocess, sys\nprint(subprocess.run([sys.executable, '-c',"
                        "'import os; print(sorted(os.listdir(\"/proc/self/fd\")))'],"
                        "close_fds=False, capture_output=True, text=True).stdout)")
        self.assertEqual(self.driver.out.strip(), "['0', '1', '2', '3']")

    def test_modules_of_the_working_directory_are_found(self):
        self.prints("import sys; print(sys.argv, sys.path[0] == '', __name__)",
                    "[''] True __main__\n")


class Interrupts(DriverCase):
    def interrupted(self, code):
        self.driver.start("print('go', flush=True)\n" + code)
        self.wait_for_text("go")
        time.sleep(0.1)
        self.interrupt()
        ended = self.driver.finish()
        self.assertLess(time.monotonic() - self.sent, 3)
        self.assertEqual(ended["name"], "KeyboardInterrupt", self.driver.out + self.driver.err)
        self.assertEqual(self.driver.sync(), (b"s", b""))
        self.prints("print('usable')", "usable\n")

    def test_python_code(self):
        self.interrupted("while True: pass")

    def test_sleep(self):
        self.interrupted("import time; time.sleep(60)")

    def test_command(self):
        self.interrupted("!sleep 60\nprint('goes on')\n!sleep 60")

    def test_captured_command(self):
        self.interrupted("x = !sleep 60\n!sleep 60")

    def test_stubborn_command(self):
        self.interrupted("!trap '' INT; while true; do sleep 0.1; done")

    def test_bash_cell(self):
        self.driver.run("%%bash\ntrue")
        self.driver.start("%%bash\necho go\nsleep 60")
        time.sleep(0.5)
        self.interrupt()
        self.driver.finish()
        self.assertLess(time.monotonic() - self.sent, 3)
        self.prints("print('usable')", "usable\n")

    def test_await(self):
        self.interrupted("import asyncio\ntry:\n    await asyncio.sleep(60)\n"
                         "finally:\n    print('cleaned')")

    def test_await_of_a_task(self):
        self.interrupted("import asyncio\nawait asyncio.gather(asyncio.sleep(60))")

    def test_displays(self):
        self.interrupted("while True: display(1)")

    def test_a_handler_set_by_a_cell_lasts_for_it_alone(self):
        self.driver.run("import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)")
        self.interrupted("while True: pass")

    def test_an_interrupt_between_cells_is_dropped(self):
        self.interrupt()
        self.assertEqual(self.driver.sync(), (b"s", b""))
        self.prints("import time; time.sleep(0.1); print('whole')", "whole\n")

    def test_an_interrupt_at_the_start_is_not_lost(self):
        for _ in range(50):
            self.driver.start("import time; time.sleep(60)")
            self.interrupt()
            self.assertEqual(self.driver.finish()["name"], "KeyboardInterrupt")
            self.assertEqual(self.driver.sync(), (b"s", b""))


class Start(unittest.TestCase):
    def test_files_of_the_working_directory_do_not_shadow_the_library(self):
        import tempfile
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "json.py").write_text("raise SystemExit(9)")
            os.chdir(directory)
            try:
                driver = Driver()
            finally:
                os.chdir(before)
        self.addCleanup(driver.close)
        self.assertEqual(driver.first, (b"r", b""))

    def test_it_needs_no_home(self):
        driver = Driver(HOME="/proc/no-home")
        self.addCleanup(driver.close)
        self.assertEqual(driver.first, (b"r", b""))
        driver.run("%cd -q /\nimport os; print(os.getcwd())")
        self.assertEqual(driver.out, "/\n")

    def test_without_ipython_it_says_so(self):
        driver = Driver(["-S"])
        self.addCleanup(driver.close)
        self.assertEqual(driver.first, (b"m", b""))

    def test_there_is_one_thread_and_no_database(self):
        driver = Driver()
        self.addCleanup(driver.close)
        driver.run("import sys, threading; print(threading.active_count(), 'sqlite3' in sys.modules)")
        self.assertIn("1 ", driver.out)

    def test_it_ends_with_the_channel(self):
        driver = Driver()
        self.addCleanup(driver.close)
        driver.socket.shutdown(socket.SHUT_RDWR)
        self.assertEqual(driver.process.wait(SECONDS_MAX), 0)


class Science(DriverCase):
    PNG = "iVBORw0KGgo"

    def test_a_figure_is_shown_at_the_end_of_the_cell(self):
        self.driver.run("import matplotlib.pyplot as plt\nplt.plot([1, 2]);\nprint('drawn')")
        display, = self.driver.displays
        self.assertFalse(display["result"])
        self.assertTrue(display["data"]["image/png"].startswith(self.PNG))
        self.assertRegex(self.driver.out, r"^drawn\n<Figure size \d+x\d+ with 1 Axes>\n$")

    def test_show_shows_at_once_and_once(self):
        self.driver.run("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nprint('after')")
        self.assertEqual(len(self.driver.displays), 1)
        self.assertTrue(self.driver.out.endswith(">\nafter\n"))

    def test_inline_can_be_asked_for(self):
        self.driver.run("%matplotlib inline")
        self.assertEqual((self.driver.out, self.driver.err), ("", ""))
        self.driver.run("import matplotlib.pyplot as plt\np = plt.plot([1])")
        self.assertEqual(len(self.driver.displays), 1)

    def test_frames_have_html(self):
        self.driver.run("import pandas as pd\npd.DataFrame({'a': [1]})")
        data = self.driver.displays[0]["data"]
        self.assertIn("<table", data["text/html"])
        self.assertIn("a", data["text/plain"])
        self.assertTrue(self.driver.out.startswith("Out[1]: \n"))


if __name__ == "__main__":
    unittest.main()
