# shellcheck shell=bash disable=SC2034 # what the scripts that source this use
# The words of the guest's tests, and the network around the box. Sourced.

set -u
# shellcheck source=/dev/null # tests/guest/run writes it
. /run/brought/variant

# What outlives the guest; tests/guest/run gets it from the third disk.
LEFT=/var/lib/rvs-guest-left
SLOTS=(0000:01:00.0 0000:02:00.0)
FAR=(0000:00:18.0 0000:00:19.0)
VIP=192.168.1.100
VIP6=fd00:1::100
CONFIG=/etc/rvs/rvsd.toml

uptime_s() { cut -d . -f 1 /proc/uptime; }

wants() { [[ ,$PARTS, == *",$1,"* ]]; }

# A test: a function, in a shell of its own that ends at the first failure.
check() { # NAME FUNCTION [ARGUMENT...]
    local name=$1 began status=0
    began=$(uptime_s)
    shift
    # Not in a condition: that would switch errexit off.
    (set -eu; "$@") >"/run/check.log" 2>&1 &
    wait $! || status=$?
    {
        echo "### $name"
        cat /run/check.log
    } >>"$LEFT/log"
    if ((status == 0)); then
        echo "ok $name ($(($(uptime_s) - began)) s)"
    else
        sed 's/^/    /' /run/check.log
        echo "FAILED $name ($(($(uptime_s) - began)) s)"
    fi
}

fail() {
    echo "$*"
    exit 1
}

assert_equal() { # WHAT IS WANTED
    [[ $2 == "$3" ]] || fail "$1: '$2', wanted '$3'"
}

assert_match() { # WHAT IS REGEX
    [[ $2 =~ $3 ]] || fail "$1: '$2' does not match '$3'"
}

wait_for() { # SECONDS COMMAND...
    local deadline=$(($(uptime_s) + $1))
    shift
    until "$@"; do
        if (($(uptime_s) >= deadline)); then fail "waited in vain: $*"; fi
        sleep 0.2
    done
}

# The kernel's interface of a PCI device, or nothing.
interface_of() { # ADDRESS
    local folder
    for folder in "/sys/bus/pci/devices/$1"/net/* "/sys/bus/pci/devices/$1"/virtio*/net/*; do
        if [[ -e $folder ]]; then basename "$folder"; fi
    done
}

driver_of() { # ADDRESS
    basename "$(readlink "/sys/bus/pci/devices/$1/driver" || echo -)"
}

# The driver that the NICs had at first.
kernel_driver() { cat /var/lib/rvs-guest-driver; }

# The name of port 1 or 2, which is its tap's.
tap() { # NUMBER
    sed -n 's/^name = "\(.*\)"/\1/p' "$CONFIG" | sed -n "$1p"
}

in_ns() { # NAMESPACE COMMAND...
    ip netns exec "$@"
}

# ---------------------------------------------------------------- the network
#
#   client ── far1 ══ NIC 1, box, NIC 2 ══ far2 ── bridge ── rs1 rs2 rs3 rs4
#      └────────────────── back ─────────────────────┘
#
# rs1 and rs2 answer by `back`, rs3 and rs4 by the box (NAT).

world_up() {
    local n far
    for n in client cable rs1 rs2 rs3 rs4; do
        ip netns add "$n"
        in_ns "$n" sysctl -q -w net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_dad=0 \
            net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
        in_ns "$n" ip link set lo up
    done
    far=$(interface_of "${FAR[0]}")
    ip link set "$far" netns client name eth0
    far=$(interface_of "${FAR[1]}")
    ip link set "$far" netns cable name far2
    in_ns cable ip link add br0 type bridge mcast_snooping 0
    in_ns cable ip link set br0 up
    in_ns cable ip link set far2 master br0 up
    attach client back 10.0.0.254/24 fd00:2::254/64
    in_ns client ip address add 192.168.1.12/24 dev eth0
    in_ns client ip address add fd00:1::12/64 dev eth0 nodad
    in_ns client ip link set eth0 up
    # The answers of rs1 and rs2 come by `back`.
    in_ns client sysctl -q -w net.ipv4.conf.back.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
    for n in 1 2 3 4; do
        attach "rs$n" eth0 "10.0.0.3$n/24" "fd00:2::3$n/64"
    done
    for n in rs1 rs2; do
        in_ns "$n" ip route add 192.168.1.0/24 via 10.0.0.254
        in_ns "$n" ip -6 route add fd00:1::/64 via fd00:2::254
        in_ns "$n" /run/brought/real-server start "$VIP" "$VIP6" >/dev/null
        tunnels "$n" "10.0.0.3${n#rs}" "fd00:2::3${n#rs}"
    done
    for n in rs3 rs4; do
        in_ns "$n" ip route add default via 10.0.0.1
        in_ns "$n" ip -6 route add default via fd00:2::1
    done
    for n in rs1 rs2 rs3 rs4; do web "$n"; done
}

attach() { # NAMESPACE INTERFACE ADDRESS ADDRESS6
    ip link add "$1-$2" netns cable type veth peer name "$2" netns "$1"
    in_ns cable ip link set "$1-$2" master br0 up
    in_ns "$1" ip address add "$3" dev "$2"
    in_ns "$1" ip address add "$4" dev "$2" nodad
    in_ns "$1" ip link set "$2" up
}

# docs/tun.md, "The servers".
tunnels() { # NAMESPACE ADDRESS ADDRESS6
    modprobe -a ipip sit ip6_tunnel ip_gre ip6_gre fou
    in_ns "$1" ip link set tunl0 up
    in_ns "$1" ip link set sit0 up
    in_ns "$1" sysctl -q -w net.ipv4.conf.tunl0.rp_filter=0
    in_ns "$1" ip link add rvs6 type ip6tnl mode any local "$3"
    in_ns "$1" ip link set rvs6 up
    in_ns "$1" ip link add rvsgre type gre local "$2"
    in_ns "$1" ip link set rvsgre up
    in_ns "$1" sysctl -q -w net.ipv4.conf.rvsgre.rp_filter=0 net.ipv4.conf.rvs6.rp_filter=0
    in_ns "$1" ip link add rvsgre6 type ip6gre local "$3"
    in_ns "$1" ip link set rvsgre6 up
    in_ns "$1" ip fou add port 6080 gue
}

# `/` answers the server's name, the client as it sees it, and the port.
web() { # NAMESPACE
    local port listen=''
    for port in 80 83 84 85; do listen+="listen $port; listen [::]:$port; "; done
    cat >"/run/nginx-$1.conf" <<NGINX
daemon on; master_process off; pid /run/nginx-$1.pid; error_log /run/nginx-$1.log;
events { worker_connections 64; }
http { access_log off; keepalive_timeout 0;
  server { $listen location / { return 200 "$1 \$remote_addr \$server_port\n"; } } }
NGINX
    in_ns "$1" nginx -c "/run/nginx-$1.conf"
}

answer() { # VIP PORT
    local host=$1
    if [[ $host == *:* ]]; then host="[$host]"; fi
    in_ns client curl -sS --max-time 5 "http://$host:$2/"
}

capture_start() { # NAME
    in_ns client tcpdump -i eth0 -U -w "$LEFT/$1-client.pcap" 2>/dev/null &
    echo $! >/run/capture-client
    in_ns cable tcpdump -i far2 -U -w "$LEFT/$1-servers.pcap" 2>/dev/null &
    echo $! >/run/capture-servers
    wait_for 10 test -s "$LEFT/$1-client.pcap" -a -s "$LEFT/$1-servers.pcap"
}

capture_stop() {
    sleep 0.5
    kill "$(</run/capture-client)" "$(</run/capture-servers)"
    wait || true
}

# ----------------------------------------------------------------- the end

# Back with the kernel, and at work: a ping by each.
gives_back() { # COMMAND...
    local n slot interface
    timeout 120 "$@"
    for n in 0 1; do
        slot=${SLOTS[$n]}
        assert_equal "driver of $slot" "$(driver_of "$slot")" "$(kernel_driver)"
        interface=$(interface_of "$slot")
        [[ -n $interface ]] || fail "$slot has no interface"
        ip link set "$interface" up
    done
    assert_equal "huge pages" "$(</sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)" 0
    [[ ! -e /etc/tmpfiles.d/rvs-hugepages.conf && ! -e /etc/systemd/system/rvs-nics.service ]] || fail "undo leaves files"
    ip address add 192.168.1.21/24 dev "$(interface_of "${SLOTS[0]}")"
    ip address add 10.0.0.1/24 dev "$(interface_of "${SLOTS[1]}")"
    wait_for 20 ping -c 1 -W 1 192.168.1.12
    wait_for 20 ping -c 1 -W 1 10.0.0.31
    for slot in "${SLOTS[@]}"; do ip address flush dev "$(interface_of "$slot")"; done
}

# --------------------------------------------------------- beside the kernel

# The far ends in a namespace of their own, silent, for compare.py.
bench_up() {
    local n interface
    if ip netns list | grep -q '^client'; then
        in_ns client ip link set eth0 netns 1
        in_ns cable ip link set far2 netns 1
    fi
    ip netns add bench
    for n in 0 1; do
        interface=$(interface_of "${FAR[$n]}")
        ip link set "$interface" netns bench name "far$((n + 1))"
        in_ns bench sysctl -q -w "net.ipv6.conf.far$((n + 1)).disable_ipv6=1"
        in_ns bench ip address flush dev "far$((n + 1))"
        in_ns bench ip link set "far$((n + 1))" arp off promisc on up
    done
}

bench_down() {
    ip netns exec bench ip link set far1 netns 1
    ip netns exec bench ip link set far2 netns 1
    ip netns delete bench
    ip link set far1 arp on promisc off
    ip link set far2 arp on promisc off
}

# What both directors are given: INTERFACE1 and INTERFACE2 are NICs or taps.
director_ground() { # INTERFACE1 INTERFACE2
    local last
    sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 \
        net.ipv4.icmp_ratelimit=0 net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=10000 \
        net.ipv6.icmp.ratelimit=0
    for last in 12 1; do
        ip neigh replace "192.168.1.$last" lladdr 52:54:00:00:0b:01 dev "$1" nud permanent
        ip neigh replace "fd00:1::$last" lladdr 52:54:00:00:0b:01 dev "$1" nud permanent
    done
    for last in 31 32 254; do
        ip neigh replace "10.0.0.$last" lladdr "52:54:00:00:0c:${last: -2}" dev "$2" nud permanent
        ip neigh replace "fd00:2::$last" lladdr "52:54:00:00:0c:${last: -2}" dev "$2" nud permanent
    done
}
