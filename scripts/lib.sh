# shellcheck shell=bash disable=SC2034 # what the scripts that source this use
# What the scripts share: saying what is done, packages, cargo. Sourced.

set -euo pipefail

REPO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The compiler that Cargo.toml names.
RUST_MINIMUM=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$REPO/Cargo.toml")

BUILD_PACKAGES=(build-essential pkg-config clang libclang-dev libdpdk-dev dpdk)
LAB_PACKAGES=(iproute2 procps iputils-ping iputils-arping iputils-tracepath nginx-light
    curl python3 jq tcpdump tshark apache2-utils socat iperf3 ipvsadm keepalived
    bird2)

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# Runs a command with its output in a log that is shown only when it fails.
step() { # TITLE COMMAND...
    local title=$1 log began=$SECONDS status=0
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/rvs-step.XXXXXX")
    say "$title"
    # Ctrl-C ends the script by that signal, as ever, and takes the log along.
    (
        trap 'rm -f "$log"; trap - INT; kill -INT "$BASHPID"' INT
        "$@" || exit
    ) >"$log" 2>&1 || status=$?
    if ((status != 0)); then
        tail -n 40 "$log" | sed 's/^/    /' >&2
        printf '   failed after %d s; the whole output is in %s\n' $((SECONDS - began)) "$log" >&2
        return "$status"
    fi
    printf '   done in %d s\n' $((SECONDS - began))
    rm -f "$log"
}

# Builds belong to who called sudo, not to root: target/ stays theirs.
as_user() {
    local home path
    home=$(getent passwd "${SUDO_USER:-$(id -un)}" | cut -d : -f 6)
    path=$home/.cargo/bin:$PATH
    if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        runuser -u "$SUDO_USER" -- env HOME="$home" PATH="$path" "$@"
    else
        PATH=$path "$@"
    fi
}

# ---------------------------------------------------------------------- packages

missing_packages() { # PACKAGE...
    local package
    for package in "$@"; do
        if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
            echo "$package"
        fi
    done
}

need_packages() { # PACKAGE...
    local missing
    command -v apt-get >/dev/null ||
        fail "packages are installed by apt-get (Debian, Ubuntu), which this system does not have; install the equivalents of: $*"
    mapfile -t missing < <(missing_packages "$@")
    if ((${#missing[@]} == 0)); then return; fi
    step "installing ${missing[*]} (one to three minutes)" install_packages "${missing[@]}" ||
        fail "apt-get could not install them: check the network and /etc/apt/sources.list, try: apt-get install ${missing[*]}"
}

# Installed for the lab, nginx must not begin to serve this machine's port 80,
# and keepalived, ipvsadm and BIRD nothing at all, neither now (policy-rc.d) nor after
# a reboot. An interrupted one leaves no policy behind: nothing would start any more.
install_packages() ( # PACKAGE...
    policy=/usr/sbin/policy-rc.d status=0
    if [[ ! -e $policy ]]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update || true # a stale list may do; if not, the next line says so
    apt-get install -y --no-install-recommends "$@" || status=$?
    for service in nginx keepalived ipvsadm bird; do
        if [[ " $* " == *" $service"* && -d /run/systemd/system ]]; then systemctl disable "$service" || true; fi
    done
    exit "$status"
)

# ------------------------------------------------------------------------- cargo

version_at_least() { # VERSION MINIMUM
    [[ -n $1 && $(printf '%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]
}

cargo_version() { as_user cargo --version 2>/dev/null | awk '{ print $2 }'; }

# The package of the distribution that has a new enough cargo: its own (Debian 13),
# the one that it keeps new for its browsers (Debian 12), or rustup, which fetches
# one (Ubuntu 24.04). Nothing when there is none.
cargo_package() {
    local package
    for package in cargo cargo-web; do
        if version_at_least "$(candidate_of "$package")" "$RUST_MINIMUM"; then
            echo "$package"
            return
        fi
    done
    if [[ -n $(candidate_of rustup) ]]; then echo rustup; fi
}

candidate_of() { # PACKAGE
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

need_cargo() {
    local have package line
    have=$(cargo_version || true)
    if version_at_least "$have" "$RUST_MINIMUM"; then return; fi
    package=$(cargo_package)
    # One that is there but old is not taken away: that is for its owner to say.
    if [[ -z $have && -n $package ]] && ((EUID == 0)); then
        need_packages "$package" ca-certificates
        if [[ $package == rustup ]]; then
            step "fetching the Rust compiler (about a minute)" as_user rustup default stable ||
                fail "rustup could not fetch the compiler: check the network, try: rustup default stable"
        fi
        have=$(cargo_version || true)
    fi
    line="curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal"
    if [[ -n $package && $package != rustup && -z $(missing_packages cargo) ]]; then line="sudo apt-get install $package"; fi
    version_at_least "$have" "$RUST_MINIMUM" ||
        fail "cargo $RUST_MINIMUM or newer is needed; there is ${have:-none}. Type this line as ${SUDO_USER:-$(id -un)}, then start again:
  $line"
}
