from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.launchers.shells import Managers
from throughway.launchers import SingleNodeLauncher

pytestmark = pytest.mark.timeout(40)


def test_signals_in_quick_succession_do_not_end_the_waiting(tmp_path: Path) -> None:
    managers = Managers(tmp_path, 2, status=3)
    with managers.running(SingleNodeLauncher()(managers.command, 2)):
        managers.expect("ready")
        for _ in range(1000):
            managers.shell.send_signal(signal.SIGUSR1)
        managers.expect("warned")
        managers.shell.send_signal(signal.SIGTERM)
        managers.expect("ending")
        assert managers.let_go() == 3


def test_signals_while_managers_end_lose_no_status(tmp_path: Path) -> None:
    managers = Managers(tmp_path, 2, status=3)
    with managers.running(SingleNodeLauncher()(managers.command, 2)):
        managers.expect("ready")
        managers.shell.send_signal(signal.SIGTERM)
        managers.expect("ending")
        with managers.going():
            while managers.shell.poll() is None:
                managers.shell.send_signal(signal.SIGUSR1)
                managers.shell.send_signal(signal.SIGTERM)
        assert managers.shell.returncode == 3
