"""What tests run in worker processes. Imports little: a zygote imports it anew for every test."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn, cast


def double(value: Any) -> Any:
    return 2 * value


def fail(text: str) -> NoReturn:
    raise LookupError(text)


def zeros(size: int) -> bytes:
    return bytes(size)


def give_unpicklable() -> Any:
    return threading.Lock()


def exit_with(code: Any) -> NoReturn:
    print("about to exit")
    sys.exit(code)


def exit_at_once(status: int) -> NoReturn:
    os._exit(status)


def kill_self(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


def segfault() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


def print_and_die(text: str) -> None:
    print(text)
    os.kill(os.getpid(), signal.SIGKILL)


def say(text: str) -> None:
    print(text)
    print(text.upper(), file=sys.stderr)


def pid() -> int:
    return os.getpid()


def wait_for_file(path: str) -> str:
    """Runs until somebody makes this file."""
    while not os.path.exists(path):
        time.sleep(0.001)
    return path


def make_file_and_wait(path: str, other: str) -> str:
    """Tells by one file that it runs, and runs until there is the other."""
    with open(path, "w"):
        pass
    return wait_for_file(other)


def start_child(seconds: float = 1000.0) -> int:
    """Starts a process and leaves it behind."""
    return subprocess.Popen(["sleep", str(seconds)]).pid


def fork_child_that_exits(how: str) -> int:
    """Forks a child that ends in this way; returns its wait status, or its id where it is not waited for."""
    child = os.fork()
    if child == 0:
        if how == "os._exit":
            os._exit(5)
        if how == "sys.exit":
            sys.exit(5)
        if how == "raise":
            raise LookupError("in the child")
        return -1
    return os.waitpid(child, 0)[1]


def descriptors() -> dict[int, str]:
    """The open descriptors of this process."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return found


def descriptors_of_a_child() -> list[str]:
    """What a child inherits that is started without any care."""
    text = subprocess.run(
        [sys.executable, "-c", "import os; print(*os.listdir('/proc/self/fd'))"],
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return text.split()


def close_all_descriptors() -> str:
    os.closerange(3, 256)
    return "closed"


def change_directory(path: str) -> str:
    os.chdir(path)
    return os.getcwd()


def directory() -> str:
    return os.getcwd()


def path() -> list[str]:
    return sys.path


def environment(name: str) -> str | None:
    return os.environ.get(name)


def leave_thread_running() -> int:
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return threading.active_count()


def set_signal_handlers() -> None:
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: print("handled"))
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def lose_streams(how: str) -> None:
    if how == "None":
        sys.stdout = sys.stderr = None
    elif how == "nonsense":
        sys.stdout = sys.stderr = cast("Any", 5)
    elif how == "closed":
        sys.stdout.close()
        sys.stderr.close()
    elif how == "descriptors":
        os.close(1)
        os.close(2)


def break_excepthook() -> None:
    sys.excepthook = None  # type: ignore[assignment]


def freeze_time() -> None:
    time.perf_counter = lambda: "frozen"  # type: ignore[assignment, return-value]


def read_stdin() -> str:
    return sys.stdin.read()


def random_number() -> float:
    import random

    return random.random()


def set_mark(value: Any) -> None:
    """An initializer: tasks see what it left."""
    MARKS.append(value)
    print(f"the mark is {str(value)[:20]}")


def get_mark() -> Any:
    return MARKS[-1]


MARKS: list[Any] = []


class Counter:
    """Callable, with a state in its worker, and without a truth value."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls

    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")
