#!/bin/bash
# NAT: the director is the servers' default gateway and translates both ways.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up nat
SERVER_OPTIONS=(-m)
vips=("$VIP" "$VIP6")

nat_services() {
    services "$VIP" "$RS1" "$RS2"
    services "$VIP6" "$RS1_6" "$RS2_6"
}

director_start 'udp = 10'
at_rest=$(mbufs_at_rest)
nat_services
check_rows Masq

say "on the wire: only addresses, ports, TTL and checksums change, in both directions"
capture_start wire rvswire0 "$LAB_TMP/wan.pcap"
capture_start wire rvswire1 "$LAB_TMP/lan.pcap"
for vip in "${vips[@]}"; do check_answers "$vip"; done
echo_answer "$VIP" 4010
echo_answer "$VIP6" 4010
capture_stop "$LAB_TMP"/{wan,lan}.pcap
l4="(tcp || udp)"
to_vip="ip.dst == $VIP && $l4" to_vip6="ipv6.dst == $VIP6 && $l4"
to_rs="(ip.dst == $RS1 || ip.dst == $RS2) && $l4" to_rs6="(ipv6.dst == $RS1_6 || ipv6.dst == $RS2_6) && $l4"
from_rs="(ip.src == $RS1 || ip.src == $RS2) && $l4" from_rs6="(ipv6.src == $RS1_6 || ipv6.src == $RS2_6) && $l4"
from_vip="ip.src == $VIP && $l4" from_vip6="ipv6.src == $VIP6 && $l4"
wan=$LAB_TMP/wan.pcap lan=$LAB_TMP/lan.pcap
kept4=(ip.id ip.dsfield ip.flags ip.len "${L4_FIELDS[@]}") kept6=(ipv6.tclass ipv6.flow ipv6.plen "${L4_FIELDS[@]}")
same_packets "$wan" "$to_vip" "$lan" "$to_rs" ip.src tcp.srcport udp.srcport tcp.dstport udp.dstport "${kept4[@]}"
same_packets "$lan" "$from_rs" "$wan" "$from_vip" ip.dst tcp.srcport udp.srcport tcp.dstport udp.dstport "${kept4[@]}"
same_packets "$wan" "$to_vip6" "$lan" "$to_rs6" ipv6.src tcp.srcport udp.srcport tcp.dstport udp.dstport "${kept6[@]}"
same_packets "$lan" "$from_rs6" "$wan" "$from_vip6" ipv6.dst tcp.srcport udp.srcport tcp.dstport udp.dstport "${kept6[@]}"
every_packet "$lan" "ip.dst == $RS1 && tcp" "$DIRECTOR_LAN_MAC $RS1_MAC 63" eth.src eth.dst ip.ttl
every_packet "$lan" "ip.dst == $RS2 && tcp" "$DIRECTOR_LAN_MAC $RS2_MAC 63" eth.src eth.dst ip.ttl
every_packet "$lan" "ipv6.dst == $RS1_6 && tcp" "$DIRECTOR_LAN_MAC $RS1_MAC 63" eth.src eth.dst ipv6.hlim
every_packet "$wan" "$from_vip" "$DIRECTOR_MAC $CLIENT_MAC 63" eth.src eth.dst ip.ttl
every_packet "$wan" "$from_vip6" "$DIRECTOR_MAC $CLIENT_MAC 63" eth.src eth.dst ipv6.hlim
no_bad_checksums "$lan" "$to_rs || $to_rs6"
no_bad_checksums "$wan" "$from_vip || $from_vip6"
assert_equal "packets of the servers' addresses on the client's side" "$(fields "$wan" "ip.addr == 10.0.0.0/24 && $l4" frame.number)" ''

say "both directions are counted, and seen by the state machine"
listed() { rvsadm -Ln --stats -t "$VIP:80" | awk -v server="$RS1:80" '$2 == server && $3 == 1 && $4 >= 5 && $5 >= 4 && $6 > 250 && $7 > 200 { print "yes" }' | grep -q yes; }
wait_for 3 "connections, packets and bytes both ways: $(rvsadm -Ln --stats -t "$VIP:80")" listed
assert_equal "states of closed connections" "$(rvsadm -Lnc | awk '$1 == "TCP" { print $3 }' | sort -u)" TIME_WAIT

say "ports are mapped"
rvsadm -A -t "$VIP:8080" -s rr
rvsadm -a -t "$VIP:8080" -r "$RS1:80" -m
rvsadm -A -t "[$VIP6]:8080" -s rr
rvsadm -a -t "[$VIP6]:8080" -r "[$RS1_6]:80" -m
for vip in "${vips[@]}"; do assert_equal "the answer of port 8080" "$(get "$vip" '' 8080)" rs1; done
assert_equal "the client that the server sees" "$(get "$VIP" who 8080 | cut -d ' ' -f 1)" "$CLIENT"
assert_equal "the client that the server sees" "$(get "$VIP6" who 8080 | cut -d ' ' -f 1)" "$CLIENT6"

for vip in "${vips[@]}"; do
    say "$vip: both servers, 100 MB each way, UDP, iperf3, ping, tracepath"
    check_method "$vip"
    check_ping_and_tracepath "$vip" "$vip"
done
say "load"
check_load "http://$VIP/"

say "the servers reach the client's network through the director"
route_via client "$DIRECTOR" "$DIRECTOR6"
for address in "$CLIENT" "$CLIENT6" "$VIP" "$VIP6"; do
    in_ns rs1 ping -n -q -c 1 -W 2 "$address" >/dev/null || fail "rs1 gets no answer of $address"
done
check_mbufs "$at_rest"
check_stop

if (($(nproc) >= 2)); then
    say "two workers"
    director_start 'cores = [0, 1]'
    at_rest=$(mbufs_at_rest)
    nat_services
    for vip in "${vips[@]}"; do
        for _ in {1..5}; do check_answers "$vip"; done
        check_download "$vip"
        check_upload "$vip"
        check_echo "$vip"
    done
    check_load "http://[$VIP6]/"
    check_mbufs "$at_rest"
    check_stop
fi
