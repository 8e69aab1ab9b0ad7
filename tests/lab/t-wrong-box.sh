#!/bin/bash
# Wrong setups: one line each, which says what to do. Exit status 2 where the
# configuration is wrong, 1 where the machine is. What takes a PCI NIC is in the
# unit tests of control/src/doctor/devices.rs, which rvsd asks, and in tests/guest;
# cores that are not there in t-bad-config, a second instance in t-second-instance.
. "$(dirname "$0")/lib.sh"
lab_up
[[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"
director_config

ends_with() { # WHAT STATUS REGEX COMMAND...
    local what=$1 wanted=$2 regex=$3 status=0 out lines
    shift 3
    say "$what"
    out=$(in_ns director timeout 20 "$@" -c "$LAB_TMP/rvsd.toml" 2>&1 >/dev/null) || status=$?
    echo "$out"
    assert_equal "the exit status: $what" "$status" "$wanted"
    lines=$(grep -c ' ERROR control\| ERROR rvsd\|^[^[]' <<<"$out" || true)
    assert_equal "lines for the operator: $what" "$lines" 1
    assert_match "$what" "$out" "$regex"
}

device() { sed -i "s#^device = .*#device = \"$1\"#" "$LAB_TMP/rvsd.toml"; }

device 0000:7f:1f.7
ends_with "a wrong PCI address" 2 'there is no PCI device 0000:7f:1f.7; .rvs-bind-nic status. lists' "$RVSD"

nic=$(for d in /sys/bus/pci/devices/*; do
    if [[ $(<"$d/class") == 0x02* && -e $d/driver ]]; then echo "${d##*/}"; fi
done | head -n 1)
if [[ -n $nic ]]; then
    # Only looked at: rvsd ends before DPDK starts.
    device "$nic"
    ends_with "a NIC that the kernel uses" 1 "in use by the kernel's driver .*rvs-bind-nic bind $nic" "$RVSD"
fi

director_config
zeros=$(printf '0, %.0s' {1..16})0
sed -i "s/^cores = .*/cores = [$zeros]/; s/^mbufs = .*/mbufs = 65536/" "$LAB_TMP/rvsd.toml"
ends_with "more workers than queues" 2 '17 workers need as many queues, and .* has 16; use fewer cores' "$RVSD"

director_config
device net_af_packet0,iface=nosuch0
ends_with "an interface that is not there" 1 'the interface in iface= must exist' "$RVSD"

director_config
sed -i 's/^memory_mb = .*/memory_mb = 1048576\nhuge_pages = "require"/' "$LAB_TMP/rvsd.toml"
ends_with "no huge pages" 1 'huge pages for 1048576 MB are required and [0-9]+ MB are free; reserve them with .rvs-hugepages set 1048576. or .echo' "$RVSD"

director_config
chmod 755 "$LAB_TMP"
ends_with "no permission" 1 'Permission denied.*run rvsd as root' setpriv --reuid 65534 --regid 65534 --clear-groups "$RVSD"

director_config
sed -i 's/^\[director\]/[control]\ngroup = "no-such-group"\n[director]/' "$LAB_TMP/rvsd.toml"
ends_with "a group that is not there" 1 'there is no group no-such-group; make it with .groupadd' "$RVSD"
