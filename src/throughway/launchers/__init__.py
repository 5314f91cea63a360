"""Launchers: from the command that starts one manager to the shell text that starts a block's managers."""

from throughway.launchers.interface import Launcher
from throughway.launchers.single_node import SimpleLauncher, SingleNodeLauncher, WrappedLauncher

__all__ = ["Launcher", "SimpleLauncher", "SingleNodeLauncher", "WrappedLauncher"]
