#!/bin/bash
# A UDP service: datagrams of new ports alternate, those of one port stay together.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start 'udp = 10'
typed rvsadm -A -u "$VIP:5000" -s rr
typed rvsadm -a -u "$VIP:5000" -r "$RS1:5000" -g
typed rvsadm -a -u "$VIP:5000" -r "$RS2:5000" -g
rvsadm -A -u "[$VIP6]:5000" -s rr
rvsadm -a -u "[$VIP6]:5000" -r "[$RS1_6]:5000" -g
rvsadm -a -u "[$VIP6]:5000" -r "[$RS2_6]:5000" -g

ask() { # ADDRESS SOURCE_PORT
    in_ns client python3 "$LAB_DIR/udp-ask.py" "$1" 5000 "$2"
}

for host in "$VIP" "$VIP6"; do
    say "$host"
    answers=$(for port in 4001 4002 4003 4004; do ask "$host" "$port"; done)
    assert_equal "answers to four ports" "$(sort <<<"$answers" | xargs)" "rs1: hello rs1: hello rs2: hello rs2: hello"
    answers=$(for _ in 1 2 3; do ask "$host" 4005; done)
    assert_equal "servers that one port got" "$(sort -u <<<"$answers" | wc -l)" 1
done
assert_match "-Lnc" "$(rvsadm -Lnc)" "UDP +00:[01][0-9] +UDP +\[?($CLIENT|$CLIENT6)\]?:4005"
wait_for 30 "all connections to time out" no_connections
wait_for 10 "the packets to add up: $(worker_counters | jq -c .)" packets_add_up
