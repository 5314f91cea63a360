"""From nothing to the first result, in a process of its own that has imported as little as can be.

``python -m benchmarks.cold CONTENDER FOLDER OPTIONS`` prints one JSON object, as `benchmarks.contender` does.
The clock starts after this process has: what is timed is importing the library, making it ready, and one
task.
"""

from __future__ import annotations

import os
import sys
import time

from benchmarks.contenders import make
from benchmarks.tasks import echo


def main(name: str, folder: str, options: str) -> int:
    """Time the first result of this contender."""
    descriptor = os.dup(1)
    os.dup2(2, 1)
    settings = {}
    if options != "{}":
        import json

        settings = json.loads(options)
    loaded_before = len(sys.modules)
    contender = make(name, settings, folder)
    failure = value = None
    began = time.perf_counter()
    try:
        contender.load()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    imported = done = time.perf_counter()
    if failure is None:
        contender.start()
        value = contender.call(echo, 20)
        done = time.perf_counter()

    import json

    from benchmarks.contender import answer

    if failure is not None:
        answer(descriptor, {"missing": failure})
        return 1
    if value != 20:
        answer(descriptor, {"error": f"the first task gave {value!r} instead of 20"})
        return 1
    found = {
        "version": contender.version(),
        "modules_loaded_before": loaded_before,
        "seconds": {"import": imported - began, "start_and_first": done - imported, "total": done - began},
    }
    answer(descriptor, found)
    contender.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
