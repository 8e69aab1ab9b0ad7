#!/bin/bash
# TUN: packets reach the servers behind a router in IP, and the
# servers answer the client past the director.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up tun
real_servers start
for name in rs1 rs2; do start_decap "$name"; done
head -c 20M "$LAB_TMP/100M" >"$LAB_TMP/20M"

decapsulated_both() { echo $(($(decapsulated rs1 "$1") + $(decapsulated rs2 "$1"))); }
# The counts are written when decap.py has nothing to do.
unpacked() { (($(decapsulated_both "$1") > "$2")); }

director_start 'tcp = 5' 'tcp_fin = 2' 'udp = 5'
at_rest=$(mbufs_at_rest)

say "IP in IP"
SERVER_OPTIONS=(-i)
services "$VIP" "$RS1" "$RS2"
services "$VIP6" "$RS1_6" "$RS2_6"
check_rows Tunnel
assert_match "--tun-info" "$(rvsadm -Ln --tun-info)" "-> $RS1:80 +Tunnel +ipip "
capture_start wire rvswire1 "$LAB_TMP/lan.pcap"
capture_start wire rvswire0 "$LAB_TMP/wan.pcap"
check_answers "$VIP"
check_answers "$VIP6"
capture_stop "$LAB_TMP"/{lan,wan}.pcap
for server in "$RS1" "$RS2"; do
    every_packet "$LAB_TMP/lan.pcap" "ip.dst == $server && tcp" "$DIRECTOR_LAN_MAC $ROUTER_MAC:01 $DIRECTOR_LAN 4 63 0" \
        eth.src eth.dst ip.src ip.proto ip.ttl ip.dsfield.ecn
done
every_packet "$LAB_TMP/lan.pcap" "ipv6.dst == $RS1_6 && tcp" "$DIRECTOR_LAN6 41 63 0x000000" ipv6.src ipv6.nxt ipv6.hlim ipv6.flow
assert_equal "the inner packets" "$(inner_fields "$LAB_TMP/lan.pcap" "ip.dst == $RS1 && tcp" ip.src ip.dst ip.ttl | sort -u)" "$CLIENT $VIP 63"
assert_equal "the inner packets" "$(inner_fields "$LAB_TMP/lan.pcap" "ipv6.dst == $RS1_6 && tcp" ipv6.src ipv6.dst ipv6.hlim | sort -u)" "$CLIENT6 $VIP6 63"
no_bad_checksums "$LAB_TMP/lan.pcap" "eth.src == $DIRECTOR_LAN_MAC && tcp"
check_replies_bypass_director "$LAB_TMP/wan.pcap"
for vip in "$VIP" "$VIP6"; do
    say "$vip: both servers, 100 MB each way, UDP, iperf3, ping, tracepath"
    check_method "$vip"
    check_ping_and_tracepath "$vip" "$vip"
done
wait_for 3 "IP in IP" unpacked ipip 10000
wait_for 3 "IPv6 in IPv6" unpacked 6in6 10000

check_at_rest "$at_rest"
check_stop

if (($(nproc) >= 2)); then
    say "two workers"
    director_start 'cores = [0, 1]' 'tcp = 5' 'tcp_fin = 2' 'udp = 5'
    at_rest=$(mbufs_at_rest)
    SERVER_OPTIONS=(-i)
    services "$VIP" "$RS1" "$RS2"
    services "$VIP6" "$RS1_6" "$RS2_6"
    for vip in "$VIP" "$VIP6"; do
        for _ in {1..5}; do check_answers "$vip"; done
        check_upload "$vip" 20M
        check_echo "$vip"
    done
    check_at_rest "$at_rest"
    check_stop
fi
