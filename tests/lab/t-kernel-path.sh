#!/bin/bash
# The director is an ordinary Linux host on its segment: ARP, ND, ping, TCP, tcpdump.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start
http_services

# An IPv6 VIP may also be on the tap: the kernel answers ND only for addresses of
# the interface that asks.
say "the tap has the port's name, MAC and addresses; the VIPs are up"
lan=$(ip -n rvs-director addr show lan)
assert_match "lan" "$lan" "link/ether $DIRECTOR_MAC"
assert_match "lan" "$lan" "inet $DIRECTOR/24"
assert_match "lan" "$lan" "inet6 $DIRECTOR6/64"
assert_match "lo" "$(ip -n rvs-director addr show lo)" "inet $VIP/32"
assert_match "addresses" "$(ip -n rvs-director addr)" "inet6 $VIP6/128"

say "ARP and ND are answered with the director's MAC, and by nobody else"
arp=$(in_ns client arping -c 2 -w 4 -I eth0 "$VIP" || true)
assert_match "ARP for the VIP" "$arp" "$DIRECTOR_MAC"
assert_no_match "ARP for the VIP" "$arp" "$RS1_MAC|$RS2_MAC"

say "ping: the director and the VIP, also with large packets"
capture_start director lan "$LAB_TMP/lan.pcap"
for address in "$DIRECTOR" "$VIP" "$DIRECTOR6" "$VIP6"; do
    in_ns client ping -n -q -c 3 -i 0.2 -W 2 "$address"
    in_ns client ping -n -q -c 1 -s 1400 -W 2 "$address"
    assert_match "the neighbour $address" "$(ip -n rvs-client neigh show "$address")" "$DIRECTOR_MAC"
done
in_ns director ping -n -q -c 2 -i 0.2 -W 2 "$CLIENT"
capture_stop "$LAB_TMP/lan.pcap"
for filter in arp "ip.dst == $DIRECTOR && icmp" "ip.dst == $VIP && icmp" "ipv6.dst == $VIP6 && icmpv6"; do
    [[ -n $(fields "$LAB_TMP/lan.pcap" "$filter" frame.number) ]] || fail "tcpdump -i lan saw no packet of '$filter'"
done

say "the tap down and up again: its IPv4 and IPv6 addresses are still there"
ip -n rvs-director link set lan down
ip -n rvs-director link set lan up
for address in "$DIRECTOR" "$DIRECTOR6" "$VIP6"; do
    wait_for 5 "a ping to $address" in_ns client ping -n -q -c 1 -W 1 "$address"
done

say "TCP to the box itself"
greeted() { [[ $(in_ns client socat -T 3 - "TCP:$1:22" </dev/null) == "this is the director" ]]; }
spawn director "$LAB_TMP/listener.log" socat TCP6-LISTEN:22,fork,reuseaddr,ipv6-v6only=0 SYSTEM:'echo this is the director'
for address in "$DIRECTOR" "[$DIRECTOR6]"; do
    wait_for 5 "an answer of $address port 22" greeted "$address"
done

say "a port of the VIP that no service has is the kernel's: RST, ICMP unreachable"
for address in "$VIP" "[$VIP6]"; do
    out=$(in_ns client socat -T 3 - "TCP:$address:81" 2>&1 </dev/null || true)
    assert_match "TCP port 81 of $address" "$out" 'Connection refused'
    out=$(echo ping | in_ns client socat -t 2 - "UDP:$address:5999" 2>&1 || true)
    assert_match "UDP port 5999 of $address" "$out" 'Connection refused'
done
wait_for 10 "the packets to add up: $(worker_counters | jq -c .)" packets_add_up

say "a port with an MTU of its own: its tap has it, too"
director_stop TERM
director_start "device = \"net_tap0,iface=rvswire0,mac=$DIRECTOR_MAC\"\nmtu = 1400"
assert_match "lan" "$(ip -n rvs-director link show lan)" " mtu 1400 "
in_ns client ping -n -q -c 1 -W 2 "$DIRECTOR"
