"""The blocks of an executor: how many there are to be (pure), and the thread that starts and ends them.

What users need to write a strategy or an error handler of their own is here; the rest is in the modules.
"""

from throughway.blocks.error_handlers import (
    noop_error_handler,
    simple_error_handler,
    windowed_error_handler,
)
from throughway.blocks.plan import BlockSight, Strategy, View, Wish
from throughway.blocks.policy import BlockPolicy
from throughway.blocks.state import BlockView
from throughway.blocks.strategies import htex_auto_scale, none, simple

__all__ = [
    "BlockPolicy",
    "BlockSight",
    "BlockView",
    "Strategy",
    "View",
    "Wish",
    "htex_auto_scale",
    "none",
    "noop_error_handler",
    "simple",
    "simple_error_handler",
    "windowed_error_handler",
]
