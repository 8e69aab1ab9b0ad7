#!/bin/bash
# Debian's keepalived and ipvsadm drive rvsd: checks, weight 0 and removal, a
# quorum with its sorry server, a mark, and rvsd killed in between.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
for tool in keepalived ipvsadm; do
    command -v "$tool" >/dev/null || skip "needs $tool: apt-get install $tool"
done
lab_up
real_servers start
director_start

sed "s#@VIP@#$VIP#; s#@VIP6@#$VIP6#; s#@CLIENT@#$CLIENT#; s#@RS1@#$RS1#; s#@RS2@#$RS2#
    s#@RS1_6@#$RS1_6#; s#@RS2_6@#$RS2_6#" "$LAB_DIR/keepalived.conf" >"$LAB_TMP/keepalived.conf"

LOG=$LAB_TMP/keepalived.log
keepalived_start() {
    spawn director "$LOG" "$RVSADM" run -- keepalived --dont-fork --log-console --log-detail --check \
        --use-file "$LAB_TMP/keepalived.conf" --pid "$LAB_TMP/keepalived.pid" \
        --checkers_pid "$LAB_TMP/checkers.pid" --vrrp_pid "$LAB_TMP/vrrp.pid"
    KEEPALIVED=$SPAWNED
}

nginx_stop() { kill "$(<"$LAB_TMP/$1/nginx.pid")" && wait_for 5 "nginx of $1 to stop" nginx_stopped "$1"; }
nginx_stopped() { [[ ! -e $LAB_TMP/$1/nginx.pid ]]; }
nginx_start() {
    spawn "$1" "$LAB_TMP/$1/nginx.out" nginx -p "$LAB_TMP/$1" -e "$LAB_TMP/$1/error.log" -c "$LAB_TMP/$1/nginx.conf"
    wait_for 5 "nginx of $1" servers_listen "$1"
}

# The servers of a service and their weights, in the order of the listing.
weights() { # SERVICE
    rvsadm -Sn | awk -v service="$1" '$1 == "-a" && $3 == service {
        for (i = 4; i < NF; i++) { if ($i == "-r") r = $(i + 1); if ($i == "-w") w = $(i + 1) }
        printf "%s%s=%s", sep, r, w; sep = " " }'
}
has() { [[ $(weights "$1") == "$2" ]]; } # SERVICE SERVERS
expect() { # SERVICE SERVERS: within the time of two checks and their time-outs
    wait_for 6 "$1 to have '$2'; it has '$(weights "$1")'" has "$1" "$2"
}

BOTH="$RS1:80=2 $RS2:80=3" BOTH6="[$RS1_6]:80=1 [$RS2_6]:80=1" BOTH81="$RS1:81=1 $RS2:81=1"
all_up() {
    expect "$VIP:80" "$BOTH"
    expect "[$VIP6]:80" "$BOTH6"
    expect "$VIP:81" "$BOTH81"
    expect 7 "$RS1:0=1"
}

say "keepalived makes its services"
keepalived_start
all_up
assert_equal "services" "$(rvsadm -Sn | grep -e ^-A)" "-A -t $VIP:80 -s rr
-A -t $VIP:81 -s wlc -p 60
-A -t [$VIP6]:80 -s wrr
-A -f 7 -s sh"
assert_match "thresholds" "$(rvsadm -Ln --thresholds)" "$RS2:80 +1000 +500 "
answers=$(for _ in 1 2; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
assert_equal "the answers" "$(sort <<<"$answers" | xargs)" "rs1 rs2"

say "Debian's ipvsadm lists what rvsadm does"
for form in -Ln -Sn '-Ln --stats' '-Ln --rate' '-Ln --thresholds' '-Ln --tun-info' '-Ln --timeout'; do
    # shellcheck disable=SC2086 # a form is several words
    assert_equal "ipvsadm $form" "$(rvsadm run -- ipvsadm $form)" "$(rvsadm $form)"
done
connections() { tail -n +3 | awk '{ print $1, $3, $4, $5, $6 }' | sort; }
assert_equal "ipvsadm -Lnc" "$(rvsadm run -- ipvsadm -Lnc | connections)" "$(rvsadm -Lnc | connections)"
assert_equal "connections" "$(rvsadm run -- ipvsadm -Lnc | connections | wc -l)" 2

say "a server goes down: weight 0, removed, or the sorry server"
nginx_stop rs1
expect "$VIP:80" "$RS1:80=0 $RS2:80=3"
expect "[$VIP6]:80" "[$RS2_6]:80=1"
expect "$VIP:81" "$CLIENT:81=1"
expect 7 ''
answers=$(for _ in 1 2; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
assert_equal "the answers" "$(xargs <<<"$answers")" "rs2 rs2"

say "and comes back"
nginx_start rs1
all_up

say "rvsd is killed, and a server goes down before it is back"
before=$(rvsadm -Sn)
director_kill
nginx_stop rs2
wait_for 6 "keepalived's log to name the cause" grep -q "Can't reach rvsd" "$LOG"
director_start
assert_equal "servers of the saved services" "$(rvsadm -Sn | grep -c .)" "$(grep -c . <<<"$before")"
expect "$VIP:81" "$CLIENT:81=1"
expect "$VIP:80" "$RS1:80=2"
expect "[$VIP6]:80" "[$RS1_6]:80=1"
nginx_start rs2
all_up
answers=$(for _ in 1 2; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
assert_equal "the answers" "$(sort <<<"$answers" | xargs)" "rs1 rs2"

say "keepalived stops and takes its services away"
kill "$KEEPALIVED"
wait "$KEEPALIVED" || true
# A mark in a group stays at times: keepalived 2.2.7 may stumble over it itself when
# it stops ("Unknown protocol 0 at protocol_to_index"), before it asks anybody.
assert_equal "services" "$(rvsadm -Sn | grep -v -- ' -f 7 ' || true)" ''

say "without rvsd keepalived says why it cannot"
director_stop
keepalived_start
wait_for 6 "the cause in keepalived's log" grep -q "Can't reach rvsd: there is no socket" "$LOG"
kill "$KEEPALIVED" 2>/dev/null || true
