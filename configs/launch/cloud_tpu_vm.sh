#!/usr/bin/env bash
# Training on a Cloud TPU slice made of TPU VMs: one process a VM, which JAX finds by itself.
#
# Command   TPU=my-slice ZONE=us-east5-a configs/launch/cloud_tpu_vm.sh CONFIG.yaml RUN \
#               --mesh.fsdp 16
#           CONFIG, RUN, the model and the clips are paths on the VMs, on a disk that all of them
#           mount (Filestore, for instance). The same line again goes on where the run stopped. The
#           mesh must have all chips of the slice.
# Set       TPU, ZONE; PROJECT where it is not gcloud's default; VQATHINKER: the command on the VMs
#           (default vqathinker), once installed there with
#           gcloud compute tpus tpu-vm ssh $TPU --zone $ZONE --worker=all \
#               --command "pip install 'vqathinker_jax[tpu]'"
# Stops     configs/launch/cloud_tpu_vm.sh --stop (the same TPU, ZONE and PROJECT) asks the run to
#           save and end. Where a VM of a spot slice is preempted the others end; make the slice
#           anew and give the same line again.
# Checked   the command that gcloud is given; with ShellCheck.
# Not       on a TPU slice.

set -euo pipefail

: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"

on_workers() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" ${PROJECT:+--project "$PROJECT"} \
        --worker="$1" --command "$2"
}

if [ "${1:-}" = --stop ]; then
    # One is enough: the processes agree on the step after which they stop.
    on_workers 0 "pkill -TERM -o -f '[v]qathinker train'"
    exit
fi
if [ $# -lt 2 ]; then
    echo "usage: TPU=... ZONE=... cloud_tpu_vm.sh CONFIG.yaml RUN [--section.key value ...]" >&2
    exit 2
fi
config=$1 run=$2
shift 2
printf -v arguments ' %q' train "$config" --output-dir "$run" --distributed "$@"
on_workers all "${VQATHINKER:-vqathinker}$arguments"
