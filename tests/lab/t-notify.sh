#!/bin/bash
# rvsd under a service manager, which socat plays: it says when it is ready, when
# it reloads and when it stops; its watchdog is fed while every worker goes on,
# not when one stands still, nor when all of rvsd does. With no more capabilities
# than the unit leaves it.
. "$(dirname "$0")/lib.sh"
lab_up
[[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"

notify=$LAB_TMP/notify.sock
told=$LAB_TMP/told
# Each datagram ends with a newline there.
spawn director "$LAB_TMP/socat.out" socat -u "UNIX-RECV:$notify" "SYSTEM:cat >$told"
wait_for 10 "socat's socket" test -S "$notify"

count() { grep -c "^$1" "$told" || true; }
is_told() { grep -q "^$1" "$told" 2>/dev/null; }
ready_again() { [[ $(count READY=1) == 2 ]]; }

# The capabilities of the unit, as setpriv names them.
capabilities=$(sed -n 's/^CapabilityBoundingSet=\(.*\)/\1/p' "$REPO/control/packaging/rvsd.service" |
    tr ' ' '\n' | sed 's/^CAP_/+/' | tr 'A-Z\n' 'a-z,' | sed 's/,$//')
cat >"$LAB_TMP/rvsd-confined" <<CONFINED
#!/bin/bash
exec env NOTIFY_SOCKET=$notify WATCHDOG_USEC=1000000 WATCHDOG_PID=\$\$ \\
    setpriv --no-new-privs --bounding-set=-all,$capabilities --inh-caps=-all "$RVSD" "\$@"
CONFINED
chmod +x "$LAB_TMP/rvsd-confined"
real=$RVSD RVSD=$LAB_TMP/rvsd-confined
director_start +services.toml
RVSD=$real

say "ready, once, and a status"
wait_for 5 "READY=1" is_told READY=1
wait_for 10 "STATUS=" is_told 'STATUS=[12] workers, [0-9]* services'
assert_equal "READY=1" "$(count READY=1)" 1
assert_equal "NoNewPrivs" "$(awk '$1 == "NoNewPrivs:" { print $2 }' "/proc/$DIRECTOR_PID/status")" 1

say "the watchdog is fed, four times its period"
before=$(count WATCHDOG=1)
sleep 3
fed=$(($(count WATCHDOG=1) - before))
((fed >= 6 && fed <= 14)) || fail "fed $fed times in 3 s instead of about 12"

say "a reload is announced, and over"
rvsadm reload
wait_for 5 "RELOADING=1" is_told RELOADING=1
wait_for 5 "the time of the reload" is_told MONOTONIC_USEC=[0-9]
wait_for 5 "the second READY=1" ready_again

say "one worker's thread stands still: nothing is fed, rvsd answers"
tid=''
for task in "/proc/$DIRECTOR_PID"/task/*; do
    if [[ $(<"$task/comm") == rvs-worker-0 ]]; then tid=${task##*/}; fi
done
[[ -n $tid ]] || fail "rvsd has no thread rvs-worker-0"
mkfifo "$LAB_TMP/hold"
python3 "$LAB_DIR/freeze-thread.py" "$tid" <"$LAB_TMP/hold" >"$LAB_TMP/freeze.out" 2>&1 &
freezer=$!
exec 7>"$LAB_TMP/hold"
wait_for 5 "the thread to be stopped ($(cat "$LAB_TMP/freeze.out"))" grep -qs stopped "$LAB_TMP/freeze.out"
sleep 0.5
before=$(count WATCHDOG=1)
sleep 2
assert_equal "feedings while a worker stands still" "$(($(count WATCHDOG=1) - before))" 0
grep -q 'workers \[0\] make no progress' "$LAB_TMP/rvsd.log" || fail "the log does not say which worker"
rvsadm show ports >/dev/null
exec 7>&-
wait "$freezer" || fail "freeze-thread.py: $(cat "$LAB_TMP/freeze.out")"
before=$(count WATCHDOG=1)
sleep 2
((($(count WATCHDOG=1) - before) >= 3)) || fail "not fed again when the worker goes on"

say "all of rvsd stands still: nothing is fed"
kill -STOP "$DIRECTOR_PID"
sleep 0.2
before=$(count WATCHDOG=1)
sleep 1.5
after=$(count WATCHDOG=1)
kill -CONT "$DIRECTOR_PID"
assert_equal "feedings while rvsd stands still" $((after - before)) 0

say "the end is announced"
director_stop TERM
assert_equal "the exit status" "$DIRECTOR_STATUS" 0
is_told STOPPING=1 || fail "no STOPPING=1: $(cat "$told")"
