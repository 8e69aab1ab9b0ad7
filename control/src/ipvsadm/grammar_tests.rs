//! Against what ipvsadm 1.31 (Debian) answers to the same words.

use super::*;
use crate::ipvsadm::names::tests::ports;

fn parse(line: &str) -> Result<Command, UsageError> {
    super::parse(line.split_whitespace().map(OsString::from), "ipvsadm", &ports())
}

/// Command lines that ipvsadm refuses, its exit code and its message, recorded.
const REFUSED: &[(&str, u8, &str)] = &[
    ("-A", 2, "You need to supply the 'service-address' option for the 'add-service' command"),
    ("-D", 2, "You need to supply the 'service-address' option for the 'delete-service' command"),
    ("-E", 2, "You need to supply the 'service-address' option for the 'edit-service' command"),
    ("-a", 2, "You need to supply the 'service-address' option for the 'add-server' command"),
    ("-e", 2, "You need to supply the 'service-address' option for the 'edit-server' command"),
    ("-d", 2, "You need to supply the 'service-address' option for the 'delete-server' command"),
    ("-C -t 1.2.3.4:80", 2, "Illegal 'service-address' option with the 'flush' command"),
    ("-C -n", 2, "Illegal 'numeric' option with the 'flush' command"),
    ("-A -D", 2, "invalid option `-D'"),
    ("-A -t 1.2.3.4:80 -D", 2, "invalid option `-D'"),
    ("-t 1.2.3.4:80 -A", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("-n -L", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("-n", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("--numeric", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("-x", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("-Q", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("--bogus", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("-A --bogus", 255, "--bogus: unknown option"),
    ("-A -Q", 255, "-Q: unknown option"),
    ("-A -t", 255, "-t: missing argument"),
    ("-A -t 1.2.3.4", 2, "Zero port specified for non-persistent service"),
    ("-A -t 1.2.3.4:", 2, "illegal virtual server address[:port] specified"),
    ("-A -t 1.2.3.4:0", 2, "Zero port specified for non-persistent service"),
    ("-A -t 1.2.3.4:65536", 2, "illegal virtual server address[:port] specified"),
    ("-A -t 1.2.3.4:-1", 2, "illegal virtual server address[:port] specified"),
    ("-A -t 1.2.3.4:nosuch", 2, "illegal virtual server address[:port] specified"),
    ("-A -u 1.2.3.4:http", 2, "illegal virtual server address[:port] specified"),
    ("-A -t :80", 2, "illegal virtual server address[:port] specified"),
    ("-A -t fd00::1", 2, "Zero port specified for non-persistent service"),
    ("-A -t [fd00::1] -p", 2, "illegal virtual server address[:port] specified"),
    ("-A -t [fd00::1]: -p", 2, "illegal virtual server address[:port] specified"),
    ("-A -t [fd00::1]80 -p", 2, "illegal virtual server address[:port] specified"),
    ("-A -t [fd00::1:80", 2, "illegal virtual server address[:port] specified"),
    ("-A -t 1.2.3.4:80 -t 1.2.3.4:81", 2, "multiple 'service-address' options specified"),
    ("-A -t 1.2.3.4:80 -u 1.2.3.4:81", 2, "multiple 'service-address' options specified"),
    ("-A -t 1.2.3.4:80 -f 1", 2, "multiple 'service-address' options specified"),
    ("-A -f 0", 2, "invalid fwmark value `0' specified"),
    ("-A -f abc", 2, "invalid fwmark value `abc' specified"),
    ("-A -f 4294967296", 2, "invalid fwmark value `4294967296' specified"),
    ("-A -f -1", 2, "invalid fwmark value `-1' specified"),
    ("-A -f 0x10", 2, "invalid fwmark value `0x10' specified"),
    ("-A -6 -f 1", 2, "-6 used before -f"),
    ("-A -6 -t 1.2.3.4:80", 2, "-6 used before -f"),
    ("-A -t 1.2.3.4:80 -6", 2, "-6 used before -f"),
    ("-A -t 1.2.3.4:80 -s", 255, "-s: missing argument"),
    ("-A -t 1.2.3.4:80 -s rr -s wrr", 2, "multiple 'scheduler' options specified"),
    ("-A -t 1.2.3.4:80 -p 0", 2, "invalid timeout value `0' specified"),
    ("-A -t 1.2.3.4:80 -p -1", 255, "-1: unknown option"),
    ("-A -t 1.2.3.4:80 -p abc", 2, "invalid timeout value `abc' specified"),
    ("-A -t 1.2.3.4:80 -p 31536000", 2, "invalid timeout value `31536000' specified"),
    ("-A -t 1.2.3.4:80 -p 31536001", 2, "invalid timeout value `31536001' specified"),
    ("-A -t 1.2.3.4:80 -p 2678401", 2, "invalid timeout value `2678401' specified"),
    ("-A -t 1.2.3.4:80 -p 4294967296", 2, "invalid timeout value `4294967296' specified"),
    ("-A -t 1.2.3.4:80 -p 60 -p 70", 2, "multiple 'persistent' options specified"),
    ("-A -t 1.2.3.4:80 -p 60x", 2, "invalid timeout value `60x' specified"),
    ("-A -t 1.2.3.4:80 -p -M abc", 2, "illegal virtual server persistent mask specified"),
    ("-A -t [fd00::1]:80 -p -M 0", 2, "illegal ipv6 netmask specified"),
    ("-A -t [fd00::1]:80 -p -M 129", 2, "illegal ipv6 netmask specified"),
    ("-A -t [fd00::1]:80 -p -M 255.255.255.0", 2, "illegal ipv6 netmask specified"),
    ("-A -t 1.2.3.4:80 -o", 2, "One-Packet Scheduling is only for UDP virtual services"),
    (
        "-A --sctp-service 1.2.3.4:80 -o",
        2,
        "One-Packet Scheduling is only for UDP virtual services",
    ),
    ("-A -t 1.2.3.4:80 --pe", 255, "--pe: missing argument"),
    ("-A -t 1.2.3.4:80 -b sh-port", 2, "incompatible scheduler flag `sh-port'"),
    ("-A -t 1.2.3.4:80 -s sh -b mh-port", 2, "incompatible scheduler flag `mh-port'"),
    ("-A -t 1.2.3.4:80 -b foo -s sh", 2, "invalid scheduler flag `foo'"),
    ("-A -t 1.2.3.4:80 -s rr -b mh-port", 2, "incompatible scheduler flag `mh-port'"),
    ("-A -t 1.2.3.4:80 -s rr -b 1", 2, "invalid scheduler flag `1'"),
    (
        "-A -t 1.2.3.4:80 -s sh -b sh-port -b sh-fallback",
        2,
        "multiple 'sched-flags' options specified",
    ),
    ("-A -t 1.2.3.4:80 extra", 2, "unexpected argument extra"),
    ("-A extra -t 1.2.3.4:80", 2, "unexpected argument extra"),
    ("-A -t 1.2.3.4:80 -- extra", 2, "unexpected argument extra"),
    ("-A -t 1.2.3.4:80 -n", 2, "Illegal 'numeric' option with the 'add-service' command"),
    (
        "-A -t 1.2.3.4:80 -r 1.1.1.1",
        2,
        "Illegal 'real-server' option with the 'add-service' command",
    ),
    ("-A -t 1.2.3.4:80 -g", 2, "Illegal 'forwarding-method' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 -w 1", 2, "Illegal 'weight' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 -x 1", 2, "Illegal 'u-threshold' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 -y 1", 2, "Illegal 'l-threshold' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 -c", 2, "Illegal 'connection' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 --stats", 2, "Illegal 'stats' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 --rate", 2, "Illegal 'rate' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 --timeout", 2, "Illegal 'timeout' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 --daemon", 2, "Illegal 'daemon' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 --exact", 2, "Illegal 'exact' option with the 'add-service' command"),
    (
        "-A -t 1.2.3.4:80 --thresholds",
        2,
        "Illegal 'thresholds' option with the 'add-service' command",
    ),
    ("-A -t 1.2.3.4:80 --nosort", 2, "Illegal 'nosort' option with the 'add-service' command"),
    (
        "-A -t 1.2.3.4:80 --tun-type ipip",
        2,
        "Illegal 'tun-type' option with the 'add-service' command",
    ),
    (
        "-A -t 1.2.3.4:80 --tun-port 1",
        2,
        "Illegal 'tun-port' option with the 'add-service' command",
    ),
    ("-A -t 1.2.3.4:80 --tun-csum", 2, "Illegal 'tun-csum' option with the 'add-service' command"),
    ("-A -t 1.2.3.4:80 --tun-info", 2, "Illegal 'tun-info' option with the 'add-service' command"),
    (
        "-A -t 1.2.3.4:80 --persistent-conn",
        2,
        "Illegal 'persistent-conn' option with the 'add-service' command",
    ),
    ("-A -t 1.2.3.4:80 --syncid 3", 2, "Illegal 'syncid' option with the 'add-service' command"),
    (
        "-A -t 1.2.3.4:80 --mcast-interface eth0",
        2,
        "Illegal 'mcast-interface' option with the 'add-service' command",
    ),
    ("-D -t 1.2.3.4:80 -s rr", 2, "Illegal 'scheduler' option with the 'delete-service' command"),
    ("-D -t 1.2.3.4:80 -p", 2, "Illegal 'persistent' option with the 'delete-service' command"),
    (
        "-a -t 1.2.3.4:80",
        2,
        "You need to supply the 'real-server' option for the 'add-server' command",
    ),
    (
        "-a -r 1.1.1.1",
        2,
        "You need to supply the 'service-address' option for the 'add-server' command",
    ),
    ("-a -t 1.2.3.4:80 -r", 255, "-r: missing argument"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1:nosuch", 2, "illegal real server address[:port] specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1:70000", 2, "illegal real server address[:port] specified"),
    ("-a -r 1.1.1.1:domain -u 1.2.3.4:80", 2, "illegal real server address[:port] specified"),
    (
        "-a -t 1.2.3.4:80 -r fd00::2",
        2,
        "Different address family is allowed only for tunneling servers",
    ),
    (
        "-a -t 1.2.3.4:80 -r fd00::2 -m",
        2,
        "Different address family is allowed only for tunneling servers",
    ),
    (
        "-a -t [fd00::1]:80 -r 1.1.1.1",
        2,
        "Different address family is allowed only for tunneling servers",
    ),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -r 1.1.1.2", 2, "multiple 'real-server' options specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -g -m", 2, "multiple 'forwarding-method' options specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -g -g", 2, "multiple 'forwarding-method' options specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -w", 255, "-w: missing argument"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -w -1", 2, "illegal weight specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -w abc", 2, "illegal weight specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -w 2147483648", 2, "illegal weight specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -w 1 -w 2", 2, "multiple 'weight' options specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -x abc", 2, "illegal u_threshold specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -y abc", 2, "illegal l_threshold specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -x -1", 2, "illegal u_threshold specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -x 2147483648", 2, "illegal u_threshold specified"),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue",
        2,
        "You need to supply the 'tun-port' option for the 'gue' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 0",
        2,
        "illegal tunnel port specified",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 65536",
        2,
        "illegal tunnel port specified",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port abc",
        2,
        "illegal tunnel port specified",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 6080 --tun-csum --tun-remcsum",
        2,
        "The option 'tun-remcsum' conflicts with the 'tun-csum' option in the 'gue' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 6080 --tun-csum --tun-csum",
        2,
        "multiple 'tun-csum' options specified",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 6080 --tun-nocsum --tun-csum",
        2,
        "The option 'tun-csum' conflicts with the 'tun-nocsum' option in the 'gue' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-port 6080 --tun-nocsum --tun-remcsum",
        2,
        "The option 'tun-remcsum' conflicts with the 'tun-nocsum' option in the 'gue' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gre --tun-remcsum",
        2,
        "Illegal 'tun-remcsum' option with the 'gre' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gre --tun-port 5",
        2,
        "Illegal 'tun-port' option with the 'gre' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gre --tun-csum --tun-nocsum",
        2,
        "The option 'tun-csum' conflicts with the 'tun-nocsum' option in the 'gre' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type ipip --tun-csum",
        2,
        "Illegal 'tun-csum' option with the 'ipip' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type ipip --tun-port 5",
        2,
        "Illegal 'tun-port' option with the 'ipip' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-csum",
        2,
        "Illegal 'tun-csum' option with the 'ipip' tunnel type",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-port 5",
        2,
        "Illegal 'tun-port' option with the 'ipip' tunnel type",
    ),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type foo", 2, "illegal tunnel type specified"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type", 255, "--tun-type: missing argument"),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -m --tun-type ipip",
        2,
        "Tunnel options conflict with forward method",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 --tun-type ipip",
        2,
        "Tunnel options conflict with forward method",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 --tun-type gue --tun-port 6080",
        2,
        "Tunnel options conflict with forward method",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type gue --tun-type gre",
        2,
        "multiple 'tun-type' options specified",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -s rr",
        2,
        "Illegal 'scheduler' option with the 'add-server' command",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -p",
        2,
        "Illegal 'persistent' option with the 'add-server' command",
    ),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -M 255.0.0.0",
        2,
        "Illegal 'netmask' option with the 'add-server' command",
    ),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -n", 2, "Illegal 'numeric' option with the 'add-server' command"),
    ("-a -t 1.2.3.4:80 -r 1.1.1.1 -o", 2, "Illegal 'ops' option with the 'add-server' command"),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 --pe sip",
        2,
        "Illegal 'pe' option with the 'add-server' command",
    ),
    (
        "-e -t 1.2.3.4:80",
        2,
        "You need to supply the 'real-server' option for the 'edit-server' command",
    ),
    (
        "-d -t 1.2.3.4:80",
        2,
        "You need to supply the 'real-server' option for the 'delete-server' command",
    ),
    (
        "-d -t 1.2.3.4:80 -r 1.1.1.1 -w 3",
        2,
        "Illegal 'weight' option with the 'delete-server' command",
    ),
    (
        "-d -t 1.2.3.4:80 -r 1.1.1.1 -m",
        2,
        "Illegal 'forwarding-method' option with the 'delete-server' command",
    ),
    (
        "-d -t 1.2.3.4:80 -r 1.1.1.1:9 -x 4",
        2,
        "Illegal 'u-threshold' option with the 'delete-server' command",
    ),
    ("-Z -n", 2, "Illegal 'numeric' option with the 'zero' command"),
    ("-Z -r 1.1.1.1", 2, "Illegal 'real-server' option with the 'zero' command"),
    ("-Z foo", 2, "unexpected argument foo"),
    ("-L -n -n", 2, "multiple 'numeric' options specified"),
    ("-L foo", 2, "unexpected argument foo"),
    ("-L -c --stats", 2, "options conflicts in the list command"),
    ("-L -c --rate", 2, "options conflicts in the list command"),
    ("-L --timeout --stats", 2, "options conflicts in the list command"),
    (
        "-L --timeout --daemon",
        2,
        "The option 'daemon' conflicts with the 'timeout' option in the 'list' command",
    ),
    (
        "-L --timeout -c",
        2,
        "The option 'timeout' conflicts with the 'connection' option in the 'list' command",
    ),
    (
        "-L --daemon -c",
        2,
        "The option 'daemon' conflicts with the 'connection' option in the 'list' command",
    ),
    ("-L --nosort --nosort", 2, "multiple 'nosort' options specified"),
    ("-L --stats --stats", 2, "multiple 'stats' options specified"),
    (
        "-L -c -t 1.2.3.4:80",
        2,
        "The option 'service-address' conflicts with the 'connection' option in the 'list' command",
    ),
    (
        "-L -c -f 3",
        2,
        "The option 'service-address' conflicts with the 'connection' option in the 'list' command",
    ),
    (
        "-L -t 1.2.3.4:80 --timeout",
        2,
        "The option 'timeout' conflicts with the 'service-address' option in the 'list' command",
    ),
    (
        "-L -t 1.2.3.4:80 --daemon",
        2,
        "The option 'daemon' conflicts with the 'service-address' option in the 'list' command",
    ),
    ("-L -s rr", 2, "Illegal 'scheduler' option with the 'list' command"),
    ("-L -r 1.1.1.1", 2, "Illegal 'real-server' option with the 'list' command"),
    ("-L -p", 2, "Illegal 'persistent' option with the 'list' command"),
    ("-L -w 3", 2, "Illegal 'weight' option with the 'list' command"),
    ("-L -m", 2, "Illegal 'forwarding-method' option with the 'list' command"),
    ("-L -b x", 2, "invalid scheduler flag `x'"),
    ("-L -o", 2, "Illegal 'ops' option with the 'list' command"),
    ("-L --pe x", 2, "Illegal 'pe' option with the 'list' command"),
    ("-L -M 255.0.0.0", 2, "Illegal 'netmask' option with the 'list' command"),
    ("-L -x 3", 2, "Illegal 'u-threshold' option with the 'list' command"),
    ("-L --list", 2, "invalid option `--list'"),
    ("--lis", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("--stats", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("--exact", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("-S -t 1.2.3.4:80", 2, "Illegal 'service-address' option with the 'save' command"),
    ("-S -c", 2, "Illegal 'connection' option with the 'save' command"),
    ("-S --nosort", 2, "Illegal 'nosort' option with the 'save' command"),
    ("-S --stats", 2, "Illegal 'stats' option with the 'save' command"),
    ("-S --exact", 2, "Illegal 'exact' option with the 'save' command"),
    ("-S foo", 2, "unexpected argument foo"),
    ("-R -n", 2, "Illegal 'numeric' option with the 'restore' command"),
    ("-R -t 1.2.3.4:80", 2, "Illegal 'service-address' option with the 'restore' command"),
    ("--set", 2, "--set option requires 3 timeout values"),
    ("--set 1", 2, "--set option requires 3 timeout values"),
    ("--set 1 2", 2, "--set option requires 3 timeout values"),
    ("--set 1 2 3 4", 2, "unexpected argument 4"),
    ("--set a b c", 2, "invalid timeout value `a' specified"),
    ("--set 1 2 c", 2, "invalid timeout value `c' specified"),
    ("--set -1 2 3", 255, "-1: unknown option"),
    ("--set 1 -2 3", 255, "-2: unknown option"),
    ("--set 31536000 1 1", 2, "invalid timeout value `31536000' specified"),
    ("--set 31536001 1 1", 2, "invalid timeout value `31536001' specified"),
    ("--set 2678401 1 1", 2, "invalid timeout value `2678401' specified"),
    ("--set 2147483647 1 1", 2, "invalid timeout value `2147483647' specified"),
    ("--set 2147483648 1 1", 2, "invalid timeout value `2147483648' specified"),
    ("--set 1 2 3 -n", 2, "Illegal 'numeric' option with the 'set' command"),
    ("--set -t 1.2.3.4:80 1 2 3", 2, "Illegal 'service-address' option with the 'set' command"),
    ("-n --set 1 2 3", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("--start-daemon", 255, "Try `ipvsadm -h' or 'ipvsadm --help' for more information."),
    ("--start-daemon foo", 2, "illegal start-daemon parameter specified"),
    ("--start-daemon backup --syncid 300", 2, "illegal syncid specified"),
    ("--start-daemon backup --syncid abc", 2, "illegal syncid specified"),
    ("--start-daemon backup --syncid -1", 2, "illegal syncid specified"),
    ("--start-daemon backup --mcast-group foo", 2, "invalid IPv4 mcast-group `foo'"),
    ("--start-daemon backup --mcast-group 1.2.3.4", 2, "invalid IPv4 mcast-group `1.2.3.4'"),
    ("--start-daemon backup --mcast-group fd00::1", 2, "invalid IPv6 mcast-group `fd00::1'"),
    ("--start-daemon backup --mcast-port 0", 2, "illegal mcast-port specified"),
    ("--start-daemon backup --mcast-port 65536", 2, "illegal mcast-port specified"),
    ("--start-daemon backup --mcast-ttl 0", 2, "illegal mcast-ttl specified"),
    ("--start-daemon backup --mcast-ttl 256", 2, "illegal mcast-ttl specified"),
    ("--start-daemon backup --sync-maxlen 0", 2, "illegal sync-maxlen specified"),
    ("--start-daemon backup --sync-maxlen 65536", 2, "illegal sync-maxlen specified"),
    ("--start-daemon backup --sync-maxlen 65535", 2, "illegal sync-maxlen specified"),
    ("--start-daemon backup -n", 2, "Illegal 'numeric' option with the 'start-daemon' command"),
    ("--stop-daemon foo", 2, "illegal start_daemon specified"),
    (
        "--stop-daemon backup --mcast-ttl 3",
        2,
        "Illegal 'mcast-ttl' option with the 'stop-daemon' command",
    ),
    (
        "--stop-daemon backup --mcast-interface eth0",
        2,
        "Illegal 'mcast-interface' option with the 'stop-daemon' command",
    ),
    ("-A -f 1 -n -n", 2, "multiple 'numeric' options specified"),
    (
        "-A -t 1.2.3.4:80 -w 1 -g",
        2,
        "Illegal 'forwarding-method' option with the 'add-service' command",
    ),
    (
        "-A -g -w 1",
        2,
        "You need to supply the 'service-address' option for the 'add-service' command",
    ),
    ("-A -w 1", 2, "You need to supply the 'service-address' option for the 'add-service' command"),
    ("-A -w 1 -n", 2, "Illegal 'numeric' option with the 'add-service' command"),
    ("-a -n -w 1", 2, "Illegal 'numeric' option with the 'add-server' command"),
    ("-L -n -w1 -t 1.2.3.4:80", 2, "Illegal 'weight' option with the 'list' command"),
    (
        "-d -w 3",
        2,
        "You need to supply the 'service-address' option for the 'delete-server' command",
    ),
    ("-A -p5t 1.2.3.4:80", 2, "invalid timeout value `5t' specified"),
    ("-A -t 1.2.3.4:80 -ps rr", 2, "invalid timeout value `s' specified"),
    ("-A -u 1.2.3.4:80 -o=3", 255, "-o=3: option does not take an argument"),
    ("-A -u 1.2.3.4:80 --ops=3", 255, "--ops=3: option does not take an argument"),
    ("-Ln=3", 255, "-Ln=3: option does not take an argument"),
    ("-L -numeric", 2, "illegal virtual server address[:port] specified"),
    ("-A -tcp-service 1.2.3.4:80", 2, "illegal virtual server address[:port] specified"),
    ("-A -fwmark 3", 2, "invalid fwmark value `wmark' specified"),
    ("-L --numeric=yes", 255, "--numeric=yes: option does not take an argument"),
    ("-L -", 2, "unexpected argument -"),
    ("-L -n -- -c", 2, "unexpected argument -c"),
    ("-A --tcp-service", 255, "--tcp-service: missing argument"),
    ("-Ld", 2, "invalid option `-Ld'"),
    ("-La", 2, "invalid option `-La'"),
    ("-LL", 2, "invalid option `-LL'"),
    ("-Ll", 2, "invalid option `-Ll'"),
    ("-lL", 2, "invalid option `-lL'"),
    ("-L -h", 2, "invalid option `-h'"),
    ("-A --help", 2, "invalid option `--help'"),
    ("-A --add-service", 2, "invalid option `--add-service'"),
    ("-C -C", 2, "invalid option `-C'"),
    ("-A --sort=3", 255, "--sort=3: option does not take an argument"),
    (
        "-L -t 1.2.3.4:80 -c --stats",
        2,
        "The option 'service-address' conflicts with the 'connection' option in the 'list' command",
    ),
    (
        "-A -t 1.2.3.4:80 -r 1.1.1.1 -s rr -w 3",
        2,
        "Illegal 'real-server' option with the 'add-service' command",
    ),
    ("-E -t 1.2.3.4:80 -o", 2, "One-Packet Scheduling is only for UDP virtual services"),
    ("-E -t 1.2.3.4:80 -w 3", 2, "Illegal 'weight' option with the 'edit-service' command"),
    ("-E -t 1.2.3.4:80 -s foo -b sh-port", 2, "incompatible scheduler flag `sh-port'"),
    ("-D -t 1.2.3.4:80 -n", 2, "Illegal 'numeric' option with the 'delete-service' command"),
    ("-S -nn", 2, "multiple 'numeric' options specified"),
    (
        "-A -t 1.2.3.4:80 -M 255.255.255.0 -M 255.255.255.0",
        2,
        "multiple 'netmask' options specified",
    ),
    ("-A -u 1.2.3.4:80 -o -o", 2, "multiple 'ops' options specified"),
    ("-A -f 3 --pe a --pe b", 2, "multiple 'pe' options specified"),
    (
        "-a -t 1.2.3.4:80 -r 1.1.1.1 -i --tun-type GUE --tun-port 3",
        2,
        "illegal tunnel type specified",
    ),
    (
        "-a -t 1.2.3.4:80 -i --tun-type gue",
        2,
        "You need to supply the 'real-server' option for the 'add-server' command",
    ),
    (
        "-a -i --tun-type gue",
        2,
        "You need to supply the 'service-address' option for the 'add-server' command",
    ),
    (
        "-d -t 1.2.3.4:80 -r 1.1.1.1 -i",
        2,
        "Illegal 'forwarding-method' option with the 'delete-server' command",
    ),
    ("--set 1 2 3 --stats", 2, "Illegal 'stats' option with the 'set' command"),
    ("--set 1 --stats 2 3", 2, "Illegal 'stats' option with the 'set' command"),
    ("--start-daemon master --stats", 2, "Illegal 'stats' option with the 'start-daemon' command"),
    ("-A -b x", 2, "invalid scheduler flag `x'"),
    ("-A -b sh-port", 2, "incompatible scheduler flag `sh-port'"),
    ("-a -t 1.2.3.4:80 -mr", 255, "-mr: missing argument"),
    (
        "-a -t 1.2.3.4:80 -r fd00::1 -i --tun-csum",
        2,
        "Illegal 'tun-csum' option with the 'ipip' tunnel type",
    ),
    ("--stop-daemon master x", 2, "unexpected argument x"),
    ("--start-daemon=", 2, "illegal start-daemon parameter specified"),
    ("-L -n=", 255, "-n=: option does not take an argument"),
    ("--start-daemon master --bogus", 255, "--bogus: unknown option"),
    ("-Sx", 255, "-Sx: missing argument"),
    ("-A -t 1.2.3.4:80 -s rr -b sh-port --pe x -z", 255, "-z: unknown option"),
];

#[test]
fn mistakes_are_refused_as_in_ipvsadm() {
    for (line, code, message) in REFUSED {
        let error = parse(line).expect_err(line);
        assert_eq!((error.code, error.message.as_str()), (*code, *message), "{line}");
    }
}

/// Where RVS answers otherwise on purpose.
#[test]
fn some_mistakes_are_refused_better() {
    for (line, message) in [
        // ipvsadm takes 0.0.0.24 for the mask, and any pattern of bits.
        ("-A -t 1.2.3.4:80 -p -M 24", "illegal virtual server persistent mask specified"),
        ("-A -t 1.2.3.4:80 -p -M 255.0.255.0", "illegal virtual server persistent mask specified"),
        // ipvsadm forgets a mask that precedes an IPv6 service.
        ("-A -M 255.0.0.0 -t [fd00::1]:80 -p", "illegal ipv6 netmask specified"),
        // ipvsadm takes an engine that is never asked.
        ("-A -u 1.2.3.4:80 --pe sip", "The 'pe' option needs the 'persistent' option"),
        // ipvsadm crashes.
        ("-A -t 1.2.3.4:80 -s sh -b ,", "invalid scheduler flag `'"),
        // ipvsadm finds no port.
        ("-A -t [1.2.3.4]:80", "illegal virtual server address[:port] specified"),
    ] {
        assert_eq!(parse(line), Err(UsageError::new(message)), "{line}");
    }
}

fn tcp(address: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Tcp, address: address.parse().unwrap() }
}

fn udp(address: &str) -> ServiceId {
    ServiceId::Address { protocol: Protocol::Udp, address: address.parse().unwrap() }
}

fn service(id: ServiceId) -> ServiceSpec {
    ServiceSpec::new(id, "wlc")
}

fn persistent(id: ServiceId, timeout: u32, prefix: u8) -> ServiceSpec {
    let persistence = Some(Persistence { timeout, prefix, engine: None });
    ServiceSpec { persistence, ..service(id) }
}

fn flags(id: ServiceId, scheduler: &str, flags: &[&str]) -> ServiceSpec {
    let scheduler_flags = flags.iter().map(|f| (*f).to_owned()).collect();
    ServiceSpec { scheduler: scheduler.into(), scheduler_flags, ..service(id) }
}

#[test]
fn services_are_understood() {
    let vip = tcp("1.2.3.4:80");
    let v6 = tcp("[fd00::1]:80");
    let mark = ServiceId::Fwmark { mark: 1, ipv6: false };
    let mark6 = ServiceId::Fwmark { mark: 1, ipv6: true };
    let ops = |id| ServiceSpec { one_packet: true, ..service(id) };
    for (line, expected) in [
        ("-A -t 1.2.3.4:80", service(vip)),
        ("-A -t=1.2.3.4:http", service(vip)),
        ("-At1.2.3.4:80", service(vip)),
        ("--add-service --tcp-service=1.2.3.4:80 --sort", service(vip)),
        ("-A --tcp-service [fd00::1]:80", service(v6)),
        ("-A -u 1.2.3.4:domain", service(udp("1.2.3.4:53"))),
        ("-A -f 010", service(ServiceId::Fwmark { mark: 10, ipv6: false })),
        ("-A -f 1 -6 -6", service(mark6)),
        ("-A -t 1.2.3.4:80 -srr", flags(vip, "rr", &[])),
        (
            "-A -b sh-port,sh-fallback -s sh -t 1.2.3.4:80",
            flags(vip, "sh", &["sh-fallback", "sh-port"]),
        ),
        ("-A -t 1.2.3.4:80 -s mh -b flag-2", flags(vip, "mh", &["mh-port"])),
        ("-A -t 1.2.3.4:80 -s rr -b flag-3,flag-1", flags(vip, "rr", &["flag-1", "flag-3"])),
        ("-A -t 1.2.3.4:80 -p", persistent(vip, 360, 32)),
        ("-A -t 1.2.3.4 -p", persistent(tcp("1.2.3.4:0"), 360, 32)),
        ("-A -t 1.2.3.4:80 -p=60", persistent(vip, 60, 32)),
        ("-A -p 2678400 -t 1.2.3.4:80", persistent(vip, 2_678_400, 32)),
        ("-A -t 1.2.3.4:80 --persistent -M 255.255.255.0", persistent(vip, 360, 24)),
        ("-A -t 1.2.3.4:80 -p 5 -M 0.0.0.0", persistent(vip, 5, 0)),
        ("-A -t [fd00::1]:80 -p", persistent(v6, 360, 128)),
        ("-A -M 64 -t [fd00::1]:80 -p", persistent(v6, 360, 64)),
        ("-A -f 1 -p -M 64 -6", persistent(mark6, 360, 64)),
        ("-A -u 1.2.3.4:80 -o", ops(udp("1.2.3.4:80"))),
        ("-A -f 1 --ops", ops(mark)),
    ] {
        assert_eq!(parse(line), Ok(Command::AddService(expected)), "{line}");
    }
    let both = ServiceSpec { one_packet: true, ..persistent(udp("1.2.3.4:80"), 9, 32) };
    assert_eq!(parse("-E -u 1.2.3.4:80 -p 9 -o"), Ok(Command::EditService(both)));
    let Ok(Command::AddService(sip)) = parse("-A -u 1.2.3.4:80 -p --pe sip") else {
        panic!("a persistence engine is refused");
    };
    assert_eq!(sip.persistence.unwrap().engine.as_deref(), Some("sip"));
}

/// The options that only RVS has.
#[test]
fn options_of_fullnat_are_understood() {
    let spec = ServiceSpec {
        local_addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        client_address: ClientAddress::Toa,
        mss: Some(1400),
        ..service(tcp("1.2.3.4:80"))
    };
    let line = "-t 1.2.3.4:80 --local-address 10.0.0.1,fd00::1 --client-address=toa --mss 1400";
    assert_eq!(parse(&format!("-A {line}")), Ok(Command::AddService(spec.clone())));
    assert_eq!(parse(&format!("-E {line}")), Ok(Command::EditService(spec)));
    // An edit without them takes them away.
    let plain = parse("-E -t 1.2.3.4:80 --client-address none --mss 0");
    assert_eq!(plain, Ok(Command::EditService(service(tcp("1.2.3.4:80")))));
    let proxy = ServiceSpec { client_address: ClientAddress::Proxy, ..service(tcp("1.2.3.4:80")) };
    let line = "-A -t 1.2.3.4:80 --client-address proxy";
    assert_eq!(parse(line), Ok(Command::AddService(proxy)));
    let taken_up = ServiceSpec { take_up: true, ..flags(tcp("1.2.3.4:80"), "mh", &[]) };
    assert_eq!(
        parse("-A -t 1.2.3.4:80 -s mh --take-up"),
        Ok(Command::AddService(taken_up.clone()))
    );
    assert_eq!(parse("-E --take-up -t 1.2.3.4:80 -s mh"), Ok(Command::EditService(taken_up)));
    let mss = "illegal mss specified; it is 88 to 65495, or 0 for none";
    for (options, message) in [
        ("--local-address 10.0.0.1,", "illegal local address `' specified"),
        ("--local-address 10.0.0.1:80", "illegal local address `10.0.0.1:80' specified"),
        (
            "--local-address 10.0.0.1 --local-address 10.0.0.2",
            "multiple 'local-address' options specified",
        ),
        ("--client-address tao", "illegal client-address specified; it is none, toa or proxy"),
        ("--mss 87", mss),
        ("--mss 65496", mss),
        ("--mss 1k", mss),
        ("--take-up --take-up", "multiple 'take-up' options specified"),
    ] {
        let line = format!("-A -t 1.2.3.4:80 {options}");
        assert_eq!(parse(&line), Err(UsageError::new(message)), "{line}");
    }
    for option in ["local-address 10.0.0.1", "client-address toa", "mss 1400", "take-up"] {
        let line = format!("-a -t 1.2.3.4:80 -r 1.1.1.1 --{option}");
        let name = option.split(' ').next().unwrap();
        let message = format!("Illegal '{name}' option with the 'add-server' command");
        assert_eq!(parse(&line), Err(UsageError::new(message)), "{line}");
    }
}

fn server(address: &str, method: Method) -> ServerSpec {
    ServerSpec {
        address: address.parse().unwrap(),
        method,
        weight: 1,
        upper_threshold: 0,
        lower_threshold: 0,
    }
}

#[test]
fn servers_are_understood() {
    use TunnelChecksum::{Full, None as Plain, Remote};
    let ipip = || Method::Tun(Tunnel::Ipip);
    let gue = |checksum| Method::Tun(Tunnel::Gue { port: 6080, checksum });
    let gre = |checksum| Method::Tun(Tunnel::Gre { checksum });
    for (options, expected) in [
        ("-r 1.1.1.1", server("1.1.1.1:80", Method::Dr)),
        // Packets go out with the service's port under DR and TUN.
        ("-r 1.1.1.1:81 -g", server("1.1.1.1:80", Method::Dr)),
        ("-r 1.1.1.1:81 -i", server("1.1.1.1:80", ipip())),
        ("-r 1.1.1.1:81 -m", server("1.1.1.1:81", Method::Nat)),
        ("-m -r 1.1.1.1:http", server("1.1.1.1:80", Method::Nat)),
        ("-r 1.1.1.1 --masquerading", server("1.1.1.1:80", Method::Nat)),
        ("-r 1.1.1.1:81 -b", server("1.1.1.1:81", Method::Fullnat)),
        ("--real-server 1.1.1.1:81 --fullnat", server("1.1.1.1:81", Method::Fullnat)),
        ("-b -r [fd00::2]:81", server("[fd00::2]:81", Method::Fullnat)),
        ("-r fd00::2 -i", server("[fd00::2]:80", ipip())),
        ("-r 1.1.1.1 -i --tun-type gue --tun-port 6080", server("1.1.1.1:80", gue(Plain))),
        (
            "-r 1.1.1.1 --tun-csum --tun-type gue -i --tun-port 6080",
            server("1.1.1.1:80", gue(Full)),
        ),
        (
            "-r 1.1.1.1 -i --tun-type gue --tun-port 6080 --tun-remcsum",
            server("1.1.1.1:80", gue(Remote)),
        ),
        ("-r 1.1.1.1 -i --tun-type gre --tun-csum", server("1.1.1.1:80", gre(Full))),
        ("-r 1.1.1.1 --ipip --tun-type gre --tun-nocsum", server("1.1.1.1:80", gre(Plain))),
    ] {
        let line = format!("-a -t 1.2.3.4:80 {options}");
        assert_eq!(parse(&line), Ok(Command::AddServer(tcp("1.2.3.4:80"), expected)), "{line}");
    }
    let heavy = ServerSpec {
        weight: 5,
        upper_threshold: 10,
        lower_threshold: 4,
        ..server("1.1.1.1:80", Method::Dr)
    };
    assert_eq!(
        parse("-e -r 1.1.1.1 -w5 -x 10 --l-threshold=4 -t 1.2.3.4:80"),
        Ok(Command::EditServer(tcp("1.2.3.4:80"), heavy))
    );
}

#[test]
fn servers_of_a_mark_keep_their_port() {
    let mark = ServiceId::Fwmark { mark: 1, ipv6: false };
    for (options, expected) in [
        ("-r 1.1.1.1", "1.1.1.1:0"),
        ("-r 1.1.1.1:81", "1.1.1.1:81"),
        ("-r 1.1.1.1:http", "1.1.1.1:80"),
    ] {
        let line = format!("-a -f 1 {options}");
        let expected = server(expected, Method::Dr);
        assert_eq!(parse(&line), Ok(Command::AddServer(mark, expected)), "{line}");
    }
}

#[test]
fn other_commands_are_understood() {
    let vip = tcp("1.2.3.4:80");
    let address = |text: &str| text.parse().unwrap();
    for (line, expected) in [
        ("-h -Q", Command::Help),
        ("--version x", Command::Version),
        ("-C", Command::Flush),
        ("--clear", Command::Flush),
        ("-D -t 1.2.3.4:80", Command::DeleteService(vip)),
        ("-d -t 1.2.3.4:80 -r 1.1.1.1", Command::DeleteServer(vip, address("1.1.1.1:80"))),
        ("-d -t 1.2.3.4:80 -r 1.1.1.1:99", Command::DeleteServer(vip, address("1.1.1.1:99"))),
        ("-Z", Command::Zero(None)),
        ("-Zt 1.2.3.4:80", Command::Zero(Some(vip))),
        ("-S", Command::Save { numeric: false }),
        ("-Sn", Command::Save { numeric: true }),
        ("-R", Command::Restore),
        ("--set 1 0 3", Command::SetTimeouts(Timeouts { tcp: 1, tcp_fin: 0, udp: 3 })),
        ("--start-daemon=master --syncid 7", Command::StartDaemon),
        ("--stop-daemon backup", Command::StopDaemon),
    ] {
        assert_eq!(parse(line), Ok(expected), "{line}");
    }
}

#[test]
fn listings_are_understood() {
    let all = |view| Listing::Services { service: None, view, sorted: true };
    for (line, numeric, what) in [
        ("", false, all(View::Default)),
        ("-l", false, all(View::Default)),
        ("-Ln", true, all(View::Default)),
        ("--list --numeric --stats", true, all(View::Stats { exact: false })),
        ("-LX --stats --rate", false, all(View::Stats { exact: true })),
        ("-L --thresholds --rate --exact", false, all(View::Rate)),
        ("-L --persistent-conn --thresholds", false, all(View::Thresholds)),
        ("-L --tun-info --persistent-conn", false, all(View::PersistentConn)),
        ("-L --tun-info", false, all(View::TunInfo)),
        ("-Lc", false, Listing::Connections { engines: false }),
        ("-L -n -c --persistent-conn --tun-info", true, Listing::Connections { engines: true }),
        ("-L --timeout", false, Listing::Timeouts),
        ("-L --daemon -n", true, Listing::Daemon),
        (
            "-L --nosort --sort -t 1.2.3.4:80",
            false,
            Listing::Services {
                service: Some(tcp("1.2.3.4:80")),
                view: View::Default,
                sorted: false,
            },
        ),
    ] {
        assert_eq!(parse(line), Ok(Command::List(List { what, numeric })), "{line}");
    }
}
