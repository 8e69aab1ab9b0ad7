#!/bin/bash
# tracepath through the director to a server, by every method: a service for all
# UDP ports takes its probes. The director is the first hop, in the name of the
# VIP; the server answers the last probe, and that answer is the VIP's, too.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"

through() { # VIP SERVER PMTU OPTION...
    local out
    rvsadm -C
    forget_mtus
    rvsadm -A -u "$(host_port "$1" 0)" -s rr -p 30 "${SERVICE_OPTIONS[@]}"
    rvsadm -a -u "$(host_port "$1" 0)" -r "$(host_port "$2" 0)" "${@:4}"
    wait_for 5 "the server's next hop" next_hops_known
    out=$(in_ns client tracepath -n -m 6 "$1")
    assert_equal "hops to $1" "$(hops_of_tracepath "$out")" "$1"
    assert_match "tracepath to $1 by ${*:4}" "$out" "Resume: pmtu $3 hops $hops"
}
hops=2

say "DR"
lab_up
real_servers start
director_start
SERVICE_OPTIONS=()
through "$VIP" "$RS1" 1500 -g
through "$VIP6" "$RS1_6" 1500 -g
check_stop

say "NAT"
lab_up nat
real_servers start
director_start
through "$VIP" "$RS1" 1500 -m
through "$VIP6" "$RS1_6" 1500 -m
say "FULLNAT"
SERVICE_OPTIONS=(--local-address 10.0.0.201)
through "$VIP" "$RS1" 1500 -b
through "$VIP6" "$RS1" 1500 -b
SERVICE_OPTIONS=(--local-address fd00:2::201)
through "$VIP6" "$RS1_6" 1500 -b
through "$VIP" "$RS1_6" 1480 -b
check_stop

# The outer packet's TTL is the inner one's, so that the router on the way of the
# tunnel is a hop, of which the director tells.
say "TUN"
hops=3
SERVICE_OPTIONS=()
lab_up tun
real_servers start
start_decap rs1
director_start
for kind in '' '--tun-type gre' '--tun-type gre --tun-csum' '--tun-type gue --tun-port 6080 --tun-nocsum'; do
    case $kind in
    '') room=20 ;;
    *gue*) room=32 ;;
    *csum*) room=28 ;;
    *) room=24 ;;
    esac
    # shellcheck disable=SC2086 # several words, or none
    through "$VIP" "$RS1" $((1500 - room)) -i $kind
    # shellcheck disable=SC2086
    through "$VIP6" "$RS1_6" $((1500 - room - 20)) -i $kind
done
check_stop
