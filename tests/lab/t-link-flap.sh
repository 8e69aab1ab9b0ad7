#!/bin/bash
# A link that goes and comes back: the log tells, rvsadm shows it, and the
# addresses are announced again, to neighbours that have another box's MAC
# address by then. docs/configuration.md, "Links, resets, removal".
. "$(dirname "$0")/lib.sh"
. "$LAB_DIR/checks.sh"
lab_up
real_servers start
director_config "device = \"net_tap0,iface=nic0,mac=$DIRECTOR_MAC\"" +services.toml
director_spawn
make_cable nic0 br0

other=00:50:00:00:09:99
link_is() { [[ $(port_counters | jq '.[0].link_up') == "$1" ]]; }
announced() { # FILTER
    (($(fields "$LAB_TMP/wire.pcap" "$1" frame.number | wc -l) >= 3))
}
mac_of() { ip -n rvs-client neighbour show "$1" dev eth0 | grep -o 'lladdr [0-9a-f:]*' | cut -d ' ' -f 2; }
mac_is() { [[ $(mac_of "$1") == "$DIRECTOR_MAC" ]]; }

wait_for 20 "an answer" in_ns client curl -sf -o /dev/null --max-time 2 "http://$VIP/"
# The announcements of the start are over.
sleep 5

say "the link goes"
ip -n rvs-director link set nic0 down
wait_for 20 "the port to have no link" link_is false
wait_for 20 "the log to tell" grep -q 'port lan: no link' "$LAB_TMP/rvsd.log"
for address in "$VIP" "$VIP6"; do
    ip -n rvs-client neighbour replace "$address" lladdr "$other" dev eth0 nud stale
done
capture_start client eth0 "$LAB_TMP/wire.pcap" "ether src $DIRECTOR_MAC"

say "it is back: clients learn where the addresses are"
ip -n rvs-director link set nic0 up
wait_for 20 "the client to learn $VIP" mac_is "$VIP"
wait_for 20 "the client to learn $VIP6" mac_is "$VIP6"
typed in_ns client curl -sS --max-time 5 "http://$VIP/"
typed in_ns client curl -sS --max-time 5 "http://[$VIP6]/"
assert_equal "what the log tells of the link" "$(grep -oE 'port lan: (no link|link up)' "$LAB_TMP/rvsd.log" | xargs)" \
    "port lan: no link port lan: link up"

say "three times each"
for address in "$VIP" "$DIRECTOR"; do
    arp="arp.src.proto_ipv4 == $address && arp.dst.proto_ipv4 == $address && eth.dst == ff:ff:ff:ff:ff:ff"
    wait_for 20 "three announcements of $address" announced "$arp"
done
for address in "$VIP6" "$DIRECTOR6"; do
    nd="icmpv6.type == 136 && icmpv6.nd.na.target_address == $address && eth.dst == 33:33:00:00:00:01"
    wait_for 20 "three announcements of $address" announced "$nd"
done
capture_stop "$LAB_TMP/wire.pcap"
check_stop
