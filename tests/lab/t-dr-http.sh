#!/bin/bash
# The LVS walk-through: two curls alternate, and each packet is as DR wants it.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start

typed rvsadm -A -t "$VIP:80" -s rr
typed rvsadm -a -t "$VIP:80" -r "$RS1:80" -g
typed rvsadm -a -t "$VIP:80" -r "$RS2:80" -g

capture_start wire rvswire0 "$LAB_TMP/wire.pcap"
capture_start rs1 eth0 "$LAB_TMP/rs1.pcap"
capture_start rs2 eth0 "$LAB_TMP/rs2.pcap"

say "two curls, two servers, one connection each"
answers=$(for _ in 1 2; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
assert_equal "the answers" "$(sort <<<"$answers" | xargs)" "rs1 rs2"
for server in "$RS1:80" "$RS2:80"; do
    wait_for 3 "one connection on $server in -Ln --stats" server_has "$server" 1 1 --stats
    wait_for 3 "no active connection on $server" server_has "$server" 3 0
    wait_for 3 "one inactive connection on $server" server_has "$server" 4 1
done
rvsadm -Ln --stats

say "the log names changes and the servers' next hops"
logged() { grep -q "$1" "$LAB_TMP/rvsd.log"; }
wait_for 3 "the change in rvsd's log" logged "done: -a -t $VIP:80 -r $RS2:80 -g -w 1"
wait_for 3 "rs1's MAC in rvsd's log" logged "server $RS1: MAC 00:50:00:00:01:00"

say "states and running timers in -Lnc"
expiry() { # STATE: the time left of its first connection, s
    rvsadm -Lnc | awk -v state="$1" '$3 == state { split($2, t, ":"); print t[1] * 60 + t[2]; exit }'
}
assert_equal "connections in FIN_WAIT" "$(rvsadm -Lnc | grep -c FIN_WAIT)" 2
spawn client "$LAB_TMP/idle.log" socat "TCP:$VIP:80" EXEC:"sleep 30"
sleep 1
rvsadm -Lnc
fin_wait=$(expiry FIN_WAIT) established=$(expiry ESTABLISHED)
((fin_wait > 90 && fin_wait <= 120)) || fail "FIN_WAIT expires in '$fin_wait' s"
((established > 890 && established <= 900)) || fail "ESTABLISHED expires in '$established' s"
sleep 2
(($(expiry FIN_WAIT) < fin_wait)) || fail "the timer of FIN_WAIT stands still"
(($(expiry ESTABLISHED) < established)) || fail "the timer of ESTABLISHED stands still"

say "the same through IPv6"
rvsadm -A -t "[$VIP6]:80" -s rr
rvsadm -a -t "[$VIP6]:80" -r "[$RS1_6]:80" -g
rvsadm -a -t "[$VIP6]:80" -r "[$RS2_6]:80" -g
answers=$(for _ in 1 2; do in_ns client curl -sS --max-time 5 "http://[$VIP6]/"; done)
assert_equal "the answers" "$(sort <<<"$answers" | xargs)" "rs1 rs2"

say "on the wire"
capture_stop "$LAB_TMP"/{wire,rs1,rs2}.pcap
check_replies_bypass_director "$LAB_TMP/wire.pcap"
check_dr_rewrite "$LAB_TMP"/{wire,rs1,rs2}.pcap
