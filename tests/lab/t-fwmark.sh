#!/bin/bash
# Services of a mark: rules of the file mark packets by protocol, addresses, port
# ranges and the port that they come by, before other services are looked up.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up nat
director_start +fwmark.toml 'udp = 10'
at_rest=$(mbufs_at_rest)

marked() { # MARK SERVER...: 6 as the second word for IPv6
    local mark=(-f "$1") server
    shift
    if [[ $1 == *:* ]]; then mark+=(-6); fi
    rvsadm -A "${mark[@]}" -s rr
    for server in "$@"; do rvsadm -a "${mark[@]}" -r "$(host_port "$server" 0)" -m; done
}

# Column 3 are connections, 4 packets of clients.
counted() { # MARK COLUMN MINIMUM
    rvsadm -Ln --stats -f "$1" | awk -v column="$2" -v minimum="$3" '$1 == "FWM" && $column >= minimum { print "yes" }' | grep -q yes
}

say "without a service of the mark, marked packets are like others"
service_without_mark() {
    SERVER_OPTIONS=(-m)
    service -t "$VIP" 80 "$RS1"
}
service_without_mark
assert_equal "the answer" "$(get "$VIP")" rs1

say "all ports of the range, IPv4 and IPv6; the mark comes first"
marked 1 "$RS2"
assert_equal "the answer" "$(get "$VIP")" rs2
rvsadm -D -f 1
rvsadm -C
marked 1 "$RS1" "$RS2"
marked 1 "$RS1_6" "$RS2_6"
assert_match "-Ln" "$(rvsadm -Ln)" 'FWM +1 rr'
assert_match "-Ln" "$(rvsadm -Ln)" 'FWM +1 IPv6 rr'
for vip in "$VIP" "$VIP6"; do
    check_answers "$vip"
    check_download "$vip" 20K
    check_upload "$vip" 20K
done
wait_for 3 "connections in --stats" counted 1 3 6
assert_match "a port outside the range" "$(in_ns client socat -T 3 - "TCP:$VIP:5201" 2>&1 </dev/null || true)" 'Connection refused'

say "UDP by source and port range: tracepath goes through the director to a server"
marked 2 "$RS1"
out=$(in_ns client tracepath -n -m 5 "$VIP")
echo "$out"
assert_match "tracepath" "$out" 'Resume: pmtu 1500 hops 2'
wait_for 3 "packets in --stats" counted 2 4 1

say "by the port that packets come by"
marked 3 "$RS1"
marked 4 "$RS2"
ask() { echo hello | in_ns "$1" socat -t 0.5 - "UDP:$VIP:5000"; }
assert_equal "the client's answer" "$(ask client)" "rs1: hello"
# rs2 answers its neighbour rs1 past the director, so rs1 hears nothing it knows.
ask rs1 >/dev/null || true
wait_for 3 "rs1's packet in --stats" counted 4 4 1
assert_equal "connections by port wan" "$(rvsadm -Ln --stats -f 3 | awk '$1 == "FWM" { print $3 }')" 1
check_mbufs "$at_rest"
check_stop
