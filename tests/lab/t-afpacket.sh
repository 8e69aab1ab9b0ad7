#!/bin/bash
# A box without a spare NIC: rvsd on an interface that stays with the kernel, by
# af_packet and by AF_XDP (docs/cloud.md), answers HTTP and the long download.
. "$(dirname "$0")/lib.sh"
. "$LAB_DIR/checks.sh"
lab_up
make_nic nic0 br0
real_servers start

for driver in net_af_packet0 net_af_xdp0; do
    say "$driver"
    director_config "device = \"$driver,iface=nic0\"" +services.toml
    director_spawn
    wait_for 10 "an answer through $driver" in_ns client curl -sf -o /dev/null --max-time 2 "http://$VIP/"
    answers=$(for _ in 1 2 3 4; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
    assert_equal "the answers" "$(sort -u <<<"$answers" | xargs)" "rs1 rs2"
    answers=$(for _ in 1 2 3 4; do in_ns client curl -sS --max-time 5 "http://[$VIP6]/"; done)
    assert_equal "the answers by IPv6" "$(sort -u <<<"$answers" | xargs)" "rs1 rs2"
    # Requests only: answers of DR servers do not come this way.
    sum=$(in_ns client curl -sS --max-time 60 "http://$VIP/100M" | sha256sum)
    assert_equal "the download" "$sum" "$(sha256sum <"$LAB_TMP/100M")"
    rvsadm show ports | head -n 3
    assert_match "what the driver lacks" "$(<"$LAB_TMP/rvsd.log")" "port lan: ${driver%0} checks no IPv4 header checksums"
    # Also where the driver keeps buffers of its queues, as AF_XDP's does.
    check_stop
done
grep -qE 'port lan: its driver kept [0-9]+ mbufs of its queues' "$LAB_TMP/rvsd.log" ||
    fail "AF_XDP's driver keeps no mbufs any more: docs/cloud.md"
