# shellcheck shell=bash disable=SC2034 # what the scripts that source this use
# What hugepages, bind-nic, isolate-cores and setup-box share. Sourced. These
# scripts are also installed (as /usr/sbin/rvs-hugepages and so on), so nothing
# here needs the repository.
#
# RVS_ROOT is for tests (tests/box/run): a folder with a made-up /sys, /proc,
# /etc and /var/lib. Programs that change or ask the system are then taken from
# RVS_ROOT/bin only, and RVS_ROOT/bin/kernel PATH VALUE is run after each write
# to /sys or /proc, to do what the kernel would.

set -euo pipefail

BOX_DIR=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
ROOT=${RVS_ROOT:-}
# What these scripts changed, so that undo and the next boot know.
STATE=$ROOT/var/lib/rvs/box
SYS=$ROOT/sys
PROC=$ROOT/proc

DRY_RUN=''
FORCE=''

say() { printf '%s\n' "$*"; }

warn() { printf 'warning: %s\n' "$*" >&2; }

# A refusal or failure: one message that says what to do.
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# A wrong command line.
misused() {
    printf '%s: %s\nTry: %s --help\n' "${0##*/}" "$*" "${0##*/}" >&2
    exit 2
}

need_root() {
    if [[ -n $ROOT || -n $DRY_RUN ]] || ((EUID == 0)); then return; fi
    fail "needs root: sudo $0; with --dry-run it shows what it would do without"
}

# One at a time: the second waits for the first.
lock_state() {
    if [[ -n $DRY_RUN || -n ${RVS_BOX_LOCKED:-} ]]; then return; fi
    mkdir -p "$STATE"
    exec 8>"$STATE/lock"
    flock -w 30 8 || fail "another of these scripts is at work and holds $STATE/lock; try again when it is done"
    export RVS_BOX_LOCKED=yes
}

# ------------------------------------------------------------------ looking

# The first line of a file, or nothing.
first_line() { # FILE
    local line=''
    if [[ -r $1 ]]; then { IFS= read -r line || true; } <"$1" 2>/dev/null || true; fi
    printf '%s' "$line"
}

# Runs a program that only asks; without it there is no answer.
ask() { # COMMAND...
    local program=$1
    shift
    if [[ -n $ROOT ]]; then program=$ROOT/bin/$program; fi
    if ! command -v "$program" >/dev/null; then return 0; fi
    "$program" "$@" 2>/dev/null || true
}

has_program() { # NAME
    if [[ -n $ROOT ]]; then [[ -x $ROOT/bin/$1 ]]; else command -v "$1" >/dev/null; fi
}

# Whether DPDK works beside a driver of the kernel: the NIC and its interface stay.
is_shared() { # DRIVER
    case $1 in
    mlx4_core | mlx5_core | mana) ;;
    *) return 1 ;;
    esac
}

has_systemd() { [[ -d $ROOT/run/systemd/system ]]; }

# The numbers of a list as the kernel writes it: 0-3,5.
numbers_of() { # LIST
    local range
    for range in ${1//,/ }; do
        if [[ ! $range =~ ^[0-9]{1,4}(-[0-9]{1,4})?$ ]]; then return 1; fi
        seq "${range%-*}" "${range#*-}"
    done
}

# The kernel's form of numbers, one a line: ascending, ranges drawn together.
list_of() {
    sort -n -u | awk '
        NR > 1 && $1 == last + 1 { last = $1; next }
        NR > 1 { printf "%s%s", separator, (first == last ? first : first "-" last); separator = "," }
        { first = last = $1 }
        END { if (NR) printf "%s%s\n", separator, (first == last ? first : first "-" last) }'
}

# ----------------------------------------------------------------- changing

# Runs a program that changes something.
act() { # COMMAND...
    local program=$1
    if [[ -n $DRY_RUN ]]; then
        say "would run: $*"
        return
    fi
    shift
    if [[ -n $ROOT ]]; then program=$ROOT/bin/$program; fi
    "$program" "$@"
}

# Writes a value to a file of the kernel.
write() { # VALUE FILE
    if [[ -n $DRY_RUN ]]; then
        say "would write: '$1' to ${2#"$ROOT"}"
        return
    fi
    printf '%s\n' "$1" 2>/dev/null >"$2" || return
    if [[ -n $ROOT ]]; then "$ROOT/bin/kernel" "${2#"$ROOT"}" "$1"; fi
}

# Makes a file have the text of standard input, and leaves it its mode and owner.
# Says so unless it has the text already.
save_file() { # FILE
    local text
    text=$(cat)
    if [[ -e $1 && $(<"$1") == "$text" ]]; then return; fi
    if [[ -n $DRY_RUN ]]; then
        say "would write ${1#"$ROOT"}:"
        printf '%s\n' "$text" | sed 's/^/    /'
        return
    fi
    mkdir -p "$(dirname "$1")"
    : >"$1.new"
    if [[ -e $1 ]]; then
        chown --reference="$1" "$1.new"
        chmod --reference="$1" "$1.new"
    fi
    printf '%s\n' "$text" >"$1.new"
    mv "$1.new" "$1"
    say "wrote ${1#"$ROOT"}"
}

remove_file() { # FILE
    if [[ ! -e $1 && ! -L $1 ]]; then return; fi
    if [[ -n $DRY_RUN ]]; then
        say "would remove ${1#"$ROOT"}"
        return
    fi
    rm -f "$1"
    say "removed ${1#"$ROOT"}"
}

# Installs a unit of systemd, to be started with another from the next boot on.
save_unit() { # NAME WANTED_BY (the unit on standard input)
    local wants=$ROOT/etc/systemd/system/$2.wants/$1
    save_file "$ROOT/etc/systemd/system/$1"
    if [[ -L $wants ]]; then return; fi
    if [[ -n $DRY_RUN ]]; then
        say "would enable $1"
        return
    fi
    mkdir -p "$(dirname "$wants")"
    ln -s "../$1" "$wants"
    systemd_reload
}

remove_unit() { # NAME WANTED_BY
    if [[ ! -e $ROOT/etc/systemd/system/$1 ]]; then return; fi
    remove_file "$ROOT/etc/systemd/system/$2.wants/$1"
    remove_file "$ROOT/etc/systemd/system/$1"
    systemd_reload
}

systemd_reload() {
    if has_systemd; then act systemctl daemon-reload; fi
}

# Adds words to the kernel's command line from the next boot on, or takes those
# back when there are none. Debian's GRUB reads all files of this folder.
command_line() { # NAME [WORD...]
    local file=$ROOT/etc/default/grub.d/$1.cfg before=''
    shift
    if [[ -e $file ]]; then before=$(<"$file"); fi
    if (($# > 0)) && ! has_program update-grub; then
        warn "no update-grub here: add this to the kernel's command line in your boot loader: $*"
        return
    fi
    if (($# > 0)); then
        save_file "$file" <<GRUB
# Written by RVS's ${0##*/}; \`${0##*/} undo\` removes it.
GRUB_CMDLINE_LINUX_DEFAULT="\$GRUB_CMDLINE_LINUX_DEFAULT $*"
GRUB
    else
        remove_file "$file"
    fi
    if [[ -n $DRY_RUN ]] || [[ $before != "$(cat "$file" 2>/dev/null || true)" ]]; then
        if has_program update-grub; then act update-grub; fi
    fi
}
