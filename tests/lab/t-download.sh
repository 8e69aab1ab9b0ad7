#!/bin/bash
# 100 MB through IPv4 and through IPv6 arrive intact.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start
http_services
wanted=$(sha256sum <"$LAB_TMP/100M")

for host in "$VIP" "[$VIP6]"; do
    say "http://$host/100M"
    in_ns client curl -sS --max-time 120 -w '%{size_download} B in %{time_total} s\n' -o "$LAB_TMP/got" "http://$host/100M"
    assert_equal "sha256 of $host/100M" "$(sha256sum <"$LAB_TMP/got")" "$wanted"
done
