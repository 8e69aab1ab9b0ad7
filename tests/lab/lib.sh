# shellcheck shell=bash disable=SC2034 # what the scripts that source this use
# The lab: network segments on one machine, out of network namespaces; which
# ones, says topology.sh.
#
# The director's ports are DPDK net_tap devices. Their kernel ends, rvswire0 and
# rvswire1, are ports of the bridges in rvs-wire: what rvsd sends appears on the
# segments there. rvsd's own taps (the kernel path) stay in rvs-director.
#
# A script sources this file and calls lab_up, which also makes sure that
# everything is gone when the script ends, however it ends; `tests/lab/lab down`
# clears what a script killed by SIGKILL left. docs/lab.md tells the rest.

LAB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$LAB_DIR/../../scripts/lib.sh"
. "$LAB_DIR/topology.sh"
set -E

# What the lab knows about itself: owner, pids, tmp, huge-pages. rvsd's own
# files are in $LAB_STATE/rvsd.
LAB_STATE=/run/rvs-lab
LAB_LOCK=/run/lock/rvs-lab
LAB_NAMES=(client director backup rs1 rs2 router gate wire)

# The kernel ends of the director's ports as the bridges see them, and a digit.
# They must differ from the director's own MACs: a bridge takes frames for the
# address of one of its ports as its own and does not pass them on.
WIRE_MAC=02:50:00:00:04:f

LAB_TMP=''
LAB_OWNED=''
LAB_UP=''

target=${CARGO_TARGET_DIR:-$REPO/target}
for profile in release debug; do
    if [[ -z ${RVSD:-} && -x $target/$profile/rvsd ]]; then
        RVSD=$target/$profile/rvsd
        RVSADM=${RVSADM:-$target/$profile/rvsadm}
    fi
done
export RVSD=${RVSD:-$target/release/rvsd} RVSADM=${RVSADM:-$target/release/rvsadm}

# Chooses the director that all words about one are for: `director`, or `backup`
# in the topology with two.
director_is() { # director|backup
    DIRECTOR_NAME=$1
    # Files of rvsd, the first of its wires, and the file prefix of DPDK.
    case $1 in
    director) DIRECTOR_FILES=rvsd DIRECTOR_WIRE=0 DIRECTOR_PREFIX=rvs-lab ;;
    backup) DIRECTOR_FILES=rvsd-backup DIRECTOR_WIRE=8 DIRECTOR_PREFIX=rvs-lab-backup ;;
    esac
    if [[ -e $LAB_STATE/$1 ]]; then read -r DIRECTOR_PID _ <"$LAB_STATE/$1"; fi
    export RVS_SOCKET=$LAB_STATE/$DIRECTOR_FILES/rvsd.sock
}
director_is director

# --------------------------------------------------------------------- for tests

skip() {
    printf 'skip: %s\n' "$*" >&2
    exit 77
}

assert_equal() { # WHAT GOT WANTED
    [[ $2 == "$3" ]] || fail "$1: got '$2', wanted '$3'"
}

assert_match() { # WHAT TEXT REGEX
    [[ $2 =~ $3 ]] || fail "$1: no match of /$3/ in: $2"
}

assert_no_match() { # WHAT TEXT REGEX
    [[ ! $2 =~ $3 ]] || fail "$1: /$3/ found in: $2"
}

# Runs a command until it succeeds, at most SECONDS long.
wait_for() { # SECONDS WHAT COMMAND...
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        ((SECONDS <= end)) || fail "waited in vain for $what"
        sleep 0.1
    done
}

# ------------------------------------------------------------------ namespaces

in_ns() { # NAME COMMAND...
    ip netns exec "rvs-$1" "${@:2}"
}

ns_exists() { [[ -e /run/netns/rvs-$1 ]]; }

# Starts a command of a namespace in the background; its pid is in SPAWNED.
# Output goes to LOG. SIGINT is set back to its default, as a shell makes
# background commands ignore it.
spawn() { # NAME LOG COMMAND...
    local name=$1 log=$2
    shift 2
    ip netns exec "rvs-$name" env --default-signal=INT,QUIT "$@" >"$log" 2>&1 </dev/null &
    SPAWNED=$!
    remember "$SPAWNED"
}

# The time a process began, in ticks since boot: with the pid it names the
# process for good (proc(5), field 22 of stat). None for one that has ended and
# was not waited for yet.
birth_of() { # PID
    local stat
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    read -ra stat <<<"${stat##*) }"
    if [[ ${stat[0]} == Z ]]; then return 1; fi
    echo "${stat[19]}"
}

remember() { # PID
    local birth
    birth=$(birth_of "$1") || return 0
    echo "$1 $birth" >>"$LAB_STATE/pids"
}

alive() { # PID BIRTH
    [[ $(birth_of "$1") == "$2" ]]
}

# The processes of the lab: those it started and that are still the same, and
# whatever else runs in its namespaces.
lab_pids() {
    local pid birth name
    if [[ -e $LAB_STATE/pids ]]; then
        while read -r pid birth; do
            if alive "$pid" "$birth"; then echo "$pid"; fi
        done <"$LAB_STATE/pids"
    fi
    for name in "${LAB_NAMES[@]}"; do
        if ns_exists "$name"; then ip netns pids "rvs-$name"; fi
    done
}

end_processes() { # SIGNAL
    local pids
    mapfile -t pids < <(lab_pids | sort -u)
    if [[ " ${pids[*]} " == *" $$ "* ]]; then fail "this shell runs inside the lab: leave it first"; fi
    if ((${#pids[@]} > 0)); then kill "-$1" "${pids[@]}" 2>/dev/null || true; fi
}

no_pids() { [[ -z $(lab_pids) ]]; }

# --------------------------------------------------------------- whose lab it is

# Takes the lab for this process, clearing what a dead one left. A lab belongs
# to a process (owner: "pid birth command") or was left up for the operator
# (owner: "kept by command"). Tests started by `run` use the lab as its guests.
# Who has it already begins anew, with another topology.
lab_claim() {
    mkdir -p "$LAB_STATE" "$(dirname "$LAB_LOCK")"
    if [[ -n $LAB_OWNED || -n ${RVS_LAB_OWNER:-} && $RVS_LAB_OWNER == "$(lab_owner)" ]]; then
        lab_sweep
        return
    fi
    (
        flock -w 10 9 || fail "$LAB_LOCK is held by another lab that is starting or stopping"
        local owner
        owner=$(lab_owner)
        case $owner in
        '') ;;
        kept*) fail "the lab is already up ($owner): type 'tests/lab/lab down' first" ;;
        *) fail "the lab is in use by process $owner: only one can run at a time" ;;
        esac
        lab_sweep
        mkdir -p "$LAB_STATE"
        echo "$$ $(birth_of $$) $0" >"$LAB_STATE/owner"
    ) 9>"$LAB_LOCK"
    LAB_OWNED=yes
}

# The owner when it is alive, else nothing.
lab_owner() {
    local owner pid birth
    [[ -e $LAB_STATE/owner ]] || return 0
    owner=$(<"$LAB_STATE/owner")
    read -r pid birth _ <<<"$owner"
    if [[ $pid == kept ]] || alive "$pid" "$birth"; then echo "$owner"; fi
}

# Leaves the lab up after the script has ended.
lab_keep() {
    echo "kept by $0" >"$LAB_STATE/owner"
    LAB_OWNED='' LAB_UP=''
}

# ------------------------------------------------------------------- up and down

lab_up() { # [TOPOLOGY]
    topology_set "${1:-one}"
    lab_claim
    LAB_UP=yes
    trap lab_exit EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    trap 'echo "line ${BASH_LINENO[0]:-?} of ${BASH_SOURCE[1]:-$0}: $BASH_COMMAND" >&2' ERR
    LAB_TMP=$(mktemp -d "${TMPDIR:-/tmp}/rvs-lab.XXXXXX")
    echo "$LAB_TMP" >"$LAB_STATE/tmp"
    mkdir -p "$LAB_STATE/rvsd" "$LAB_STATE/rvsd-backup"

    echo "$TOPOLOGY" >"$LAB_STATE/topology"
    topology_make
    make_files
    start_servers rs1
    start_servers rs2
}

# Uses the lab that `lab up` left, for commands of the operator.
lab_attach() {
    if ! ns_exists wire || [[ ! -e $LAB_STATE/tmp ]]; then fail "the lab is down: type 'tests/lab/lab up' first"; fi
    LAB_TMP=$(<"$LAB_STATE/tmp")
    topology_set "$(<"$LAB_STATE/topology")"
    director_is director
}

lab_exit() { # [STATUS]
    local status=${1:-$?}
    trap - ERR
    trap '' INT TERM HUP
    if [[ -z ${LAB_UP:-} ]]; then return "$status"; fi
    set +e
    if ((status != 0 && status != 77)); then show_state >&2; fi
    if ((status == 1)) && [[ -n ${LAB_ADVICE:-} ]]; then printf '%s\n' "$LAB_ADVICE" >&2; fi
    lab_sweep
    if [[ -n $LAB_OWNED ]]; then rm -rf "$LAB_STATE"; fi
    exit "$status"
}

# What helps to understand a failure.
show_state() {
    local log
    [[ -n ${DIRECTOR_PID:-} && -e $LAB_TMP/$DIRECTOR_FILES.log ]] || return 0
    echo "-- the end of rvsd's log"
    tail -n 25 "$LAB_TMP/$DIRECTOR_FILES.log"
    for log in "$LAB_TMP"/{keepalived,bird}*.log; do
        [[ -e $log ]] || continue
        echo "-- the end of ${log##*/}"
        tail -n 40 "$log"
    done
    if director_runs; then
        echo "-- rvsadm -Ln --stats; rvsadm show workers"
        timeout 5 "$RVSADM" -Ln --stats
        timeout 5 "$RVSADM" show workers
        timeout 5 "$RVSADM" show drops
    fi
}

lab_down() {
    local owner
    owner=$(lab_owner)
    if [[ -n $owner && $owner != kept* ]]; then
        fail "the lab is in use by process $owner: stop that, and it takes its lab down itself"
    fi
    (
        flock -w 10 9 || fail "$LAB_LOCK is held by another lab that is starting or stopping"
        lab_sweep
        rm -rf "$LAB_STATE"
    ) 9>"$LAB_LOCK"
}

# Removes everything that a lab ever makes, whatever of it is there.
lab_sweep() {
    local name mount type
    end_processes TERM
    if ! (wait_for 5 "the lab's processes to end" no_pids) 2>/dev/null; then end_processes KILL; fi
    for name in "${LAB_NAMES[@]}"; do
        if ns_exists "$name"; then
            "$REPO/scripts/real-server" --forget "rvs-$name"
            ip netns del "rvs-$name"
        fi
    done
    if [[ -e $LAB_STATE/tmp ]]; then
        name=$(<"$LAB_STATE/tmp")
        if [[ $name == */rvs-lab.?????? ]]; then rm -rf "$name"; fi
    fi
    while read -r _ mount type _; do
        if [[ $type == hugetlbfs ]]; then rm -f "$mount"/rvs-labmap_* "$mount"/rvs-lab-backupmap_*; fi
    done </proc/mounts
    huge_pages_restore
    rm -rf /var/run/dpdk/rvs-lab{,-backup} "$LAB_STATE"/rvsd{,-backup} "$LAB_STATE/pids" "$LAB_STATE/tmp" \
        "$LAB_STATE/topology" "$LAB_STATE/director" "$LAB_STATE/backup"
}

# ----------------------------------------------------------------- real servers

make_files() {
    python3 -c '
import random, sys
numbers = random.Random(1)
for _ in range(100):
    sys.stdout.buffer.write(numbers.randbytes(1 << 20))
' >"$LAB_TMP/100M"
    head -c 20K "$LAB_TMP/100M" >"$LAB_TMP/20K"
}

start_servers() { # NAME
    local dir=$LAB_TMP/$1
    mkdir "$dir"
    sed "s#@NAME@#$1#g; s#@DIR@#$dir#g; s#@TMP@#$LAB_TMP#g" "$LAB_DIR/nginx.conf" >"$dir/nginx.conf"
    spawn "$1" "$dir/nginx.out" nginx -p "$dir" -e "$dir/error.log" -c "$dir/nginx.conf"
    spawn "$1" "$dir/echo.out" python3 "$LAB_DIR/udp-echo.py" "$1" 5000
    spawn "$1" "$dir/upload.out" socat -b 262144 TCP6-LISTEN:5002,fork,reuseaddr,ipv6only=0 SYSTEM:sha256sum
    spawn "$1" "$dir/iperf3.out" iperf3 --server
    wait_for 10 "nginx, UDP echo, upload and iperf3 of $1 (see $dir)" servers_listen "$1"
}

servers_listen() { # NAME
    local port
    for port in 80 81 5002 5201; do
        [[ -n $(in_ns "$1" ss -Hltn "sport = :$port") ]] || return 1
    done
    [[ -n $(in_ns "$1" ss -Hlun 'sport = :5000') ]]
}

# Lets a server unpack tunnels: decap.py and its device tun0. What it has counted
# is in $LAB_TMP/NAME/decap.json.
start_decap() { # NAME
    spawn "$1" "$LAB_TMP/$1/decap.out" python3 "$LAB_DIR/decap.py" tun0 "$LAB_TMP/$1/decap.json"
    wait_for 10 "tun0 of $1 (see $LAB_TMP/$1/decap.out)" test -e "$LAB_TMP/$1/decap.json"
}

decapsulated() { # NAME KIND
    jq --arg kind "$2" '.[$kind] // 0' "$LAB_TMP/$1/decap.json"
}

# Puts the VIPs on both servers as the LVS guides do.
real_servers() { # start|stop
    local name
    for name in rs1 rs2; do "$REPO/scripts/real-server" --netns "rvs-$name" "$1" "$VIP" "$VIP6"; done
}

# --------------------------------------------------------------------- director

# Writes rvsd's file: that of the topology with lines replaced by key, and files
# of tests/lab, or with an absolute path, appended.
director_config() { # 'KEY = VALUE'|+FILE...
    local change key
    local file=$LAB_TMP/$DIRECTOR_FILES.toml
    cp "$LAB_DIR/$CONFIG" "$file"
    if [[ $DIRECTOR_NAME == backup ]]; then
        set -- "run_dir = \"$LAB_STATE/$DIRECTOR_FILES\"" "file_prefix = \"$DIRECTOR_PREFIX\"" \
            "device = \"net_tap0,iface=rvswire$DIRECTOR_WIRE,mac=$BACKUP_MAC\"" \
            "addresses = [\"$BACKUP/24\", \"$BACKUP6/64\"]" "$@"
    fi
    if (($(nproc) < 2)); then sed -i 's/^cores = .*/cores = [0]/' "$file"; fi
    for change in "$@"; do
        if [[ $change == +* ]]; then
            key=${change#+}
            if [[ $key != /* ]]; then key=$LAB_DIR/$key; fi
            cat "$key" >>"$file"
            continue
        fi
        key=${change%% = *}
        grep -q "^$key = " "$file" || fail "tests/lab/$CONFIG has no key '$key'"
        sed -i "s#^$key = .*#$change#" "$file"
    done
}

# Starts rvsd and connects its ports to their segments.
director_start() { # 'KEY = VALUE'|+FILE...
    [[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"
    director_config "$@"
    local log=$LAB_TMP/$DIRECTOR_FILES.log
    if [[ -e $log ]]; then cat "$log" >>"${log%.log}.old.log" && rm "$log"; fi
    spawn "$DIRECTOR_NAME" "$log" "$RVSD" -c "$LAB_TMP/$DIRECTOR_FILES.toml"
    DIRECTOR_PID=$SPAWNED
    echo "$DIRECTOR_PID $(birth_of "$DIRECTOR_PID")" >"$LAB_STATE/$DIRECTOR_NAME"
    wait_for 30 "rvsd's 'ready' in $log" director_ready
    director_wire
}

director_ready() {
    local log=$LAB_TMP/$DIRECTOR_FILES.log
    grep -qs ready "$log" || { director_runs || fail "rvsd ended: $(tail -n 5 "$log")"; false; }
}

director_runs() {
    local pid birth
    [[ -e $LAB_STATE/$DIRECTOR_NAME ]] || return 1
    read -r pid birth <"$LAB_STATE/$DIRECTOR_NAME"
    alive "$pid" "$birth"
}

director_gone() { ! director_runs; }

# Moves the kernel ends of the director's ports to their segments. Only when the
# ports run: the PMD opens its queues by the name of the interface, in its own
# namespace, until then.
director_wire() {
    local i wire route
    for i in "${!BRIDGES[@]}"; do
        wire=rvswire$((DIRECTOR_WIRE + i))
        wait_for 10 "$wire in rvs-$DIRECTOR_NAME" ip -n "rvs-$DIRECTOR_NAME" link show "$wire" >/dev/null 2>&1
        ip -n "rvs-$DIRECTOR_NAME" link set "$wire" netns rvs-wire
        ip -n rvs-wire link set "$wire" address "$WIRE_MAC$((DIRECTOR_WIRE + i))"
        ip -n rvs-wire link set "$wire" master "${BRIDGES[i]}" up
        wait_for 10 "the port of $DIRECTOR_NAME at ${BRIDGES[i]}" wire_forwards "$wire"
    done
    # shellcheck disable=SC2086 # a route is several words
    for route in "${ROUTES[@]}"; do ip -n "rvs-$DIRECTOR_NAME" route replace $route; done
}

wire_forwards() { # INTERFACE
    [[ $(in_ns wire cat "/sys/class/net/$1/brport/state") == 3 ]]
}

# Stops rvsd; DIRECTOR_STATUS is its exit status. By pid, never by name.
director_stop() { # [SIGNAL]
    director_runs || fail "rvsd does not run any more"
    DIRECTOR_STATUS=0
    kill "-${1:-TERM}" "$DIRECTOR_PID"
    wait_for 15 "rvsd to stop" director_gone
    wait "$DIRECTOR_PID" 2>/dev/null || DIRECTOR_STATUS=$?
    rm -f "$LAB_STATE/$DIRECTOR_NAME"
}

# kill -9, as a crash would.
director_kill() {
    director_runs || fail "rvsd does not run any more"
    kill -KILL "$DIRECTOR_PID"
    wait "$DIRECTOR_PID" 2>/dev/null || true
    rm -f "$LAB_STATE/$DIRECTOR_NAME"
}

rvsadm() { "$RVSADM" "$@"; }

# Shows a command as an operator types it, then runs it.
typed() {
    printf '$ %s\n' "$*"
    "$@"
}

# The HTTP service of the LVS guides on both servers, IPv4 and IPv6.
http_services() {
    rvsadm -A -t "$VIP:80" -s rr
    rvsadm -a -t "$VIP:80" -r "$RS1:80" -g
    rvsadm -a -t "$VIP:80" -r "$RS2:80" -g
    rvsadm -A -t "[$VIP6]:80" -s rr
    rvsadm -a -t "[$VIP6]:80" -r "[$RS1_6]:80" -g
    rvsadm -a -t "[$VIP6]:80" -r "[$RS2_6]:80" -g
}

# --------------------------------------------------------------------- captures

declare -A CAPTURES=()

# Captures a namespace's interface into FILE until capture_stop.
capture_start() { # NAME INTERFACE FILE [FILTER...]
    spawn "$1" "$3.log" tcpdump -Z root --immediate-mode -U -n -i "$2" -w "$3" "${@:4}"
    CAPTURES[$3]=$SPAWNED
    wait_for 10 "tcpdump on $2 of $1" grep -qs 'listening on' "$3.log"
}

capture_stop() { # FILE...
    local file
    sleep 0.3 # what is still on its way
    for file in "$@"; do
        kill -INT "${CAPTURES[$file]}"
        wait "${CAPTURES[$file]}" || true
        unset "CAPTURES[$file]"
    done
}

# The same once one of the captures has a packet that FILTER (as in tshark) takes,
# or after three seconds, for the checks that follow to tell.
capture_stop_with() { # FILTER FILE...
    local filter=$1 file tries
    shift
    for ((tries = 0; tries < 10; tries++)); do
        for file in "$@"; do
            if [[ -n $(tshark -r "$file" -Y "$filter" 2>/dev/null) ]]; then break 2; fi
        done
        sleep 0.3
    done
    capture_stop "$@"
}

# Fields of a capture, one packet a line, separated by spaces: those of the outer
# headers, where there are several.
fields() { # FILE FILTER FIELD...
    fields_of f "$@"
}

# Those of the inner headers: of tunnelled packets, of packets in ICMP errors.
inner_fields() { # FILE FILTER FIELD...
    fields_of l "$@"
}

fields_of() { # f|l FILE FILTER FIELD...
    local which=$1 args=() field
    shift
    for field in "${@:3}"; do args+=(-e "$field"); done
    tshark -r "$1" -Y "$2" -o ip.check_checksum:TRUE -o tcp.check_checksum:TRUE -o udp.check_checksum:TRUE \
        -T fields -E separator=/s -E occurrence="$which" "${args[@]}" 2>/dev/null
}

# ------------------------------------------------------------------- huge pages

# Raises the number of 2 MB pages by COUNT where the machine allows it, and has
# hugetlbfs mounted; lab_sweep puts both back. Fails when there are none.
huge_pages() { # COUNT
    local sysctl=/proc/sys/vm/nr_hugepages old
    [[ -w $sysctl ]] || return 1
    old=$(<"$sysctl")
    echo $((old + $1)) >"$sysctl" 2>/dev/null || return 1
    echo "$old $(<"$sysctl")" >"$LAB_STATE/huge-pages"
    if (($(<"$sysctl") < old + $1)); then
        huge_pages_restore
        return 1
    fi
    if ! grep -q ' hugetlbfs ' /proc/mounts; then
        mkdir -p "$LAB_STATE/huge"
        mount -t hugetlbfs none "$LAB_STATE/huge" || { huge_pages_restore && return 1; }
    fi
}

# The number is put back only if nobody else has changed it since.
huge_pages_restore() {
    local old set
    if grep -q " $LAB_STATE/huge " /proc/mounts; then umount "$LAB_STATE/huge"; fi
    [[ -e $LAB_STATE/huge-pages ]] || return 0
    read -r old set <"$LAB_STATE/huge-pages"
    if [[ $(</proc/sys/vm/nr_hugepages) == "$set" ]]; then echo "$old" >/proc/sys/vm/nr_hugepages; fi
    rm -f "$LAB_STATE/huge-pages"
}

# Why the lab cannot run here; nothing when it can.
lab_obstacle() {
    local tool
    if ((EUID != 0)); then echo "needs root"; return; fi
    if [[ ! -c /dev/net/tun ]]; then echo "needs /dev/net/tun (modprobe tun)"; return; fi
    if ! unshare -n true 2>/dev/null; then echo "needs the right to make network namespaces"; return; fi
    for tool in ip nginx curl python3 tcpdump tshark jq ab socat arping iperf3 tracepath; do
        if ! command -v "$tool" >/dev/null; then echo "needs $tool"; return; fi
    done
}
