#!/usr/bin/env bash
# Minimal throw-away Slurm cluster: 1 munged + 1 slurmctld + N slurmd on one host, as root,
# everything (conf, key, sockets, spool, logs, pids) below $SLURM_ROOT.  No systemd, no cgroups.
#   slurm_cluster.sh start | stop | status | env | kill-node N | start-node N
# Debian 12 packages:  apt-get install -y --no-install-recommends slurm-wlm slurm-client munge
set -euo pipefail
R=${SLURM_ROOT:-${TMPDIR:-/tmp}/prefdata-slurm}
NODES=${SLURM_NODES:-4}            # fake nodes
CPUS=${SLURM_CPUS:-16}             # fake CPUs per node
GPUS=${SLURM_GPUS:-8}              # fake GPUs per node
MEM=${SLURM_MEM:-65536}            # fake MB per node
PORT=${SLURM_PORT:-16817}          # ctld; slurmd i listens on PORT+100+i
# NETNS=1: every slurmd gets its own network and PID namespace (10.77.0.11.. on bridge slbr0), hostname,
# /etc/hosts and /dev/shm, so that jobs see different hosts; kill -9 of run/slurmd-fnN.pid = the "node" dies.
NETNS=${NETNS:-0}; NET=10.77.0; CTLD=127.0.0.1; [ "$NETNS" = 1 ] && CTLD=$NET.1
export SLURM_CONF=$R/slurm.conf
HOST=$(hostname -s)

say() { echo "[slurm_cluster] $*"; }
wait_for() { # seconds what cmd...
  local n=$1 what=$2; shift 2
  for _ in $(seq $((n*5))); do "$@" >/dev/null 2>&1 && return 0; sleep 0.2; done
  say "TIMEOUT waiting for $what"; return 1; }

node_addr() { if [ "$NETNS" = 1 ]; then echo "$NET.$((10+$1))"; else echo 127.0.0.1; fi; }

net_up() {
  ip link add slbr0 type bridge; ip addr add $NET.1/24 dev slbr0; ip link set slbr0 up
  { echo "127.0.0.1 localhost"; echo "$NET.1 $HOST"; for i in $(seq "$NODES"); do echo "$(node_addr $i) fn$i"; done; } > "$R/hosts"
  for i in $(seq "$NODES"); do
    ip netns add slfn$i; ip link add slv$i type veth peer name eth0 netns slfn$i; ip link set slv$i master slbr0 up
    ip -n slfn$i addr add "$(node_addr $i)/24" dev eth0; ip -n slfn$i link set eth0 up; ip -n slfn$i link set lo up
    ip -n slfn$i route add default via $NET.1      # nothing is forwarded; only makes "which IP am I" lookups work
  done; }
net_down() {
  for n in $(ip netns list 2>/dev/null | awk '/^slfn/{print $1}'); do ip netns del "$n"; done
  for l in $(ip -o link show master slbr0 2>/dev/null | sed 's/^[0-9]*: \([^@:]*\).*/\1/'); do ip link del "$l" || true; done
  for l in $(ip -o link show | sed -n 's/^[0-9]*: \(slv[0-9]*\)@.*/\1/p'); do ip link del "$l" || true; done
  ip link del slbr0 2>/dev/null || true; }
start_slurmd() { # i
  if [ "$NETNS" = 1 ]; then
    setsid ip netns exec slfn$1 unshare -um -p --fork --kill-child --mount-proc bash -c "hostname fn$1; \
      mount --bind '$R/hosts' /etc/hosts; mount -t tmpfs -o size=2g tmpfs /dev/shm; slurmd -D -N fn$1 & p=\$!; trap 'kill \$p' TERM; while kill -0 \$p 2>/dev/null; do wait; done" \
      </dev/null >"$R/log/slurmd-fn$1.out" 2>&1 &
    echo $! > "$R/run/slurmd-fn$1.pid"       # bash is PID 1 of the "node": it reaps orphans like a real init
  else slurmd -N "fn$1"; fi; }

write_conf() {
  umask 022
  mkdir -p "$R"/{munge,state,spool,log,run,dev}
  for i in $(seq "$NODES"); do mkdir -p "$R/spool/fn$i"; done
  chmod 0755 "$R" "$R"/munge
  [ -s "$R/munge/munge.key" ] || { dd if=/dev/urandom of="$R/munge/munge.key" bs=128 count=1 status=none; chmod 0400 "$R/munge/munge.key"; }
  # GRES device "files" must stat() as char/block devices; symlinks to /dev/null will do (no root/mknod needed).
  for i in $(seq 0 $((GPUS-1))); do ln -sfn /dev/null "$R/dev/nvidia$i"; done
  local acct="AccountingStorageType=accounting_storage/none"
  cat > "$R/slurm.conf" <<C
ClusterName=prefdata
SlurmctldHost=$HOST($CTLD)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire also is the requeue back-off (default 120 s -> requeued jobs sit in BeginTime for 2 min)
AuthInfo=socket=$R/munge/munge.sock,cred_expire=5
StateSaveLocation=$R/state
SlurmdSpoolDir=$R/spool/%n
SlurmctldPidFile=$R/run/slurmctld.pid
SlurmdPidFile=$R/run/slurmd-%n.$([ "$NETNS" = 1 ] && echo ns)pid
SlurmctldLogFile=$R/log/slurmctld.log
SlurmdLogFile=$R/log/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
GresTypes=gpu
ReturnToService=2
# deliver sbatch --signal=... to the job when preemption starts (else the batch script only sees TERM at the END of GraceTime)
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
MaxArraySize=10001
MinJobAge=600
KillWait=5
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=60
TCPTimeout=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobCompType=jobcomp/filetxt
JobCompLoc=$R/log/jobcomp.log
$acct
NodeName=DEFAULT CPUs=$CPUS RealMemory=$MEM Gres=gpu:$GPUS State=UNKNOWN
$(for i in $(seq "$NODES"); do echo "NodeName=fn$i NodeHostname=fn$i NodeAddr=$(node_addr $i) Port=$((PORT+100+i))"; done)
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE State=UP DefMemPerCPU=256
PartitionName=batch Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=preemptible PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
C
  cat > "$R/gres.conf" <<C
AutoDetect=off
NodeName=fn[1-$NODES] Name=gpu File=$R/dev/nvidia[0-$((GPUS-1))]
C
  # nothing below uses cgroups, but slurmd still loads a cgroup plugin. 'disabled' exists only from 23.02;
  # in 22.05 cgroup/v1 loads without touching anything (cgroup/v2 would want systemd/dbus).
  cat > "$R/cgroup.conf" <<C
CgroupPlugin=cgroup/v1
CgroupAutomount=no
C
}

start() {
  # a 2nd munged --force would steal the socket and the 1st one unlinks it when it dies -> refuse
  if [ -s "$R/run/munged.pid" ] && alive "$(cat "$R/run/munged.pid")"; then say "already running, stop first"; exit 1; fi
  trap 'rc=$?; [ $rc = 0 ] || { say "start failed, see $R/log"; stop; }' EXIT
  write_conf
  munged --force --key-file="$R/munge/munge.key" --socket="$R/munge/munge.sock" --pid-file="$R/run/munged.pid" \
         --log-file="$R/log/munged.log" --seed-file="$R/munge/munged.seed" --num-threads=2
  wait_for 10 munge munge -n -S "$R/munge/munge.sock"
  if [ "$NETNS" = 1 ]; then net_down; net_up; fi
  slurmctld -c                      # -c: drop any old state
  wait_for 20 slurmctld scontrol ping
  for i in $(seq "$NODES"); do start_slurmd $i; done
  wait_for 30 "idle nodes" bash -c "[ \$(sinfo -h -N -p batch -t idle -o %N | wc -l) = $NODES ]"
  say "up: $NODES nodes"; sinfo -N -p batch -o '%N %t %c %m %G'
}

alive() { # pid: exists and is not a zombie (PID 1 of a container often reaps late, kill -0 succeeds on zombies)
  [ -r "/proc/$1/stat" ] && [ "$(sed 's/.*) //;s/ .*//' "/proc/$1/stat" 2>/dev/null)" != Z ]; }

stop_pid() { # pidfile
  local f=$1 p; [ -s "$f" ] || return 0; p=$(cat "$f")
  if alive "$p"; then kill "$p" $(pgrep -P "$p" || true) 2>/dev/null || true    # unshare(1) ignores TERM, its child slurmd does not
    for _ in $(seq 100); do alive "$p" || break; sleep 0.1; done
    if alive "$p"; then say "SIGKILL $p ($f)"; kill -9 "$p" 2>/dev/null || true; fi
  fi
  rm -f "$f"; }

stop() {
  # cancel jobs first: slurmstepd processes survive slurmd by design
  if scontrol ping 2>/dev/null | grep -q UP; then scancel -u "$(id -un)" 2>/dev/null || true
    wait_for 15 "jobs to end" bash -c '[ -z "$(squeue -h)" ]' || true; fi
  for f in "$R"/run/slurmd-*.pid; do stop_pid "$f"; done
  stop_pid "$R/run/slurmctld.pid"; stop_pid "$R/run/munged.pid"
  if [ "$NETNS" = 1 ]; then net_down; fi
  say "down"
}

case ${1:-} in
  start) start;;
  stop) stop;;
  status) scontrol ping; sinfo -N; squeue;;
  kill-node) # N: the node dies (NETNS=1: with everything on it); slurmctld is told at once instead of after SlurmdTimeout
    f="$R/run/slurmd-fn$2.pid"; kill -9 "$(cat "$f")"; rm -f "$f"; scontrol update nodename="fn$2" state=down reason=killed;;
  start-node) start_slurmd "$2"; wait_for 20 "fn$2" bash -c "scontrol update nodename=fn$2 state=resume; sinfo -h -n fn$2 -p batch -o %t | grep -qx idle";;
  env) echo "export SLURM_CONF=$SLURM_CONF";;
  *) sed -n 2,7p "$0"; exit 2;;
esac
