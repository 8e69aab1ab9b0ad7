#!/bin/bash
# Direct routing: 100 MB each way, UDP, iperf3, ping, tracepath, both families.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start 'tcp = 5' 'tcp_fin = 2' 'udp = 5'
at_rest=$(mbufs_at_rest)
SERVER_OPTIONS=(-g)
services "$VIP" "$RS1" "$RS2"
services "$VIP6" "$RS1_6" "$RS2_6"
check_rows Route
for vip in "$VIP" "$VIP6"; do
    say "$vip"
    check_method "$vip"
    check_ping_and_tracepath "$vip" "$vip"
done
check_at_rest "$at_rest"
check_stop
