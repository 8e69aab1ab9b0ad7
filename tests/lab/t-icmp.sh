#!/bin/bash
# ICMP by every method: what the director says itself, and errors about
# connections, which reach those whose connections they are.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up routed
real_servers start
for name in rs1 rs2; do start_decap "$name"; done
director_start 'udp = 10'
at_rest=$(mbufs_at_rest)
client=$LAB_TMP/client.pcap

refused() { # tcp|udp VIP PORT: what the client's socket says
    if [[ $1 == tcp ]]; then
        in_ns client socat -T 3 - "TCP:$(host_port "$2" "$3"),connect-timeout=5" 2>&1 </dev/null || true
    else
        echo ping | in_ns client socat -t 1 - "UDP:$(host_port "$2" "$3")" 2>&1 || true
    fi
}
# All errors that the client got: from where, and the packets that they quote.
errors() { # VIP TYPE CODE
    if [[ $1 == *:* ]]; then
        every_packet "$client" "icmpv6.type < 128" "$1 $2 $3" ipv6.src icmpv6.type icmpv6.code
        assert_equal "what the errors quote" "$(inner_fields "$client" "icmpv6.type < 128" ipv6.src ipv6.dst | sort -u)" "$CLIENT6 $1"
    else
        every_packet "$client" "icmp.type != 8 && icmp.type != 0" "$1 $2 $3" ip.src icmp.type icmp.code
        assert_equal "what the errors quote" "$(inner_fields "$client" "icmp.type != 8 && icmp.type != 0" ip.src ip.dst | sort -u)" "$CLIENT $1"
    fi
    no_bad_checksums "$client" "icmp || icmpv6"
}
any_error="(icmp && icmp.type != 8 && icmp.type != 0) || (icmpv6 && icmpv6.type < 128)"
watch() { capture_start client eth0 "$client" "icmp or icmp6[0] < 128"; }

say "ping and tracepath end at the VIP"
check_ping_and_tracepath "$VIP" "192.168.2.1 $VIP"
check_ping_and_tracepath "$VIP6" "fd00:4::1 $VIP6"

say "no server: port unreachable from the VIP"
for vip in "$VIP" "$VIP6"; do
    watch
    service -t "$vip" 90
    service -u "$vip" 90
    assert_match "TCP" "$(refused tcp "$vip" 90)" 'Connection refused'
    assert_match "UDP" "$(refused udp "$vip" 90)" 'Connection refused'
    server=$RS1
    if [[ $vip == *:* ]]; then server=$RS1_6; fi
    rvsadm -a -t "$(host_port "$vip" 90)" -r "$(host_port "$server" 90)" -g -w 0
    assert_match "TCP, weight 0" "$(refused tcp "$vip" 90)" 'Connection refused'
    capture_stop_with "$any_error" "$client"
    if [[ $vip == *:* ]]; then errors "$vip" 1 4; else errors "$vip" 3 3; fi
done

say "no route to the server: host unreachable"
watch
rvsadm -A -t "$VIP:91" -s rr
rvsadm -a -t "$VIP:91" -r 203.0.113.9:91 -m
assert_match "TCP" "$(refused tcp "$VIP" 91)" 'No route to host'
capture_stop_with "$any_error" "$client"
errors "$VIP" 3 1

portless=40000
by_method() { # SERVER SERVER6
    local vip server ttl
    for vip in "$VIP" "$VIP6"; do
        server=$1 ttl=ttl
        if [[ $vip == *:* ]]; then server=$2 ttl=ipv6-unicast-hops; fi
        if [[ ${SERVER_OPTIONS[0]} == -b ]]; then
            SERVICE_OPTIONS=(--local-address "${LOCAL[0]}")
            if [[ $vip == *:* ]]; then SERVICE_OPTIONS=(--local-address "$LOCAL6"); fi
        fi
        rvsadm -C
        service -u "$vip" 5000 "$server"
        service -u "$vip" 5999 "$server" # where nobody listens
        service -t "$vip" 80 "$server"

        watch
        assert_match "a closed port of the server" "$(refused udp "$vip" 5999)" 'Connection refused'
        capture_stop_with "$any_error" "$client"
        if [[ $vip == *:* ]]; then errors "$vip" 1 4; else errors "$vip" 3 3; fi

        watch
        echo hello | in_ns client socat -t 0.2 - "UDP:$(host_port "$vip" 5000),$ttl=2" || true
        capture_stop_with "$any_error" "$client"
        if [[ $vip == *:* ]]; then errors "$vip" 3 0; else errors "$vip" 11 0; fi

        # A request from a port that no socket has: the client's kernel says so
        # to the server that answers. (A socket that is closed at once may still
        # be open when the answer comes.)
        capture_start rs2 eth0 "$LAB_TMP/rs2.pcap" "icmp or icmp6[0] < 128 or proto 4 or proto 41"
        capture_start rs1 eth0 "$LAB_TMP/rs1.pcap" "icmp or icmp6[0] < 128 or proto 4 or proto 41"
        portless=$((portless + 1)) # another connection each time
        in_ns client python3 "$LAB_DIR/send-portless.py" "$vip" 5000 "$portless"
        capture_stop_with "icmp.type == 3 || icmpv6.type == 1" "$LAB_TMP"/{rs1,rs2}.pcap
        seen=$(for name in rs1 rs2; do
            inner_fields "$LAB_TMP/$name.pcap" "icmp.type == 3 || icmpv6.type == 1" ip.src ipv6.src udp.srcport | xargs
        done | xargs)
        case ${SERVER_OPTIONS[0]} in
        -g | -i) assert_equal "source that the error quotes" "$seen" "$vip 5000" ;;
        *) assert_equal "source that the error quotes" "$seen" "$server 5000" ;;
        esac
        for name in rs1 rs2; do no_bad_checksums "$LAB_TMP/$name.pcap" "icmp || icmpv6"; done
    done
}

say "NAT"
SERVER_OPTIONS=(-m)
by_method "$RS2" "$RS2_6"
say "NAT: errors of a router on the servers' side"
for route in "$RS2/32" "$RS2_6/128"; do ip -n rvs-router route add unreachable "$route"; done
for vip in "$VIP" "$VIP6"; do
    server=$RS2
    if [[ $vip == *:* ]]; then server=$RS2_6; fi
    rvsadm -C
    service -t "$vip" 80 "$server"
    watch
    assert_match "the client" "$(refused tcp "$vip" 80)" 'No route to host|Network is unreachable'
    capture_stop_with "$any_error" "$client"
    if [[ $vip == *:* ]]; then errors "$vip" 1 0; else errors "$vip" 3 1; fi
done
for route in "$RS2/32" "$RS2_6/128"; do ip -n rvs-router route del unreachable "$route"; done

say "FULLNAT"
SERVER_OPTIONS=(-b)
by_method "$RS2" "$RS2_6"
SERVICE_OPTIONS=()
servers_answer_by router
say "DR"
SERVER_OPTIONS=(-g)
by_method "$RS1" "$RS1_6"
say "TUN"
SERVER_OPTIONS=(-i)
by_method "$RS2" "$RS2_6"

check_mbufs "$at_rest"
check_stop
