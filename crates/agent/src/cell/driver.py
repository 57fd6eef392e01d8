"""Runs IPython cells for the agent: the program inside each kernel process.

It needs the standard library and IPython (7 to 9), nothing else. The agent
starts it and speaks with it over one socket: four bytes of length (little
endian), one byte of kind, then so many bytes. What cells print never goes that
way: file descriptors 1 and 2 are pipes which the agent reads, so that output of
C code and of subprocesses takes the same path, in the same order, as Python's.

    agent  -> driver   r  run: {"code", "merge", "env", "quiet"}
                       a  the display was passed on
                       s  are all signals seen?
    driver -> agent    r  ready
                       m  IPython is missing
                       f  it cannot start: text
                       d  a display: "a" (wants `a`) or "-", then the MIME bundle
                       v  the value of the last expression, likewise
                       e  the cell ended: {"name", "value", "traceback"}
                       s  yes

A display is acknowledged by the agent when it has passed on all output that
was written before it: that keeps text and displays in their true order.
After a cell to which it sent a signal the agent asks `s` before the next: once
answered, the signal has been seen and cannot hit the wrong cell.

Two phases: `prepare` does all that is slow and the same for every sandbox,
`serve` all that belongs to one. A process may prepare once and be forked for
many kernels: `prepare` opens nothing, starts no thread and makes no event loop.
"""
import base64
import builtins
import contextlib
import fcntl
import gc
import getpass
import importlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import tokenize
import warnings
from collections.abc import Coroutine

# The agent refuses more than 8 MiB.
BUNDLE_BYTES_MAX = (8 << 20) - 1024
ERROR_VALUE_CHARS_MAX = 64 << 10
TRACEBACK_CHARS_MAX = 1 << 20
JSON_DEPTH_MAX = 32
# How long a `!command` may take to end after an interrupt before it is killed.
COMMAND_GRACE_SECONDS = 1.0
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"


class Channel:
    """The socket to the agent."""

    def __init__(self, fd):
        os.set_inheritable(fd, False)
        self.fd = fd
        self.lock = threading.Lock()

    def send(self, kind, body=b""):
        view = memoryview(len(body).to_bytes(4, "little") + kind + body)
        with self.lock:
            while view:
                view = view[os.write(self.fd, view):]

    def receive(self):
        """Kind and bytes of the next message; None when the agent has closed the channel."""
        header = self._read(5)
        if header is None:
            return None
        body = self._read(int.from_bytes(header[:4], "little"))
        return None if body is None else (header[4:], body)

    def _read(self, count):
        parts = []
        while count:
            part = os.read(self.fd, count)
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def abandon(self):
        """In a forked child: only the parent may speak with the agent."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.lock = threading.Lock()


class Interrupts:
    """What SIGINT does: ends the running cell, and never anything else."""

    def __init__(self):
        self.armed = False
        self.pending = False
        self.count = 0

    def __call__(self, _signal, _frame):
        self.count += 1
        if self.armed:
            raise KeyboardInterrupt
        self.pending = True

    @contextlib.contextmanager
    def deferred(self):
        """An exchange with the agent must not be cut in the middle."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        armed, self.armed = self.armed, False
        try:
            yield
        finally:
            self.armed = armed
        if armed:
            self.raise_pending()

    def raise_pending(self):
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt


class OutputFile(io.FileIO):
    """An unbuffered output that writes everything, whatever a subprocess did to the pipe."""

    def write(self, data):
        view = memoryview(data).cast("B")
        total = len(view)
        while view:
            try:
                view = view[os.write(self.fileno(), view):]
            except BlockingIOError:
                # Some programs (Node.js) leave shared pipes non-blocking.
                os.set_blocking(self.fileno(), True)
        return total


def open_output(fd, name):
    raw = OutputFile(fd, "w", closefd=False)
    raw.name = name
    return io.TextIOWrapper(
        raw, encoding="utf-8", errors="backslashreplace", write_through=True
    )


class Outputs:
    """File descriptors 1 and 2 and the Python files on top of them."""

    def __init__(self):
        self.stdout = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 10)
        self.stderr = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 10)
        self.begin(False)
        sys.stdout = sys.__stdout__ = open_output(1, "<stdout>")
        sys.stderr = sys.__stderr__ = open_output(2, "<stderr>")
        unbuffer_c_output()

    def begin(self, merge):
        """Points both descriptors where this cell's output goes, and repairs what cells closed."""
        os.dup2(self.stdout, 1)
        os.dup2(self.stdout if merge else self.stderr, 2)
        if getattr(sys.stdout, "closed", False):
            sys.stdout = sys.__stdout__ = open_output(1, "<stdout>")
        if getattr(sys.stderr, "closed", False):
            sys.stderr = sys.__stderr__ = open_output(2, "<stderr>")

    @staticmethod
    def flush():
        for file in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                file.flush()


def unbuffer_c_output():
    """Lets printf in C code appear when it is called."""
    with contextlib.suppress(Exception):
        import ctypes

        libc = ctypes.CDLL(None)
        unbuffered = 2
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, unbuffered, 0)


def encode(value):
    """JSON that any strict reader takes: UTF-8, no NaN, no lone surrogates."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def is_plain(value, depth=0):
    """Whether other languages can hold this JSON: not too deep, no huge numbers."""
    if isinstance(value, dict):
        return depth < JSON_DEPTH_MAX and all(is_plain(v, depth + 1) for v in value.values())
    if isinstance(value, (list, tuple)):
        return depth < JSON_DEPTH_MAX and all(is_plain(v, depth + 1) for v in value)
    return not isinstance(value, int) or abs(value) < 1 << 63


def encode_representation(value):
    if isinstance(value, (bytes, bytearray)):
        return encode(base64.b64encode(value).decode("ascii"))
    if not isinstance(value, str):
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            if is_plain(value):
                return encode(value)
        value = repr(value)
    return encode(value)


def encode_bundle(data):
    """A MIME bundle; representations that are too long are left out, longest first."""
    parts = {str(mime): encode_representation(value) for mime, value in data.items()}
    while sum(map(len, parts.values())) > BUNDLE_BYTES_MAX:
        longest = max(parts, key=lambda mime: len(parts[mime]))
        note = "<%s of %d bytes is too long to display>" % (longest, len(parts.pop(longest)))
        parts.setdefault("text/plain", encode(note))
    return b"{" + b",".join(encode(mime) + b":" + part for mime, part in parts.items()) + b"}"


def ends_with_semicolon(code):
    """Whether the last token is `;`, which silences the last expression."""
    if ";" not in code:
        return False
    silent = (tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT,
              tokenize.DEDENT)
    last = ""
    try:
        for token in tokenize.generate_tokens(io.StringIO(code).readline):
            if token[0] not in silent:
                last = token[1]
    except (tokenize.TokenError, SyntaxError):
        return code.rstrip().endswith(";")
    return last == ";"


class CellCoroutine(Coroutine):
    """A cell's coroutine, to which an interrupt comes as KeyboardInterrupt.

    An event loop can only cancel: it throws CancelledError where the cell
    waits. Cells, and whoever reads their tracebacks, expect KeyboardInterrupt.
    """

    def __init__(self, inner):
        self.inner = inner
        self.interrupted = False

    def send(self, value):
        return self.inner.send(value)

    def throw(self, kind, value=None, traceback=None):
        error = value if value is not None else kind
        if isinstance(error, type):
            error = error()
        if self.interrupted:
            self.interrupted = False
            error = KeyboardInterrupt()
        return self.inner.throw(error)

    def close(self):
        return self.inner.close()

    def __await__(self):
        return self.inner.__await__()


class CellLoop:
    """The one event loop of top-level `await`, made when first needed."""

    def __init__(self):
        self.loop = None

    def __call__(self, coroutine):
        import asyncio

        if self.loop is None or self.loop.is_closed():
            self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        cell = CellCoroutine(coroutine)
        task = self.loop.create_task(cell)
        try:
            return self.loop.run_until_complete(task)
        except KeyboardInterrupt:
            if task.done():
                raise
            cell.interrupted = True
            task.cancel()
            return self.loop.run_until_complete(task)


def no_input(prompt="", *_arguments, **_options):
    """Stands for `input` and `getpass`: fails at once and says why."""
    raise EOFError(
        "cells have no standard input, so nothing can be typed in; "
        "put the value into the code or into an environment variable"
    )


def no_breakpoint(*_arguments, **_options):
    raise RuntimeError(
        "breakpoint() needs a terminal, which cells do not have; print values instead"
    )


class ShellParts:
    """What differs from a plain InteractiveShell; the base class comes in `prepare`."""

    def start(self, interrupts):
        self.interrupts = interrupts
        self.current_code = ""
        self.printed_traceback = []
        self.is_quiet = False
        self.publish_display = lambda data, is_result: None

    def system(self, cmd):
        """`!command`: on the kernel's own outputs, and ended by an interrupt."""
        line = self.var_expand(cmd, depth=1)
        Outputs.flush()
        program = os.environ.get("SHELL") or "/bin/sh"
        if not os.access(program, os.X_OK):
            program = "/bin/sh"
        with subprocess.Popen(line, shell=True, executable=program) as child:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(COMMAND_GRACE_SECONDS)
                child.kill()
                raise
        # It may have installed a package that the import system looked for before.
        importlib.invalidate_caches()
        self.user_ns["_exit_code"] = code if code <= 128 else 128 - code
        if code and getattr(self, "system_raise_on_error", False):
            raise subprocess.CalledProcessError(code, cmd)

    system_raw = system_piped = system

    def getoutput(self, cmd, split=True, depth=0):
        """`x = !command`: an interrupt ends the cell too, not the command alone."""
        seen = self.interrupts.count
        output = super().getoutput(cmd, split=split, depth=depth + 1)
        if self.interrupts.count != seen:
            raise KeyboardInterrupt
        return output

    def ask_exit(self):
        """`exit()` ends the cell as `sys.exit()` does; the kernel goes on."""
        raise SystemExit

    def enable_gui(self, gui=None):
        if gui not in (None, "inline"):
            raise RuntimeError("there is no screen for %r; use %%matplotlib inline" % gui)

    @contextlib.contextmanager
    def _tee(self, channel):
        # IPython 9 would keep a copy of all output in memory.
        yield

    def _showtraceback(self, etype, evalue, stb):
        self.printed_traceback = [stb] if isinstance(stb, str) else list(stb)
        if not self.is_quiet:
            super()._showtraceback(etype, evalue, stb)


class ResultParts:
    """The display hook: prints as IPython does, and sends the value's representations."""

    @property
    def prompt_count(self):
        return self.shell.execution_count

    def write_output_prompt(self):
        sys.stdout.write("%sOut[%d]: " % (self.shell.separate_out, self.prompt_count))

    def quiet(self):
        return self.shell.is_quiet or ends_with_semicolon(self.shell.current_code)

    def log_output(self, format_dict):
        """Nothing: results would be kept in memory."""

    def write_format_data(self, format_dict, md_dict=None):
        super().write_format_data(format_dict, md_dict)
        self.shell.publish_display(format_dict, True)


class DisplayParts:
    """`display()`: prints the text as IPython does, and sends all representations."""

    def publish(self, data, metadata=None, source=None, **_options):
        if "text/plain" in data:
            print(data["text/plain"])
        self.shell.publish_display(data, False)


def ipython_directory():
    """Where `%store` and `%cd` keep things; the home may be read-only or full."""
    home = os.environ.get("IPYTHONDIR") or os.path.expanduser("~/.ipython")
    failure = None
    for make in (lambda: home, tempfile.mkdtemp, lambda: tempfile.mkdtemp(dir="/dev/shm")):
        try:
            directory = make()
            os.makedirs(os.path.join(directory, "profile_default", "db"), exist_ok=True)
            return directory
        except OSError as error:
            failure = failure or error
    raise failure


def prepare():
    """Imports IPython and makes the shell."""
    builtins.input = no_input
    getpass.getpass = no_input
    warnings.filterwarnings("ignore", message="To exit: use")

    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.history import HistoryManager
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.core.profiledir import ProfileDir
    from traitlets import Type, observe

    # History would mean a database and a thread, and a millisecond per cell.
    HistoryManager.enabled = False

    class Results(ResultParts, DisplayHook):
        pass

    class Displays(DisplayParts, DisplayPublisher):
        pass

    class Profile(ProfileDir):
        @observe("location")
        def _location_changed(self, change):
            """Nothing: it would fill the directory with others that are not used."""

    class Shell(ShellParts, InteractiveShell):
        displayhook_class = Type(Results)
        display_pub_class = Type(Displays)

    directory = ipython_directory()
    profile = Profile(location=os.path.join(directory, "profile_default"))
    shell = Shell.instance(ipython_dir=directory, profile_dir=profile)
    shell.start(Interrupts())
    shell.loop_runner = CellLoop()
    sys.breakpointhook = no_breakpoint
    return shell


class Kernel:
    """Serves cells from the channel until the agent closes it."""

    def __init__(self, shell, channel):
        self.shell = shell
        self.channel = channel
        self.interrupts = shell.interrupts
        self.outputs = Outputs()
        self.pid = os.getpid()
        shell.publish_display = self.publish

    def serve(self):
        signal.signal(signal.SIGINT, self.interrupts)
        os.register_at_fork(after_in_child=self.channel.abandon)
        self.channel.send(b"r")
        while True:
            message = self.channel.receive()
            if message is None:
                return
            kind, body = message
            if kind == b"s":
                self.interrupts.pending = False
                self.channel.send(b"s")
            elif kind == b"r":
                self.channel.send(b"e", encode(self.run(**json.loads(body))))

    def publish(self, data, is_result):
        if self.channel.fd < 0:
            return
        Outputs.flush()
        # Only the thread that runs cells reads from the channel.
        wants_ack = threading.current_thread() is threading.main_thread()
        body = (b"a" if wants_ack else b"-") + encode_bundle(data)
        with self.interrupts.deferred():
            self.channel.send(b"v" if is_result else b"d", body)
            if wants_ack and self.channel.receive() is None:
                os._exit(0)

    def run(self, code, merge, env, quiet):
        """Runs one cell; returns how it ended."""
        self.outputs.begin(merge)
        self.shell.is_quiet = quiet
        if signal.getsignal(signal.SIGINT) is not self.interrupts:
            signal.signal(signal.SIGINT, self.interrupts)
        before = {name: os.environ.get(name) for name in env}
        os.environ.update(env)
        try:
            error = self.run_interruptible(code)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
        Outputs.flush()
        if os.getpid() != self.pid:
            # The cell forked, and this is the child: it ends with the cell.
            os._exit(0 if error is None else 1)
        return self.describe(error)

    def run_interruptible(self, code):
        shell = self.shell
        shell.current_code = code
        shell.printed_traceback = []
        try:
            try:
                self.interrupts.armed = True
                self.interrupts.raise_pending()
                result = shell.run_cell(code, store_history=False)
            finally:
                self.interrupts.armed = False
        except BaseException as error:
            self.interrupts.armed = self.interrupts.pending = False
            return error
        self.interrupts.pending = False
        return result.error_before_exec or result.error_in_exec

    def describe(self, error):
        if error is None:
            return {"name": None, "value": None, "traceback": []}
        name = type(error).__name__
        try:
            value = str(error)
        except Exception:
            value = "<the text of this %s cannot be made>" % name
        if name == "BdbQuit":
            value = "the debugger was left: it needs a terminal, which cells do not have"
            print("BdbQuit: " + value)
            Outputs.flush()
        traceback, room = [], TRACEBACK_CHARS_MAX
        # The last lines say most.
        for part in reversed(self.shell.printed_traceback):
            room -= len(part)
            if room < 0:
                break
            traceback.insert(0, part)
        return {"name": name, "value": value[:ERROR_VALUE_CHARS_MAX], "traceback": traceback}


def serve(shell, fd):
    """Serves one sandbox, in a process of its own, over the socket `fd`."""
    if "MPLBACKEND" not in os.environ and importlib.util.find_spec("matplotlib_inline"):
        os.environ["MPLBACKEND"] = INLINE_BACKEND
    sys.argv = [""]
    # The bootstrap took it away: files there must not be taken for the library's modules.
    sys.path.insert(0, "")
    Kernel(shell, Channel(fd)).serve()


def encode_text(text):
    return text[:ERROR_VALUE_CHARS_MAX].encode("utf-8", "replace")


def main(fd):
    channel = Channel(fd)
    try:
        if sys.version_info < (3, 9):
            raise RuntimeError("Python 3.9 or newer is needed, this is " + sys.version.split()[0])
        # Nothing of what is imported becomes garbage: not looked at now, nor later.
        gc.disable()
        shell = prepare()
        gc.freeze()
        gc.enable()
    except ModuleNotFoundError as error:
        if error.name == "IPython":
            return channel.send(b"m")
        return channel.send(b"f", encode_text("%s; reinstall IPython" % error))
    except Exception as error:
        return channel.send(b"f", encode_text("%s: %s" % (type(error).__name__, error)))
    with contextlib.suppress(OSError):
        serve(shell, fd)
    return None
