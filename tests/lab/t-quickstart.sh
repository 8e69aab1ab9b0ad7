#!/bin/bash
# The one command of the README: what it shows, and that nothing is left of it
# when it ends, fails or is interrupted.
. "$(dirname "$0")/lib.sh"
[[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"
[[ $RVSD -ef ${CARGO_TARGET_DIR:-$REPO/target}/release/rvsd ]] ||
    skip "quickstart builds its own rvsd, and the one to be tested is $RVSD"

work=$(mktemp -d "${TMPDIR:-/tmp}/rvs-quickstart.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What a run could leave behind.
machine() {
    ip netns list | sort
    ip -br link | awk '{ print $1 }'
    cat /proc/sys/vm/nr_hugepages
    grep -c hugetlbfs /proc/mounts || true
    compgen -G "${TMPDIR:-/tmp}/rvs-lab.??????" || true
    compgen -G '/run/netns/rvs-*' || true
    if [[ -e $LAB_STATE/pids ]]; then echo "processes"; fi
}

shows() { # WHAT COUNT REGEX
    assert_equal "lines with $1" "$(grep -cE "$3" "$work/out")" "$2"
}

say "the compiler that each distribution has"
mkdir "$work/apt"
cat >"$work/apt/apt-cache" <<'STUB'
#!/bin/sh
# apt-cache policy PACKAGE, of the packages PACKAGE=VERSION in $CANDIDATES
for candidate in $CANDIDATES; do
    if [ "${candidate%%=*}" = "$2" ]; then printf '%s:\n  Installed: (none)\n  Candidate: %s\n' "$2" "${candidate#*=}"; fi
done
STUB
chmod +x "$work/apt/apt-cache"
chosen() { CANDIDATES=$1 PATH=$work/apt:$PATH cargo_package; }
assert_equal "on Debian 12" "$(chosen 'cargo=0.66.0+ds1-1 cargo-web=1.85.0+dfsg3-1~deb12u3')" cargo-web
assert_equal "on Debian 13" "$(chosen 'cargo=1.85.1+dfsg1-1+deb13u1 rustup=1.27.1-3+b1')" cargo
assert_equal "on Ubuntu 24.04" "$(chosen 'cargo=1.75.0+dfsg0ubuntu1-0ubuntu7 rustup=1.26.0-5build1')" rustup
assert_equal "without any" "$(chosen 'cargo=0.66.0+ds1-1 cargo-web=(none)')" ''

before=$(machine)
say "from the first line to the last"
"$REPO/scripts/quickstart" </dev/null >"$work/out" 2>&1 || { cat "$work/out"; fail "quickstart ended with an error"; }
cat "$work/out"
shows "what is typed" 1 '^director# ipvsadm -A -t 192\.168\.1\.100:80 -s rr$'
shows "servers added" 2 '^director# ipvsadm -a -t 192\.168\.1\.100:80 -r 192\.168\.1\.3[12]:80 -g$'
assert_equal "the answers" "$(grep -x 'rs[12]' "$work/out" | sort | xargs)" "rs1 rs2"
shows "servers in -Ln" 2 '^  -> 192\.168\.1\.3[12]:80 +Route +1 +0 +1 *$'
shows "one connection of each server in --stats" 2 '^  -> 192\.168\.1\.3[12]:80 +1 +[0-9]+ +0 +[0-9]+ +0$'
shows "connections in -Lnc" 2 '^TCP 0[12]:[0-9]{2}  FIN_WAIT    192\.168\.1\.12:[0-9]+ +192\.168\.1\.100:80 +192\.168\.1\.3[12]:80$'
shows "three packets on two wires" 3 \
    '^(SYN|ACK|request) +00:50:00:00:03:00 > 00:50:00:00:04:00 +00:50:00:00:04:00 > 00:50:00:00:0[12]:00 *$'
shows "their addresses" 3 '^ +192\.168\.1\.12 > 192\.168\.1\.100 +192\.168\.1\.12 > 192\.168\.1\.100 *$'
# The same identification: it is the same packet.
shows "their TTLs" 3 '^ +ttl 64, id (0x[0-9a-f]{4}) +ttl 63, id \1 *$'
shows "the reply" 1 '^reply +00:50:00:00:0[12]:00 > 00:50:00:00:03:00  192\.168\.1\.100 > 192\.168\.1\.12$'
shows "no reply through the director" 1 '^[1-9][0-9]* packets to 192\.168\.1\.100 passed the director, 0 packets from it$'
shows "that it worked" 1 '^== all of it worked, in [0-9]+ s\.'
assert_equal "the machine afterwards" "$(machine)" "$before"

say "a failure says what to do, and cleans up"
mkdir "$work/bin"
printf '#!/bin/sh\necho rs1\n' >"$work/bin/curl"
chmod +x "$work/bin/curl"
status=0
PATH=$work/bin:$PATH "$REPO/scripts/quickstart" </dev/null >"$work/out" 2>&1 || status=$?
tail -n 8 "$work/out"
assert_equal "exit status" "$status" 1
shows "what failed" 1 '^FAILED: the two servers should have answered once each; the answers were: rs1 rs1$'
shows "what to do" 1 'What to do: '
assert_equal "the machine after a failure" "$(machine)" "$before"

say "Ctrl-C cleans up"
setsid env --default-signal=INT "$REPO/scripts/quickstart" </dev/null >"$work/out" 2>&1 &
pid=$!
wait_for 60 "quickstart to start rvsd" grep -qs '^director# rvsd -c' "$work/out"
kill -INT -- "-$pid"
status=0
wait "$pid" || status=$?
assert_equal "exit status" "$status" 130
shows "no walk-through" 0 "the operator's session"
assert_equal "the machine after Ctrl-C" "$(machine)" "$before"

say "so does Ctrl-C in the long steps before"
mkdir "$work/logs"
setsid env --default-signal=INT TMPDIR="$work/logs" bash -c \
    ". '$REPO/scripts/lib.sh'; step 'a long step' sleep 30; echo went on" </dev/null >"$work/out" 2>&1 &
pid=$!
wait_for 10 "the step to begin" compgen -G "$work/logs/*" >/dev/null
kill -INT -- "-$pid"
status=0
wait "$pid" || status=$?
assert_equal "exit status" "$status" 130
assert_equal "what it said" "$(<"$work/out")" "== a long step"
assert_equal "logs left" "$(ls "$work/logs")" ''
