# shellcheck shell=bash disable=SC2034 # what the tests that source this use
# What several tests check. Sourced after lib.sh.

# -------------------------------------------------------------------- counters

worker_counters() { rvsadm show workers --json | jq .workers; }
port_counters() { rvsadm show ports --json | jq .ports; }

mbufs_in_use() { port_counters | jq '[.[].mbufs_in_use] | add'; }
connections() { worker_counters | jq '[.[].connections] | add'; }
no_connections() { [[ $(connections) == 0 ]]; }
dropped() { # REASON
    worker_counters | jq --arg reason "$1" '[.[].drops[] | select(.reason == $reason) | .count] | add // 0'
}

# Invariant 2 of the design: on every worker, what came went somewhere.
packets_add_up() {
    worker_counters | jq -e 'all(.[];
        .rx + .taken_over + .injected + .generated
        == .tx + .punted + .handed_off + .held + ([.drops[].count] | add // 0))' >/dev/null
}

# The number that the device's queues hold at rest: the same five times in a row,
# since a single look may catch a packet of neighbour discovery on its way.
mbufs_at_rest() {
    local last=none now same=0
    while ((same < 5)); do
        now=$(mbufs_in_use)
        if [[ $now == "$last" ]]; then same=$((same + 1)); else same=0; fi
        last=$now
        sleep 0.1
    done
    echo "$last"
}

mbufs_are() { [[ $(mbufs_in_use) == "$1" ]]; }

# The director at rest after load: nothing lost, nothing kept.
check_at_rest() { # MBUFS_BEFORE
    wait_for 90 "all connections to time out" no_connections
    wait_for 10 "mbufs in use to fall back to $1 (now $(mbufs_in_use))" mbufs_are "$1"
    wait_for 10 "rx = tx + punted + handed off + dropped on every worker: $(worker_counters | jq -c .)" packets_add_up
    assert_no_match "connections left in -Lnc" "$(rvsadm -Lnc)" '(TCP|UDP) '
}

# After load through connections whose TIME_WAIT lasts longer than a test.
check_mbufs() { # MBUFS_BEFORE
    wait_for 15 "mbufs in use to fall back to $1 (now $(mbufs_in_use))" mbufs_are "$1"
    wait_for 10 "rx = tx + punted + handed off + dropped on every worker: $(worker_counters | jq -c .)" packets_add_up
}

# A clean stop, with every mbuf accounted for.
check_stop() {
    director_stop TERM
    assert_equal "rvsd's exit status" "$DIRECTOR_STATUS" 0
    assert_match "the last line of the log" "$(tail -n 1 "$LAB_TMP/rvsd.log")" 'mbufs in use: 0'
}

# The MAC address of every server's next hop is known.
next_hops_known() { rvsadm show nexthops --json | jq -e 'all(.next_hops[]; .mac)' >/dev/null; }

# A column of a server's row in `rvsadm -Ln [--stats]`: 1 is connections with
# --stats; 3 and 4 are ActiveConn and InActConn without.
server_column() { # ADDRESS:PORT COLUMN [--stats]
    rvsadm -Ln "${@:3}" | awk -v server="$1" -v column="$2" '$1 == "->" && $2 == server { print $(column + 2) }'
}

server_has() { # ADDRESS:PORT COLUMN VALUE [--stats]
    [[ $(server_column "$1" "$2" "${@:4}") == "$3" ]]
}

# -------------------------------------------------------------------- services

host_port() { # ADDRESS PORT
    if [[ $1 == *:* ]]; then echo "[$1]:$2"; else echo "$1:$2"; fi
}

# Options of every -A and -a of `service`: the method and what belongs to it.
SERVICE_OPTIONS=() SERVER_OPTIONS=()

service() { # -t|-u VIP PORT SERVER...
    local at server
    at=$(host_port "$2" "$3")
    rvsadm -A "$1" "$at" -s rr "${SERVICE_OPTIONS[@]}"
    for server in "${@:4}"; do
        rvsadm -a "$1" "$at" -r "$(host_port "$server" "$3")" "${SERVER_OPTIONS[@]}"
    done
}

# What check_method needs. The two connections of iperf3 have to meet.
services() { # VIP SERVER SERVER
    service -t "$1" 80 "${@:2}"
    service -t "$1" 5002 "${@:2}"
    service -t "$1" 5201 "$2"
    service -u "$1" 5000 "${@:2}"
}

# All servers have the method in their rows.
check_rows() { # FORWARD
    local methods
    methods=$(rvsadm -Ln | awk '$1 == "->" && NR > 3 { print $3 }' | sort -u | xargs)
    assert_equal "methods in -Ln" "$methods" "$1"
}

# ---------------------------------------------------------- what clients must get

get() { # VIP [PATH [PORT]]
    in_ns client curl -sS --max-time 5 "http://$(host_port "$1" "${3:-80}")/${2:-}"
}

check_answers() { # VIP
    assert_equal "answers of $1 to two curls" "$( (get "$1" && get "$1") | sort | xargs)" "rs1 rs2"
}

# Twice, as there are two servers.
check_download() { # VIP [FILE [PORT]]
    local file=${2:-100M} url
    url="http://$(host_port "$1" "${3:-80}")/$file"
    for _ in 1 2; do
        in_ns client curl -sS --max-time 60 -w "$url: %{size_download} B in %{time_total} s\n" -o "$LAB_TMP/got" "$url"
        cmp "$LAB_TMP/got" "$LAB_TMP/$file" || fail "$url arrived damaged"
    done
}

check_upload() { # VIP [FILE]
    local file=${2:-100M} began sum at
    at=$(host_port "$1" 5002)
    for _ in 1 2; do
        began=${EPOCHREALTIME/./}
        sum=$(in_ns client timeout 60 socat -b 262144 -t 60 - "TCP:$at" <"$LAB_TMP/$file")
        assert_equal "sha256 of $file sent to $at" "$sum" "$(sha256sum <"$LAB_TMP/$file")"
        echo "$file to $at in $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
    done
}

echo_answer() { # VIP SOURCE_PORT
    in_ns client python3 "$LAB_DIR/udp-ask.py" "$1" 5000 "$2"
}

# New ports alternate, one port stays with its server.
check_echo() { # VIP
    local answers
    answers=$(for port in 4001 4002 4003 4004; do echo_answer "$1" "$port"; done)
    assert_equal "UDP answers of $1 to four ports" "$(sort <<<"$answers" | xargs)" "rs1: hello rs1: hello rs2: hello rs2: hello"
    answers=$(for _ in 1 2; do echo_answer "$1" 4005; done)
    assert_equal "UDP servers of one port" "$(sort -u <<<"$answers" | wc -l)" 1
}

check_iperf() { # VIP
    local direction out
    for direction in '' -R; do
        # shellcheck disable=SC2086 # no argument when empty
        out=$(in_ns client timeout 20 iperf3 --client "$1" --time 1 --json $direction) || fail "iperf3 $direction: $(jq -r .error <<<"$out")"
        jq -r --arg what "iperf3 $direction $1" '"\($what): \(.end.sum_received.bits_per_second / 1e6 | floor) Mbit/s"' <<<"$out"
        jq -e '.end.sum_received.bytes > 1e6' <<<"$out" >/dev/null || fail "iperf3 $direction moved too little"
    done
}

hops_of_tracepath() { # OUTPUT
    awk '$2 ~ /[.:]/ { print $2 }' <<<"$1" | uniq | xargs
}

check_ping_and_tracepath() { # VIP HOPS
    local out
    # What large packets through a tunnel taught the client.
    forget_mtus
    in_ns client ping -n -q -c 2 -i 0.2 -W 2 "$1" >/dev/null || fail "no answer of $1 to ping"
    out=$(in_ns client tracepath -n -m 5 "$1")
    assert_equal "hops of tracepath to $1" "$(hops_of_tracepath "$out")" "$2"
    assert_match "tracepath" "$out" 'Resume: pmtu 1500'
}

# All of it, with both servers.
check_method() { # VIP
    check_answers "$1"
    check_download "$1"
    check_upload "$1"
    check_echo "$1"
    check_iperf "$1"
}

# --------------------------------------------------------------------- packets

# The packets that came are those that left, in the fields that must not change.
same_packets() { # CAME FILTER LEFT FILTER FIELD...
    local came left
    came=$(fields "$1" "$2" "${@:5}" | sort)
    left=$(fields "$3" "$4" "${@:5}" | sort)
    [[ -n $came ]] || fail "no packets of '$2' in $1"
    diff <(echo "$came") <(echo "$left") || fail "'$4' (>) differs from '$2' (<) in ${*:5}"
}

# All packets of a filter have these values, and there are some.
every_packet() { # FILE FILTER VALUES FIELD...
    assert_equal "${*:4} of '$2' in $1" "$(fields "$1" "$2" "${@:4}" | sort -u)" "$3"
}

# Of ICMP errors: IP and ICMP. The packets that they quote are cut off, and may
# not have had their checksum yet.
no_bad_checksums() { # FILE FILTER
    local bad wrong_ip="ip.checksum.status == 0" wrong_l4="tcp.checksum.status == 0 || udp.checksum.status == 0"
    local wrong_icmp="icmp.checksum.status == 0 || icmpv6.checksum.status == 0"
    bad=$(fields "$1" "($2) && ($wrong_ip || $wrong_icmp || !(icmp || icmpv6) && ($wrong_l4))" frame.number frame.protocols)
    [[ -z $bad ]] || fail "wrong checksums in $1: $bad"
}

# What NAT and FULLNAT leave alone in TCP and UDP packets.
L4_FIELDS=(tcp.seq_raw tcp.ack_raw tcp.flags tcp.window_size_value tcp.payload udp.payload)

# Only ARP and ICMP of the director itself may carry the VIP as source there.
check_replies_bypass_director() { # FILE
    local rows
    rows=$(fields "$1" "(ip.src == $VIP || ipv6.src == $VIP6) && !icmp && !icmpv6" frame.number eth.src eth.dst frame.protocols)
    [[ -z $rows ]] || fail "the director's wire has packets from the VIP: $rows"
}

# What DR must not change, of the TCP packets to the VIP, IPv4 and IPv6.
unchanged_fields() { # FILE FILTER
    fields "$1" "ip.dst == $VIP && tcp && $2" \
        ip.src ip.dst ip.id ip.dsfield ip.flags ip.len tcp.srcport tcp.seq_raw tcp.ack_raw tcp.flags tcp.checksum tcp.payload
    fields "$1" "ipv6.dst == $VIP6 && tcp && $2" \
        ipv6.src ipv6.dst ipv6.tclass ipv6.flow ipv6.plen tcp.srcport tcp.seq_raw tcp.ack_raw tcp.flags tcp.checksum tcp.payload
}

# Every packet that came to the director reached one server with its IP header
# unchanged but for TTL and checksum, its MACs rewritten, its checksums right.
check_dr_rewrite() { # DIRECTORS_WIRE RS1 RS2
    local came reached
    came=$(unchanged_fields "$1" "eth.dst == $DIRECTOR_MAC" | sort)
    reached=$(for file in "$2" "$3"; do unchanged_fields "$file" tcp; done | sort)
    [[ -n $came ]] || fail "no packet for the VIP reached the director"
    diff <(echo "$came") <(echo "$reached") || fail "the servers (>) got other packets than the director (<)"

    local to_vip="(ip.dst == $VIP || ipv6.dst == $VIP6) && tcp"
    assert_equal "TTLs that the director got" \
        "$(fields "$1" "$to_vip && eth.dst == $DIRECTOR_MAC" ip.ttl ipv6.hlim | tr -d ' ' | sort -u)" 64
    local file mac
    for file in "$2" "$3"; do
        mac=$RS1_MAC
        if [[ $file == "$3" ]]; then mac=$RS2_MAC; fi
        assert_equal "MACs and TTLs in $file" \
            "$(fields "$file" "$to_vip" eth.src eth.dst ip.ttl ipv6.hlim | tr -s ' ' | sed 's/ $//' | sort -u)" \
            "$DIRECTOR_MAC $mac 63"
        assert_equal "packets with wrong checksums in $file" \
            "$(fields "$file" "$to_vip && (ip.checksum.status == 0 || tcp.checksum.status == 0)" frame.number)" ''
    done
}

# ------------------------------------------------------------------------ load

# 10,000 requests, 50 in parallel; none may fail.
check_load() { # URL
    local out
    out=$(in_ns client ab -q -n 10000 -c 50 "$1" 2>&1) || fail "ab: $out"
    check_ab "$out" 10000
    grep -E 'Requests per second|Failed requests' <<<"$out"
}

check_ab() { # OUTPUT [COMPLETE]
    assert_match "ab" "$1" "Complete requests: +${2:-[1-9]}"
    assert_match "ab" "$1" 'Failed requests: +0'
    assert_no_match "ab" "$1" 'Non-2xx'
}
