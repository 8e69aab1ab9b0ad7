#!/bin/bash
# Two directors announce the VIPs by BGP on rvsd's taps, and a router sends to both
# (BIRD, unmodified). One is killed under 200 downloads, one is drained; the VIP goes
# with the last server of its service.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
command -v bird >/dev/null || skip "needs BIRD: apt-get install bird2"
lab_up bgp
real_servers start
head -c 300K "$LAB_TMP/100M" >"$LAB_TMP/300K"
head -c 500K "$LAB_TMP/100M" >"$LAB_TMP/500K"

bird_start() { # NAME CONFIG ID ID6
    sed "s#@ID@#$3#; s#@ID6@#$4#" "$LAB_DIR/$2" >"$LAB_TMP/bird-$1.conf"
    spawn "$1" "$LAB_TMP/bird-$1.log" bird -f -c "$LAB_TMP/bird-$1.conf" -s "$LAB_TMP/bird-$1.ctl" \
        -P "$LAB_TMP/bird-$1.pid"
}
birdc() { # NAME COMMAND...
    printf '%s$ birdc %s\n' "$1" "${*:2}"
    command birdc -s "$LAB_TMP/bird-$1.ctl" "${@:2}" | tail -n +2
}

# The router's next hops of a VIP, in order.
ways() { # VIP
    local family=-4
    if [[ $1 == *:* ]]; then family=-6; fi
    ip -n rvs-gate "$family" route show "$1" | grep -oE 'via [0-9a-f.:]+' | cut -d ' ' -f 2 | sort | xargs
}
ways_are() { # WAYS4 WAYS6
    [[ $(ways "$VIP") == "$1" && $(ways "$VIP6") == "$2" ]]
}
expect_ways() { # WHAT WAYS4 WAYS6
    local began=${EPOCHREALTIME/./}
    wait_for 30 "$1" ways_are "$2" "$3"
    echo "$1: after $(((${EPOCHREALTIME/./} - began) / 1000)) ms"
}
BOTH=("$DIRECTOR $BACKUP" "$DIRECTOR6 $BACKUP6")

# Sums over the connections of the IPv4 service.
conns() { rvsadm -Ln --stats --exact -t "$VIP:80" | awk '$1 == "TCP" { print $3 }'; }
established() { rvsadm -Lnc 2>/dev/null | grep -cE "ESTABLISHED .* $VIP:80 " || true; }
taken_up() { worker_counters | jq '[.[].taken_up] | add'; }
of() { # DIRECTOR WORD...
    director_is "$1"
    "${@:2}"
}
# Connections since the last look; a dead director has none. What moved away stays
# in a director's listing until its timeout.
since() { # DIRECTOR BEFORE
    echo $(($(of "$1" established) - $2))
}
are_open() { # COUNT BEFORE_FIRST BEFORE_SECOND
    (($(since director "$2") + $(since backup "$3") >= $1))
}

# Downloads at 20 KB a second, all at once, each over a connection of its own.
downloads_start() { # COUNT SIZE
    local first second
    DOWNLOADS=$1 SIZE=$2
    first=$(of director established) second=$(of backup established)
    rm -rf "$LAB_TMP/down" && mkdir "$LAB_TMP/down"
    spawn client "$LAB_TMP/downloads" curl -sS --parallel --parallel-immediate --parallel-max "$1" --max-time 90 \
        -H 'Connection: close' -w 'transfer %{urlnum} %{http_code} %{exitcode} %{errormsg}\n' \
        -o "$LAB_TMP/down/#1" "http://$VIP/slow/$SIZE?[1-$1]"
    CURL=$SPAWNED
    wait_for 20 "$1 downloads to begin" are_open "$1" "$first" "$second"
    FIRST=$(since director "$first") SECOND=$(since backup "$second")
    echo "$1 downloads begin: $FIRST by director, $SECOND by backup"
}
both_are_used() { ((FIRST > 0 && SECOND > 0)) || fail "the router has sent all to one director"; }
# Waits for their end; how many have the right content is in WHOLE.
downloads_end() { # WHAT
    local file
    WHOLE=0
    wait "$CURL" || true
    for file in "$LAB_TMP/down"/*; do
        if cmp -s "$file" "$LAB_TMP/$SIZE"; then WHOLE=$((WHOLE + 1)); fi
    done
    echo "$1: $WHOLE of $DOWNLOADS downloads whole"
    awk '$1 == "transfer" && $4 != 0' "$LAB_TMP/downloads" | cut -d ' ' -f 3- | sort | uniq -c
}

nginx_stop() { kill "$(<"$LAB_TMP/$1/nginx.pid")" && wait_for 5 "nginx of $1 to stop" nginx_stopped "$1"; }
nginx_stopped() { [[ ! -e $LAB_TMP/$1/nginx.pid ]]; }
nginx_start() {
    spawn "$1" "$LAB_TMP/$1/nginx.out" nginx -p "$LAB_TMP/$1" -e "$LAB_TMP/$1/error.log" -c "$LAB_TMP/$1/nginx.conf"
    wait_for 5 "nginx of $1" servers_listen "$1"
}

say "both directors announce the VIPs: the router has two ways, and uses both"
for name in director backup; do of "$name" director_start +services-bgp.toml; done
bird_start director bird-director.conf "$DIRECTOR" "$DIRECTOR6"
bird_start backup bird-director.conf "$BACKUP" "$BACKUP6"
bird_start gate bird-router.conf - -
expect_ways "two ways" "${BOTH[@]}"
birdc gate show protocols
ip -n rvs-gate route show "$VIP"
in_ns client ab -q -n 200 -c 10 "http://$VIP/" | grep -E 'Complete|Failed'
in_ns client ab -q -n 200 -c 10 "http://[$VIP6]/" | grep -E 'Complete|Failed'
first=$(of director conns) second=$(of backup conns)
echo "connections: $first by director, $second by backup"
((first > 50 && second > 50)) || fail "the router does not spread connections"
director_is director
typed rvsadm show services

say "a director is killed under 200 downloads: those that it had go on by the other"
before=$(of backup taken_up)
downloads_start 200 500K
both_are_used
sleep 3
of director director_kill
expect_ways "one way" "$BACKUP" "$BACKUP6"
downloads_end "a director killed"
moved=$(($(of backup taken_up) - before))
echo "taken up by backup: $moved"
((WHOLE * 100 >= DOWNLOADS * 99)) || fail "less than 99 % of the downloads went on"
((moved >= FIRST)) || fail "backup has taken up $moved connections, director had $FIRST"
of director director_start +services-bgp.toml
expect_ways "two ways again" "${BOTH[@]}"

say "a drained director loses none, and none comes to harm when it is back"
downloads_start 60 500K
both_are_used
birdc director disable '"vips*"'
expect_ways "drained" "$BACKUP" "$BACKUP6"
sleep 2
of director director_stop
assert_equal "rvsd's exit status" "$DIRECTOR_STATUS" 0
of director director_start +services-bgp.toml
birdc director enable '"vips*"'
expect_ways "two ways again" "${BOTH[@]}"
back=$(of director taken_up)
downloads_end "a director drained, stopped, and back"
assert_equal "whole downloads" "$WHOLE" "$DOWNLOADS"
echo "taken up by director since: $(($(of director taken_up) - back))"

say "without take_up, those that the killed one had break"
for name in director backup; do
    of "$name" rvsadm -E -t "$VIP:80" -s mh -b mh-port
    assert_no_match "the service" "$(rvsadm -Sn)" "-t $VIP:80 -s mh -b mh-port --take-up"
done
downloads_start 40 300K
both_are_used
sleep 2
of director director_kill
expect_ways "one way" "$BACKUP" "$BACKUP6"
downloads_end "a director killed, without take_up"
assert_equal "whole downloads" "$WHOLE" $((DOWNLOADS - FIRST))

say "one director, killed and started again: with take_up its connections outlive it"
of backup rvsadm -E -t "$VIP:80" -s mh -b mh-port --take-up
downloads_start 40 300K
assert_equal "downloads by backup" "$SECOND" 40
sleep 1
of backup director_kill
of backup director_start +services-bgp.toml
expect_ways "the way is back" "$BACKUP" "$BACKUP6"
downloads_end "the only director killed and started again"
assert_equal "whole downloads" "$WHOLE" "$DOWNLOADS"

say "the VIP goes with the last server, and comes back with the first"
of director director_start +services-bgp.toml
expect_ways "two ways again" "${BOTH[@]}"
of backup rvsadm -d -t "$VIP:80" -r "$RS1:80"
of backup rvsadm -d -t "$VIP:80" -r "$RS2:80"
expect_ways "backup has no server for IPv4" "$DIRECTOR" "${BOTH[1]}"
assert_match "the answer" "$(get "$VIP")" '^rs[12]$'
of backup rvsadm -a -t "$VIP:80" -r "$RS1:80" -g
of backup rvsadm -a -t "$VIP:80" -r "$RS2:80" -g
expect_ways "backup has servers again" "${BOTH[@]}"
nginx_stop rs1
nginx_stop rs2
expect_ways "no director has a server" '' ''
in_ns client curl -sS --max-time 5 "http://$VIP/" 2>&1 && fail "somebody answers"
nginx_start rs2
expect_ways "both have one" "${BOTH[@]}"
assert_equal "the answer" "$(get "$VIP")" rs2
assert_equal "the answer" "$(get "$VIP6")" rs2

for name in backup director; do
    director_is "$name"
    wait_for 10 "the packets of $name to add up: $(worker_counters | jq -c .)" packets_add_up
    director_stop
    assert_equal "rvsd's exit status" "$DIRECTOR_STATUS" 0
    assert_match "the last line of the log" "$(tail -n 1 "$LAB_TMP/$DIRECTOR_FILES.log")" 'mbufs in use: 0'
done
