#!/bin/bash
# trace, capture and explain agree with each other and with what is on the wire,
# by every method, and about what is dropped.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"

observed=()
# Starts `rvsadm trace` or `capture`; what it writes to standard output goes to
# FILE.
observe_start() { # FILE COMMAND...
    "$RVSADM" "${@:2}" >"$1" 2>"$1.log" </dev/null &
    observed+=($!)
    remember $!
    wait_for 5 "rvsadm ${*:2}" grep -q observing "$1.log"
    sleep 0.1 # until the workers have it
}
observe_stop() {
    sleep 0.5 # what is still on its way
    local pid
    for pid in "${observed[@]}"; do
        kill -INT "$pid" 2>/dev/null || true # one that has seen its packets has ended
        wait "$pid" || fail "rvsadm ended with $?"
    done
    observed=()
}

# Frames of a capture in hexadecimal, one a line.
frames() { # FILE FILTER
    tshark -r "$1" -Y "$2" -T jsonraw 2>/dev/null | jq -r '.[]._source.layers.frame_raw[0]'
}
explain() { rvsadm explain "$@" --json; }

# What a packet was before and became, as trace and explain say it.
rewrite='[.server, .before.ip.source, .before.ip.destination, .after.destination_mac, .after.source_mac,
    .after.ip.source, .after.ip.destination, .after.ip.ttl, .after.outer.source, .after.outer.destination] | map(. // "-") | join(" ")'
on_the_wire() { # METHOD SERVER FAMILY: filter of the client's packets behind the director
    case $1 in
    -i) if [[ $2 == *:* ]]; then echo "ipv6.nxt == 41 && tcp"; else echo "ip.proto == 4 && tcp"; fi ;;
    -g) echo "eth.src == $DIRECTOR_LAN_MAC && tcp.dstport == 80 && (ip.dst == $VIP || ipv6.dst == $VIP6)" ;;
    *) echo "eth.src == $DIRECTOR_LAN_MAC && tcp.dstport == 80 && (ip.dst == $RS2 || ipv6.dst == $RS2_6)" ;;
    esac
}

cport=41000
by_method() { # METHOD VIP CLIENT SERVER
    local method=$1 vip=$2 client=$3 server=$4 thought said
    cport=$((cport + 1))
    SERVER_OPTIONS=("$method") SERVICE_OPTIONS=()
    if [[ $method == -b ]]; then SERVICE_OPTIONS=(--local-address "${LOCAL[0]}"); fi
    if [[ $method == -b && $server == *:* ]]; then SERVICE_OPTIONS=(--local-address "$LOCAL6"); fi
    rvsadm -C
    service -t "$vip" 80 "$server"
    wait_for 5 "the servers' next hops" next_hops_known
    local trace=$LAB_TMP/trace.json words=$LAB_TMP/words captured=$LAB_TMP/captured.pcapng
    local wan=$LAB_TMP/wan.pcap lan=$LAB_TMP/lan.pcap from
    from=$(host_port "$client" "$cport")

    # The gate is on the client's way.
    thought=$(explain TCP "$from" "$(host_port "$vip" 80)" --ttl 63 | jq -c .packet)
    capture_start wire rvswire0 "$wan" "tcp port $cport"
    capture_start wire rvswire1 "$lan"
    observe_start "$trace" trace --client "$from" --count 1000 --json
    observe_start "$words" trace --client "$from" --count 1000
    observe_start "$captured" capture -w - --client "$from" --vip "$vip"
    in_ns client curl -sS --max-time 5 --local-port "$cport" "http://$(host_port "$vip" 80)/" >/dev/null
    observe_stop
    capture_stop "$wan" "$lan"

    say "$method $vip: explain and the first packet traced"
    said=$(head -n 1 "$trace")
    assert_equal "server and rewrite" "$(jq -r "$rewrite" <<<"$said")" "$(jq -r "$rewrite" <<<"$thought")"
    assert_equal "verdict" "$(jq -c .verdict <<<"$said")" "$(jq -c .verdict <<<"$thought")"
    assert_equal "method" "$(jq -c .method <<<"$said")" "$(jq -c .method <<<"$thought")"
    assert_equal "verdict" "$(jq -c .verdict <<<"$said")" '{"sent":{"port":"lan"}}'
    assert_equal "server" "$(jq -r .server <<<"$said")" "$(host_port "$server" 80)"
    assert_equal "opened" "$(jq -c '[.connection.opened, .connection.state_after]' <<<"$said")" '[true,"SYN_RECV"]'
    assert_equal "other packets that opened a connection" "$(tail -n +2 "$trace" | jq -c 'select(.connection.opened)')" ''
    assert_match "in words" "$(<"$words")" "connection  new: .*$cport"
    assert_match "the note of explain" "$(rvsadm explain TCP "$(host_port "$client" 999)" "$(host_port "$vip" 80)")" \
        'nothing was changed'

    say "$method $vip: trace and the wire, field by field"
    local out
    out=$(on_the_wire "$method" "$server")
    local mac_fields=(eth.dst eth.src) ip_fields=(ip.src tcp.srcport ip.dst tcp.dstport ip.ttl)
    if [[ $vip == *:* ]]; then ip_fields=(ipv6.src tcp.srcport ipv6.dst tcp.dstport ipv6.hlim); fi
    paste -d ' ' <(fields "$lan" "$out" "${mac_fields[@]}") <(inner_fields "$lan" "$out" "${ip_fields[@]}") >"$LAB_TMP/on-wire"
    jq -r 'select(.connection.reply | not) | .after
        | [.destination_mac, .source_mac, (.ip.source | sub(":(?<p>[0-9]+)$"; " \(.p)") | gsub("[][]"; "")),
           (.ip.destination | sub(":(?<p>[0-9]+)$"; " \(.p)") | gsub("[][]"; "")), .ip.ttl] | join(" ")' "$trace" >"$LAB_TMP/traced"
    [[ -s $LAB_TMP/on-wire ]] || fail "no packets on the wire: $out"
    diff "$LAB_TMP/on-wire" "$LAB_TMP/traced" >&2 || fail "trace and the wire differ"
    if [[ $method == -i && $vip != *:* ]]; then
        assert_equal "outer addresses" "$(jq -r 'select(.after.outer) | .after.outer | [.source, .destination, .ttl] | join(" ")' "$trace" | sort -u)" \
            "$(fields "$lan" "$out" ip.src ip.dst ip.ttl | sort -u)"
    fi

    say "$method $vip: capture and the wire, byte by byte"
    diff <(frames "$wan" "eth.dst == $DIRECTOR_MAC") <(frames "$captured" "frame.interface_name == \"wan (in)\"") >&2 ||
        fail "the packets that came from the client differ"
    diff <(frames "$lan" "$out") <(frames "$captured" "frame.interface_name == \"lan (out)\"") >&2 ||
        fail "the packets that left to the server differ"
    diff <(frames "$wan" "eth.src == $DIRECTOR_MAC") <(frames "$captured" "frame.interface_name == \"wan (out)\"") >&2 ||
        fail "the packets that left to the client differ"
    local replies
    replies=$(jq -r 'select(.connection.reply) | .verdict.sent.port' "$trace" | sort -u)
    case $method in
    -m | -b) assert_equal "ports of the answers" "$replies" wan ;;
    *) assert_equal "ports of the answers" "$replies" '' ;;
    esac
    assert_equal "service and server in comments" \
        "$(fields "$captured" 'frame.interface_name == "lan (out)"' frame.comment | grep -cvF "service TCP $(host_port "$vip" 80); server $(host_port "$server" 80)" || true)" 0
    assert_equal "bytes of trace" "$(jq -r 'select(.connection.reply | not) | .after.bytes' "$trace" | cut -c 1-300)" \
        "$(frames "$lan" "$out" | cut -c 1-300)"
    assert_equal "lines of explain about the connection" \
        "$(rvsadm explain TCP "$from" "$(host_port "$vip" 80)" --flags A | grep -c 'connection .*found:')" 1
}

lab_up routed
real_servers start
for name in rs1 rs2; do start_decap "$name"; done
director_start
at_rest=$(mbufs_at_rest)
by_method -m "$VIP" "$CLIENT" "$RS2"
by_method -m "$VIP6" "$CLIENT6" "$RS2_6"
by_method -b "$VIP" "$CLIENT" "$RS2"
by_method -b "$VIP6" "$CLIENT6" "$RS2_6"
servers_answer_by router
by_method -g "$VIP" "$CLIENT" "$RS1"
by_method -g "$VIP6" "$CLIENT6" "$RS1_6"
by_method -i "$VIP" "$CLIENT" "$RS2"
by_method -i "$VIP6" "$CLIENT6" "$RS2_6"

say "the turn of rr is not taken by explain"
SERVER_OPTIONS=(-g) SERVICE_OPTIONS=()
rvsadm -C
service -t "$VIP" 80 "$RS1" "$RS2"
next_server() { explain TCP "$CLIENT:999" "$VIP:80" | jq -r .packet.server; }
first=$(next_server)
assert_equal "the same server three times" "$(next_server) $(next_server)" "$first $first"
assert_equal "connections" "$(rvsadm -Ln --stats -t "$VIP:80" | awk '$1 == "->" && $3 ~ /^[0-9]+$/ { sum += $3 } END { print sum + 0 }')" 0
check_mbufs "$at_rest"
check_stop

# ------------------------------------------------------------------------ drops

lab_up one
real_servers start
director_start 'connections = 1024'
SERVER_OPTIONS=(-g) SERVICE_OPTIONS=()
service -t "$VIP" 80 "$RS1"
service -t "$VIP" 81
rvsadm -A -t "$VIP:82" -s rr
rvsadm -a -t "$VIP:82" -r 203.0.113.9:82 -m
rvsadm -A -t "$VIP:83" -s rr
rvsadm -a -t "$VIP:83" -r 192.168.1.77:83 -g
rvsadm -A -t "$VIP:84" -s rr
rvsadm -a -t "$VIP:84" -r "$RS1:84" -g
for port in 85 86; do
    rvsadm -A -t "$VIP:$port" -s rr
    rvsadm -a -t "$VIP:$port" -r "$RS2:85" -m
done
rvsadm -A -t "$VIP:87" -s rr
rvsadm -a -t "$VIP:87" -r "$RS1:87" -i
rvsadm set nat_icmp_send 1
sleep 1 # new servers settle

send() { # NAMESPACE HEX
    echo "packet - $2" >"$LAB_TMP/corpus"
    in_ns "$1" python3 "$LAB_DIR/send-frames.py" eth0 "$LAB_TMP/corpus" packet
}
kinds=()
# What explain says of a packet happens to it: the same frame is sent, and trace,
# capture and the counter say the same.
dropped_as() { # REASON NAMESPACE PROTOCOL SOURCE DESTINATION [OPTION...]
    local reason=$1 ns=$2 before thought frame words
    before=$(dropped "$reason")
    thought=$(explain "${@:3}")
    assert_equal "$reason: explain ${*:3}" "$(jq -r '.packet.verdict.dropped.reason' <<<"$thought")" "$reason"
    assert_equal "$reason: the counter after explain" "$(dropped "$reason")" "$before"
    frame=$(jq -r .packet.before.bytes <<<"$thought")
    words=$(rvsadm explain "${@:3}")
    assert_match "$reason: in words" "$words" "dropped: $reason.*to do "
    observe_start "$LAB_TMP/trace.json" trace --drops --count 1 --timeout 10 --json
    observe_start "$LAB_TMP/drop.pcapng" capture -w - --drops --count 1 --timeout 10
    send "$ns" "$frame"
    sleep 0.3
    observe_stop
    assert_equal "$reason: trace" "$(jq -r .verdict.dropped.reason "$LAB_TMP/trace.json")" "$reason"
    assert_equal "$reason: the packet traced" "$(jq -r .before.bytes "$LAB_TMP/trace.json" | cut -c 1-300)" "$(cut -c 1-300 <<<"$frame")"
    assert_match "$reason: the comment of capture" "$(fields "$LAB_TMP/drop.pcapng" frame frame.comment)" "dropped: $reason"
    assert_equal "$reason: the counter" "$(dropped "$reason")" $((before + 1))
    kinds+=("$reason")
}

say "drops that explain foretells"
dropped_as ttl_expired client TCP "$CLIENT:5000" "$VIP:80" --ttl 1
dropped_as tcp_rst_no_connection client TCP "$CLIENT:5010" "$VIP:80" --flags R
dropped_as ip_martian client TCP 127.0.0.1:5000 "$VIP:80"
dropped_as no_server client TCP "$CLIENT:5000" "$VIP:81"
dropped_as no_route client TCP "$CLIENT:5000" "$VIP:82"
dropped_as no_next_hop client TCP "$CLIENT:5000" "$VIP:83"
dropped_as too_big client TCP "$CLIENT:5000" "$VIP:87" --length 1490
dropped_as nat_no_connection rs2 TCP "$RS2:85" "$CLIENT:5999"
send client "$(explain TCP "$CLIENT:5001" "$VIP:84" | jq -r .packet.before.bytes)"
rvsadm -d -t "$VIP:84" -r "$RS1:84"
dropped_as server_deleted client TCP "$CLIENT:5001" "$VIP:84" --flags A
send client "$(explain TCP "$CLIENT:5002" "$VIP:85" | jq -r .packet.before.bytes)"
dropped_as nat_ambiguous client TCP "$CLIENT:5002" "$VIP:86"
service -u "$VIP" 88 "$RS1"
sleep 1
in_ns client python3 -c '
import socket, sys
for port in range(20000, 21100):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("", port))
        s.sendto(b"x", (sys.argv[1], 88))
' "$VIP"
sleep 1 # until all have come
dropped_as table_full client UDP "$CLIENT:5004" "$VIP:88"

say "drops of frames that are not good"
while read -r name reason hex; do
    case $name in
    eth-other-host | vlan-7 | ip4-one-byte | ip4-version-6 | ip4-bad-checksum | ip6-39-bytes | ip6-version-4 | \
        ip6-31-options-headers | tcp-12-bytes) ;;
    *) continue ;;
    esac
    before=$(dropped "$reason")
    observe_start "$LAB_TMP/trace.json" trace --drops --count 1 --timeout 10 --json
    observe_start "$LAB_TMP/drop.pcapng" capture -w - --drops --count 1 --timeout 10
    send client "$hex"
    sleep 0.3
    observe_stop
    assert_equal "$name: trace" "$(jq -r .verdict.dropped.reason "$LAB_TMP/trace.json")" "$reason"
    assert_match "$name: the comment of capture" "$(fields "$LAB_TMP/drop.pcapng" frame frame.comment)" "dropped: $reason"
    assert_equal "$name: the counter" "$(dropped "$reason")" $((before + 1))
    kinds+=("$reason")
done <"$LAB_DIR/garbage.txt"
echo "${#kinds[@]} kinds of drops: ${kinds[*]}"
((${#kinds[@]} >= 20)) || fail "only ${#kinds[@]} kinds of drops were seen"
check_stop

# ------------------------------------------------------------------ two workers

if (($(nproc) >= 2)); then
    say "two workers: both parts of a packet that is handed over"
    director_start 'cores = [0, 1]'
    rvsadm -A -t "$VIP:80" -s rr
    rvsadm -a -t "$VIP:80" -r "$RS1:80" -g
    rvsadm -a -t "$VIP:80" -r "$RS2:80" -g
    wait_for 5 "the servers' next hops" next_hops_known
    observe_start "$LAB_TMP/trace.json" trace --client "$CLIENT" --count 1000 --json
    for _ in {1..20}; do in_ns client curl -sS --max-time 5 "http://$VIP/" >/dev/null; done
    observe_stop
    # Every part that says "handed over" has another of the same number.
    parted=$(jq -r 'select(.verdict.handed_over) | .number' "$LAB_TMP/trace.json" | sort)
    joined=$(jq -r 'select(.handed_over and .handed_over_by != null) | .number' "$LAB_TMP/trace.json" | sort)
    [[ -n $parted ]] || fail "no packet was handed over"
    assert_equal "numbers of the other parts" "$joined" "$parted"
    assert_equal "connections opened by packets traced" "$(jq -s '[.[] | select(.connection.opened)] | length' "$LAB_TMP/trace.json")" 20
    owner=$(explain TCP "$CLIENT:42000" "$VIP:80" | jq .packet.worker)
    observe_start "$LAB_TMP/trace.json" trace --client "$CLIENT:42000" --count 100 --json
    in_ns client curl -sS --max-time 5 --local-port 42000 "http://$VIP/" >/dev/null
    observe_stop
    assert_equal "the worker that explain names" "$(jq -s -r '[.[] | select(.connection)] | first | .worker' "$LAB_TMP/trace.json")" "$owner"
    check_stop
fi
