#!/bin/bash
# Operators at work while the director forwards: calls and listings, crowds at the
# control socket, services that come and go by the thousand, a reload of 10,000.
# Times are printed and not judged; answers, requests, memory are.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
SERVICES=10000 CALLS=1000 LISTINGS=20 CYCLES=300 BATCHES=6

lab_up
real_servers start

# VIP:80, and services without traffic from 10.200.0.1 on, the first OTHERS with
# another weight.
services_file() { # OTHERS WEIGHT
    cat <<TOML

[[service]]
protocol = "tcp"
address = "$VIP:80"
scheduler = "rr"
server = [{ address = "$RS1" }, { address = "$RS2" }]
TOML
    python3 - "$CLIENT" "$SERVICES" "$1" "$2" <<'PY'
import sys
services, others, weight = map(int, sys.argv[2:])
for n in range(services):
    w = weight if n < others else 1
    print(f'[[service]]\nprotocol = "tcp"\naddress = "10.{200 + n // 62500}.{n // 250 % 250}.{n % 250 + 1}:80"\n'
          f'server = [{{ address = "{sys.argv[1]}", weight = {w} }}]')
PY
}

ms() { echo "$(((${EPOCHREALTIME/./} - $1) / 1000))"; }
now() { echo "${EPOCHREALTIME/./}"; }
# Half, 99 in a hundred, and all of the times in a file were not longer.
percentiles() { # WHAT FILE
    sort -n "$2" | awk -v what="$1" '{ t[NR] = $1 } END {
        printf "%s: %d, p50 %s ms, p99 %s ms, longest %s ms\n", what, NR, t[int((NR + 1) / 2)], t[int((NR * 99 + 99) / 100)], t[NR] }'
}
load_start() { # URL
    spawn client "$LAB_TMP/ab.log" ab -q -s 10 -n 10000000 -c 10 "$1"
    LOAD=$SPAWNED
    wait_for 5 "connections" sh -c "'$RVSADM' -Ln --stats | awk '\$2 == \"$RS1:80\" && \$3 > 0 { f = 1 } END { exit !f }'"
}
load_stop() {
    [[ -e /proc/$LOAD ]] || fail "the load ended too early: $(cat "$LAB_TMP/ab.log")"
    kill -INT "$LOAD" # ab shows its results then
    wait "$LOAD" || true
    check_ab "$(cat "$LAB_TMP/ab.log")"
    grep -E 'Complete requests|Requests per second' "$LAB_TMP/ab.log"
}
# On a machine with too much else to do a worker may get no CPU time for two
# seconds: the change is answered by saying so, and comes into force after that.
STARVED=0
starved() {
    grep -q 'a worker does not answer; the request comes into force when it does' "$LAB_TMP/said" || fail "$(<"$LAB_TMP/said")"
    STARVED=$((STARVED + 1))
}
rss_kb() { awk '$1 == "VmRSS:" { print $2 }' "/proc/$DIRECTOR_PID/status"; }

services_file 0 1 >"$LAB_TMP/services.toml"
director_start "+$LAB_TMP/services.toml"
at_rest=$(mbufs_at_rest)
assert_equal "services" "$(rvsadm -Sn | grep -c -e ^-A)" $((SERVICES + 1))
LISTING=(rvsadm show connections --json)
if ! "${LISTING[@]}" >/dev/null 2>&1; then LISTING=(rvsadm -Lnc); fi
rvsadm --set 0 60 0 # so that there is something to list

say "$CALLS calls and $LISTINGS listings of all connections under load"
load_start "http://$VIP/"
: >"$LAB_TMP/calls"
: >"$LAB_TMP/listings"
server=10.200.0.1:80
for ((n = 1; n <= CALLS; n++)); do
    case $((n % 4)) in
    0) call=(-Ln -t "$VIP:80" --stats) ;;
    1) call=(-e -t "$server" -r "$CLIENT:80" -g -w $((n % 9 + 1))) ;;
    2) call=(-L --timeout) ;;
    3) call=(show workers --json) ;;
    esac
    began=$(now)
    rvsadm "${call[@]}" >"$LAB_TMP/out" 2>"$LAB_TMP/said" || starved
    ms "$began" >>"$LAB_TMP/calls"
    if ((n % (CALLS / LISTINGS) == 0)); then
        began=$(now)
        "${LISTING[@]}" >"$LAB_TMP/connections"
        ms "$began" >>"$LAB_TMP/listings"
    fi
done
assert_equal "the weight" "$(rvsadm -Sn | awk -v s="$server" '$3 == s && $1 == "-a" { print $NF }')" $(((CALLS - 3) % 9 + 1))
rows=$(grep -oE '"client":|^TCP ' "$LAB_TMP/connections" | wc -l)
((rows > 100)) || fail "$rows connections in the last listing"
percentiles "rvsadm, with the start of the process" "$LAB_TMP/calls"
if ((STARVED > 0)); then echo "$STARVED changes while the worker had no CPU time"; fi
percentiles "${LISTING[*]:1}, $rows rows, with the transfer" "$LAB_TMP/listings"
load_stop

say "1,000 clients that say nothing, 10 that never read, and rubbish: rvsadm is answered"
cat >"$LAB_TMP/crowd.py" <<'PY'
import os, socket, struct, sys, time
def connect():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.connect(sys.argv[1])
    return s
def frame(text): return struct.pack('>I', len(text)) + text
crowd = [connect() for _ in range(1000)]
listing = frame(b'{"op":"list_services","service":null,"cursor":null}')
for deaf in crowd[:10]:
    deaf.setblocking(False)
    try:
        deaf.send(frame(b'{"op":"hello","version":%s}' % sys.argv[2].encode()) + listing * 50)
    except BlockingIOError:
        pass
rubbish = 0
for _ in range(200):
    s = connect()
    s.settimeout(10)
    try:
        s.send(os.urandom(2000))
        s.recv(10000)
    except OSError:
        pass
    rubbish += 1
print('there', len(crowd), rubbish, flush=True)
time.sleep(60)
PY
version=$(sed -n 's/^pub const VERSION: u32 = \([0-9]*\);/\1/p' "$REPO/control/api/src/api.rs")
spawn director "$LAB_TMP/crowd.log" python3 "$LAB_TMP/crowd.py" "$RVS_SOCKET" "$version"
CROWD=$SPAWNED
wait_for 20 "the crowd" grep -qs 'there 1000 200' "$LAB_TMP/crowd.log"
for ((n = 0; n < 20; n++)); do rvsadm -Ln -t "$VIP:80" >/dev/null; done
rvsadm -e -t "$server" -r "$CLIENT:80" -g -w 77
kill "$CROWD"
wait "$CROWD" 2>/dev/null || true

say "$((BATCHES * CYCLES)) times a service with servers comes and goes, neighbours too; nothing grows"
for ((n = 0; n < CYCLES; n++)); do
    vip=10.100.$((n / 250)).$((n % 250 + 1)):80
    echo "-A -t $vip -s wlc"
    # Servers that answer: others would be waited for.
    for host in "$RS1" "$RS2" "$CLIENT"; do echo "-a -t $vip -r $host:80 -g"; done
    echo "-e -t $vip -r $RS1:80 -g -w 3
-d -t $vip -r $RS2:80
-D -t $vip"
done >"$LAB_TMP/cycles"
for ((n = 1; n <= 200; n++)); do echo "neigh replace 192.168.1.$((n % 200 + 40)) lladdr 02:00:00:00:01:$(printf %02x $n) dev lan"; done >"$LAB_TMP/neighbours"
sed 's/replace/del/; s/lladdr [^ ]* //' "$LAB_TMP/neighbours" >"$LAB_TMP/no-neighbours"
batch() {
    until rvsadm -R <"$LAB_TMP/cycles" 2>"$LAB_TMP/said"; do
        starved
        # Begin anew without the service that it ended at.
        rvsadm -Sn | awk '$1 == "-A" && $3 ~ /^10\.100\./ { print "-D -t " $3 }' | rvsadm -R
    done
    ip -n rvs-director -batch "$LAB_TMP/neighbours"
    ip -n rvs-director -batch "$LAB_TMP/no-neighbours"
    "${LISTING[@]}" >/dev/null
    rvsadm -Ln >/dev/null
    sleep 1.2 # the trash is emptied every second
}
batch
batch
before=$(rss_kb)
began=$(now)
for ((n = 1; n <= BATCHES; n++)); do batch; done
after=$(rss_kb)
echo "rvsd: $before KB resident, after $((BATCHES * CYCLES)) cycles ($((BATCHES * CYCLES * 7)) changes) in $(ms "$began") ms $after KB"
# Less than cycles leave that leave their services and servers.
((after < before + 2048)) || fail "rvsd grew from $before to $after KB"
assert_equal "services" "$(rvsadm -Sn | grep -c -e ^-A)" $((SERVICES + 1))

say "a reload of $SERVICES services, ten of which changed, under load"
load_start "http://$VIP/"
sed -i "/^\[\[service\]\]/,\$d" "$LAB_TMP/rvsd.toml"
services_file 10 5 >>"$LAB_TMP/rvsd.toml"
conns=$(server_column "$RS1:80" 1 --stats | head -n 1)
began=$(now)
rvsadm reload >"$LAB_TMP/reloaded" &
reload=$!
: >"$LAB_TMP/calls"
while kill -0 "$reload" 2>/dev/null; do
    asked=$(now)
    rvsadm -L --timeout >/dev/null
    ms "$asked" >>"$LAB_TMP/calls"
done
wait "$reload"
echo "the reload: $(ms "$began") ms"
percentiles "rvsadm meanwhile" "$LAB_TMP/calls"
# The one that was changed by hand to 77 is among the ten that the file changes.
assert_equal "changes of the reload" "$(grep -c '^-e .* -w 5$' "$LAB_TMP/reloaded") of $(wc -l <"$LAB_TMP/reloaded")" "10 of 10"
(($(server_column "$RS1:80" 1 --stats | head -n 1) >= conns)) || fail "the counters of $VIP:80 began anew"
load_stop
assert_equal "weights" "$(rvsadm -Sn | awk '$1 == "-a" && $NF == 5' | wc -l)" 10
check_mbufs "$at_rest"
check_stop
