#!/usr/bin/env bash
# A real SLURM on this machine (one node): a stage of two tasks is told to save in the middle, queued again, and must end with the
# weights of a stage that nobody disturbed. Also: requeued by hand without a notice, and cancelled (which must not come back).
#
# Needs root and `apt-get install slurmctld slurmd slurm-client munge`. Not in CI.
# Run: bash tests/cluster/slurm_requeue.sh [FOLDER]      (PYTHON=... chooses the interpreter)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
work=$(mkdir -p "${1:-/tmp/bcaudio_slurm}" && cd "${1:-/tmp/bcaudio_slurm}" && pwd)
python=${PYTHON:-$(command -v python)}
export OMP_NUM_THREADS=1 PYTHONPATH=$PWD SLURM_CONF=$work/slurm.conf
say() { echo "$(date +%T) $*"; }
fail() { say "FAILED: $*"; exit 1; }

# --- SLURM -----------------------------------------------------------------------------------------------------------------------
for program in munged slurmctld slurmd sbatch; do
  command -v $program > /dev/null || fail "$program is not installed; apt-get install slurmctld slurmd slurm-client munge"
done
[ "$(id -u)" -eq 0 ] || fail "slurmd has to start the tasks as root"
rm -rf "$work"/{state,spool,runs} && mkdir -p "$work"/{state,spool,munge,runs}
head -c 1024 /dev/urandom > "$work/munge/key" && chmod 400 "$work/munge/key" && chmod 755 "$work/munge"
host=$(hostname -s)
cat > "$SLURM_CONF" << CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CryptoType=crypto/munge
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=20
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
pids=()
stop() {
  scancel --user=root 2> /dev/null || true
  sleep 1
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null || true; done
}
trap stop EXIT
munged --foreground --force --socket="$work/munge/socket" --key-file="$work/munge/key" --pid-file="$work/munge/pid" \
  --log-file="$work/munge/log" --seed-file="$work/munge/seed" > /dev/null 2>&1 & pids+=($!)
sleep 1
slurmctld -D -c > /dev/null 2>&1 & pids+=($!)
slurmd -D -N "$host" > /dev/null 2>&1 & pids+=($!)
for _ in $(seq 60); do [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && break; sleep 0.5; done
sinfo --version
sinfo
[ "$(sinfo --noheader --format=%T)" = idle ] || fail "the node is not idle; see $work/slurmctld.log and $work/slurmd.log"

# --- jobs ------------------------------------------------------------------------------------------------------------------------
recipe=$("$python" tests/cluster/tiny_stage.py "$work/world" "${STEPS:-300}" | tail -n 1)
submit() {  # STAGE -> number of the job: two tasks, one agent with one rank each, as two nodes would have
  local answer
  answer=$("$python" -m bcaudio launch "$recipe" --backend slurm --nodes 1 "out=$work/runs/$1" cluster.processes_per_node=2 \
    cluster.tasks_per_node=2 cluster.cpus_per_process=1 cluster.gpus=false cluster.time=0-1 "cluster.python=$python" \
    'cluster.environment={OMP_NUM_THREADS: "1"}')
  say "$answer" >&2
  grep -o '[0-9]*$' <<< "$answer"
}
state() { scontrol show job "$1" | grep -o 'JobState=[A-Z]*' | cut -d= -f2; }
runs() { scontrol show job "$1" | grep -o 'Restarts=[0-9]*' | cut -d= -f2; }
until_training() {  # STAGE: steps are being made
  for _ in $(seq 1200); do grep -qs '"step": [1-9]' "$work/runs/$1/progress.json" && return; sleep 0.05; done
  fail "$1 makes no steps"
}
until_done() {  # JOB STAGE
  for _ in $(seq 600); do case $(state "$1") in COMPLETED) break ;; FAILED | CANCELLED | TIMEOUT) break ;; esac; sleep 0.5; done
  say "$2: job $1 is $(state "$1") after $(runs "$1") restarts"
  [ "$(state "$1")" = COMPLETED ] || { tail -n 40 "$work/runs/$2.launch"/*.log; fail "$2 did not complete"; }
}
digest() { sha256sum "$work/runs/$1/model.safetensors" | cut -d' ' -f1; }

say "1. undisturbed"
job=$(submit undisturbed)
until_done "$job" undisturbed

say "2. USR1 to the batch script, as SLURM sends it before the time limit"
job=$(submit told)
until_training told
scancel --batch --signal=USR1 "$job"
say "sent at $(tr -d '\n' < "$work/runs/told/progress.json" | cut -c1-40)"
until_done "$job" told
[ "$(runs "$job")" -eq 1 ] || fail "job $job was queued again $(runs "$job") times, not once"
grep -h "restart\|run [0-9]\|resuming\|step ended" "$work"/runs/told.launch/*.log | sort -u -k1,1 -k2

say "3. scontrol requeue by an administrator"
job=$(submit requeued)
until_training requeued
scontrol requeue "$job"
until_done "$job" requeued
grep -h "run [0-9]\|resuming\|step ended" "$work"/runs/requeued.launch/*.log | sort -u -k1,1 -k2

say "4. scancel: the stage saves, the job does not come back"
job=$(submit cancelled)
until_training cancelled
scancel "$job"
for _ in $(seq 80); do scontrol show job "$job" | grep -q "JobState=CANCELLED" && ! squeue --noheader --jobs="$job" | grep -q . && break; sleep 0.5; done
[ "$(state "$job")" = CANCELLED ] || fail "job $job is $(state "$job")"
say "cancelled: job $job is $(state "$job"), restarts $(runs "$job"), left: $(ls "$work/runs/cancelled/checkpoints")"

for stage in undisturbed told requeued; do say "$(digest $stage)  $stage/model.safetensors"; done
[ "$(digest undisturbed)" = "$(digest told)" ] && [ "$(digest undisturbed)" = "$(digest requeued)" ] || fail "the weights differ"
say "PASSED: all weights are equal"
