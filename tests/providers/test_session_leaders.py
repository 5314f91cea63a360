from __future__ import annotations

import os
import subprocess
from pathlib import Path

from throughway.providers.session_leaders import leader, leaders


def test_the_first_process_of_a_job_is_found_by_its_output(tmp_path: Path) -> None:
    path = tmp_path / "throughway-ab12cd34-7.stdout"
    with path.open("wb") as output:
        job = subprocess.Popen(["sleep", "1000"], stdout=output, start_new_session=True)
        other = subprocess.Popen(["sleep", "1000"], stdout=output)
    try:
        found = leader(job.pid)
        assert found == (job.pid, "throughway-ab12cd34-7", str(tmp_path))
        assert leaders("throughway-ab12cd34-") == [found]
        assert leaders("throughway-ab12cd3-") == []
        assert leader(other.pid) is None, "it leads no session"
        path.unlink()
        assert leader(job.pid) == found
    finally:
        for process in (job, other):
            process.kill()
            process.wait()
    assert leader(job.pid) is None
    assert leader(os.getpid()) is None
