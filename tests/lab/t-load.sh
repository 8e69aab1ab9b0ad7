#!/bin/bash
# 10,000 requests, 50 in parallel: none fails, and afterwards nothing is left behind.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start 'tcp = 5' 'tcp_fin = 2'
http_services
at_rest=$(mbufs_at_rest)

check_load "http://$VIP/"
# Round robin: both servers had half of it. Fewer than 10,000 connections in all
# are counted, as ab soon uses a port again, whose connection is still in FIN_WAIT;
# up to 50 more, the connections that ab has open when its 10,000 are done.
sleep 0.5
rs1=$(server_column "$RS1:80" 1 --stats) rs2=$(server_column "$RS2:80" 1 --stats)
echo "connections: rs1 $rs1, rs2 $rs2"
((rs1 + rs2 > 5000 && rs1 + rs2 <= 10050 && rs1 - rs2 <= 1 && rs2 - rs1 <= 1)) || fail "round robin gave rs1 $rs1, rs2 $rs2"
check_load "http://[$VIP6]/"
check_at_rest "$at_rest"
assert_equal "rs1 active, inactive" "$(server_column "$RS1:80" 3) $(server_column "$RS1:80" 4)" "0 0"
