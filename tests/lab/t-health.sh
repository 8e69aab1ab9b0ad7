#!/bin/bash
# Health checks without keepalived: real nginx behind DR is stopped and started.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
SORRY=192.168.1.39
make_namespace router
make_host router br0 "$SORRY" fd00:1::39 "$ROUTER_MAC:09"
start_servers router
real_servers start
"$REPO/scripts/real-server" --netns rvs-router start "$VIP" "$VIP6"
director_start +services-health.toml

# A failing server is known within fall * interval + timeout, a good one within
# rise * interval + timeout; and some seconds for a busy machine and for looking at it.
DOWN_MS=$((3 * 500 + 500 + 4000)) UP_MS=$((2 * 500 + 500 + 4000))

now_ms() { echo $((${EPOCHREALTIME/./} / 1000)); }
within() { # MS WHAT COMMAND...: its time in TOOK, ms
    local began
    began=$(now_ms)
    wait_for 10 "$2" "${@:3}"
    TOOK=$(($(now_ms) - began))
    ((TOOK <= $1)) || fail "$2 took $TOOK ms, not $1"
    echo "$2: after $TOOK ms"
}
weight_is() { # SERVER WEIGHT
    server_has "$1" 2 "$2"
}
not_listed() { [[ -z $(server_column "$1" 1) ]]; }
listed() { ! not_listed "$1"; }
answers() { # COUNT URL: who answered, sorted and each once
    local i
    for ((i = 0; i < $1; i++)); do in_ns client curl -gsS --max-time 5 "$2"; done | sort -u | xargs
}
nginx_stop() { # NAME
    kill -TERM "$(<"$LAB_TMP/$1/nginx.pid")"
    wait_for 5 "nginx of $1 to stop" nothing_listens "$1"
}
nothing_listens() { [[ -z $(in_ns "$1" ss -Hltn "sport = :80") ]]; }
nginx_start() { # NAME
    spawn "$1" "$LAB_TMP/$1/nginx.out" nginx -p "$LAB_TMP/$1" -e "$LAB_TMP/$1/error.log" -c "$LAB_TMP/$1/nginx.conf"
    wait_for 5 "nginx of $1" servers_listen "$1"
}
logged() { grep -Eq "$1" "$LAB_TMP/rvsd.log"; }
no_children() { ! ps --ppid "$DIRECTOR_PID" >/dev/null; }
all_probed() { rvsadm show health --json | jq -e '.checks | length == 4 and all(.[]; .up and .last.failure == null and .in_a_row > 1)' >/dev/null; }

say "all are good"
wait_for 15 "probes of all four servers" all_probed
rvsadm show health
assert_equal "the answers" "$(answers 4 "http://$VIP/")" "rs1 rs2"
assert_equal "the answers over IPv6" "$(answers 4 "http://[$VIP6]/")" "rs1 rs2"

say "nginx of rs1 stops: weight 0 in time, and nobody notices after that"
nginx_stop rs1
within "$DOWN_MS" "weight 0 of rs1" weight_is "$RS1:80" 0
((TOOK >= 700)) || fail "one or two lost probes were enough: $TOOK ms"
assert_equal "the answers" "$(answers 10 "http://$VIP/")" rs2
logged "server $RS1:80 down \(weight 0\): Connection refused; 3 in a row" || fail "the log does not say why"
assert_match "-Sn" "$(rvsadm -Sn)" "-r $RS1:80 -g -w 3"
typed rvsadm show health-changes

say "it is started again: back, with its weight"
nginx_start rs1
within "$UP_MS" "the weight of rs1" weight_is "$RS1:80" 3
assert_equal "the answers" "$(answers 4 "http://$VIP/")" "rs1 rs2"

say "both stop: the sorry server answers, until one is back"
nginx_stop rs1
nginx_stop rs2
within "$DOWN_MS" "the sorry server" listed "$SORRY:80"
rvsadm -Ln
assert_equal "the answers" "$(answers 4 "http://$VIP/")" router
wait_for 5 "the removal of rs2 over IPv6, which a command checks" not_listed "[$RS2_6]:80"
wait_for 5 "a moment without programs: none, and no zombie, is left" no_children
nginx_start rs2
within "$UP_MS" "the sorry server's leave" not_listed "$SORRY:80"
assert_equal "the answers" "$(answers 4 "http://$VIP/")" rs2
wait_for 5 "rs2 over IPv6" listed "[$RS2_6]:80"

say "a server that is added at run time is checked, too"
nginx_start rs1
wait_for 5 "the weight of rs1" weight_is "$RS1:80" 3
typed rvsadm -a -t "$VIP:80" -r 192.168.1.77:80 -g -w 5
within "$DOWN_MS" "weight 0 of the one that does not exist" weight_is 192.168.1.77:80 0
typed rvsadm -d -t "$VIP:80" -r 192.168.1.77:80
assert_equal "checks" "$(rvsadm show health --json | jq '.checks | length')" 4
check_stop

say "the VIP goes with the last server, and comes back with the first"
vip_is_up() { [[ $(ip -n rvs-director addr show dev lo) == *" $VIP/32 "* ]]; }
vip_is_gone() { ! vip_is_up; }
vip6_is_up() { [[ $(ip -n rvs-director addr show dev lan) == *" $VIP6/128 "* ]]; }
vip6_is_gone() { ! vip6_is_up; }
director_start +services-health.toml 'withdraw_vip = true'
wait_for 15 "probes of all four servers" all_probed
vip_is_up || fail "the VIP is not on lo"
nginx_stop rs1
nginx_stop rs2
within "$DOWN_MS" "the withdrawal" vip_is_gone
vip6_is_up || fail "the IPv6 VIP is gone, whose service has a server left"
logged "vip $VIP withdrawn" || fail "the log does not say so"
rvsadm show health-changes --json | jq -e --arg vip "$VIP" '.withdrawn == [$vip]' >/dev/null || fail "health-changes does not show it"
ip -n rvs-rs1 link set eth0 down
wait_for 5 "the withdrawal over IPv6" vip6_is_gone
ip -n rvs-rs1 link set eth0 up
ip -n rvs-rs1 addr replace "$RS1_6/64" dev eth0 nodad
wait_for 5 "the IPv6 VIP" vip6_is_up

say "a reload while the VIP is withdrawn: others come and go, it stays away"
file=$LAB_TMP/rvsd.toml
other_is_up() { [[ $(ip -n rvs-director addr show dev lo) == *" 192.168.1.101/32 "* ]]; }
sed -i 's#^addresses = \["192.168.1.100", #&"192.168.1.101", #' "$file"
assert_equal "the reload" "$(rvsadm reload)" "address add 192.168.1.101/32 dev lo"
other_is_up || fail "the other address is not on lo"
vip_is_gone || fail "the reload has put the VIP back"
sed -i 's#"192.168.1.101", ##' "$file"
assert_equal "the reload" "$(rvsadm reload)" "address del 192.168.1.101/32 dev lo"
! other_is_up || fail "the other address is still on lo"
vip_is_gone || fail "the reload has put the VIP back"
nginx_start rs2
within "$UP_MS" "the VIP" vip_is_up
assert_equal "the answers" "$(answers 4 "http://$VIP/")" rs2

say "without withdraw_vip, a reload puts it back; one that takes it from vip.addresses keeps it away"
nginx_stop rs2
wait_for 10 "the withdrawal" vip_is_gone
sed -i 's/^withdraw_vip = true/withdraw_vip = false/' "$file"
rvsadm reload
vip_is_up || fail "the VIP is away, and nobody asked for that"
sed -i 's/^withdraw_vip = false/withdraw_vip = true/' "$file"
rvsadm reload
wait_for 5 "the withdrawal" vip_is_gone
sed -i 's/^withdraw_vip = true/withdraw_vip = false/; s#^addresses = \["192.168.1.100", #addresses = [#' "$file"
rvsadm reload
nginx_start rs2
wait_for 10 "rs2 to be up" weight_is "$RS2:80" 3
vip_is_gone || fail "the VIP is up, which the file does not have any more"
check_stop
vip_is_gone || fail "the VIP was left behind"
