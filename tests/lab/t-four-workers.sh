#!/bin/bash
# Four workers, two on a core, give the same results as one: under NAT replies
# reach the worker that has the connection, under FULLNAT they find it by
# themselves.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
(($(nproc) >= 2)) || skip "four workers need two cores, this machine has one"
lab_up nat
real_servers start
director_start 'cores = [0, 1, 0, 1]' 'mbufs = 12288' 'tcp = 5' 'tcp_fin = 2' 'udp = 5'
at_rest=$(mbufs_at_rest)
assert_equal "workers" "$(worker_counters | jq length)" 4

both_families() {
    services "$VIP" "$RS1" "$RS2"
    services "$VIP6" "$RS1_6" "$RS2_6"
}
everything_works() {
    for vip in "$VIP" "$VIP6"; do
        for _ in {1..5}; do check_answers "$vip"; done
        check_download "$vip"
        check_upload "$vip"
        check_echo "$vip"
    done
    check_load "http://$VIP/"
}

say "NAT"
SERVER_OPTIONS=(-m)
both_families
everything_works

say "FULLNAT"
rvsadm -C
SERVER_OPTIONS=(-b)
SERVICE_OPTIONS=(--local-address 10.0.0.201)
services "$VIP" "$RS1" "$RS2"
SERVICE_OPTIONS=(--local-address fd00:2::201)
services "$VIP6" "$RS1_6" "$RS2_6"
everything_works

assert_equal "workers that forwarded" "$(worker_counters | jq '[.[] | select(.tx > 1000)] | length')" 4
wait_for 10 "rx = tx + punted + handed off + dropped on every worker: $(worker_counters | jq -c .)" packets_add_up
check_mbufs "$at_rest"
check_stop
