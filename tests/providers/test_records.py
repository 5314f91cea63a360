from __future__ import annotations

import os
from pathlib import Path

import pytest

from throughway.errors import ConfigurationError
from throughway.launchers import SrunLauncher
from throughway.providers import GridEngineProvider, LocalProvider, ProviderRecord, SlurmProvider
from throughway.providers.records import FILE_NAME, read_record, restore, write_record


def test_a_provider_comes_back_with_what_its_commands_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", "/etc/there/slurm.conf")
    provider = SlurmProvider(
        partition="a",
        clusters="one,two",
        nodes_per_block=3,
        launcher=SrunLauncher(),
        cmd_timeout=7,
        walltime="01:00:00",
    )
    path = write_record(provider, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("SLURM_CONF", "/elsewhere")
    record = read_record(tmp_path)
    assert record is not None
    other = restore(record)
    assert isinstance(other, SlurmProvider)
    assert (other.partition, other.clusters, other.nodes_per_block) == ("a", "one,two", 3)
    assert (other.cmd_timeout, other.walltime) == (7.0, 3600.0)
    assert other.command_environment()["SLURM_CONF"] == "/etc/there/slurm.conf"


def test_what_cannot_be_written_down_is_left_out(tmp_path: Path) -> None:
    provider = GridEngineProvider(
        nodes_per_block=2, parallel_environment="mpi", launcher=lambda command, nodes: f"{command}\n"
    )
    write_record(provider, tmp_path)
    record = read_record(tmp_path)
    assert record is not None
    assert isinstance(restore(record), GridEngineProvider)


def test_local() -> None:
    assert isinstance(restore(LocalProvider().record()), LocalProvider)


def test_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", '{"provider": 1}', '{"provider": "a:b", "more": 1}'])
def test_a_record_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    (tmp_path / FILE_NAME).chmod(0o600)
    with pytest.raises(ConfigurationError, match="cannot be read as the record of a provider"):
        read_record(tmp_path)


def test_a_record_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    path = write_record(LocalProvider(), tmp_path)
    path.chmod(0o666)
    with pytest.raises(ConfigurationError, match="others may write to it"):
        read_record(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_record_of_another_user_is_not_used(tmp_path: Path) -> None:
    path = write_record(LocalProvider(), tmp_path)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 12345"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "record",
    [
        ProviderRecord("no_such_module_here:X"),
        ProviderRecord("throughway.providers.slurm:Nothing"),
        ProviderRecord("throughway.providers.slurm:SlurmProvider", {"colour": "red"}),
        ProviderRecord("throughway.providers.slurm:SlurmProvider", {"walltime": "soon"}),
        ProviderRecord("pathlib:Path"),
    ],
)
def test_a_record_of_which_no_provider_can_be_made(record: ProviderRecord) -> None:
    with pytest.raises(ConfigurationError, match="provider"):
        restore(record)
