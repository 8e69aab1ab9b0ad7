#!/bin/bash
# The file is changed and read again while a transfer runs: docs/reload.md.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start +services.toml
file=$LAB_TMP/rvsd.toml

# The weight of a server in the n-th line that has one.
set_weight() { # N WEIGHT
    local line
    line=$(grep -n '^weight = ' "$file" | sed -n "$1p" | cut -d : -f 1)
    sed -i "${line}s/.*/weight = $2/" "$file"
}
logged() { grep -q "$1" "$LAB_TMP/rvsd.log"; }
# Of the first service that has the server.
weight_of() { rvsadm -Ln | awk -v server="$1" '$2 == server { print $4; exit }'; }
conns_of() { server_column "$1" 1 --stats | head -n 1; }

say "a download goes on while a weight, an address and a service of the file change"
spawn client "$LAB_TMP/download.log" curl -sS --max-time 60 --limit-rate 15M -o "$LAB_TMP/got" "http://$VIP/100M"
download=$SPAWNED
wait_for 5 "the download's connection" sh -c "'$RVSADM' -Lnc | grep -q ESTABLISHED"
before=$(rvsadm -Lnc | awk '$3 == "ESTABLISHED" { print $4, $6 }')
conns=$(conns_of "$RS1:80")
set_weight 2 3
sed -i 's#^addresses = \["192.168.1.100", #&"192.168.1.101", #' "$file"
cat >>"$file" <<'TOML'

[[service]]
protocol = "tcp"
address = "192.168.1.101:80"
scheduler = "wrr"
[[service.server]]
address = "192.168.1.31"
TOML
expected="-e -t $VIP:80 -r $RS2:80 -g -w 3
-A -t 192.168.1.101:80 -s wrr
-a -t 192.168.1.101:80 -r $RS1:80 -g -w 1
address add 192.168.1.101/32 dev lo"
assert_equal "the dry run" "$(typed rvsadm reload --dry-run | tail -n +2)" "$expected"
assert_equal "the weight after it" "$(weight_of "$RS2:80")" 1
assert_equal "the reload" "$(rvsadm reload)" "$expected"
rvsadm -Ln
assert_equal "the weight of rs2" "$(weight_of "$RS2:80")" 3
assert_equal "connections of rs1 so far" "$(conns_of "$RS1:80")" "$conns"
assert_match "lo" "$(ip -n rvs-director -4 addr show lo)" '192\.168\.1\.101/32'
assert_equal "the download's connection" "$(rvsadm -Lnc | awk '$3 == "ESTABLISHED" { print $4, $6 }')" "$before"
assert_equal "the reload again" "$(rvsadm reload)" 'Nothing is different.'

say "an invalid file changes nothing, and says what is wrong"
services=$(rvsadm -Sn)
cp "$file" "$LAB_TMP/good.toml"
set_weight 1 70000
line=$(grep -n 'weight = 70000' "$file" | cut -d : -f 1)
status=0
out=$(rvsadm reload 2>&1) || status=$?
assert_equal "exit status" "$status" 1
assert_equal "the message" "$out" \
    "$file:$line: service[0].server[0].weight: 70000 is out of range; give an integer from 0 to 65535"
status=0
check=$(in_ns director "$RVSD" --check -c "$file" 2>&1) || status=$?
assert_equal "the message of a start" "$check" "$out"
kill -HUP "$DIRECTOR_PID"
wait_for 5 "the log to say the same" logged "reload: nothing was changed: .*70000 is out of range"
assert_equal "services" "$(rvsadm -Sn)" "$services"

say "SIGHUP; what was changed at run time stays; the restart is asked for"
typed rvsadm -e -t "$VIP:80" -r "$RS1:80" -g -w 5
cp "$LAB_TMP/good.toml" "$file"
set_weight 2 4
sed -i 's/^connections = .*/connections = 200000/' "$file"
kill -HUP "$DIRECTOR_PID"
wait_for 5 "the reload" logged 'reload: 1 changes carried out'
assert_equal "the weight of rs2" "$(weight_of "$RS2:80")" 4
assert_equal "the weight of rs1" "$(weight_of "$RS1:80")" 5
logged 'needs a restart of rvsd: director.connections' || fail "the log does not tell of the restart"
typed rvsadm show config
assert_match "show config" "$(rvsadm show config)" "-e -t $VIP:80 -r $RS1:80 -g -w 5"
typed rvsadm show services
assert_match "show services" "$(rvsadm show services)" "TCP $VIP:80 +rr .* changed"

say "save and restore"
rvsadm save "$LAB_TMP/saved.txt"
cat "$LAB_TMP/saved.txt"
assert_equal "a restore of what is in force" "$(rvsadm restore "$LAB_TMP/saved.txt")" 'Nothing is different.'

kill -0 "$download" || fail "the download ended before all was tried"
wait "$download" || fail "the download broke off"
assert_equal "sha256 of the download" "$(sha256sum <"$LAB_TMP/got")" "$(sha256sum <"$LAB_TMP/100M")"

say "after kill -9 all is as it was, and the file's change since is in force"
director_kill
cp "$file" "$LAB_TMP/edited.toml"
director_start +services.toml # wires the ports; with the file as at the first start
assert_equal "the weight of rs1, given at run time" "$(weight_of "$RS1:80")" 5
assert_equal "the weight of rs2, of the file now" "$(weight_of "$RS2:80")" 1
assert_no_match "services" "$(rvsadm -Sn)" '192\.168\.1\.101'

say "drain rs1"
typed rvsadm --set 2 2 0
typed rvsadm drain "$RS1" --wait --timeout 60
assert_equal "the weight of rs1" "$(weight_of "$RS1:80")" 0
answers=$(for _ in {1..4}; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done | sort -u)
assert_equal "servers that answered" "$(wc -l <<<"$answers")" 1
typed rvsadm undrain "$RS1"
assert_equal "the weight of rs1" "$(weight_of "$RS1:80")" 5
