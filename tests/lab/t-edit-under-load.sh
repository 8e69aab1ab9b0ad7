#!/bin/bash
# Servers are added, edited and removed while the load runs; weight 0 drains.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start 'tcp = 20' 'tcp_fin = 2'
typed rvsadm -A -t "$VIP:80" -s wrr
typed rvsadm -a -t "$VIP:80" -r "$RS1:80" -g

load_runs() { [[ -e /proc/$load ]] || fail "the load ended before the edits did"; }
conns_grow() { # SERVER
    local before
    before=$(server_column "$1" 1 --stats)
    sleep 0.2
    (($(server_column "$1" 1 --stats) > before))
}
idle() { server_has "$1" 3 0 && server_has "$1" 4 0; }

# A SYN on the ports of a connection in FIN_WAIT stays with its server, so rs2
# drains only while ports do not come back within tcp_fin and the sweep's second.
# The kernel goes through thousands of ports before it takes one again: at the 200
# connections a second of /paced that takes far longer.
say "add, edit, drain and delete rs2 under load: no request fails"
spawn client "$LAB_TMP/ab.log" ab -q -s 3 -n 1000000 -c 50 "http://$VIP/paced"
load=$SPAWNED
wait_for 5 "connections on rs1" conns_grow "$RS1:80"
typed rvsadm -a -t "$VIP:80" -r "$RS2:80" -g
wait_for 3 "connections on rs2" conns_grow "$RS2:80"
for weight in 3 1 7 2; do rvsadm -e -t "$VIP:80" -r "$RS2:80" -g -w "$weight"; done
for _ in {1..20}; do
    rvsadm -a -t "$VIP:80" -r 192.168.1.33:80 -g -w 0
    rvsadm -d -t "$VIP:80" -r 192.168.1.33:80
done
load_runs
typed rvsadm -e -t "$VIP:80" -r "$RS2:80" -g -w 0
wait_for 20 "rs2 to drain" idle "$RS2:80"
typed rvsadm -d -t "$VIP:80" -r "$RS2:80"
sleep 0.5
load_runs
conns_grow "$RS1:80" || fail "rs1 gets no connections any more"
kill -INT "$load" # ab shows its results then
wait "$load" || true
check_ab "$(cat "$LAB_TMP/ab.log")"
grep 'requests:' "$LAB_TMP/ab.log"

say "delete rs2 in the middle of its connections: no request of rs1 fails"
rvsadm -a -t "$VIP:80" -r "$RS2:80" -g -w 1
rvsadm --set 0 60 0 # so that -Lnc still tells afterwards who had which port
spawn client "$LAB_TMP/curls.log" sh -c \
    "seq 1500 | xargs -P 20 -I @ curl -s --max-time 3 -o /dev/null -w '%{exitcode} %{local_port}\n' http://$VIP/"
load=$SPAWNED
wait_for 5 "connections on rs2" conns_grow "$RS2:80"
load_runs
typed rvsadm -d -t "$VIP:80" -r "$RS2:80"
wait "$load" || true # what was on rs2 fails
assert_equal "curls" "$(wc -l <"$LAB_TMP/curls.log")" 1500
awk '$1 != 0 { print $2 }' "$LAB_TMP/curls.log" | sort >"$LAB_TMP/failed-ports"
rvsadm -Lnc | awk -v server="$RS1:80" '$6 == server { sub(".*:", "", $4); print $4 }' | sort >"$LAB_TMP/rs1-ports"
echo "$(wc -l <"$LAB_TMP/failed-ports") of 1500 failed, all on rs2"
assert_equal "ports of rs1 whose request failed" "$(comm -12 "$LAB_TMP/failed-ports" "$LAB_TMP/rs1-ports")" ''
(($(wc -l <"$LAB_TMP/rs1-ports") > 500)) || fail "rs1 had too few connections for this to mean anything"

say "weight 0: a long download goes on, no new connection comes"
rvsadm -C
http_services
in_ns client curl -sS --max-time 60 --limit-rate 20M -o "$LAB_TMP/got" "http://$VIP/100M" &
download=$!
sleep 1
server=$(rvsadm -Lnc | awk '$3 == "ESTABLISHED" { print $6; exit }')
assert_match "the server of the download" "$server" ':80$'
typed rvsadm -e -t "$VIP:80" -r "$server" -g -w 0
rvsadm -Z
answers=$(for _ in {1..6}; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done | sort -u)
assert_equal "servers that answered" "$(wc -l <<<"$answers")" 1
assert_equal "new connections on the drained server" "$(server_column "$server" 1 --stats)" 0
kill -0 "$download" || fail "the download ended before it was tried"
wait "$download" || fail "the download broke off"
assert_equal "sha256 of the download" "$(sha256sum <"$LAB_TMP/got")" "$(sha256sum <"$LAB_TMP/100M")"
