#!/bin/bash
# Two directors, each with Debian's keepalived: VRRP over rvsd's taps, the VIP on
# the master's, checks on both. The master is killed, comes back, and loses only
# its rvsd; a client goes on asking all the while.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
command -v keepalived >/dev/null || skip "needs keepalived: apt-get install keepalived"
lab_up vrrp
real_servers start

declare -A KEEPALIVED=()
keepalived_start() { # PRIORITY
    local name=$DIRECTOR_NAME
    local conf=$LAB_TMP/keepalived-$name.conf
    cat "$LAB_DIR/keepalived-vrrp.conf" "$LAB_DIR/keepalived.conf" |
        sed "s#@PRIORITY@#$1#; s#@VIP@#$VIP#; s#@VIP6@#$VIP6#; s#@CLIENT@#$CLIENT#; s#@RS1@#$RS1#; s#@RS2@#$RS2#
            s#@RS1_6@#$RS1_6#; s#@RS2_6@#$RS2_6#" >"$conf"
    cat "$LAB_TMP/keepalived-$name.log" >>"$LAB_TMP/keepalived-$name.old.log" 2>/dev/null || true
    spawn "$name" "$LAB_TMP/keepalived-$name.log" "$RVSADM" run -- keepalived --dont-fork --log-console \
        --log-detail --use-file "$conf" --pid "$LAB_TMP/$name.pid" \
        --checkers_pid "$LAB_TMP/$name-checkers.pid" --vrrp_pid "$LAB_TMP/$name-vrrp.pid"
    KEEPALIVED[$name]=$SPAWNED
}

# As a machine that loses power. The children first: without their parent they
# would say goodbye.
keepalived_kill() {
    local name=$DIRECTOR_NAME
    kill -KILL "$(<"$LAB_TMP/$name-vrrp.pid")" "$(<"$LAB_TMP/$name-checkers.pid")" "${KEEPALIVED[$name]}"
    wait "${KEEPALIVED[$name]}" 2>/dev/null || true
    rm -f "$LAB_TMP/$name".pid "$LAB_TMP/$name"-*.pid
}

vips_at() { # NAME
    ip -n "rvs-$1" -o address show dev lan 2>/dev/null | grep -cwE "$VIP/32|$VIP6/128" || true
}
has_vips() { [[ $(vips_at "$1") == 2 ]]; }
has_no_vips() { [[ $(vips_at "$1") == 0 ]]; }

# Asks ten times a second until it is stopped: one line an answer, its time and
# who answered, or - where nobody did within half a second.
asking_start() {
    # shellcheck disable=SC2016 # the client's shell expands it
    spawn client "$LAB_TMP/asked" bash -c '
        while :; do
            answer=$(curl -s --max-time 0.5 "http://$0/") || answer=-
            echo "$EPOCHREALTIME $answer"
            sleep 0.1
        done' "$VIP"
    ASKING=$SPAWNED
}

# How it went, and the longest time without an answer in milliseconds in GAP.
asking_stop() { # WHAT
    local asked failed
    kill "$ASKING"
    wait "$ASKING" 2>/dev/null || true
    asked=$(grep -c . "$LAB_TMP/asked")
    failed=$(grep -c -- ' -$' "$LAB_TMP/asked" || true)
    GAP=$(awk '$2 != "-" { if (last && $1 - last > gap) gap = $1 - last; last = $1 } END { printf "%d", gap * 1000 }' "$LAB_TMP/asked")
    echo "$1: $failed of $asked requests failed, $GAP ms without an answer"
    assert_match "the last answer" "$(tail -n 1 "$LAB_TMP/asked")" ' rs[12]$'
}

answered_since() { # LINES: more answers than so many lines
    (($(grep -c ' rs[12]$' "$LAB_TMP/asked" || true) > $1))
}

weights() { # SERVICE, as in t-keepalived.sh
    rvsadm -Sn | awk -v service="$1" '$1 == "-a" && $3 == service {
        for (i = 4; i < NF; i++) { if ($i == "-r") r = $(i + 1); if ($i == "-w") w = $(i + 1) }
        printf "%s%s=%s", sep, r, w; sep = " " }'
}
has() { [[ $(weights "$1") == "$2" ]]; } # SERVICE SERVERS
expect() { # SERVICE SERVERS
    wait_for 6 "$1 of $DIRECTOR_NAME to have '$2'; it has '$(weights "$1")'" has "$1" "$2"
}
all_up() {
    expect "$VIP:80" "$RS1:80=2 $RS2:80=3"
    expect "$VIP:81" "$RS1:81=1 $RS2:81=1"
    expect "[$VIP6]:80" "[$RS1_6]:80=1 [$RS2_6]:80=1"
    expect 7 "$RS1:0=1"
}
rs1_down() {
    expect "$VIP:80" "$RS1:80=0 $RS2:80=3"
    expect "$VIP:81" "$CLIENT:81=1"
    expect "[$VIP6]:80" "[$RS2_6]:80=1"
    expect 7 ''
}
on_both() { # FUNCTION
    local name
    for name in director backup; do
        director_is "$name"
        "$1"
    done
}

nginx_stop() { kill "$(<"$LAB_TMP/$1/nginx.pid")" && wait_for 5 "nginx of $1 to stop" nginx_stopped "$1"; }
nginx_stopped() { [[ ! -e $LAB_TMP/$1/nginx.pid ]]; }
nginx_start() {
    spawn "$1" "$LAB_TMP/$1/nginx.out" nginx -p "$LAB_TMP/$1" -e "$LAB_TMP/$1/error.log" -c "$LAB_TMP/$1/nginx.conf"
    wait_for 5 "nginx of $1" servers_listen "$1"
}

say "two directors: the one with the higher priority has the VIPs"
for name in director backup; do
    director_is "$name"
    director_start
done
director_is director && keepalived_start 150
director_is backup && keepalived_start 100
wait_for 20 "the VIPs at the director" has_vips director
wait_for 20 "no VIP at the backup" has_no_vips backup
on_both all_up
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs1 rs2"
assert_equal "the answers" "$( (get "$VIP6" && get "$VIP6") | sort | xargs)" "rs1 rs2"
sync_refused() { grep -q "Connection synchronisation is not built into" "$LAB_TMP/keepalived-$1.log"; }
wait_for 5 "the master's sync daemon to be refused with the cause" sync_refused director
assert_equal "sync daemons" "$(rvsadm run -- ipvsadm -L --daemon)" ''

say "a server fails and comes back: both directors act within the time of a check"
nginx_stop rs1
on_both rs1_down
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs2 rs2"
nginx_start rs1
on_both all_up

say "the master is killed, rvsd and keepalived: the backup takes the VIPs"
asking_start
wait_for 5 "answers" answered_since 5
director_is director
keepalived_kill
director_kill
wait_for 20 "the VIPs at the backup" has_vips backup
asked=$(grep -c . "$LAB_TMP/asked")
wait_for 10 "answers by the backup" answered_since "$asked"
asking_stop "the master killed"
# Three adverts and the skew of its priority (RFC 3768, 6.1) are 3.6 s.
((GAP > 1000)) || fail "the VIPs moved in $GAP ms, before the backup can have missed the adverts"
((GAP < 10000)) || fail "the VIPs took $GAP ms to move"
director_is backup
assert_equal "the answers" "$( (get "$VIP6" && get "$VIP6") | sort | xargs)" "rs1 rs2"

say "the master is back: it takes the VIPs, its services are those of keepalived"
asking_start
director_is director
director_start
keepalived_start 150
wait_for 20 "the VIPs at the director" has_vips director
wait_for 20 "no VIP at the backup" has_no_vips backup
on_both all_up
wait_for 5 "answers" answered_since 5
asking_stop "the master back"

say "rvsd is killed under the master's keepalived: the VIPs move with its tap, and back"
asking_start
wait_for 5 "answers" answered_since 5
director_is director
director_kill
wait_for 20 "the VIPs at the backup" has_vips backup
asked=$(grep -c . "$LAB_TMP/asked")
wait_for 10 "answers by the backup" answered_since "$asked"
nginx_stop rs1
director_is backup
rs1_down
director_is director
director_start
wait_for 30 "the VIPs at the director" has_vips director
wait_for 20 "no VIP at the backup" has_no_vips backup
rs1_down
asked=$(grep -c . "$LAB_TMP/asked")
wait_for 20 "answers by the director" answered_since "$asked"
asking_stop "rvsd killed and back"
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs2 rs2"
nginx_start rs1
on_both all_up
assert_equal "the answers" "$( (get "$VIP" && get "$VIP") | sort | xargs)" "rs1 rs2"
