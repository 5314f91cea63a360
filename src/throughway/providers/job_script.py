"""The script of a job, whatever the scheduler: from ``templates/job.sh``. Pure but for the template and the working
directory.
"""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Sequence

from throughway.launchers import forwarding
from throughway.launchers.interface import Launcher
from throughway.providers.interface import JOB_VARIABLE, JobSpec

_HAND_ON_THE_WARNING = """\
hand_on() {
    # The scheduler itself sends SIGTERM to all processes of the job; a second one would mean: at once.
    [ "$1" != USR1 ] || kill -s USR1 "${starters[@]}" 2>/dev/null
}
"""

_TEMPLATES = os.path.join(os.path.dirname(__file__), "templates")


@functools.cache
def template(name: str) -> str:
    """The text of a file in ``templates``."""
    with open(os.path.join(_TEMPLATES, name), encoding="utf-8") as file:
        return file.read()


def job_script(
    spec: JobSpec,
    *,
    directives: Sequence[str],
    setup: Sequence[str],
    worker_init: str,
    node_init: str,
    launcher: Launcher,
    signals_all: bool,
) -> str:
    """The whole script of ``spec``.

    Args:
        spec: the job.
        directives: the scheduler's lines at its head; empty ones are left out.
        setup: bash text that the scheduler needs before ``worker_init``.
        worker_init: the user's bash text that runs once.
        node_init: the user's bash text that runs on every node, in the shell that becomes the manager.
        launcher: starts the managers.
        signals_all: whether the scheduler itself sends SIGTERM to all processes of the job.
    """
    launched = shlex.join(spec.command)
    on_nodes = ""
    if node_init.strip():
        path = os.path.join(spec.folder, f"{spec.name}.node.sh")
        on_nodes = _node_init(path, node_init, launched)
        launched = f"bash {shlex.quote(path)}"
    exports = [f"export {JOB_VARIABLE}={shlex.quote(spec.name)}"]
    exports += [f"export {key}={shlex.quote(value)}" for key, value in spec.environment.items()]
    worker_init = worker_init.strip()
    return template("job.sh").format(
        directives="\n".join(line for line in directives if line.strip()),
        name=spec.name,
        nodes=spec.nodes,
        exit_file=shlex.quote(spec.exit_file),
        directory=shlex.quote(os.getcwd()),
        environment="\n".join(line for line in (*exports, *setup) if line) + "\n",
        worker_init=f"# worker_init\n{worker_init}\n" if worker_init else "",
        node_init=on_nodes,
        launch=_launched(launcher, launched, spec.nodes, signals_all),
    )


def _launched(launcher: Launcher, line: str, nodes: int, signals_all: bool) -> str:
    text = launcher(line, nodes).strip()
    if "\n" in text.replace(line, ""):
        return text
    # A shell that waits for a command in the foreground would hand nothing on.
    if signals_all:
        return forwarding.keep(forwarding.deaf(text), hand_on=_HAND_ON_THE_WARNING).rstrip()
    return forwarding.keep(forwarding.deaf(text)).rstrip()


def _node_init(path: str, text: str, launched: str) -> str:
    """Bash text that writes the script which runs on every node: a file needs no quoting on its way there."""
    end = "end-of-node-init"
    while end in text or end in launched:
        end += "-"
    quoted = shlex.quote(path)
    return f"# node_init, on every node\ncat >{quoted} <<'{end}' || exit\n{text.strip()}\nexec {launched}\n{end}\n"
