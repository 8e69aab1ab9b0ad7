#!/bin/bash
# Persistence: a client, or a network of clients, stays with its server, for all
# ports of a port-0 service too, until the template is over.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
OTHER=192.168.1.13 OTHER6=fd00:1::13 FAR=192.168.1.140 FAR6=fd00:1:0:0:1::13
ip -n rvs-client addr add "$OTHER/24" dev eth0
ip -n rvs-client addr add "$FAR/24" dev eth0
ip -n rvs-client addr add "$OTHER6/64" dev eth0 nodad
ip -n rvs-client addr add "$FAR6/64" dev eth0 nodad
director_start 'tcp = 5' 'tcp_fin = 1' 'udp = 5'
at_rest=$(mbufs_at_rest)

answer() { # SOURCE VIP
    in_ns client curl -sS --max-time 5 --interface "$1" "http://$(host_port "$2" 80)/"
}
answers() { # SOURCE VIP: the servers of five requests
    for _ in {1..5}; do answer "$1" "$2"; done | sort -u | xargs
}
persistent() { # VIP OPTION...: on port 80
    local at rs1 rs2
    at=$(host_port "$1" 80) rs1=$RS1:80 rs2=$RS2:80
    if [[ $1 == *:* ]]; then rs1="[$RS1_6]:80" rs2="[$RS2_6]:80"; fi
    rvsadm -C
    rvsadm -A -t "$at" -s rr "${@:2}"
    rvsadm -a -t "$at" -r "$rs1" -g
    rvsadm -a -t "$at" -r "$rs2" -g
}
templates() { rvsadm -Lnc | awk '$3 == "ASSURED" { print $1, $4, $5 }' | sort; }
no_templates() { [[ -z $(templates) ]]; }

for pair in "$VIP $CLIENT $OTHER" "$VIP6 $CLIENT6 $OTHER6"; do
    read -r vip client other <<<"$pair"
    say "$vip: each client has one server"
    persistent "$vip" -p 60
    first=$(answers "$client" "$vip") second=$(answers "$other" "$vip")
    assert_equal "servers of two clients" "$(printf '%s\n' "$first" "$second" | sort | xargs)" "rs1 rs2"
    assert_equal "the first client's server later" "$(answers "$client" "$vip")" "$first"
    assert_equal "templates" "$(templates | awk '{ print $2 }' | xargs)" \
        "$(printf '%s\n' "$(host_port "$client" 0)" "$(host_port "$other" 0)" | sort | xargs)"
    assert_match "-Ln" "$(rvsadm -Ln)" 'rr persistent 60'
    # The column PersistConn.
    assert_equal "templates of the servers" "$(rvsadm -Ln --persistent-conn | awk '$1 == "->" && NR > 3 { print $4 }' | xargs)" "1 1"
done

say "a netmask: clients of a network count as one"
persistent "$VIP" -p 60 -M 255.255.255.128
assert_equal "servers of neighbours" "$( (answers "$CLIENT" "$VIP" && answers "$OTHER" "$VIP") | sort -u | wc -l)" 1
assert_equal "templates" "$(templates)" "TCP 192.168.1.0:0 $VIP:80"
assert_equal "the server of the other half" "$( (answers "$CLIENT" "$VIP" && answers "$FAR" "$VIP") | sort | xargs)" "rs1 rs2"
persistent "$VIP6" -p 60 -M 80
assert_equal "servers of neighbours" "$( (answers "$CLIENT6" "$VIP6" && answers "$OTHER6" "$VIP6") | sort -u | wc -l)" 1
assert_equal "the server of another network" "$( (answers "$CLIENT6" "$VIP6" && answers "$FAR6" "$VIP6") | sort | xargs)" "rs1 rs2"

say "weight 0 keeps the clients that are there, and takes no others"
persistent "$VIP" -p 60
first=$(answers "$CLIENT" "$VIP")
server=$RS1
if [[ $first == rs2 ]]; then server=$RS2; fi
rvsadm -e -t "$VIP:80" -r "$server:80" -g -w 0
assert_equal "the client's server" "$(answers "$CLIENT" "$VIP")" "$first"
assert_no_match "another client's server" "$(answers "$OTHER" "$VIP")" "$first"

say "a template ends when it has not been used and its connections are over"
persistent "$VIP" -p 2
first=$(answers "$CLIENT" "$VIP")
wait_for 30 "the template to end" no_templates
assert_no_match "the next server" "$(answers "$CLIENT" "$VIP")" "$first"

say "port 0: all ports of the VIP, one server for a client"
rvsadm -C
wait_for 60 "all connections and templates to end: $(rvsadm -Lnc)" no_connections
rvsadm -A -t "$VIP:0" -s rr -p 60
rvsadm -a -t "$VIP:0" -r "$RS1:0" -g
rvsadm -a -t "$VIP:0" -r "$RS2:0" -g
assert_match "-Ln" "$(rvsadm -Ln)" "TCP +$VIP:0 rr persistent 60"
first=$(answers "$CLIENT" "$VIP")
assert_equal "the sum of an upload, port 5002" "$(echo x | in_ns client socat -t 5 - "TCP:$VIP:5002")" "$(echo x | sha256sum)"
assert_equal "servers in -Lnc" "$(rvsadm -Lnc | awk '$1 == "TCP" { sub(":[0-9]*$", "", $6); print $6 }' | sort -u | wc -l)" 1
assert_equal "the template" "$(templates)" "TCP $CLIENT:0 $VIP:0"
check_iperf "$VIP"
assert_equal "servers in -Lnc" "$(rvsadm -Lnc | awk '$1 == "TCP" { sub(":[0-9]*$", "", $6); print $6 }' | sort -u | wc -l)" 1
assert_equal "the server of port 80 now" "$(answers "$CLIENT" "$VIP")" "$first"

say "UDP"
rvsadm -C
rvsadm -A -u "$VIP:5000" -s rr -p 2
rvsadm -a -u "$VIP:5000" -r "$RS1:5000" -g
rvsadm -a -u "$VIP:5000" -r "$RS2:5000" -g
assert_equal "servers of four ports" "$(for port in 4001 4002 4003 4004; do echo_answer "$VIP" "$port"; done | sort -u | wc -l)" 1
rvsadm -C
wait_for 60 "all connections and templates to end: $(rvsadm -Lnc)" no_connections
check_mbufs "$at_rest"
check_stop
