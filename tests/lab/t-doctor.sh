#!/bin/bash
# rvsadm doctor: finds what is wrong with services, servers, addresses and taps,
# and nothing when all is well; works without rvsd.
. "$(dirname "$0")/lib.sh"
lab_up
[[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"

# What it says, in OUT; its status must be STATUS.
doctor() { # STATUS ARGUMENT...
    local wanted=$1 status=0
    shift
    OUT=$(in_ns director "$RVSADM" doctor --config "$LAB_TMP/rvsd.toml" "$@" 2>&1) || status=$?
    [[ $status == "$wanted" ]] || fail "doctor $*: status $status, wanted $wanted: $OUT"
}

# The lab's machine: whatever the box itself lacks is not the matter here.
says() { assert_match "$1" "$OUT" "$2"; }
says_not() { assert_no_match "$1" "$OUT" "$2"; }

say "without rvsd"
director_config +services.toml 'memory_mb = 64'
sed -i 's/^connections = .*/connections = 1024/; s/^templates = .*/templates = 1024/; s/^memory_mb = .*/&\nhuge_pages = "never"/' "$LAB_TMP/rvsd.toml"
doctor 0
says 'no rvsd' 'note +director: .*why: +services, servers and counters were not looked at'
sed -i 's/^poll = .*/poll = "sometimes"/' "$LAB_TMP/rvsd.toml"
doctor 1 --json
assert_equal 'a bad file' "$(jq -r '.findings[0] | .severity + " " + .area' <<<"$OUT")" 'error configuration'

say "all is well"
real_servers start
director_start +services.toml
wait_for 10 "all servers to be resolved" eval '! rvsadm show nexthops | grep -q "no answer\|unresolved\|-$"'
sleep 1
doctor 0 --json
assert_equal 'findings to mend' "$(jq '[.findings[] | select(.severity != "note" and .area != "huge pages" and .area != "clock")] | length' <<<"$OUT")" 0

say "servers that answer ARP for the VIP"
"$REPO/scripts/real-server" --netns rvs-rs1 stop "$VIP" "$VIP6"
ip -n rvs-rs1 address add "$VIP/32" dev lo
doctor 1
says 'the server by name' "server $RS1 \([0-9a-f:]+\) answers ARP for $VIP on lan"
says 'the remedy' "on $RS1: sysctl -w net.ipv4.conf.all.arp_ignore=1"
ip -n rvs-rs1 address del "$VIP/32" dev lo
real_servers start

say "weights, servers, routes, addresses"
rvsadm -A -t "$VIP:8080" -s rr
rvsadm -A -t "$VIP:8081" -s rr
rvsadm -a -t "$VIP:8081" -r "$RS1:8081" -g -w 0
rvsadm -A -t 192.168.1.123:80 -s rr
rvsadm -a -t 192.168.1.123:80 -r 192.168.1.222:80 -i
rvsadm -a -t 192.168.1.123:80 -r 10.99.99.99:80 -i
sleep 1
doctor 1 --quick
says 'no server' "TCP $VIP:8080 has no server"
says 'no weight' "TCP $VIP:8081: all 1 servers have weight 0"
says 'no neighbour' '192.168.1.222: 192.168.1.222 does not answer on lan'
says 'no route' '10.99.99.99: no route through a port of RVS'
says 'no address' '192.168.1.123 is on no interface'

say "drops that grow"
in_ns client timeout 20 bash -c "while :; do curl -s -o /dev/null --max-time 0.2 http://$VIP:8080/ || true; done" &
load=$!
remember "$load"
doctor 1
kill "$load" 2>/dev/null || true
wait "$load" 2>/dev/null || true
says 'the reason' 'packets a second dropped: no_server'
says 'what docs/drops.md says' 'add a server or give one a weight'
