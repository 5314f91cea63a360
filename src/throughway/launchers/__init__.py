"""Launchers: from the command that starts one manager to the shell text that starts a block's managers."""

from throughway.launchers.gnu_parallel import GnuParallelLauncher
from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SimpleLauncher, SingleNodeLauncher, WrappedLauncher
from throughway.launchers.starters import (
    AprunLauncher,
    JsrunLauncher,
    MpiExecLauncher,
    MpiRunLauncher,
    SrunLauncher,
    SrunMPILauncher,
)

__all__ = [
    "AprunLauncher",
    "GnuParallelLauncher",
    "JsrunLauncher",
    "Launcher",
    "MpiExecLauncher",
    "MpiRunLauncher",
    "SimpleLauncher",
    "SingleNodeLauncher",
    "SrunLauncher",
    "SrunMPILauncher",
    "WrappedLauncher",
]
