#!/bin/bash
# SIGTERM and SIGINT stop rvsd cleanly: nothing is left, all mbufs are accounted for.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start

for signal in TERM INT; do
    say "SIG$signal, with connections in the table and a download on its way"
    director_start
    http_services
    in_ns client curl -sS --max-time 5 "http://$VIP/"
    spawn client "$LAB_TMP/download.log" curl -s --limit-rate 5M --max-time 5 -o /dev/null "http://$VIP/100M"
    download=$SPAWNED
    sleep 1
    director_stop "$signal"
    assert_equal "exit status" "$DIRECTOR_STATUS" 0
    assert_match "the last line of the log" "$(tail -n 1 "$LAB_TMP/rvsd.log")" 'mbufs in use: 0'
    assert_equal "interfaces left" "$(ip -n rvs-director -o link show | awk -F': ' '{ print $2 }' | xargs)" lo
    assert_equal "addresses left" "$(ip -n rvs-director -o addr show scope global)" ''
    [[ ! -e /sys/class/net/rvswire0 && -z $(ip -n rvs-wire link show rvswire0 2>/dev/null) ]] || fail "rvswire0 is still there"
    [[ ! -S $RVS_SOCKET ]] || fail "the API socket $RVS_SOCKET is still there"
    wait "$download" || true # it breaks off, of course
done

say "a start that fails, after IPv4 addresses are up: nothing of it is left"
director_config
in_ns director sysctl -qw net.ipv6.conf.default.disable_ipv6=1
status=0
out=$(timeout 20 ip netns exec rvs-director "$RVSD" -c "$LAB_TMP/rvsd.toml" 2>&1) || status=$?
echo "$out"
assert_equal "exit status" "$status" 1
assert_match "the last line of the log" "$(tail -n 1 <<<"$out")" "address $DIRECTOR6/64 on lan: .*disable_ipv6"
assert_equal "interfaces left" "$(ip -n rvs-director -o link show | awk -F': ' '{ print $2 }' | xargs)" lo
assert_equal "addresses left" "$(ip -n rvs-director -o addr show scope global)" ''
