#!/bin/bash
# What the functional test of kernel IPVS covers: 32 random bytes of the client
# arrive at the server by DR, NAT and TUN, with a director of one port and of two.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"

bytes_arrive() { # VIP PORT
    local got=$LAB_TMP/rs1/received
    head -c 32 /dev/urandom >"$LAB_TMP/sent"
    rm -f "$got"
    spawn rs1 "$LAB_TMP/rs1/receiver.log" socat -u -T 5 TCP6-LISTEN:8080,reuseaddr,ipv6only=0 "OPEN:$got,creat"
    wait_for 5 "rs1 to listen on port 8080" listens
    in_ns client timeout 10 socat -u -T 5 STDIN "TCP:$(host_port "$1" "$2")" <"$LAB_TMP/sent" || fail "no connection to $1 port $2"
    wait_for 5 "32 bytes on rs1" cmp -s "$LAB_TMP/sent" "$got"
}
listens() { [[ -n $(in_ns rs1 ss -Hltn 'sport = :8080') ]]; }

both_families() { # OPTION...
    rvsadm -C
    rvsadm -A -t "$VIP:8080" -s rr
    rvsadm -a -t "$VIP:8080" -r "$RS1:8080" "$@"
    rvsadm -A -t "[$VIP6]:8080" -s rr
    rvsadm -a -t "[$VIP6]:8080" -r "[$RS1_6]:8080" "$@"
    bytes_arrive "$VIP" 8080
    bytes_arrive "$VIP6" 8080
}

lab_up
real_servers start
director_start
say "DR, one port"
both_families -g

say "TUN, one port"
start_decap rs1
both_families -i
tunnelled() { (($(decapsulated rs1 ipip) >= 4)); }
wait_for 3 "packets in tunnels: $(jq -c . "$LAB_TMP/rs1/decap.json")" tunnelled
real_servers stop

# The client is a neighbour of the server, which must not answer it directly.
say "NAT, one port"
ip -n rvs-rs1 route add "$CLIENT/32" via "$DIRECTOR"
ip -n rvs-rs1 route add "$CLIENT6/128" via "$DIRECTOR6"
both_families -m

say "NAT, two ports"
lab_up nat
director_start
both_families -m

say "TUN, two ports"
lab_up tun
real_servers start
start_decap rs1
director_start
both_families -i

say "DR, two ports"
lab_up routed
real_servers start
servers_answer_by router
director_start
both_families -g
