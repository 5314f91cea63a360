"""The bash text that finds the hosts of a job, as its scheduler names them."""

from __future__ import annotations

HOSTS = """\
# The hosts of the job, each once, the one of this script first where the scheduler has it so.
hosts=()
if [ -n "${{PBS_NODEFILE:-}}" ]; then
    mapfile -t hosts < <(awk 'NF && !seen[$1]++ {{ print $1 }}' "$PBS_NODEFILE")
elif [ -n "${{LSB_DJOB_HOSTFILE:-}}" ]; then
    mapfile -t hosts < <(awk 'NF && !seen[$1]++ {{ print $1 }}' "$LSB_DJOB_HOSTFILE")
elif [ -n "${{PE_HOSTFILE:-}}" ]; then
    mapfile -t hosts < <(awk 'NF && !seen[$1]++ {{ print $1 }}' "$PE_HOSTFILE")
elif [ -n "${{SLURM_JOB_NODELIST:-}}" ]; then
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
fi
if [ "${{#hosts[@]}}" -gt 0 ] && [ "${{#hosts[@]}}" -ne {nodes} ]; then
    echo "throughway: {nodes} node(s) were asked for, the scheduler names ${{#hosts[@]}}: ${{hosts[*]}}" >&2
fi
"""
"""Text that sets the array ``hosts``, empty where no scheduler says. To be formatted with ``nodes``."""
