"""The bash text around what starts managers: it hands signals on, waits for all, and tells how they ended.

A shell that waits for a command does not see a signal until the command has ended, so what starts managers runs in
the background. bash's ``wait`` does not mix with signals either: one that comes as a child ends makes it lose the
child's status (it says 255 from then on), and of two in quick succession the second makes the next ``wait`` return
with no trap to tell. So the shell looks five times a second which signals have come and what has ended, sleeping in
``read`` on a pipe that nothing is written to, and calls ``wait`` only when all have ended and signals are ignored.
"""

from __future__ import annotations

import shlex

FAIL_ON_ANY = 'exit "$worst"'
"""The last line of a text whose status is that of a starter that failed, if there is one."""

FAIL_ON_ALL = '[ "$failed" -lt "${#ended[@]}" ] || exit "$worst"\nexit 0'
"""The last lines of a text that only fails where all starters failed."""

_KILL = """\
hand_on() {
    kill -s "$1" "${starters[@]}" 2>/dev/null || :
}
"""

_KEEP = """\
starters=()
warned=
stopping=
{hand_on}\
trap 'warned=1' USR1
trap 'stopping=1' {ends}
exec {{started}}<> <(:) || exit
for ((node = 0; node < {count}; node++)); do
    [ -z "$stopping" ] || break
    (
        echo >&"$started"
        exec {{started}}>&-
        {start}
    ) &
    starters[node]=$!
    # A shell that has just been forked would swallow a signal.
    until read -r -t 0.2 -u "$started" || ! kill -0 "${{starters[node]}}" 2>/dev/null; do :; done
done
ended=()
while :; do
    for node in "${{!starters[@]}}"; do
        kill -0 "${{starters[node]}}" 2>/dev/null && continue
        ended[node]="${{starters[node]}}"
        unset "starters[node]"
    done
    [ "${{#starters[@]}}" -gt 0 ] || break
    if [ -n "$warned" ]; then
        warned=
        hand_on USR1
    fi
    if [ -n "$stopping" ]; then
        stopping=
        hand_on {end}
    fi
    read -r -t 0.2 -u "$started" || :
done
exec {{started}}>&-
trap '' USR1 {ends}
failed=0
worst=0
for node in "${{!ended[@]}}"; do
    status=0
    wait "${{ended[node]}}" || status=$?
    if [ "$status" -ne 0 ]; then
        failed=$((failed + 1))
        worst=$status
    fi
done
{verdict}
"""

_ENVIRONMENT = """\
# What a remote shell does not have by itself: this one's variables and working directory.
environment="cd $(printf %q "$PWD") 2>/dev/null"$'\\n'
for name in $(compgen -e); do
    case "$name" in
        _ | PWD | OLDPWD | SHLVL | HOME | USER | LOGNAME | HOSTNAME | DISPLAY | XDG_* | SSH_*) continue ;;
        PMI_* | PMIX_* | PALS_* | HYDI_* | HYDRA_* | MPI_* | OMPI_* | PRTE_* | SLURM_*) continue ;;
    esac
    environment+="export $name=$(printf %q "${!name}")"$'\\n'
done
if [ "${#environment}" -gt 90000 ]; then
    echo "throughway: the environment is too long (${#environment} bytes) to be handed to other nodes" >&2
    environment=
fi
"""

_FAILURES = """\
# Not every starter tells in its own status that a process failed: the nodes write it down, where they share a folder.
failures="${throughway_exit_file:-$(mktemp -u)}.failures"
environment+="failures=$(printf %q "$failures")"$'\\n'
"""

_REPORT = """\
[ "$worst" -eq 0 ] || echo "$worst" >>"$failures"
exit "$worst"\
"""

READ_REPORT = """\
if [ -s "$failures" ]; then
    [ "$worst" -ne 0 ] || read -r worst <"$failures"
    rm -f "$failures"
fi
exit "$worst"\
"""
"""The last lines of a text that `carry` with ``report`` stands in."""

_AGENT = """\
# Runs on each node, as one word that no quoting can break.
agent={agent}
agent="eval \\"\\$(echo $(printf %s "$environment$agent" | base64 | tr -d '\\n') | base64 -d)\\""
"""


def keep(
    start: str,
    *,
    count: int = 1,
    end: str = "TERM",
    ends: str = "TERM INT",
    verdict: str = FAIL_ON_ANY,
    hand_on: str = _KILL,
) -> str:
    """Text that runs ``start`` ``count`` times side by side, with ``$node`` from 0, and waits for all.

    ``start`` is what a shell runs that becomes its last command, by ``exec``. ``hand_on`` defines the function of
    that name, which sends signal ``$1`` to what was started and has not ended: USR1 for USR1, and ``end`` for each of
    ``ends``. ``verdict`` ends the text.
    """
    return _KEEP.format(start=start, count=count, end=end, ends=ends, verdict=verdict, hand_on=hand_on)


def deaf(command: str) -> str:
    """Text for `keep` that becomes ``command``, which ignores SIGUSR1 and SIGUSR2 until it has handlers for them.

    What is handed on may also reach it directly: Open MPI signals whole process groups.
    """
    return f"trap '' USR1 USR2; exec env {command}"


def carry(command: str, *, environment: bool, report: bool = False, head: str = "", tail: str = "") -> str:
    """Text that sets ``$agent`` to what a shell (``bash -c "$agent"``) on each node is to run.

    That is a shell that starts ``command`` and hands signals on to it, SIGUSR2 as SIGTERM: some commands that run
    others on many nodes kill them when they get SIGTERM, and hand on SIGUSR2. With ``environment`` it is given the
    variables of the shell that runs the text; with ``report`` it writes down that it failed. ``head`` is bash text
    that runs before ``command``, when signals are already handed on; ``tail`` runs as the shell exits.
    """
    agent = keep(head + deaf(command), ends="TERM INT USR2", verdict=_REPORT if report else FAIL_ON_ANY)
    if tail:
        agent = f"trap {shlex.quote(tail)} EXIT\n{agent}"
    text = _ENVIRONMENT if environment else "environment=\n"
    if report:
        text += _FAILURES
    return text + _AGENT.format(agent=shlex.quote(agent))
