#!/bin/bash
# A port of two devices, active-backup: HTTP goes through, one member loses its
# link and the other carries on, also for a connection that was open. The switch
# learns the new way from announcements. docs/configuration.md, [port.bond].
. "$(dirname "$0")/lib.sh"
. "$LAB_DIR/checks.sh"
# Its release of a send queue reads the list of receive queues, which ethdev has just
# freed when a member leaves its bond. Other drivers do not.
if [[ $(pkg-config --modversion libdpdk 2>/dev/null) == 24.11.* ]]; then
    skip "net_tap of DPDK 24.11 crashes when a bond of it is closed"
fi
lab_up
real_servers start

# Two taps that stay in the director's namespace, where their driver sees their
# links, both on the segment.
director_config +services.toml
sed -i '/^device = /d; s/^\[vip\]/[port.bond]\nmembers = ["net_tap0,iface=nic0,mac='"$DIRECTOR_MAC"'", "net_tap1,iface=nic1,mac=00:50:00:00:04:09"]\nmode = "active-backup"\n\n&/' \
    "$LAB_TMP/rvsd.toml"
sed -i 's/^name = .*/&\nmtu = 1496/' "$LAB_TMP/rvsd.toml"
in_ns director "$RVSD" --check -c "$LAB_TMP/rvsd.toml"
director_spawn
make_cable nic0 br0
make_cable nic1 br0

announced() { # FILTER
    (($(fields "$LAB_TMP/wire.pcap" "$1" frame.number | wc -l) >= 3))
}
members() { port_counters | jq -r '.[0].bond.members | map(.device + " " + .state) | join(", ")'; }
members_are() { [[ $(members) == "$1" ]]; }
get() { in_ns client curl -sS --max-time 15 "http://$1/"; }
link() { ip -n rvs-director link set "nic$1" "$2"; }

say "the first member carries everything"
wait_for 20 "an answer" in_ns client curl -sf -o /dev/null --max-time 2 "http://$VIP/"
assert_equal "the bond" "$(port_counters | jq -r '.[0].bond.mode')" active-backup
wait_for 20 "the members' states" members_are "net_tap0 active, net_tap1 backup"
answers=$(for _ in 1 2 3 4; do get "$VIP" && get "[$VIP6]"; done)
assert_equal "the answers" "$(sort -u <<<"$answers" | xargs)" "rs1 rs2"
assert_equal "the members' MTU" "$(in_ns director cat /sys/class/net/nic{0,1}/mtu | xargs)" "1496 1496"
assert_equal "the port's MAC address" "$(port_counters | jq -r '.[0].mac')" "$DIRECTOR_MAC"

say "it loses its link during a download: the other takes over"
# The announcements of the start are over.
sleep 3
capture_start client eth0 "$LAB_TMP/wire.pcap" "ether src $DIRECTOR_MAC"
in_ns client curl -sS --max-time 60 --limit-rate 20M "http://$VIP/100M" >"$LAB_TMP/got" &
download=$!
sleep 1
link 0 down
wait_for 20 "the second member to be active" members_are "net_tap0 down, net_tap1 active"
assert_equal "the port's link" "$(port_counters | jq '.[0].link_up')" true
rvsadm show ports | head -n 10
assert_equal "an answer" "$(get "$VIP" | grep -c rs)" 1
assert_equal "an answer by IPv6" "$(get "[$VIP6]" | grep -c rs)" 1
wait "$download" || fail "the download broke"
assert_equal "the download" "$(sha256sum <"$LAB_TMP/got")" "$(sha256sum <"$LAB_TMP/100M")"
grep -q 'port lan: member net_tap0: down; look at the cable' "$LAB_TMP/rvsd.log" || fail "the log does not tell"

say "the addresses are announced by the new member"
for address in "$VIP" "$DIRECTOR"; do
    arp="arp.src.proto_ipv4 == $address && arp.dst.proto_ipv4 == $address && eth.dst == ff:ff:ff:ff:ff:ff"
    wait_for 20 "three announcements of $address" announced "$arp"
done
capture_stop "$LAB_TMP/wire.pcap"
assert_match "the switch's way to the director" \
    "$(in_ns wire bridge fdb show br br0 | grep -i "^$DIRECTOR_MAC")" "dev nic1-wire"

say "neither has a link: the port has none; then one is back"
link 1 down
wait_for 20 "the log to tell" grep -q 'port lan: no link' "$LAB_TMP/rvsd.log"
assert_equal "the port's link" "$(port_counters | jq '.[0].link_up')" false
link 0 up
wait_for 20 "the first member to be active" members_are "net_tap0 active, net_tap1 down"
wait_for 20 "an answer" get "$VIP" >/dev/null
wait_for 20 "the log to tell" grep -q 'port lan: link up' "$LAB_TMP/rvsd.log"
assert_equal "the log of the port's link" \
    "$(grep -oE 'port lan: (no link|link up)' "$LAB_TMP/rvsd.log" | xargs)" "port lan: no link port lan: link up"
link 1 up
wait_for 20 "the members' states" members_are "net_tap0 active, net_tap1 backup"
check_stop
