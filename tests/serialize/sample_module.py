"""Importable functions for tests, among them some that hide behind a decorator."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

CONSTANT = 5


def plain(x: int) -> int:
    return x + CONSTANT


def traced(function: Callable[..., Any]) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args), "traced"

    return wrapper


def original(x: int) -> int:
    return x * 2


hidden = original
original = traced(original)


class Instance:
    factor = 2

    def __init__(self, value: int) -> None:
        self.value = value

    def method(self, x: int) -> int:
        return self.value * x

    @classmethod
    def make(cls, x: int) -> int:
        return cls.factor * x

    @staticmethod
    def static(x: int) -> int:
        return -x

    def __call__(self, x: int) -> int:
        return self.value + x
