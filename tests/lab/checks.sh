# shellcheck shell=bash
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

# A column of a server's row in `rvsadm -Ln [--stats]`: 1 is connections with
# --stats; 3 and 4 are ActiveConn and InActConn without.
server_column() { # ADDRESS:PORT COLUMN [--stats]
    rvsadm -Ln "${@:3}" | awk -v server="$1" -v column="$2" '$1 == "->" && $2 == server { print $(column + 2) }'
}

server_has() { # ADDRESS:PORT COLUMN VALUE [--stats]
    [[ $(server_column "$1" "$2" "${@:4}") == "$3" ]]
}

# --------------------------------------------------------------------- packets

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
