#!/bin/bash
# poll = "adaptive" sleeps when there is nothing to do, poll = "busy" does not; both
# forward the same.
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/checks.sh"
lab_up
real_servers start

# The processor time of rvsd in three seconds, in hundredths of a second.
used() {
    local stat before
    for when in before after; do
        stat=$(<"/proc/$DIRECTOR_PID/stat")
        read -ra stat <<<"${stat##*) }"
        if [[ $when == before ]]; then before=$((stat[11] + stat[12])) && sleep 3; fi
    done
    echo $((stat[11] + stat[12] - before))
}

declare -A idle
for poll in adaptive busy; do
    say "$poll"
    director_start "poll = \"$poll\""
    http_services
    for vip in "$VIP" "$VIP6"; do
        answers=$(for _ in 1 2 3 4; do in_ns client curl -sS --max-time 5 "http://$(host_port "$vip" 80)/"; done)
        assert_equal "the answers of $vip" "$(sort <<<"$answers" | uniq -c | xargs)" "2 rs1 2 rs2"
    done
    idle[$poll]=$(used)
    echo "idle, it uses ${idle[$poll]} hundredths of a second in three seconds"
    wait_for 10 "the packets to add up: $(worker_counters | jq -c .)" packets_add_up
    check_stop
done
# A worker that never slept would have all of its core, as far as others let it.
((idle[adaptive] < 60)) || fail "adaptive took ${idle[adaptive]} of 300"
((idle[busy] > 2 * idle[adaptive])) || fail "busy took ${idle[busy]}, adaptive ${idle[adaptive]}"
