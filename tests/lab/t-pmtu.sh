#!/bin/bash
# Path MTU discovery through the director: routers with a smaller MTU on the
# client's side and on the servers' side, and tunnels that need room.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up routed
real_servers start
start_decap rs2
head -c 20M "$LAB_TMP/100M" >"$LAB_TMP/20M"
director_start 'udp = 10'
at_rest=$(mbufs_at_rest)

# Transfers both ways on a path whose MTUs nobody knows yet, and then what client
# and server have learnt. PEER is whom the server takes for its client.
transfers() { # VIP CLIENTS_MTU SERVER SERVERS_MTU PEER
    forget_mtus
    check_download "$1" 20M
    check_upload "$1" 20M
    assert_equal "the MTU that the client knows for $1" "$(learnt_mtu client "$1")" "$2"
    assert_equal "the MTU that $3 knows for $5" "$(learnt_mtu "$3" "$5")" "$4"
    in_ns client tracepath -n -m 5 "$1" | tail -n 1
}
both() { # VIP SERVER
    rvsadm -C
    service -t "$1" 80 "$2"
    service -t "$1" 5002 "$2"
}

set_mtu gate near 1400
set_mtu router far 1280

say "NAT: errors about both directions are translated"
SERVER_OPTIONS=(-m)
both "$VIP" "$RS2"
capture_start client eth0 "$LAB_TMP/client.pcap"
capture_start rs2 eth0 "$LAB_TMP/rs2.pcap"
transfers "$VIP" 1280 rs2 1400 "$CLIENT"
both "$VIP6" "$RS2_6"
transfers "$VIP6" 1280 rs2 1400 "$CLIENT6"
capture_stop "$LAB_TMP"/{client,rs2}.pcap
needed="icmp.type == 3 && icmp.code == 4" too_big="icmpv6.type == 2"
every_packet "$LAB_TMP/client.pcap" "$needed" "$VIP $CLIENT 1280" ip.src ip.dst icmp.mtu
assert_equal "what the errors quote" "$(inner_fields "$LAB_TMP/client.pcap" "$needed" ip.src ip.dst | sort -u)" "$CLIENT $VIP"
assert_equal "what the errors quote" "$(inner_fields "$LAB_TMP/rs2.pcap" "$needed && ip.src != 10.0.1.1" ip.src ip.dst | sort -u)" "$RS2 $CLIENT"
every_packet "$LAB_TMP/client.pcap" "$too_big" "$VIP6 $CLIENT6 1280" ipv6.src ipv6.dst icmpv6.mtu
assert_equal "what the errors quote" "$(inner_fields "$LAB_TMP/client.pcap" "$too_big" ipv6.src ipv6.dst | sort -u)" "$CLIENT6 $VIP6"
no_bad_checksums "$LAB_TMP/client.pcap" "icmp || icmpv6"
no_bad_checksums "$LAB_TMP/rs2.pcap" "icmp || icmpv6"

say "FULLNAT: the same, for packets of the local addresses"
SERVER_OPTIONS=(-b)
SERVICE_OPTIONS=(--local-address "${LOCAL[0]}")
both "$VIP" "$RS2"
transfers "$VIP" 1280 rs2 1400 "${LOCAL[0]}"
SERVICE_OPTIONS=(--local-address "$LOCAL6")
both "$VIP6" "$RS2_6"
transfers "$VIP6" 1280 rs2 1400 "$LOCAL6"

say "FULLNAT between the families: 20 bytes of difference"
SERVICE_OPTIONS=(--local-address "$LOCAL6")
set_mtu router far 1300
both "$VIP" "$RS2_6"
transfers "$VIP" 1280 rs2 1420 "$LOCAL6"
SERVICE_OPTIONS=(--local-address "${LOCAL[0]}")
both "$VIP6" "$RS2"
transfers "$VIP6" 1320 rs2 1380 "${LOCAL[0]}"

SERVICE_OPTIONS=()
servers_answer_by router
say "DR: errors about answers are for the server"
SERVER_OPTIONS=(-g)
both "$VIP" "$RS1"
transfers "$VIP" '' rs1 1400 "$CLIENT"
both "$VIP6" "$RS1_6"
transfers "$VIP6" '' rs1 1400 "$CLIENT6"

say "TUN: the director's own link leaves 20 or 40 bytes less"
SERVER_OPTIONS=(-i)
# A server that knows of a small MTU asks for small segments, which fit.
set_mtu gate near 1500
set_mtu router far 1500
both "$VIP" "$RS2"
transfers "$VIP" 1480 rs2 '' "$CLIENT"
both "$VIP6" "$RS2_6"
transfers "$VIP6" 1460 rs2 '' "$CLIENT6"

say "TUN: a router beyond asks for less, of the director"
set_mtu router far 1400
both "$VIP" "$RS2"
transfers "$VIP" 1380 rs2 '' "$CLIENT"
both "$VIP6" "$RS2_6"
transfers "$VIP6" 1360 rs2 '' "$CLIENT6"

check_mbufs "$at_rest"
check_stop
