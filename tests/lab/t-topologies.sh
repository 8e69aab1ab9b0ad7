#!/bin/bash
# The segments, routers and decapsulators of the other tests, with rvsd but
# without services: the director's kernel routes between its two ports.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"

reach() { # FROM ADDRESS...
    local address
    for address in "${@:2}"; do
        wait_for 5 "a ping from $1 to $address" in_ns "$1" ping -n -q -c 1 -W 1 "$address" >/dev/null
        in_ns "$1" ping -n -q -c 1 -s 1400 -W 1 "$address" >/dev/null || fail "no answer of $address to a large ping from $1"
    done
}
unreachable() { # FROM ADDRESS
    if in_ns "$1" ping -n -q -c 1 -W 1 "$2" >/dev/null 2>&1; then fail "$1 reaches $2, which it should not"; fi
}
hops() { # ADDRESS: those of tracepath from the client
    in_ns client tracepath -n -m 6 "$1" | awk '$2 ~ /[.:]/ { print $2 }' | uniq | xargs
}

say "nat: the servers' way to the client is the director"
lab_up nat
director_start
route_via client "$DIRECTOR" "$DIRECTOR6"
reach client "$DIRECTOR" "$VIP" "$RS1" "$RS2" "$DIRECTOR6" "$VIP6" "$RS1_6" "$RS2_6"
reach rs1 "$CLIENT" "$VIP" "$CLIENT6" "$VIP6"
assert_equal "hops to rs1" "$(hops "$RS1")" "$DIRECTOR $RS1"
# The kernel may also sign as the VIP, which is on the same tap.
assert_match "hops to rs1, IPv6" "$(hops "$RS1_6")" "^($DIRECTOR6|$VIP6) $RS1_6\$"
director_stop

say "fullnat: the servers know the local addresses, and no way to the client"
lab_up fullnat
director_start
for name in rs1 rs2; do
    reach "$name" "$DIRECTOR_LAN" "${LOCAL[@]}" "$DIRECTOR_LAN6" "$LOCAL6"
    unreachable "$name" "$CLIENT"
    unreachable "$name" "$CLIENT6"
done
reach client "$VIP" "$VIP6"

say "tun: decapsulated packets are answered past the director"
lab_up tun
real_servers start
for name in rs1 rs2; do start_decap "$name"; done
director_start
route_via client 192.168.1.254 fd00:1::254 10.0.1.0/24 fd00:3::/64
reach director "$RS1" "$RS2" "$RS1_6" "$RS2_6"
reach client "$VIP" "$VIP6" "$RS1" "$RS1_6"
tunnel_ping() { in_ns client python3 "$LAB_DIR/tunnel-ping.py" "$@"; }
for kind in ip gre gre-csum gue gue-nocsum; do
    for server in "$RS1" "$RS1_6"; do
        assert_equal "$kind to $server" "$(tunnel_ping "$kind" "$server" "$CLIENT" "$VIP")" answer
        assert_equal "$kind to $server" "$(tunnel_ping "$kind" "$server" "$CLIENT6" "$VIP6")" answer
    done
done
assert_equal "GRE with a wrong checksum" "$(tunnel_ping gre-wrong "$RS1" "$CLIENT" "$VIP")" "no answer"
counted() { [[ $(jq -cS . "$LAB_TMP/rs1/decap.json") == "$1" ]]; }
wait_for 3 "what decap.py counts: $(jq -cS . "$LAB_TMP/rs1/decap.json")" \
    counted '{"4in6":1,"6in4":1,"6in6":1,"bad":1,"gre":4,"gre-csum":4,"gue":8,"ipip":1}'

say "routed: client, gate, director, router, server; and past the director"
lab_up routed
director_start
reach client "$VIP" "$RS1" "$RS2" "$VIP6" "$RS1_6" "$RS2_6"
assert_equal "hops to rs2" "$(hops "$RS2")" "192.168.2.1 $DIRECTOR 10.0.0.254 $RS2"
assert_match "hops to rs2, IPv6" "$(hops "$RS2_6")" "^fd00:4::1 ($DIRECTOR6|$VIP6) fd00:2::254 $RS2_6\$"
servers_answer_by router
reach rs1 "$CLIENT" "$CLIENT6"
reach rs2 "$CLIENT" "$CLIENT6"
assert_equal "rs2's way to the client" "$(in_ns rs2 tracepath -n -m 6 "$CLIENT" | awk '$2 ~ /[.:]/ { print $2 }' | uniq | xargs)" \
    "10.0.1.1 192.168.1.1 $CLIENT"

say "routed: a link with a smaller MTU"
servers_answer_by director
set_mtu gate near 1400
set_mtu router far 1280
for pair in "client $RS2 1280" "client $RS2_6 1280" "rs2 $CLIENT 1400" "rs2 $CLIENT6 1400"; do
    read -r name address mtu <<<"$pair"
    in_ns "$name" ping -n -q -c 2 -i 0.3 -s 1440 -M "do" -W 1 "$address" >/dev/null 2>&1 || true
    assert_equal "the MTU that $name knows for $address" "$(learnt_mtu "$name" "$address")" "$mtu"
    in_ns "$name" ping -n -q -c 1 -s $((mtu - 60)) -M "do" -W 1 "$address" >/dev/null || fail "no answer at $mtu bytes"
done
forget_mtus
assert_equal "the MTU for rs2 after forgetting" "$(learnt_mtu client "$RS2")" ''
wait_for 10 "the packets to add up: $(worker_counters | jq -c .)" packets_add_up
