#!/bin/bash
# Health checks that go to the VIP, by direct routing and through tunnels: they
# notice a server without the VIP, and one that does not unpack its tunnel.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"

checks() { rvsadm show health --json | jq -c '.checks[]'; }
# Checks that are up, of addresses in an order; all have been probed more than once.
up() { checks | jq -r 'select(.up and .last.failure == null and .in_a_row > 1) | .server' | sort | xargs; }
up_are() { [[ $(up) == "$(sort <<<"$1" | xargs)" ]]; }
down() { checks | jq -r 'select(.up | not) | "\(.server) \(.last.failure)"' | sort; }
down_are() { [[ $(down) == "$1" ]]; }
lines() { printf '%s\n' "$@"; }

lab_up one
real_servers start
capture_start rs1 eth0 "$LAB_TMP/rs1.pcap"
director_start +services-health-vip.toml
at_rest=$(mbufs_at_rest)
all=$(lines "$RS1:80" "$RS2:80" "[$RS1_6]:80" "[$RS2_6]:80" "$RS1:5000" "$RS2:5000")

say "direct routing: probes of HTTP, TCP over IPv6 and UDP reach the VIP at the servers"
wait_for 15 "good probes of all six; now: $(checks)" up_are "$all"
rvsadm show health
sleep 2
capture_stop "$LAB_TMP/rs1.pcap"
probes=$(fields "$LAB_TMP/rs1.pcap" "ip.src == $DIRECTOR && (tcp || udp) && !icmp" ip.dst tcp.dstport udp.dstport | sort -u | tr -s ' ' | sed 's/ $//')
assert_equal "what rs1 got from the director's address" "$probes" "$(lines "$VIP 5000" "$VIP 80")"
every_packet "$LAB_TMP/rs1.pcap" "ipv6.src == $DIRECTOR6 && tcp" "$VIP6" ipv6.dst
every_packet "$LAB_TMP/rs1.pcap" "ip.src == $VIP && tcp" "$DIRECTOR" ip.dst
no_bad_checksums "$LAB_TMP/rs1.pcap" "ip.src == $DIRECTOR || ipv6.src == $DIRECTOR6"
assert_match "the Host header" "$(fields "$LAB_TMP/rs1.pcap" http.request http.host)" "^$VIP"
no_half_open() { [[ -z $(in_ns rs1 ss -Hnt state established "src $VIP") ]]; }
wait_for 5 "rs1 to have closed what the probes closed" no_half_open
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs1 rs2"

say "a server that loses the VIP is down, though its own address answers"
"$REPO/scripts/real-server" --netns rvs-rs1 stop "$VIP" "$VIP6"
wait_for 15 "rs1 to be down" down_are "$(lines "$RS1:5000 no answer within 500 ms" "$RS1:80 no connection within 500 ms" "[$RS1_6]:80 no connection within 500 ms")"
in_ns director curl -sS --max-time 5 "http://$RS1/" | grep -qx rs1 || fail "rs1 itself does not answer"
"$REPO/scripts/real-server" --netns rvs-rs1 start "$VIP" "$VIP6"
wait_for 15 "rs1 to be up again" up_are "$all"

say "nobody listens at the VIP: refused at once"
kill -TERM "$(<"$LAB_TMP/rs1/nginx.pid")"
refused() { [[ $(checks | jq -r --arg server "$RS1:80" 'select(.server == $server) | .last.failure') == "Connection refused" ]]; }
wait_for 10 "a refusal" refused
check_mbufs "$at_rest"
check_stop

lab_up tun
real_servers start
for name in rs1 rs2; do start_decap "$name"; done
director_start +services-health-tun.toml
all=$(lines "$RS1:80" "$RS2:80" "[$RS1_6]:80" "[$RS2_6]:80")

say "tunnels: IP in IP, GRE with checksums and GUE, IPv4 and IPv6"
wait_for 15 "good probes of all four; now: $(checks)" up_are "$all"
rvsadm show health
for kind in "rs1 ipip" "rs2 gre-csum" "rs1 gue"; do
    # shellcheck disable=SC2086 # name and kind
    (($(decapsulated $kind) > 0)) || fail "no probe of $kind: $(cat "$LAB_TMP"/rs?/decap.json)"
done
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs1 rs2"

say "a server that does not unpack its tunnel is down"
ip -n rvs-rs1 link set tun0 down
wait_for 15 "rs1 to be down" down_are "$(lines "$RS1:80 no connection within 500 ms" "[$RS1_6]:80 no connection within 500 ms")"
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs2 rs2"
check_stop
