#!/bin/bash
# 10,000 requests, 50 in parallel: none fails, and afterwards nothing is left behind.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start 'tcp = 5' 'tcp_fin = 2'
http_services
at_rest=$(mbufs_in_use)

check_load "http://$VIP/"
# Round robin: both servers had half of it.
for server in "$RS1:80" "$RS2:80"; do
    wait_for 5 "5000 connections on $server" server_has "$server" 1 5000 --stats
done
check_load "http://[$VIP6]/"
check_at_rest "$at_rest"
assert_equal "rs1 active, inactive" "$(server_column "$RS1:80" 3) $(server_column "$RS1:80" 4)" "0 0"
