#!/bin/bash
# A VIP that comes up is announced: neighbours that have the MAC address of the
# box that had it before go to this one at once. docs/configuration.md, [vip].
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start

old=00:50:00:00:09:99 new=00:50:00:00:04:00 added=192.168.1.101 elsewhere=10.99.0.100

stale() { # ADDRESS...
    local address
    for address in "$@"; do
        ip -n rvs-client neighbour replace "$address" lladdr "$old" dev eth0 nud stale
    done
}
mac_of() { ip -n rvs-client neighbour show "$1" dev eth0 | grep -o 'lladdr [0-9a-f:]*' | cut -d ' ' -f 2; }
mac_is() { [[ $(mac_of "$1") == "$2" ]]; }
# Frames of three announcements of an address.
three() { # FILE FILTER
    [[ $(fields "$1" "$2" frame.number | wc -l) == 3 ]]
}

say "the client's entries are of another box"
stale "$VIP" "$VIP6"
assert_equal "the client's entry" "$(mac_of "$VIP") $(mac_of "$VIP6")" "$old $old"
capture_start client eth0 "$LAB_TMP/wire.pcap"
director_start +services.toml
wait_for 10 "the client to learn $VIP" mac_is "$VIP" "$new"
wait_for 10 "the client to learn $VIP6" mac_is "$VIP6" "$new"
typed in_ns client curl -sS --max-time 5 "http://$VIP/"
typed in_ns client curl -sS --max-time 5 "http://[$VIP6]/"

say "an address that a reload puts up, too"
stale "$added"
sed -i "s#^addresses = \[\"$VIP\", #&\"$added\", \"$elsewhere\", #" "$LAB_TMP/rvsd.toml"
assert_equal "the reload" "$(rvsadm reload)" "address add $elsewhere/32 dev lo
address add $added/32 dev lo"
wait_for 10 "the client to learn $added" mac_is "$added" "$new"
assert_equal "an answer" "$(in_ns client ping -c 1 -w 5 "$added" | grep -c 'bytes from')" 1

say "three times each; not where nobody can ask for it"
sleep 3
capture_stop "$LAB_TMP/wire.pcap"
arp="arp.opcode == 1 && eth.dst == ff:ff:ff:ff:ff:ff && eth.src == $new && arp.src.hw_mac == $new"
three "$LAB_TMP/wire.pcap" "$arp && arp.src.proto_ipv4 == $added && arp.dst.proto_ipv4 == $added" ||
    fail "not three announcements of $added"
nd="icmpv6.type == 136 && icmpv6.nd.na.target_address == $VIP6 && eth.dst == 33:33:00:00:00:01"
# The wire of the lab is connected when rvsd is ready: the first was sent before.
assert_match "advertisements of $VIP6: override, checksum, MAC address" \
    "$(fields "$LAB_TMP/wire.pcap" "$nd" icmpv6.nd.na.flag.o icmpv6.checksum.status icmpv6.opt.linkaddr)" "1 1 $new"
assert_equal "announcements of $elsewhere" "$(fields "$LAB_TMP/wire.pcap" "arp.src.proto_ipv4 == $elsewhere" frame.number)" ""
check_stop
