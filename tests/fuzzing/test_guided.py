"""Fuzzing that follows the coverage: `make fuzz SECONDS=...`, or a few seconds where atheris is there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import throughway
from tests.fuzzing.maker import Bytes
from tests.fuzzing.targets import REACTORS, STREAMS, header
from throughway.protocol import codec
from throughway.protocol import messages as m

SECONDS = float(os.environ.get("THROUGHWAY_FUZZ_SECONDS") or 5)
ROOT = Path(__file__).resolve().parents[2]
MEMORY_MEBIBYTES = 1024

CORPUS: dict[str, list[bytes]] = {
    "decode": [
        codec.encode(m.Submit([m.Task(1, 1, b"x", 0, 0, 1.5)], [m.Function(1, "f", b"x")], [1], {"a": 1})),
        codec.encode(m.Results("a", 1, [1], b"\0", [0], {0: 1}, 0.5, 1, True)),
        codec.encode(m.ManagerHello(2, "a", "h", "0", 1, "3.11", "1", 1, 1, 1, 1, 0.0)),
        codec.encode(m.Restore(managers=[m.Expected("a", "h", "0", [1])], lost=["b"])),
        codec.encode(m.Welcome(2, 1.0, 2.0)),
        codec.encode(m.Loss(host="h", reason="r")),
        codec.encode([b"payload"]),
    ],
    "frame": [header(3) + b"abc", header(3, 0, 5) + b"abcdefgh", header(1 << 40), header()],
}
"""Where to begin; the reactors begin at nothing."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("name", [*REACTORS, *STREAMS])
def test_guided(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs the package atheris: pip install 'throughway[fuzz]'")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, data in enumerate(CORPUS.get(name, [])):
        (corpus / str(number)).write_bytes(data)
    options = [
        f"-max_total_time={SECONDS:.0f}",
        f"-rss_limit_mb={MEMORY_MEBIBYTES}",
        "-timeout=10",
        "-max_len=2000",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.guided", name, *options, str(corpus)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS + 100,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(throughway.__file__).parents[1]), str(ROOT)]),
        },
    )
    crashes = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert done.returncode == 0, f"{done.stderr[-8000:]}\n{crashes}"
    print(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("name", STREAMS)
def test_the_corpus_passes(name: str) -> None:
    for data in CORPUS[name]:
        STREAMS[name](data)
        for end in range(len(data)):
            STREAMS[name](data[:end])


@pytest.mark.parametrize("name", REACTORS)
def test_any_bytes_are_decisions(name: str) -> None:
    for data in (b"", bytes(100), b"\xff" * 100, bytes(range(256))):
        REACTORS[name](Bytes(data))
