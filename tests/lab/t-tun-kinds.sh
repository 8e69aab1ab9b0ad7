#!/bin/bash
# TUN in its other forms: the families mixed, GRE, GUE, with and without
# checksums; 100 MB each way and iperf3 through each.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up tun
real_servers start
for name in rs1 rs2; do start_decap "$name"; done

decapsulated_both() { echo $(($(decapsulated rs1 "$1") + $(decapsulated rs2 "$1"))); }
# The counts are written when decap.py has nothing to do.
unpacked() { (($(decapsulated_both "$1") > "$2")); }

director_start 'tcp = 5' 'tcp_fin = 2' 'udp = 5'
at_rest=$(mbufs_at_rest)

kind_works() { # KIND_OF_DECAP FORWARD_INFO VIP SERVER SERVER
    local before
    before=$(decapsulated_both "$1")
    rvsadm -C
    service -t "$3" 80 "${@:4}"
    service -t "$3" 5002 "${@:4}"
    service -t "$3" 5201 "$4"
    service -u "$3" 5000 "${@:4}"
    assert_match "--tun-info" "$(rvsadm -Ln --tun-info)" "-> $(host_port "${4//./\\.}" 80 | sed 's/[][]/\\&/g') +Tunnel +${2//+/\\+} "
    check_answers "$3"
    check_download "$3"
    check_upload "$3"
    check_echo "$3"
    check_iperf "$3"
    wait_for 3 "packets in $1" unpacked "$1" $((before + 1000))
}

# What a request looks like on the servers' side, in lan.pcap.
look() { # VIP
    capture_start wire rvswire1 "$LAB_TMP/lan.pcap"
    check_answers "$1"
    capture_stop "$LAB_TMP/lan.pcap"
}

say "servers of the other family: IPv4 in IPv6, IPv6 in IPv4"
SERVER_OPTIONS=(-i)
kind_works 4in6 ipip "$VIP" "$RS1_6" "$RS2_6"
kind_works 6in4 ipip "$VIP6" "$RS1" "$RS2"
say "GRE"
SERVER_OPTIONS=(-i --tun-type gre)
kind_works gre gre:-c "$VIP" "$RS1" "$RS2"
kind_works gre gre:-c "$VIP6" "$RS1_6" "$RS2_6"
SERVER_OPTIONS=(-i --tun-type gre --tun-csum)
kind_works gre-csum gre:+c "$VIP" "$RS1" "$RS2"
say "GUE"
SERVER_OPTIONS=(-i --tun-type gue --tun-port 6080 --tun-nocsum)
kind_works gue gue:6080:-c "$VIP" "$RS1" "$RS2"
look "$VIP"
every_packet "$LAB_TMP/lan.pcap" "udp.dstport == 6080" "$DIRECTOR_LAN 0x0000" ip.src udp.checksum
assert_equal "GUE headers" "$(fields "$LAB_TMP/lan.pcap" "udp.dstport == 6080" udp.payload | cut -c 1-8 | sort -u)" 00040000
SERVER_OPTIONS=(-i --tun-type gue --tun-port 6080 --tun-csum)
kind_works gue gue:6080:+c "$VIP" "$RS1" "$RS2"
kind_works gue gue:6080:+c "$VIP6" "$RS1_6" "$RS2_6"
look "$VIP6"
no_bad_checksums "$LAB_TMP/lan.pcap" "udp.dstport == 6080"
assert_equal "GUE packets without a checksum" "$(fields "$LAB_TMP/lan.pcap" "udp.dstport == 6080 && udp.checksum == 0" frame.number)" ''
assert_equal "packets that the servers could not unpack" "$(decapsulated_both bad)" 0
check_at_rest "$at_rest"
check_stop
