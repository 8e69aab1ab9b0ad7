#!/bin/bash
# Servers are added, edited and removed while the load runs; weight 0 drains.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start 'tcp = 20' 'tcp_fin = 2'
typed rvsadm -A -t "$VIP:80" -s wrr
typed rvsadm -a -t "$VIP:80" -r "$RS1:80" -g

load_start() { # REQUESTS
    spawn client "$LAB_TMP/ab.log" ab -q -s 3 -n "$1" -c 20 "http://$VIP/"
    load=$SPAWNED
    sleep 0.5
}
load_runs() { [[ -e /proc/$load ]] || fail "the load ended before the edits did: $(cat "$LAB_TMP/ab.log")"; }
conns_grow() { # SERVER
    local before
    before=$(server_column "$1" 1 --stats)
    sleep 0.2
    (($(server_column "$1" 1 --stats) > before))
}
idle() { server_has "$1" 3 0 && server_has "$1" 4 0; }

say "add, edit, drain and delete rs2 under load: no request fails"
load_start 100000
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
wait "$load" || fail "ab: $(cat "$LAB_TMP/ab.log")"
check_ab "$(cat "$LAB_TMP/ab.log")" 100000

say "delete rs2 in the middle of its connections: each request of rs1 still completes"
# nginx logs a request as OK when all of it was sent.
completed() { grep -c ' 200 4 OK /$' "$LAB_TMP/$1/access.log" || true; }
rvsadm -a -t "$VIP:80" -r "$RS2:80" -g -w 1
rvsadm -Z
before=$(completed rs1)
load_start 20000
load_runs
typed rvsadm -d -t "$VIP:80" -r "$RS2:80"
wait "$load" || true # ab waits in vain for the connections that were on rs2
wait_for 5 "rs1 to be idle" idle "$RS1:80"
assert_equal "requests that rs1 completed, of the connections it was given" \
    "$(($(completed rs1) - before))" "$(server_column "$RS1:80" 1 --stats)"

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
