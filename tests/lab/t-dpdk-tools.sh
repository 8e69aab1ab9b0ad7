#!/bin/bash
# DPDK's own tools, metrics and the log beside a running director.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
LAB_METRICS=127.0.0.1:9105
pages=no
if huge_pages 160; then pages=yes; fi
director_start +metrics.toml
typed rvsadm -A -t "$VIP:80" -s rr
typed rvsadm -a -t "$VIP:80" -r "$RS1:80" -g
in_ns client curl -sS --max-time 5 "http://$VIP/" >/dev/null

say "metrics have the connection"
scrape() { in_ns director curl -sS --max-time 5 "http://$LAB_METRICS/metrics"; }
has() { scrape | grep -qF "$1"; }
wait_for 5 "the connection in the metrics" has "rvs_service_connections_total{service=\"TCP $VIP:80\"} 1"
assert_equal "the last line" "$(scrape | tail -n 1)" "# EOF"
wait_for 5 "some work in the metrics" eval 'scrape | grep -q "rvs_worker_busy_cycles_total{worker=\"0\"} [1-9]"'

say "dpdk-telemetry.py reads the port's counters"
command -v dpdk-telemetry.py >/dev/null || skip "needs dpdk-telemetry.py"
stats=$(echo /ethdev/stats,0 | in_ns director timeout 10 dpdk-telemetry.py -f rvs-lab 2>&1)
assert_match "the counters" "$stats" '"ipackets": [1-9]'

say "what is logged changes at run time"
logged() { grep -Eq "$1" "$LAB_TMP/rvsd.log"; }
wait_for 3 "fields" logged "done: -a -t $VIP:80 .* result=done"
typed rvsadm set log warn
assert_match "the settings" "$(rvsadm show settings)" $'\nlog = warn'
typed rvsadm -e -t "$VIP:80" -r "$RS1:80" -g -w 7
typed rvsadm set log info
if logged "done: -e -t $VIP:80"; then fail "an info line was logged under warn"; fi
if rvsadm set log 'dataplan=debug' 2>/dev/null; then fail "a module that does not exist was taken"; fi

if [[ $pages == no ]]; then skip "no huge pages for dpdk-dumpcap; the rest passed"; fi
say "dpdk-dumpcap attaches and captures"
wait_for 1 "the log's word on tools" logged "tools of DPDK can attach"
spawn director "$LAB_TMP/dumpcap.log" dpdk-dumpcap --file-prefix rvs-lab -i 0 -c 6 -w "$LAB_TMP/dump.pcapng"
dumpcap=$SPAWNED
sleep 3
for _ in 1 2 3; do in_ns client curl -sS --max-time 5 "http://$VIP/" >/dev/null; done
wait_for 10 "dpdk-dumpcap's end" eval "! kill -0 $dumpcap 2>/dev/null"
cat "$LAB_TMP/dumpcap.log"
packets=$(tshark -r "$LAB_TMP/dump.pcapng" 2>/dev/null | wc -l)
((packets >= 6)) || fail "dpdk-dumpcap wrote $packets packets"
in_ns client curl -sS --max-time 5 "http://$VIP/" >/dev/null
