#!/bin/bash
# Truncated, fragmented and garbage frames are dropped under a named counter.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start +services.toml 'tcp = 5' 'tcp_fin = 2'
rvsadm -A -t "$VIP:81" -s rr # without servers, for the row no-server
at_rest=$(mbufs_at_rest)
in_ns client ping -n -q -c 1 -W 2 "$VIP"

send() { in_ns client python3 "$LAB_DIR/send-frames.py" eth0 "$LAB_DIR/garbage.txt" "$@"; }
dropped_is() { [[ $(dropped "$1") == "$2" ]]; }

wrong=0
while read -r name reason _; do
    [[ -n $name && $name != \#* ]] || continue
    wanted=$(($(dropped "$reason") + 1))
    before=$(worker_counters | jq -c '[.[].drops[] | select(.count > 0)]')
    send "$name"
    # A fragment without its first one is held for a second.
    if (wait_for 3 "$name" dropped_is "$reason" "$wanted") 2>/dev/null; then
        echo "$name: $reason"
    else
        echo "$name: no '$reason'. Before: $before After: $(worker_counters | jq -c '[.[].drops[] | select(.count > 0)]')"
        wrong=$((wrong + 1))
    fi
done <"$LAB_DIR/garbage.txt"

say "5000 mutations of them"
send --mutate 5000 --seed 1
director_runs || fail "rvsd did not survive"
in_ns client curl -sS --max-time 5 "http://$VIP/" "http://[$VIP6]/"
# What looked like a SYN is a connection for a minute or two, but not without its
# server.
rvsadm set expire_nodest_conn 1
rvsadm -C
check_at_rest "$at_rest"
assert_equal "rows with another counter than expected" "$wrong" 0
