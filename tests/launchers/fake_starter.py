"""Stands for srun, mpiexec, mpirun, aprun, jsrun and GNU parallel on the PATH, whichever name it is called by.

It starts as many processes as its options say, on this machine, waits for them, and treats signals as the real one
does. It appends its arguments as a line of JSON to the file ``$FAKE_LOG``, and what `--version` says is
``$FAKE_VERSION``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

VALUED = {
    "srun": (),
    "mpiexec": ("-n", "--hostfile", "--bind-to", "--cpu-bind"),
    "mpirun": ("-np", "--hostfile", "--bind-to"),
    "aprun": ("-n", "-N", "-cc", "-d"),
    "jsrun": ("-n", "-r", "-a", "-c", "-g", "--bind"),
    "parallel": ("--jobs", "--sshloginfile"),
}
"""Options whose value is the next argument."""

FORWARDED = {
    "srun": (signal.SIGUSR1, signal.SIGUSR2),
    "mpiexec": (signal.SIGUSR1, signal.SIGTERM),
    "mpirun": (signal.SIGUSR1, signal.SIGTERM),
    "aprun": (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM),
    "jsrun": (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM),
    "parallel": (),
}


def main() -> int:
    name = os.path.basename(sys.argv[0])
    version = os.environ.get("FAKE_VERSION", "HYDRA build details:")
    if sys.argv[1:] == ["--version"]:
        print(version)
        return 0
    options, command = [], sys.argv[1:]
    while command and command[0].startswith("-"):
        taken = 2 if command[0] in VALUED[name] else 1
        options.append(command[:taken])
        command = command[taken:]
    hosts: list[str] = []
    for option in options:
        if option[0] in ("--hostfile", "--sshloginfile"):
            with open(option[1], encoding="utf-8") as file:
                hosts = file.read().splitlines()
    with open(os.environ["FAKE_LOG"], "a", encoding="utf-8") as log:
        log.write(json.dumps({"name": name, "options": options, "hosts": hosts}) + "\n")
    if name == "parallel":
        count = len(hosts)
        command = ["bash", "-c", " ".join(command)]
    else:
        found = re.search(
            r"(?:--ntasks[= ]|-np? )(\d+)", " ".join(word for option in options for word in option)
        )
        count = int(found[1]) if found else 1
    forwarded = FORWARDED[name]
    if "Open MPI" in version:
        forwarded = (signal.SIGUSR1, signal.SIGUSR2)
    every = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, every)
    children = []
    for rank in range(count):
        environment = {**os.environ, "FAKE_RANK": str(rank)}
        children.append(
            subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, every),  # noqa: PLW1509 - no threads
            )
        )
    while any(child.poll() is None for child in children):
        number = signal.sigwait(every)
        if number == signal.SIGCHLD:
            continue
        for child in children:
            if child.poll() is None:
                child.send_signal(number if number in forwarded else signal.SIGKILL)
    return max((abs(child.returncode) for child in children), default=0)


if __name__ == "__main__":
    sys.exit(main())
