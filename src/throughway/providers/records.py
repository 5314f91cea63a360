"""Providers as plain data: written into a run's folder, so that its jobs can be cancelled when its process is dead."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import cast

import msgspec

from throughway.errors import ConfigurationError
from throughway.providers.interface import Provider, ProviderRecord

FILE_NAME = "provider.json"
"""What the record of a run's provider is called in the run's folder."""

_METHODS = ("submit", "status", "cancel", "jobs_of")


def write_record(provider: Provider, folder: str | os.PathLike[str]) -> Path:
    """Write the provider's record into ``folder``, for its owner alone; the file is there as a whole or not at all.

    Raises `OSError` where it cannot be written.
    """
    path = Path(folder) / FILE_NAME
    temporary = path.with_name(f"{FILE_NAME}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(msgspec.json.encode(provider.record()))
    temporary.replace(path)
    return path


def read_record(folder: str | os.PathLike[str]) -> ProviderRecord | None:
    """The record in a run's folder, None where there is none.

    Raises `ConfigurationError` for one that cannot be read, or is not this user's own: it names code to import and
    commands' folders.
    """
    path = Path(folder) / FILE_NAME
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise ConfigurationError(
                    f"{path} is not used: it belongs to user {status.st_uid}, or others may write to it "
                    f"(mode {status.st_mode & 0o777:o}); only a record of your own run can be"
                )
            return msgspec.json.decode(file.read(), type=ProviderRecord)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as the record of a provider: {error}: cancel the run's jobs by the resource "
            "manager's own command; their names hold the run's id"
        ) from error


def restore(record: ProviderRecord) -> Provider:
    """A provider that watches and cancels the same jobs. Raises `ConfigurationError` where there is none."""
    module_name, _, class_name = record.provider.partition(":")
    try:
        kind = getattr(importlib.import_module(module_name), class_name)
        provider = kind(**record.parameters)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"no provider can be made from its record ({record.provider}, {record.parameters}): {error}: "
            "run with the same version of Throughway and the same modules as the run itself"
        ) from error
    if isinstance(provider, type) or not all(callable(getattr(provider, name, None)) for name in _METHODS):
        raise ConfigurationError(
            f"{record.provider} is no provider: it needs the methods {', '.join(_METHODS)}"
        )
    if record.environment:
        provider.environment = {**record.environment}
    return cast("Provider", provider)
