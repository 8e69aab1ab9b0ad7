#!/bin/bash
# kill -9 of rvsd under load, start again: nothing needs a manual repair.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start +services.toml 'tcp_fin = 2'

curl_works() { in_ns client curl -s --max-time 1 -o "$LAB_TMP/answer" "http://$1/" && grep -q rs "$LAB_TMP/answer"; }

for round in 1 2; do
    say "round $round"
    spawn client "$LAB_TMP/ab.log" ab -q -r -s 2 -n 1000000 -c 50 "http://$VIP/"
    load=$SPAWNED
    wait_for 5 "the load to be on" test -e "/proc/$load"
    sleep 1
    director_kill
    director_start +services.toml 'tcp_fin = 2'
    started=$SECONDS
    wait_for 5 "curl through the new rvsd" curl_works "$VIP"
    wait_for 5 "curl through the new rvsd, IPv6" curl_works "[$VIP6]"
    echo "forwards again $((SECONDS - started)) s after the new start"
    kill "$load" 2>/dev/null || true
    wait "$load" || true

    assert_equal "taps of the director" "$(ip -n rvs-director -o link show type tun | awk -F': ' '{ print $2 }' | xargs)" lan
    assert_match "lan" "$(ip -n rvs-director addr show lan)" "link/ether $DIRECTOR_MAC"
    assert_equal "IPv4 addresses" "$(ip -n rvs-director -4 -o addr show scope global | awk '{ print $2, $4 }' | sort | xargs)" \
        "lan $DIRECTOR/24 lo $VIP/32"
    assert_equal "IPv6 addresses" "$(ip -n rvs-director -6 -o addr show scope global | awk '{ print $4 }' | sort | xargs)" \
        "$VIP6/128 $DIRECTOR6/64"
    wait_for 10 "the packets to add up: $(worker_counters | jq -c .)" packets_add_up
done

say "services that ipvsadm made come back, too, as they were"
rvsadm -A -u "$VIP:5000" -s wrr
rvsadm -a -u "$VIP:5000" -r "$RS1:5000" -g -w 7
rvsadm -d -t "$VIP:80" -r "$RS2:80"
rvsadm --set 111 0 0
before=$(rvsadm -Sn)
director_kill
director_start +services.toml 'tcp_fin = 2'
assert_equal "services after the kill" "$(rvsadm -Sn)" "$before"
assert_equal "timeouts after the kill" "$(rvsadm -Ln --timeout)" 'Timeout (tcp tcpfin udp): 111 2 300'

say "a clean stop takes away also what the killed one had put up"
director_stop TERM
assert_equal "rvsd's exit status" "$DIRECTOR_STATUS" 0
assert_equal "addresses left" "$(ip -n rvs-director -o addr show scope global)" ''

say "after a clean stop the file's services are back"
director_start +services.toml 'tcp_fin = 2'
assert_no_match "services" "$(rvsadm -Sn)" ":5000"
assert_match "services" "$(rvsadm -Sn)" "-r $RS2:80"
