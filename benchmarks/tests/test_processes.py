"""What /proc says of processes that do something known."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

SPIN = "import time\nwhile time.process_time() < 0.3: pass\n"


def run(text: str) -> str:
    """Run Python text in a process of its own, since adopting orphans changes the whole process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_orphans_are_found_and_ended() -> None:
    output = run(
        """
        import os, subprocess, sys
        from benchmarks.processes import adopt_orphans, descendants, end_descendants
        adopt_orphans()
        # A child that ends at once, and leaves a grandchild in a session of its own.
        leave = "import subprocess, sys; subprocess.Popen(['sleep', '60'], start_new_session=True)"
        subprocess.run([sys.executable, "-c", leave], check=True)
        print([process.command for process in descendants(os.getpid()).values()])
        print(end_descendants(os.getpid()))
        print(len(descendants(os.getpid())))
        """
    )
    assert output.splitlines() == ["[('sleep', '60')]", "['sleep 60']", "0"]


def test_cpu_time_is_counted_by_process_and_role() -> None:
    output = run(
        f"""
        import os, subprocess, sys
        from benchmarks.processes import CpuMeter
        spin = {SPIN!r}
        text = "input()\\n" + spin + "print('spun', flush=True)\\ninput()"
        child = subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                 text=True)
        meter = CpuMeter(os.getpid(), frozenset({{child.pid}}))
        child.stdin.write("go\\n"); child.stdin.flush()
        assert child.stdout.readline() == "spun\\n"
        use = meter.read()
        print(use.by_role["worker"])
        print(use.total - use.by_process[child.pid])
        print(use.vanished)
        child.communicate("end\\n")
        """
    )
    worker, rest, vanished = map(float, output.split())
    assert worker == pytest.approx(0.3, abs=0.1)
    assert rest == 0
    assert vanished == 0


def test_tcp_connections_are_counted() -> None:
    output = run(
        """
        import os, socket
        from benchmarks.processes import tcp_connections
        counts = [tcp_connections(os.getpid())]
        listener = socket.create_server(("127.0.0.1", 0))
        counts.append(tcp_connections(os.getpid()))
        client = socket.create_connection(listener.getsockname())
        counts.append(tcp_connections(os.getpid()))
        print(counts)
        """
    )
    assert output.strip() == "[0, 0, 1]"


def test_memory_grows_by_what_is_kept() -> None:
    output = run(
        """
        import os
        from benchmarks.processes import proportional_memory
        before = proportional_memory(os.getpid())
        kept = b"x" * (64 << 20)
        print(proportional_memory(os.getpid()) - before)
        """
    )
    assert int(output) == pytest.approx(64 << 20, rel=0.1)
