"""Stands for the commands of PBS Professional, Torque, LSF and HTCondor on the PATH, by the name it is called by.

It really runs the jobs, on this machine, and answers in the words of the scheduler. What it knows is in the folder
``$FAKE_STATE``, where a test can also put files that change what it does:

- ``down``: no command reaches the server; ``hang``: no command ends.
- ``full``: jobs wait; ``held``: they are held.
- ``forget``: jobs that have ended are not known any more.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_STATE"])
SERVER = "pbs01.example.org"


# -------------------------------------------------------------------------------------------------------------- jobs


class Job:
    def __init__(self, number: int) -> None:
        self.number = number
        self.path = STATE / f"{number}.json"
        self.facts: dict[str, Any] = json.loads(self.path.read_text())
        self.codes = self._codes()
        """the exit codes of its processes as waitpid has them, where all had ended when it was looked up"""

    @property
    def name(self) -> str:
        return str(self.facts["name"])

    def _codes(self) -> list[int] | None:
        try:
            return list(json.loads((STATE / f"{self.number}.exit").read_text()))
        except FileNotFoundError:
            return None

    @property
    def deleted(self) -> bool:
        return (STATE / f"{self.number}.deleted").exists()

    @property
    def waiting(self) -> str:
        """``full`` or ``held``, where it has not been started."""
        return str(self.facts["waiting"])

    @property
    def ended(self) -> bool:
        return self.codes is not None or (self.deleted and bool(self.waiting))

    def delete(self, number: int) -> None:
        (STATE / f"{self.number}.deleted").touch()
        if self.waiting:
            return
        for group in self.facts["groups"]:
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                continue


def jobs() -> list[Job]:
    numbers = sorted(int(path.stem) for path in STATE.glob("*.json"))
    found = [Job(number) for number in numbers]
    if (STATE / "forget").exists():
        found = [job for job in found if not job.ended]
    return found


def lookup(job_id: str) -> Job | None:
    number = re.match(r"\d+", job_id)
    return next((job for job in jobs() if number and job.number == int(number[0])), None)


def submit(
    name: str, script: str, outputs: Sequence[tuple[str, str]], environment: dict[str, str], limit: str
) -> int:
    """Run ``script`` once for each of ``outputs``; the number of the job."""
    number = 1
    while True:
        try:
            (STATE / f"{number}.taken").touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    waiting = next((word for word in ("full", "held") if (STATE / word).exists()), "")
    groups: list[int] = []
    if not waiting:
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            supervise(number, script, outputs, environment, writer)
        os.close(writer)
        with open(reader, encoding="ascii") as pipe:
            groups = [int(word) for word in pipe.readline().split()]
    facts = {
        "name": name,
        "script": script,
        "outputs": outputs,
        "waiting": waiting,
        "groups": groups,
        "limit": limit,
    }
    temporary = STATE / f"{number}.new"
    temporary.write_text(json.dumps(facts))
    temporary.rename(STATE / f"{number}.json")
    return number


def supervise(
    number: int, script: str, outputs: Sequence[tuple[str, str]], environment: dict[str, str], writer: int
) -> None:
    """Start the processes, say which, and wait for them."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    processes = []
    for index, (stdout, stderr) in enumerate(outputs):
        with open(stdout, "ab") as out, open(stderr, "ab") as err:
            processes.append(
                subprocess.Popen(
                    ["/bin/bash", script],
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    env={**os.environ, **environment, "FAKE_PROCESS": str(index)},
                )
            )
    os.write(writer, (" ".join(str(process.pid) for process in processes) + "\n").encode())
    os.close(writer)
    codes = [process.wait() for process in processes]
    temporary = STATE / f"{number}.exit.new"
    temporary.write_text(json.dumps(codes))
    temporary.rename(STATE / f"{number}.exit")
    os._exit(0)


def options_of(script: str, directive: str) -> dict[str, str]:
    """The directives of a script, those that are there twice joined by a comma."""
    found: dict[str, str] = {}
    for line in Path(script).read_text().splitlines():
        if line.startswith(f"{directive} "):
            option, _, value = line.removeprefix(f"{directive} ").partition(" ")
            found[option] = f"{found[option]},{value}" if option in found else value
    return found


def say(text: str) -> None:
    print(text, file=sys.stderr)


# --------------------------------------------------------------------------------------------------- PBS and Torque


def qsub(arguments: list[str]) -> int:
    script = arguments[-1]
    options = options_of(script, "#PBS")
    if options.get("-q") == "nosuch":
        say("qsub: Unknown queue")
        return 170
    asked = options["-l"]
    nodes = int((re.search(r"(?:select|nodes)=(\d+)", asked) or ["", "1"])[1])
    nodefile = STATE / f"nodes-{os.getpid()}"
    nodefile.write_text("".join(f"node{index + 1}\n" for index in range(nodes)))
    limit = (re.search(r"walltime=([\d:]+)", asked) or ["", ""])[1]
    number = submit(
        options["-N"], script, [(options["-o"], options["-o"])], {"PBS_NODEFILE": str(nodefile)}, limit
    )
    print(f"{number}.{SERVER}")
    return 0


def pbs_attributes(job: Job, torque: bool) -> dict[str, str]:
    codes = job.codes
    state = "R"
    found = {"Job_Name": job.name, "Job_Owner": f"user@{SERVER}"}
    if job.ended:
        state = "C" if torque else "F"
        if codes is not None:
            code = codes[0] if codes[0] >= 0 else 256 - codes[0]
            found["exit_status" if torque else "Exit_status"] = str(code)
        if not torque:
            found["substate"] = "91" if job.deleted else ("92" if codes == [0] else "93")
    elif job.waiting:
        state = {"full": "Q", "held": "H"}[job.waiting]
        if state == "H":
            found["Hold_Types"] = "u"
        else:
            found["comment"] = "Not Running: Insufficient amount of resource: ncpus"
    if state in "RFC" and not job.waiting:
        found["exec_host"] = "node1/0*4+node2/0*4"
    return {**found, "job_state": state, "Resource_List.walltime": job.facts["limit"]}


def qstat(arguments: list[str], torque: bool) -> int:
    ids = [word for word in arguments if word[0].isdigit()]
    if "-u" in arguments:
        raise SystemExit("not the way it is asked")
    found, unknown = [], []
    for job_id in ids:
        job = lookup(job_id)
        if job is None:
            unknown.append(f"qstat: Unknown Job Id {job_id}")
        elif job.ended and not torque and "-x" not in arguments:
            unknown.append(
                f"qstat: {job_id} Job has finished, use -x or -H to obtain historical job information"
            )
        else:
            found.append(job)
    if torque:
        for job in found:
            print(f"Job Id: {job.number}.{SERVER}")
            for key, value in pbs_attributes(job, True).items():
                print(f"    {key} = {value}")
            print(
                "    Variable_List = PBS_O_QUEUE=batch,PBS_O_HOME=/home/user,\n\tPBS_O_LANG=C,job_state = Q\n"
            )
    elif found:
        # As PBS writes it: a variable's value can make it no JSON at all.
        print(
            f'{{\n    "timestamp":1618432467,\n    "pbs_version":"20.0.1",\n    "pbs_server":"{SERVER}",\n    "Jobs":{{'
        )
        for index, job in enumerate(found):
            attributes = pbs_attributes(job, False)
            limit = attributes.pop("Resource_List.walltime")
            print(f'        "{job.number}.{SERVER}":{{')
            for key, value in attributes.items():
                quoted = value if re.fullmatch(r"-?\d+", value) else json.dumps(value)
                print(f'            "{key}":{quoted},')
            print(f'            "Resource_List":{{\n                "walltime":"{limit}"\n            }},')
            print(
                '            "Variable_List":{\n                "LEVEL":005,\n'
                '                "Q":"\\\'x\\,y"\n            }'
            )
            print("        }" + ("," if index + 1 < len(found) else ""))
        print("    }\n}")
    for line in unknown:
        say(line)
    return 153 if unknown else 0


def qselect(arguments: list[str]) -> int:
    for job in jobs():
        if not job.ended:
            print(f"{job.number}.{SERVER}")
    return 0


def qdel(arguments: list[str], torque: bool) -> int:
    force = arguments[:1] == ["-W"]
    ids = arguments[2:] if force else arguments
    status = 0
    for job_id in ids:
        job = lookup(job_id)
        if job is None:
            say(f"qdel: Unknown Job Id {job_id}")
            status = 153
        elif job.ended:
            say(f"qdel: {'Request invalid for state of job' if torque else 'Job has finished'} {job_id}")
            status = 170 if torque else 35
            if torque:
                say(f"qdel: Unknown Job Id {job_id}")
        else:
            job.delete(signal.SIGKILL if force else signal.SIGTERM)
    return status


# --------------------------------------------------------------------------------------------------------------- LSF


def bsub(arguments: list[str]) -> int:
    script = str(STATE / f"spooled-{os.getpid()}")
    if arguments:
        options = dict(zip(arguments[:-1:2], arguments[1:-1:2], strict=True))
        Path(script).write_text(f"exec {arguments[-1]}\n")
    else:
        Path(script).write_text(sys.stdin.read())
        options = options_of(script, "#BSUB")
    if options.get("-q") == "nosuch":
        say("nosuch: No such queue. Job not submitted.")
        return 255
    nodefile = STATE / f"nodes-{os.getpid()}"
    nodefile.write_text("node1\nnode2\n")
    outputs = [(options["-o"], options["-o"])]
    number = submit(
        options["-J"], script, outputs, {"LSB_DJOB_HOSTFILE": str(nodefile)}, options.get("-W", "")
    )
    print(f"Job <{number}> is submitted to default queue <normal>.")
    return 0


def bjobs(arguments: list[str]) -> int:
    columns = arguments[arguments.index("-o") + 1].split(" delimiter=")[0].split()
    ids = [word for word in arguments if word.isdigit()]
    if "-J" in arguments:
        pattern = arguments[arguments.index("-J") + 1]
        found = [job for job in jobs() if job.name.startswith(pattern.rstrip("*")) and not job.ended]
        if not found:
            say(f"Job <{pattern}> is not found")
            return 255
    else:
        found = []
        for job_id in ids:
            job = lookup(job_id)
            if job is None:
                say(f"Job <{job_id}> is not found")
            else:
                found.append(job)
    for job in found:
        row = dict.fromkeys(columns, "-")
        row |= {"jobid": str(job.number), "job_name": job.name, "stat": "RUN"}
        codes = job.codes
        if job.ended:
            row["stat"] = "DONE" if codes == [0] else "EXIT"
            if codes and codes[0]:
                row["exit_code"] = str(codes[0] if codes[0] > 0 else 128 - codes[0])
            if job.deleted:
                row["stat"] = "EXIT"
                row["exit_reason"] = "TERM_OWNER: job killed by owner"
        elif job.waiting:
            row["stat"] = {"full": "PEND", "held": "PSUSP"}[job.waiting]
            row["pend_reason"] = "Not enough hosts to meet the job's spanning requirement;"
        else:
            row["exec_host"] = "4*node1:4*node2"
        print("^".join(row[column] for column in columns))
    return 0 if found else 255


def bkill(arguments: list[str]) -> int:
    force = arguments[:1] == ["-s"]
    status = 255
    for job_id in arguments[2:] if force else arguments:
        job = lookup(job_id)
        if job is None:
            say(f"Job <{job_id}>: No matching job found")
        elif job.ended:
            say(f"Job <{job_id}>: Job has already finished")
        else:
            job.delete(signal.SIGKILL if force else signal.SIGTERM)
            print(f"Job <{job_id}> is being {'signaled' if force else 'terminated'}")
            status = 0
    return status


# ---------------------------------------------------------------------------------------------------------- HTCondor


def condor_submit(arguments: list[str]) -> int:
    lines = [line.partition(" = ") for line in Path(arguments[-1]).read_text().splitlines()]
    options = {key.strip(): value.strip() for key, _, value in lines}
    wanted = options.get("requirements", "")
    if wanted.count("(") != wanted.count(")"):
        say(f"\nERROR: Parse error in expression: \n\trequirements = {wanted}\n\t")
        return 1
    count = int(next(key for key, _, _ in lines if key.startswith("queue ")).split()[1])
    outputs = [
        tuple(options[name].replace("$(Process)", str(index)) for name in ("output", "error"))
        for index in range(count)
    ]
    number = submit(options["batch_name"], options["executable"], outputs, {}, "")  # type: ignore[arg-type]
    print(f"{number}.0 - {number}.{count - 1}")
    return 0


def condor_ads(job: Job) -> list[dict[str, object]]:
    ads = []
    codes = job.codes
    for index, (out, err) in enumerate(job.facts["outputs"]):
        ad: dict[str, object] = {
            "ClusterId": job.number,
            "ProcId": index,
            "JobStatus": 2,
            "JobBatchName": job.name,
        }
        ad |= {"Out": out, "Err": err, "TotalSubmitProcs": len(job.facts["outputs"])}
        if job.deleted and job.ended:
            ad |= {"JobStatus": 3, "RemoveReason": "via condor_rm (by user user)"}
        elif codes is not None:
            code = codes[index]
            ad |= {"JobStatus": 4, "ExitBySignal": code < 0, "LastRemoteHost": f"slot1@node{index + 1}"}
            ad |= {"ExitSignal": -code} if code < 0 else {"ExitCode": code}
        elif job.waiting:
            ad["JobStatus"] = {"full": 1, "held": 5}[job.waiting]
            if job.waiting == "held":
                ad["HoldReason"] = "via condor_hold (by user user)"
        else:
            ad["RemoteHost"] = f"slot1@node{index + 1}"
        ads.append(ad)
    return ads


def condor_list(arguments: list[str], history: bool) -> int:
    # The job may have the same number as the limit.
    before = ["", *arguments]
    ids = [word for last, word in zip(before, arguments, strict=False) if word.isdigit() and last != "-limit"]
    found = [job for job in jobs() if job.ended == history] if history else jobs()
    if not history:
        found = [job for job in found if not (job.ended and job.deleted)]
    if "-constraint" in arguments:
        pattern = re.search(r'regexp\("(.*)", JobBatchName\)', arguments[arguments.index("-constraint") + 1])
        assert pattern is not None
        found = [job for job in found if re.search(pattern[1], job.name)]
    else:
        found = [job for job in found if str(job.number) in ids]
    ads = [ad for job in found for ad in condor_ads(job)]
    if ads:
        print(json.dumps(ads, indent=2))
    return 0


def condor_rm(arguments: list[str]) -> int:
    force = arguments[:1] == ["-forcex"]
    status = 0
    for job_id in arguments[1:] if force else arguments:
        job = lookup(job_id)
        if job is None or job.ended:
            say(f"Couldn't find/remove all jobs in cluster {job_id}")
            status = 1
        else:
            job.delete(signal.SIGKILL if force else signal.SIGTERM)
            word = "removed locally (remote state unknown)" if force else "marked for removal"
            print(f"All jobs in cluster {job_id} have been {word}")
    return status


def main() -> int:
    name = os.path.basename(sys.argv[0])
    arguments = sys.argv[1:]
    torque = os.environ.get("FAKE_DIALECT") == "torque"
    if (STATE / "hang").exists():
        time.sleep(1000)
    if (STATE / "down").exists():
        if name.startswith("q"):
            say(f"Connection refused\n{name}: cannot connect to server {SERVER} (errno=15010)")
            return 255
        say(
            "ls_connect: Cannot connect to LSF"
            if name[0] == "b"
            else "-- Failed to fetch ads: SECMAN:2007: Failed to connect to <10.0.0.1:9618>"
        )
        return 1
    match name:
        case "qsub" | "bsub" | "bjobs" | "bkill" | "qselect" | "condor_submit" | "condor_rm":
            return int(globals()[name](arguments))
        case "qstat":
            return qstat(arguments, torque)
        case "qdel":
            return qdel(arguments, torque)
        case "condor_q" | "condor_history":
            return condor_list(arguments, name == "condor_history")
    raise SystemExit(f"no command {name}")


if __name__ == "__main__":
    sys.exit(main())
