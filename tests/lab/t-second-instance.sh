#!/bin/bash
# A second rvsd says who holds the lock and exits; the first is not disturbed.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start
director_start +services.toml

status=0
out=$(in_ns director timeout 10 "$RVSD" -c "$LAB_TMP/rvsd.toml" 2>&1) || status=$?
echo "$out"
[[ $status != 0 && $status != 124 ]] || fail "the second rvsd ended with status $status"
assert_equal "the second rvsd's lines" "$(wc -l <<<"$out")" 1
assert_match "the second rvsd's message" "$out" \
    "rvsd with process id $DIRECTOR_PID holds .*/rvsd.lock; stop it first, or give this one another director.run_dir"

answers=$(for _ in 1 2; do in_ns client curl -sS --max-time 5 "http://$VIP/"; done)
assert_equal "the answers of the first" "$(sort <<<"$answers" | xargs)" "rs1 rs2"
director_stop TERM
assert_equal "the first one's exit status" "$DIRECTOR_STATUS" 0
