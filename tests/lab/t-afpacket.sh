#!/bin/bash
# A box without a spare NIC: rvsd on an interface that stays with the kernel, by
# af_packet and by AF_XDP (docs/cloud.md), answers HTTP and the long download.
. "$(dirname "$0")/lib.sh"
. "$LAB_DIR/checks.sh"
lab_up
[[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"
command -v ethtool >/dev/null || skip "ethtool is not installed"

# The interface: a veth pair, whose other end is a port of the segment.
ip -n rvs-wire link add afwire type veth peer name nic0
ip -n rvs-wire link set nic0 netns rvs-director
ip -n rvs-wire link set afwire master br0 up
ip -n rvs-director link set nic0 address "$DIRECTOR_MAC" up
# The kernel sees each packet, too, and must not answer: no IPv6, no ARP, and
# IPv4 only from hosts that it would answer by this interface, which are none.
in_ns director sysctl -qw net.ipv6.conf.nic0.disable_ipv6=1 net.ipv4.conf.nic0.arp_ignore=8 \
    net.ipv4.conf.nic0.rp_filter=1
# Packets between namespaces of one kernel have checksums that a NIC would fill
# in; af_packet hands them out as they are.
for name in client rs1 rs2; do in_ns "$name" ethtool -K eth0 tx off >/dev/null; done
real_servers start

start_on() { # DEVICE
    director_config +services.toml
    sed -i "s#^device = .*#device = \"$1\"#" "$LAB_TMP/rvsd.toml"
    rm -f "$LAB_TMP/rvsd.log"
    spawn director "$LAB_TMP/rvsd.log" "$RVSD" -c "$LAB_TMP/rvsd.toml"
    DIRECTOR_PID=$SPAWNED
    echo "$DIRECTOR_PID $(birth_of "$DIRECTOR_PID")" >"$LAB_STATE/director"
    wait_for 30 "rvsd's 'ready' in $LAB_TMP/rvsd.log" director_ready
}

# AF_XDP's driver of DPDK 22.11 keeps the buffers of its queues when it is closed,
# which rvsd tells by its exit status.
while read -r device status; do
    say "$device"
    start_on "$device"
    wait_for 10 "an answer through $device" in_ns client curl -sf -o /dev/null --max-time 2 "http://$VIP/"
    answers=$(for _ in 1 2 3 4; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
    assert_equal "the answers" "$(sort -u <<<"$answers" | xargs)" "rs1 rs2"
    answers=$(for _ in 1 2 3 4; do in_ns client curl -sS --max-time 5 "http://[$VIP6]/"; done)
    assert_equal "the answers by IPv6" "$(sort -u <<<"$answers" | xargs)" "rs1 rs2"
    # Requests only: answers of DR servers do not come this way.
    sum=$(in_ns client curl -sS --max-time 60 "http://$VIP/100M" | sha256sum)
    assert_equal "the download" "$sum" "$(sha256sum <"$LAB_TMP/100M")"
    rvsadm show ports | head -n 3
    director_stop TERM
    assert_equal "the exit status with $device" "$DIRECTOR_STATUS" "$status"
done <<'ROWS'
net_af_packet0,iface=nic0 0
net_af_xdp0,iface=nic0 1
ROWS
