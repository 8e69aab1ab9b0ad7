#!/bin/bash
# A wrong file gives one line that says where and what, and exit status 2.
. "$(dirname "$0")/lib.sh"
lab_up
[[ -x $RVSD ]] || skip "no rvsd at $RVSD: build it (cargo build --release) or set RVSD"

refused() { # FILE LINE KEY
    local status=0 out
    for options in '--check' ''; do
        # shellcheck disable=SC2086 # no option or one
        out=$(timeout 10 ip netns exec rvs-director "$RVSD" $options -c "$1" 2>&1 >/dev/null) || status=$?
        echo "$out"
        assert_equal "exit status for $1 ($options)" "$status" 2
        assert_equal "lines on stderr for $1" "$(wc -l <<<"$out")" 1
        assert_match "the message for $1" "$out" "^[^:]*${1##*/}:$2: .*$3.*: .+"
    done
}

line_of() { grep -nF -m 1 "$1" "$LAB_TMP/rvsd.toml" | cut -d : -f 1; }

# Each row: the line that is replaced, what replaces it, the key to be named.
while IFS='|' read -r name old new key; do
    say "$name: $new"
    director_config +services.toml
    line=$(line_of "$old")
    sed -i "${line}s#.*#$new#" "$LAB_TMP/rvsd.toml"
    cp "$LAB_TMP/rvsd.toml" "$LAB_TMP/$name.toml"
    refused "$LAB_TMP/$name.toml" "$line" "$key"
done <<'ROWS'
unknown-key|poll = |pol = "adaptive"|pol
wrong-type|connections = |connections = "many"|connections
bad-choice|poll = |poll = "sometimes"|poll
core-out-of-range|cores = |cores = [4095]|cores
bad-address|addresses = ["192.168.1.21|addresses = ["192.168.1.321/24"]|addresses
duplicate-vip|addresses = ["192.168.1.100|addresses = ["192.168.1.100", "192.168.1.100"]|addresses
bad-scheduler|scheduler = |scheduler = "roundrobin"|scheduler
ROWS

say "a core that is not there names those that are"
director_config
sed -i 's#^cores = .*#cores = [1000]#' "$LAB_TMP/rvsd.toml"
out=$(in_ns director "$RVSD" --check -c "$LAB_TMP/rvsd.toml" 2>&1 >/dev/null) || true
assert_match "the message" "$out" "core 1000 is not online here; give one of this machine's: 0"

say "a port without device"
director_config
sed -i '/^device = /d' "$LAB_TMP/rvsd.toml"
cp "$LAB_TMP/rvsd.toml" "$LAB_TMP/no-device.toml"
refused "$LAB_TMP/no-device.toml" '[0-9]+' device

say "the file as it should be"
director_config +services.toml
in_ns director "$RVSD" --check -c "$LAB_TMP/rvsd.toml"
