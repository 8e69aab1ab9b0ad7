#!/bin/bash
# Two workers give the same results as one.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
(($(nproc) >= 2)) || skip "two workers need two cores, this machine has one"
lab_up
real_servers start
director_start 'cores = [0, 1]' 'tcp = 5' 'tcp_fin = 2'
http_services
at_rest=$(mbufs_at_rest)
assert_equal "workers" "$(worker_counters | jq length)" 2

say "40 curls alternate exactly, whichever worker has them"
capture_start wire rvswire0 "$LAB_TMP/wire.pcap"
capture_start rs1 eth0 "$LAB_TMP/rs1.pcap"
capture_start rs2 eth0 "$LAB_TMP/rs2.pcap"
answers=$(for _ in {1..20}; do in_ns client curl -sS --max-time 5 "http://$VIP/" "http://[$VIP6]/"; done)
capture_stop "$LAB_TMP"/{wire,rs1,rs2}.pcap
for server in rs1 rs2; do
    count=$(grep -c "$server" <<<"$answers")
    assert_equal "answers of $server to 40 curls" "$count" 20
done
check_replies_bypass_director "$LAB_TMP/wire.pcap"
check_dr_rewrite "$LAB_TMP"/{wire,rs1,rs2}.pcap

say "load"
check_load "http://$VIP/"
check_load "http://[$VIP6]/"
assert_equal "workers that forwarded" "$(worker_counters | jq '[.[] | select(.tx > 1000)] | length')" 2
check_at_rest "$at_rest"
