from __future__ import annotations

import builtins
import errno
import os
import subprocess
from typing import Any

import pytest

from throughway.processes import live_process, process_started


def test_a_process_that_runs() -> None:
    process = live_process(os.getpid())
    assert process is not None
    assert process[:3] == (os.getpid(), os.getpgid(0), os.getsid(0))
    assert process_started(os.getpid()) == process.started > 0


def test_one_that_leads_a_session_and_has_parentheses_in_its_name(tmp_path: Any) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.write_text("#!/bin/sh\necho ready; read line\n")
    program.chmod(0o700)
    child = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        mine = process_started(os.getpid())
        found = live_process(child.pid)
        assert found is not None
        assert mine is not None
        assert found[:3] == (child.pid, child.pid, child.pid)
        assert found.started >= mine


def test_a_zombie_and_one_that_is_gone_do_not_run() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert live_process(child.pid) is None
    child.wait()
    assert live_process(child.pid) is None
    assert process_started(child.pid) is None


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOENT, True),
        (errno.ESRCH, True),
        (errno.EPERM, True),
        (errno.EACCES, True),
        (errno.EMFILE, False),
    ],
)
def test_what_cannot_be_told_is_not_taken_for_an_end(
    number: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(builtins, "open", refuse)
    if told:
        assert live_process(1) is None
    else:
        with pytest.raises(OSError, match="Too many open files"):
            live_process(1)
