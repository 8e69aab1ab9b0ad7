#!/bin/bash
# Datagrams in fragments, in order and out of order, by every method: all pieces
# reach the server of their connection, and its answers come back.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up routed
real_servers start
for name in rs1 rs2; do start_decap "$name"; done

send() { in_ns client python3 "$LAB_DIR/send-fragments.py" "$@"; }

# Fragments of the client's kernel, and ours.
# Never one twice: a port's connection would be another server's, or a deleted one's.
port=4100
fragments() { # VIP CLIENT SERVERS
    local length order
    for length in 3000 20000 60000; do
        for order in forward backward shuffled; do
            port=$((port + 1))
            assert_match "$length bytes, $order, to $1" "$(send "$2" "$port" "$1" 5000 "$length" 1400 "$order")" \
                "^$((length + 5)) $3 intact\$"
        done
    done
    # Small ones, of which the first has little more than the ports.
    assert_match "fragments of 16 bytes" "$(send "$2" $((port + 1)) "$1" 5000 100 16 backward)" "^105 $3 intact\$"
    assert_match "a datagram in one piece" "$(send "$2" $((port + 2)) "$1" 5000 1000 1400 forward)" "^1005 $3 intact\$"
    port=$((port + 2))
    # Of a file, socat makes one datagram.
    # 22,500 bytes are 30,000 letters.
    head -c 22500 "$LAB_TMP/100M" | base64 -w 0 >"$LAB_TMP/sent"
    # The first datagram into a tunnel may only teach the client the path's MTU.
    answer=$(ask "$1" 2>/dev/null) || answer=$(ask "$1")
    assert_equal "the answer to 30,000 bytes" "${answer#*: }" "$(cat "$LAB_TMP/sent")"
}
ask() { in_ns client socat -b 65000 -t 1 - "UDP:$(host_port "$1" 5000)" <"$LAB_TMP/sent"; } # VIP
run() { # VIP CLIENT SERVER...
    local names=rs1
    if [[ "${*:3}" == *"$RS2"* || "${*:3}" == *"$RS2_6"* ]]; then names='rs[12]'; fi
    if [[ $# == 3 && $names != rs1 ]]; then names=rs2; fi
    rvsadm -C
    service -u "$1" 5000 "${@:3}"
    fragments "$1" "$2" "$names"
}
all_methods() {
    servers_answer_by director
    say "NAT"
    SERVER_OPTIONS=(-m)
    run "$VIP" "$CLIENT" "$RS1" "$RS2"
    run "$VIP6" "$CLIENT6" "$RS1_6" "$RS2_6"
    say "FULLNAT"
    SERVER_OPTIONS=(-b)
    SERVICE_OPTIONS=(--local-address "${LOCAL[0]}")
    run "$VIP" "$CLIENT" "$RS1" "$RS2"
    SERVICE_OPTIONS=(--local-address "$LOCAL6")
    run "$VIP6" "$CLIENT6" "$RS1_6" "$RS2_6"
    SERVICE_OPTIONS=()
    servers_answer_by router
    say "DR"
    SERVER_OPTIONS=(-g)
    run "$VIP" "$CLIENT" "$RS1"
    run "$VIP6" "$CLIENT6" "$RS1_6"
    say "TUN"
    SERVER_OPTIONS=(-i)
    run "$VIP" "$CLIENT" "$RS1" "$RS2"
    run "$VIP6" "$CLIENT6" "$RS1_6" "$RS2_6"
}

director_start 'udp = 5'
at_rest=$(mbufs_at_rest)
all_methods
check_at_rest "$at_rest"
check_stop
if (($(nproc) >= 2)); then
    say "two workers"
    director_start 'cores = [0, 1]' 'udp = 5'
    at_rest=$(mbufs_at_rest)
    all_methods
    check_at_rest "$at_rest"
    check_stop
fi
