#!/bin/bash
# FULLNAT: both addresses are rewritten, so that servers anywhere answer to the
# director; also between the address families.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up fullnat
vips=("$VIP" "$VIP6")
local4=$(IFS=, && echo "${LOCAL[*]}")
head -c 20M "$LAB_TMP/100M" >"$LAB_TMP/20M"

local4_services() { # VIP
    SERVICE_OPTIONS=(--local-address "$local4") SERVER_OPTIONS=(-b)
    services "$1" "$RS1" "$RS2"
}
local6_services() { # VIP
    SERVICE_OPTIONS=(--local-address "$LOCAL6") SERVER_OPTIONS=(-b)
    services "$1" "$RS1_6" "$RS2_6"
}

director_start 'udp = 10'
at_rest=$(mbufs_at_rest)
local4_services "$VIP"
local6_services "$VIP6"
check_rows FullNat

say "on the wire: the servers see a local address, the client the VIP"
wan=$LAB_TMP/wan.pcap lan=$LAB_TMP/lan.pcap
capture_start wire rvswire0 "$wan"
capture_start wire rvswire1 "$lan"
for vip in "${vips[@]}"; do check_answers "$vip"; done
echo_answer "$VIP" 4010
echo_answer "$VIP6" 4010
capture_stop "$wan" "$lan"
l4="(tcp || udp)" local_range="10.0.0.200/30"
kept4=(ip.dsfield ip.flags ip.len tcp.dstport udp.dstport "${L4_FIELDS[@]}")
kept6=(ipv6.tclass ipv6.plen tcp.dstport udp.dstport "${L4_FIELDS[@]}")
back4=(ip.dsfield ip.flags ip.len tcp.srcport udp.srcport "${L4_FIELDS[@]}")
back6=(ipv6.tclass ipv6.plen tcp.srcport udp.srcport "${L4_FIELDS[@]}")
same_packets "$wan" "ip.dst == $VIP && $l4" "$lan" "ip.src == $local_range && $l4" "${kept4[@]}"
same_packets "$lan" "ip.dst == $local_range && $l4" "$wan" "ip.src == $VIP && $l4" "${back4[@]}"
same_packets "$wan" "ipv6.dst == $VIP6 && $l4" "$lan" "ipv6.src == $LOCAL6 && $l4" "${kept6[@]}"
same_packets "$lan" "ipv6.dst == $LOCAL6 && $l4" "$wan" "ipv6.src == $VIP6 && $l4" "${back6[@]}"
every_packet "$lan" "ip.dst == $RS1 && tcp" "$DIRECTOR_LAN_MAC $RS1_MAC 63" eth.src eth.dst ip.ttl
every_packet "$lan" "ip.dst == $RS2 && tcp" "$DIRECTOR_LAN_MAC $ROUTER_MAC:01 63" eth.src eth.dst ip.ttl
every_packet "$wan" "ip.src == $VIP && tcp" "$DIRECTOR_MAC $CLIENT_MAC" eth.src eth.dst
no_bad_checksums "$lan" "eth.src == $DIRECTOR_LAN_MAC && $l4"
no_bad_checksums "$wan" "eth.src == $DIRECTOR_MAC && $l4"
assert_equal "packets of the client on the servers' side" "$(fields "$lan" "(ip.addr == $CLIENT || ipv6.addr == $CLIENT6) && $l4" frame.number)" ''
who=$(get "$VIP" who | cut -d ' ' -f 1)
assert_match "the client that the server sees" "$who" "^(${LOCAL[0]}|${LOCAL[1]})\$"
assert_equal "the client that the server sees" "$(get "$VIP6" who | cut -d ' ' -f 1)" "$LOCAL6"

for vip in "${vips[@]}"; do
    say "$vip: both servers, 100 MB each way, UDP, iperf3, ping, tracepath"
    check_method "$vip"
    check_ping_and_tracepath "$vip" "$vip"
done
say "load"
check_load "http://$VIP/"

say "IPv6 clients and IPv4 servers, IPv4 clients and IPv6 servers"
rvsadm -C
local6_services "$VIP"
local4_services "$VIP6"
for vip in "${vips[@]}"; do
    check_answers "$vip"
    check_download "$vip"
    check_upload "$vip"
    check_iperf "$vip"
    check_echo "$vip"
done

say "the client's address in a TCP option (TOA)"
rvsadm -C
SERVICE_OPTIONS=(--local-address "$local4" --client-address toa)
service -t "$VIP" 80 "$RS1"
capture_start rs1 eth0 "$LAB_TMP/rs1.pcap"
port=$(in_ns client curl -sS --max-time 5 -o "$LAB_TMP/got" -w '%{local_port}' "http://$VIP/")
capture_stop "$LAB_TMP/rs1.pcap"
# Kind 254, length 8, port, address.
# shellcheck disable=SC2046,SC2086 # the bytes of the address
option=$(printf 'fe08%04x%02x%02x%02x%02x' "$port" ${CLIENT//./ })
assert_match "TCP options that rs1 got" "$(fields "$LAB_TMP/rs1.pcap" "ip.dst == $RS1 && tcp" tcp.options | tr -d :)" "$option"
no_bad_checksums "$LAB_TMP/rs1.pcap" "ip.dst == $RS1 && tcp"
check_download "$VIP" 20M

say "the client's address in the PROXY protocol"
SERVICE_OPTIONS=(--local-address "$local4" --client-address proxy)
service -t "$VIP" 81 "$RS1" "$RS2"
SERVICE_OPTIONS=(--local-address "$LOCAL6" --client-address proxy)
service -t "$VIP6" 81 "$RS1_6" "$RS2_6"
for pair in "$VIP $CLIENT" "$VIP6 $CLIENT6"; do
    read -r vip client <<<"$pair"
    answer=$(in_ns client curl -sS --max-time 5 -w '%{local_port}\n' "http://$(host_port "$vip" 81)/who" | xargs)
    assert_match "address, port and curl's own port" "$answer" "^$client ([0-9]+) "
    assert_equal "the port" "${BASH_REMATCH[1]}" "${answer##* }"
    check_download "$vip" 100M 81
    # Requests that come after others on a connection, and that are long.
    in_ns client curl -sS --max-time 10 -o /dev/null -H "X-Long: $(printf '%07000d' 1)" "http://$(host_port "$vip" 81)/who" \
        --next -sS -o /dev/null "http://$(host_port "$vip" 81)/who"
done
check_mbufs "$at_rest"
check_stop

say "services of the file"
director_start +services-fullnat.toml
wait_for 5 "the servers' next hops" next_hops_known
assert_match "-Sn" "$(rvsadm -Sn)" "-A -t $VIP:80 .*--local-address $local4"
assert_match "-Sn" "$(rvsadm -Sn)" "-A -t $VIP:81 .*--client-address proxy"
check_answers "$VIP"
assert_match "the client" "$(get "$VIP" who 81)" "^$CLIENT "
check_stop

if (($(nproc) >= 2)); then
    say "two workers"
    # Of the addresses above the servers have ports in TIME_WAIT from before the
    # restart: a SYN that meets one is refused, and scheduled anew.
    local4=10.0.0.203 LOCAL6=fd00:2::203
    director_start 'cores = [0, 1]'
    at_rest=$(mbufs_at_rest)
    local4_services "$VIP"
    local6_services "$VIP6"
    for vip in "${vips[@]}"; do
        for _ in {1..5}; do check_answers "$vip"; done
        check_download "$vip"
        check_upload "$vip" 20M
        check_echo "$vip"
    done
    check_load "http://[$VIP6]/"
    check_mbufs "$at_rest"
    check_stop
fi
