"""Launchers that stay on the node where the job's script runs."""

from __future__ import annotations

from throughway.errors import ConfigurationError
from throughway.launchers.forwarding import FAIL_ON_ALL, FAIL_ON_ANY, deaf, keep


class SimpleLauncher:
    """The command as it is, once, whatever the number of nodes."""

    def __call__(self, command: str, nodes: int) -> str:
        """``command`` itself."""
        return command

    def __repr__(self) -> str:
        return "SimpleLauncher()"


class SingleNodeLauncher:
    """As many managers as the block has nodes, all on the one node where the script runs.

    With ``fail_on_any`` the job fails where one of the managers failed, without it only where all did.
    """

    def __init__(self, fail_on_any: bool = True) -> None:
        if not isinstance(fail_on_any, bool):
            raise ConfigurationError(f"fail_on_any={fail_on_any!r} is not True or False: give one of them")
        self.fail_on_any = fail_on_any

    def __call__(self, command: str, nodes: int) -> str:
        """``command`` itself for one node; otherwise text that starts it ``nodes`` times and waits."""
        if nodes == 1:
            return command
        return keep(deaf(command), count=nodes, verdict=FAIL_ON_ANY if self.fail_on_any else FAIL_ON_ALL)

    def __repr__(self) -> str:
        return f"SingleNodeLauncher(fail_on_any={self.fail_on_any})"


class WrappedLauncher:
    """The command behind another one, such as ``numactl --interleave=all``."""

    def __init__(self, prepend: str) -> None:
        if not isinstance(prepend, str) or not prepend.strip():
            raise ConfigurationError(
                f"prepend={prepend!r} is not a command: give the text that goes before the manager's "
                "command, or use SimpleLauncher()"
            )
        self.prepend = prepend

    def __call__(self, command: str, nodes: int) -> str:
        """``prepend``, a space and ``command``, once, whatever the number of nodes."""
        return f"{self.prepend} {command}"

    def __repr__(self) -> str:
        return f"WrappedLauncher({self.prepend!r})"
