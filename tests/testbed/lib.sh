# shellcheck shell=bash
# What the testbed's scripts share. Sourced, never run.
#
# Callers have set `set -euo pipefail`. Nothing here writes to stdout except
# the functions whose purpose is to answer with a value.

# shellcheck disable=SC2034 # for those who source this
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
TESTBED=${FLEETPACK_TESTBED:-${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/fleetpack/testbed}
mkdir -p "$TESTBED"
TESTBED=$(cd -- "$TESTBED" && pwd)
export FLEETPACK_TESTBED=$TESTBED

say() { printf '%s\n' "testbed: $*" >&2; }
die() { printf '%s\n' "testbed: error: $*" >&2; exit 1; }

# start_time PID: the kernel's start time of a process in clock ticks, or
# nothing. A pid alone is not a name: after a crash it may belong to somebody
# else. The pair of pid and start time is never used twice until a reboot.
start_time() {
	local stat
	{ stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 0
	# Field 22, counted after the closing bracket of the process's own name,
	# because that name may contain blanks.
	stat=${stat##*) }
	# shellcheck disable=SC2086 # into its fields
	set -- $stat
	# A zombie is dead for every purpose here.
	[[ $1 == Z ]] || printf '%s\n' "${20}"
}

# record_pid FILE PID: remember a process as `PID START_TIME`.
record_pid() { printf '%s %s\n' "$2" "$(start_time "$2")" >"$1"; }

# recorded_pid FILE: the pid, if that very process still lives; else fails.
recorded_pid() {
	local pid start
	[[ -s $1 ]] || return 1
	read -r pid start <"$1" || return 1
	[[ -n $start && $(start_time "$pid") == "$start" ]] || return 1
	printf '%s\n' "$pid"
}

# stop_recorded FILE [SIGNAL]: stop the recorded process and wait until it is
# gone; SIGKILL after five seconds. Nothing to stop is a success.
stop_recorded() {
	local pid i
	if pid=$(recorded_pid "$1"); then
		kill -s "${2:-TERM}" "$pid" 2>/dev/null || true
		for ((i = 0; i < 200; i++)); do
			recorded_pid "$1" >/dev/null || break
			((i != 100)) || kill -s KILL "$pid" 2>/dev/null || true
			sleep 0.05
		done
		! recorded_pid "$1" >/dev/null || die "process $pid of \`$1\` does not die"
	fi
	rm -f -- "$1"
}

port_is_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: a free port below the kernel's ephemeral range. A claim file keeps
# two scripts that ask at the same moment from being given the same port: the
# servers bind it only a little later. Claims expire after a minute.
free_port() {
	local claims=$TESTBED/ports port
	mkdir -p "$claims"
	find "$claims" -type f -mmin +1 -delete 2>/dev/null || true
	while :; do
		port=$((20000 + RANDOM % 12000))
		(set -o noclobber && : >"$claims/$port") 2>/dev/null || continue
		port_is_free "$port" && break
	done
	printf '%s\n' "$port"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds. Fails when time
# is up, or at once when the file that $hopeless names is there and not empty.
wait_for() {
	local deadline=$((SECONDS + $1)) what=$2
	shift 2
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || { say "gave up waiting for $what"; return 1; }
		[[ ! -s ${hopeless-} ]] || { say "in vain: ended: $(tr '\n' ' ' <"$hopeless")"; return 1; }
		sleep 0.1
	done
}
