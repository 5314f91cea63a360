"""The launcher that reaches the nodes by ssh, through GNU parallel."""

from __future__ import annotations

from throughway.errors import ConfigurationError
from throughway.launchers.forwarding import carry, keep
from throughway.launchers.hosts import HOSTS

_PREPARE = """\
[ "${{#hosts[@]}}" -gt 0 ] || hosts=(:)
logins="$(mktemp)" || exit
trap 'rm -f "$logins"' EXIT
printf '%s\\n' "${{hosts[@]}}" >"$logins"
# It runs on each host once, and what it is given is text for a shell there.
everywhere() {{
    exec parallel --nonall --plain --jobs 0 --line-buffer {options}--sshloginfile "$logins" "$1"
}}
"""

_HAND_ON = """\
# parallel hands no signal on: another one sends it to what the first one has started.
hand_on() {
    (exec {started}>&-; everywhere "kill -s $1 \\$(cat $file.* 2>/dev/null) 2>/dev/null") &
}
"""


class GnuParallelLauncher:
    """One manager on each node, by GNU parallel, which must be able to log in to them by ssh without a password.

    The nodes are those that the scheduler names, in the file ``PBS_NODEFILE`` or its like; where it names none, this
    one. With ``debug`` the job's output says what is started, and its lines bear the names of their hosts.
    """

    def __init__(self, debug: bool = True) -> None:
        if not isinstance(debug, bool):
            raise ConfigurationError(f"debug={debug!r} is not True or False: give one of them")
        self.debug = debug

    def __call__(self, command: str, nodes: int) -> str:
        """Text that runs ``command`` on each host of the job."""
        say = 'echo "throughway: parallel starts a manager on each of ${hosts[*]}"\n' if self.debug else ""
        return (
            "file=\"/tmp/throughway-$UID-$(od -An -N8 -tx8 /dev/urandom | tr -d ' ')\"\n"
            + carry(command, environment=True, head='echo "$$" >"$file.$$"\n', tail='rm -f "$file.$$"')
            + HOSTS.format(nodes=nodes)
            + _PREPARE.format(options="--tag " if self.debug else "")
            + say
            + keep("everywhere \"file=$file bash -c '$agent'\"", hand_on=_HAND_ON)
        )

    def __repr__(self) -> str:
        return f"GnuParallelLauncher(debug={self.debug})"
