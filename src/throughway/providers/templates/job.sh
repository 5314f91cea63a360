#!/bin/bash
{directives}

# Job {name}: {nodes} node(s). The scheduler's directives stand above; what follows is the same for all schedulers.

# The exit code is kept in a file: not every scheduler remembers it.
throughway_exit_file={exit_file}
trap 'throughway_status=$?; echo "$throughway_status" 2>/dev/null >"$throughway_exit_file.new" && mv -f "$throughway_exit_file.new" "$throughway_exit_file"' EXIT
trap 'exit 143' TERM
trap '' USR1

cd {directory} 2>/dev/null || echo "throughway: $(hostname) has no folder "{directory}"; the job starts in $PWD" >&2

{environment}
{worker_init}
{node_init}
# The managers. From here on signals are handed on to them.
{launch}
