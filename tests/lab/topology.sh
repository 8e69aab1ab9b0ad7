# shellcheck shell=bash disable=SC2034 # what the scripts that source this use
# The topologies of the lab: which machine is on which segment, with which
# addresses and routes. Sourced by lib.sh; docs/lab.md has the pictures.
#
#   one      client, director and servers on one segment
#   bgp      client behind a router (gate) that has two ways to the VIPs, director
#            and backup; servers on the directors' segment
#   nat      director between client and servers, their default gateway
#   fullnat  the same, but rs2 behind a router, and no server has a default route
#   tun      both servers behind a router that also leads to the client
#   vrrp     as one, with a second director, backup; rvsd puts up no VIP, but the
#            keepalived that is master does
#   routed   client behind a router (gate), rs1 on the director's segment, rs2
#            behind a router; links with a smaller MTU with set_mtu
#
# Segments and their networks, /24 and /64:
#
#   near  192.168.2 fd00:4  client, gate
#   lan   192.168.1 fd00:1  in `bgp`: gate, directors, servers; VIPs are of no segment
#   wan   192.168.1 fd00:1  client or gate, director, router
#   lan   10.0.0    fd00:2  director, servers, router
#   far   10.0.1    fd00:3  router, servers

TOPOLOGIES=(one vrrp bgp nat fullnat tun routed)

# Sets names and addresses. MACHINES are the namespaces apart from rvs-wire,
# BRIDGES the segment of each port of the director in the order of its
# configuration CONFIG, ROUTES what its kernel needs besides its own networks.
topology_set() { # TOPOLOGY
    TOPOLOGY=$1
    MACHINES=(client director rs1 rs2) BRIDGES=(br-wan br-lan) ROUTES=() CONFIG=rvsd-two-arm.toml
    CLIENT=192.168.1.12 CLIENT6=fd00:1::12 CLIENT_MAC=00:50:00:00:03:00
    DIRECTOR=192.168.1.21 DIRECTOR6=fd00:1::21 DIRECTOR_MAC=00:50:00:00:04:00
    DIRECTOR_LAN=10.0.0.1 DIRECTOR_LAN6=fd00:2::1 DIRECTOR_LAN_MAC=00:50:00:00:04:01
    RS1=10.0.0.31 RS1_6=fd00:2::31 RS1_MAC=00:50:00:00:01:00
    RS2=10.0.0.32 RS2_6=fd00:2::32 RS2_MAC=00:50:00:00:02:00
    ROUTER_MAC=00:50:00:00:05 GATE_MAC=00:50:00:00:06 # and a number for the interface
    VIP=192.168.1.100 VIP6=fd00:1::100
    LOCAL=(10.0.0.201 10.0.0.202) LOCAL6=fd00:2::201 # of FULLNAT
    case $1 in
    one)
        BRIDGES=(br0) CONFIG=rvsd.toml
        RS1=192.168.1.31 RS1_6=fd00:1::31
        RS2=192.168.1.32 RS2_6=fd00:1::32
        ;;
    vrrp)
        MACHINES+=(backup)
        BRIDGES=(br0) CONFIG=rvsd-vrrp.toml
        BACKUP=192.168.1.22 BACKUP6=fd00:1::22 BACKUP_MAC=00:50:00:00:04:08
        RS1=192.168.1.31 RS1_6=fd00:1::31
        RS2=192.168.1.32 RS2_6=fd00:1::32
        ;;
    bgp)
        MACHINES+=(backup gate)
        BRIDGES=(br0) CONFIG=rvsd-bgp.toml
        ROUTES=("192.168.2.0/24 via 192.168.1.1" "fd00:4::/64 via fd00:1::1")
        CLIENT=192.168.2.12 CLIENT6=fd00:4::12
        BACKUP=192.168.1.22 BACKUP6=fd00:1::22 BACKUP_MAC=00:50:00:00:04:08
        RS1=192.168.1.31 RS1_6=fd00:1::31
        RS2=192.168.1.32 RS2_6=fd00:1::32
        VIP=192.168.9.100 VIP6=fd00:9::100
        ;;
    nat) ;;
    fullnat | tun | routed)
        MACHINES+=(router)
        ROUTES=("10.0.1.0/24 via 10.0.0.254" "fd00:3::/64 via fd00:2::254")
        RS2=10.0.1.32 RS2_6=fd00:3::32
        if [[ $1 == tun ]]; then RS1=10.0.1.31 RS1_6=fd00:3::31; fi
        if [[ $1 == routed ]]; then
            MACHINES+=(gate)
            ROUTES+=("192.168.2.0/24 via 192.168.1.1" "fd00:4::/64 via fd00:1::1")
            CLIENT=192.168.2.12 CLIENT6=fd00:4::12
        fi
        ;;
    *) fail "no topology '$1'; there are: ${TOPOLOGIES[*]}" ;;
    esac
}

# Makes what topology_set described.
topology_make() {
    local name
    for name in "${MACHINES[@]}" wire; do make_namespace "$name"; done
    make_wire
    case $TOPOLOGY in
    one | vrrp)
        make_segment br0
        make_host client br0 "$CLIENT" "$CLIENT6" "$CLIENT_MAC"
        make_host rs1 br0 "$RS1" "$RS1_6" "$RS1_MAC"
        make_host rs2 br0 "$RS2" "$RS2_6" "$RS2_MAC"
        ;;
    bgp)
        make_segment br-near
        make_segment br0
        forwarding gate
        # By ports, too: a connection is what stays on one way.
        in_ns gate sysctl -qw net.ipv4.fib_multipath_hash_policy=1 net.ipv6.fib_multipath_hash_policy=1
        make_host gate br-near 192.168.2.1 fd00:4::1 "$GATE_MAC:01" near
        make_host gate br0 192.168.1.1 fd00:1::1 "$GATE_MAC:02" lan
        make_host client br-near "$CLIENT" "$CLIENT6" "$CLIENT_MAC"
        make_host rs1 br0 "$RS1" "$RS1_6" "$RS1_MAC"
        make_host rs2 br0 "$RS2" "$RS2_6" "$RS2_MAC"
        route_via client 192.168.2.1 fd00:4::1
        for name in rs1 rs2; do route_via "$name" 192.168.1.1 fd00:1::1; done
        ;;
    nat)
        make_segment br-wan
        make_segment br-lan
        forwarding director
        make_host client br-wan "$CLIENT" "$CLIENT6" "$CLIENT_MAC"
        make_host rs1 br-lan "$RS1" "$RS1_6" "$RS1_MAC"
        make_host rs2 br-lan "$RS2" "$RS2_6" "$RS2_MAC"
        for name in rs1 rs2; do route_via "$name" "$DIRECTOR_LAN" "$DIRECTOR_LAN6"; done
        ;;
    fullnat)
        make_two_arms
        make_host client br-wan "$CLIENT" "$CLIENT6" "$CLIENT_MAC"
        make_host rs1 br-lan "$RS1" "$RS1_6" "$RS1_MAC"
        make_host rs2 br-far "$RS2" "$RS2_6" "$RS2_MAC"
        route_via rs2 10.0.1.1 fd00:3::1 10.0.0.0/24 fd00:2::/64
        ;;
    tun)
        make_two_arms
        make_host router br-wan 192.168.1.254 fd00:1::254 "$ROUTER_MAC:03" wan
        make_host client br-wan "$CLIENT" "$CLIENT6" "$CLIENT_MAC"
        make_host rs1 br-far "$RS1" "$RS1_6" "$RS1_MAC"
        make_host rs2 br-far "$RS2" "$RS2_6" "$RS2_MAC"
        for name in rs1 rs2; do route_via "$name" 10.0.1.1 fd00:3::1; done
        ;;
    routed)
        make_segment br-near
        make_two_arms
        forwarding gate
        make_host gate br-near 192.168.2.1 fd00:4::1 "$GATE_MAC:01" near
        make_host gate br-wan 192.168.1.1 fd00:1::1 "$GATE_MAC:02" wan
        make_host router br-wan 192.168.1.254 fd00:1::254 "$ROUTER_MAC:03" wan
        make_host client br-near "$CLIENT" "$CLIENT6" "$CLIENT_MAC"
        make_host rs1 br-lan "$RS1" "$RS1_6" "$RS1_MAC"
        make_host rs2 br-far "$RS2" "$RS2_6" "$RS2_MAC"
        route_via client 192.168.2.1 fd00:4::1
        route_via gate "$DIRECTOR" "$DIRECTOR6"
        route_via rs2 10.0.1.1 fd00:3::1
        servers_answer_by director
        ;;
    esac
}

# Client segment, server segment, and a router to a third one.
make_two_arms() {
    make_segment br-wan
    make_segment br-lan
    make_segment br-far
    forwarding director
    forwarding router
    make_host router br-lan 10.0.0.254 fd00:2::254 "$ROUTER_MAC:01" lan
    make_host router br-far 10.0.1.1 fd00:3::1 "$ROUTER_MAC:02" far
}

# In `routed`: how packets of the servers get to the client. By the director, as
# NAT needs it, or by the router and past the director, as with DR and TUN.
servers_answer_by() { # director|router
    if [[ $1 == director ]]; then
        route_via rs1 "$DIRECTOR_LAN" "$DIRECTOR_LAN6"
        route_via router "$DIRECTOR_LAN" "$DIRECTOR_LAN6"
    else
        route_via rs1 10.0.0.254 fd00:2::254
        route_via router 192.168.1.1 fd00:1::1
    fi
}

# ------------------------------------------------------------------------ pieces

# Nothing of the machine's own settings may shine through: a new namespace
# inherits many of them (a Docker host forwards, systemd filters reverse paths).
make_namespace() { # NAME
    ip netns add "rvs-$1"
    ip -n "rvs-$1" link set lo up
    in_ns "$1" sysctl -qw \
        net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0 \
        net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \
        net.ipv4.conf.all.arp_ignore=0 net.ipv4.conf.all.arp_announce=0 \
        net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0 \
        net.ipv6.conf.default.accept_ra=0 net.ipv6.conf.default.accept_dad=0 \
        net.ipv6.conf.default.dad_transmits=0 \
        net.ipv4.ip_local_port_range='10000 65535'
}

forwarding() { # NAME
    in_ns "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
}

# The segments pass every frame as it is, also wrong ones: no multicast snooping,
# and no br_netfilter, which drops bad IP headers (a Docker host has it).
make_wire() {
    local key
    in_ns wire sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
    for key in iptables ip6tables arptables; do
        if [[ -e /proc/sys/net/bridge/bridge-nf-call-$key ]]; then
            in_ns wire sysctl -qw "net.bridge.bridge-nf-call-$key=0"
        fi
    done
}

make_segment() { # BRIDGE
    ip -n rvs-wire link add "$1" type bridge stp_state 0 forward_delay 0 mcast_snooping 0
    ip -n rvs-wire link set "$1" up
}

# Puts a machine on a segment. Its end of the wire is eth0, and is called NAME in
# rvs-wire; the further legs of a router have names of their own.
make_host() { # NAME BRIDGE IPV4 IPV6 MAC [INTERFACE]
    local interface=${6:-eth0} end=$1${6:+-$6}
    ip -n rvs-wire link add "$end" type veth peer name "$interface" address "$5" netns "rvs-$1"
    ip -n rvs-wire link set "$end" master "$2" up
    ip -n "rvs-$1" addr add "$3/24" dev "$interface"
    ip -n "rvs-$1" addr add "$4/64" dev "$interface" nodad
    ip -n "rvs-$1" link set "$interface" up
}

route_via() { # NAME GATEWAY4 GATEWAY6 [NETWORK4 NETWORK6]
    ip -n "rvs-$1" -4 route replace "${4:-default}" via "$2"
    ip -n "rvs-$1" -6 route replace "${5:-default}" via "$3"
}

# The MTU with which a router sends to the network of one of its legs. It is the
# route's, as veth would also refuse to receive longer packets if it were the
# link's: so the hosts on both sides cannot see it and have to be told.
set_mtu() { # ROUTER INTERFACE MTU
    local route
    for route in $(ip -n "rvs-$1" -4 route show dev "$2" proto kernel | cut -d ' ' -f 1); do
        ip -n "rvs-$1" route replace "$route" dev "$2" proto kernel mtu "$3"
    done
    for route in $(ip -n "rvs-$1" -6 route show dev "$2" proto kernel | grep -v ^fe80 | cut -d ' ' -f 1); do
        ip -n "rvs-$1" -6 route replace "$route" dev "$2" proto kernel metric 256 mtu "$3"
    done
}

# Forgets what path MTU discovery has taught.
forget_mtus() {
    local name
    for name in "${MACHINES[@]}"; do
        ip -n "rvs-$name" -4 route flush cache
        ip -n "rvs-$name" -6 route flush cache
    done
}

# The MTU that a machine knows for the way to an address; nothing if it is the
# interface's.
learnt_mtu() { # NAME ADDRESS
    ip -n "rvs-$1" route get "$2" | sed -n 's/.*\bmtu \(lock \)\?\([0-9]*\).*/\2/p'
}
