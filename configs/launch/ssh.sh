#!/usr/bin/env bash
# Training on a few hosts that you can reach by ssh, without a scheduler: one process a host.
#
# Command   HOSTS="node1 node2" configs/launch/ssh.sh CONFIG.yaml RUN --mesh.data 2
#           from a folder that all hosts share under the same path, as RUN, the model and the clips
#           must be. The same line again goes on where the run stopped.
# Set       HOSTS: names or addresses that the others can reach the first one by, too.
#           PORT: free on the first host (default 12355). VQATHINKER: the command on every host,
#           for instance /opt/venv/bin/vqathinker (default vqathinker).
# Stops     Ctrl-C or SIGTERM here asks all processes to save and end; so does SIGTERM to any one of
#           them. Where one fails, or its host is gone, the others end too. Nothing is restarted.
# Checked   with a stand-in for ssh that runs the commands on one machine; with ShellCheck.
# Not       over a network; GPUs.

set -uo pipefail

if [ $# -lt 2 ] || [ -z "${HOSTS:-}" ]; then
    echo "usage: HOSTS=\"node1 node2\" ssh.sh CONFIG.yaml RUN [--section.key value ...]" >&2
    exit 2
fi
config=$1 run=$2
shift 2
read -ra hosts <<<"$HOSTS"
port=${PORT:-12355}
pid_file=/tmp/vqathinker-$port.pid

# shellcheck disable=SC2029,SC2329
stop() {
    # One is enough: the processes agree on the step after which they stop.
    ssh "${hosts[0]}" "kill -TERM \$(cat $pid_file)"
}
trap stop TERM INT

printf -v folder %q "$PWD"
printf -v arguments ' %q' "$config" --output-dir "$run" "$@"
pids=()
for i in "${!hosts[@]}"; do
    command="cd $folder && exec ${VQATHINKER:-vqathinker} train$arguments --distributed"
    command+=" --coordinator ${hosts[0]}:$port --processes ${#hosts[@]} --process $i"
    if [ "$i" = 0 ]; then
        command="echo \$\$ >$pid_file && $command"
    fi
    # In a session of its own, Ctrl-C does not end the connection before the run has saved.
    setsid ssh "${hosts[$i]}" "$command" </dev/null &
    pids+=($!)
done

worst=0
for pid in "${pids[@]}"; do
    wait "$pid"
    code=$?
    # A signal ends the waiting, not the process.
    while [ "$code" -gt 128 ] && kill -0 "$pid" 2>/dev/null; do
        wait "$pid"
        code=$?
    done
    if [ "$code" -gt "$worst" ]; then
        worst=$code
    fi
done
exit "$worst"
