//! Against what ipvsadm 1.31 printed for the same services on Linux 6.1. In the
//! recordings `|` marks the end of a line, as blanks before it count.

use super::*;
use crate::api::Connection;
use crate::ipvsadm::grammar::{self, Command};
use crate::ipvsadm::names::{Ports, tests::ports};

/// What `-Sn` printed, which here also makes the services to list.
const SAVED: &str = "\
-A -t 10.0.1.100:80 -s rr
-a -t 10.0.1.100:80 -r 10.0.2.11:80 -m -w 1
-a -t 10.0.1.100:80 -r 10.0.2.12:80 -m -w 2
-A -t 10.0.1.101:80 -s wlc -p 60 -M 255.255.255.0
-a -t 10.0.1.101:80 -r 10.0.1.11:80 -g -w 1
-a -t 10.0.1.101:80 -r 10.0.1.12:80 -g -w 1
-A -t 10.0.1.102:80 -s sh -b sh-fallback,sh-port
-a -t 10.0.1.102:80 -r 10.0.1.11:80 -i -w 1 --tun-type ipip
-a -t 10.0.1.102:80 -r 10.0.1.12:80 -i -w 1 --tun-type ipip
-A -u 10.0.1.100:5060 -s wrr -p 120 --pe sip -o
-A -u 10.0.1.103:53 -s mh -o -b mh-port
-a -u 10.0.1.103:53 -r 10.0.1.11:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-a -u 10.0.1.103:53 -r 10.0.1.12:53 -i -w 1 --tun-type gre --tun-csum
-A --sctp-service 10.0.1.100:99 -s fo
-a --sctp-service 10.0.1.100:99 -r 10.0.2.11:99 -m -w 0
-A -t [fd01::100]:80 -s rr -p 30 -M 64
-a -t [fd01::100]:80 -r [fd02::11]:80 -m -w 1
-A -f 7 -s nq
-a -f 7 -r 10.0.2.11:0 -m -w 1
-A -f 8 -6 -s sed -p 360
-a -f 8 -6 -r [fd02::11]:0 -m -w 1
";

/// The order in which `--nosort` listed them, as lines of [`SAVED`].
const NOSORT_ORDER: [&str; 9] = [
    "-t 10.0.1.102:80",
    "-t 10.0.1.100:80",
    "-t 10.0.1.101:80",
    "-u 10.0.1.103:53",
    "-t [fd01::100]:80",
    "--sctp-service 10.0.1.100:99",
    "-u 10.0.1.100:5060",
    "-f 7",
    "-f 8 -6",
];

/// Connections and counters: service, server, inactive, persistent, then
/// `--stats` and `--rate`. Nothing was active when it was recorded.
type Numbers = (&'static str, &'static str, u32, u32, [u64; 5], [u64; 5]);

const NUMBERS: [Numbers; 10] = [
    ("-t 10.0.1.100:80", "", 0, 0, [4, 27, 21, 1508, 2016], [0, 1, 1, 79, 106]),
    ("-t 10.0.1.100:80", "10.0.2.11", 2, 0, [2, 13, 11, 728, 1034], [0, 1, 1, 38, 54]),
    ("-t 10.0.1.100:80", "10.0.2.12", 2, 0, [2, 14, 10, 780, 982], [0, 1, 1, 41, 52]),
    ("-t 10.0.1.101:80", "", 0, 0, [2, 14, 0, 780, 0], [0, 1, 0, 55, 0]),
    ("-t 10.0.1.101:80", "10.0.1.12", 2, 1, [2, 14, 0, 780, 0], [0, 1, 0, 55, 0]),
    ("-t 10.0.1.102:80", "", 0, 0, [3, 21, 0, 1170, 0], [0, 1, 0, 82, 0]),
    ("-t 10.0.1.102:80", "10.0.1.11", 2, 0, [2, 14, 0, 780, 0], [0, 1, 0, 55, 0]),
    ("-t 10.0.1.102:80", "10.0.1.12", 1, 0, [1, 7, 0, 390, 0], [0, 0, 0, 27, 0]),
    ("-t [fd01::100]:80", "", 0, 0, [1, 7, 5, 530, 591], [0, 1, 0, 50, 55]),
    ("-t [fd01::100]:80", "fd02::11", 1, 1, [1, 7, 5, 530, 591], [0, 1, 0, 50, 55]),
];

const LN: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port Scheduler Flags|
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn|
TCP  10.0.1.100:80 rr|
  -> 10.0.2.11:80                 Masq    1      0          2         |
  -> 10.0.2.12:80                 Masq    2      0          2         |
TCP  10.0.1.101:80 wlc persistent 60 mask 255.255.255.0|
  -> 10.0.1.11:80                 Route   1      0          0         |
  -> 10.0.1.12:80                 Route   1      0          2         |
TCP  10.0.1.102:80 sh (sh-fallback,sh-port)|
  -> 10.0.1.11:80                 Tunnel  1      0          2         |
  -> 10.0.1.12:80                 Tunnel  1      0          1         |
UDP  10.0.1.100:5060 wrr persistent 120 pe sip ops|
UDP  10.0.1.103:53 mh (mh-port) ops|
  -> 10.0.1.11:53                 Tunnel  1      0          0         |
  -> 10.0.1.12:53                 Tunnel  1      0          0         |
SCTP 10.0.1.100:99 fo|
  -> 10.0.2.11:99                 Masq    0      0          0         |
TCP  [fd01::100]:80 rr persistent 30 mask 64|
  -> [fd02::11]:80                Masq    1      0          1         |
FWM  7 nq|
  -> 10.0.2.11:0                  Masq    1      0          0         |
FWM  8 IPv6 sed persistent 360|
  -> [fd02::11]:0                 Masq    1      0          0         |
";

const L: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port Scheduler Flags|
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn|
TCP  10.0.1.100:http rr|
  -> 10.0.2.11:http               Masq    1      0          2         |
  -> 10.0.2.12:http               Masq    2      0          2         |
TCP  10.0.1.101:http wlc persistent 60 mask 255.255.255.0|
  -> 10.0.1.11:http               Route   1      0          0         |
  -> 10.0.1.12:http               Route   1      0          2         |
TCP  10.0.1.102:http sh (sh-fallback,sh-port)|
  -> 10.0.1.11:http               Tunnel  1      0          2         |
  -> 10.0.1.12:http               Tunnel  1      0          1         |
UDP  10.0.1.100:sip wrr persistent 120 pe sip ops|
UDP  10.0.1.103:domain mh (mh-port) ops|
  -> 10.0.1.11:domain             Tunnel  1      0          0         |
  -> 10.0.1.12:domain             Tunnel  1      0          0         |
SCTP 10.0.1.100:99 fo|
  -> 10.0.2.11:99                 Masq    0      0          0         |
TCP  [fd01::100]:http rr persistent 30 mask 64|
  -> [fd02::11]:http              Masq    1      0          1         |
FWM  7 nq|
  -> 10.0.2.11:0                  Masq    1      0          0         |
FWM  8 IPv6 sed persistent 360|
  -> [fd02::11]:0                 Masq    1      0          0         |
";

const STATS: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes|
  -> RemoteAddress:Port|
TCP  10.0.1.100:80                       4       27       21     1508     2016|
  -> 10.0.2.11:80                        2       13       11      728     1034|
  -> 10.0.2.12:80                        2       14       10      780      982|
TCP  10.0.1.101:80                       2       14        0      780        0|
  -> 10.0.1.11:80                        0        0        0        0        0|
  -> 10.0.1.12:80                        2       14        0      780        0|
TCP  10.0.1.102:80                       3       21        0     1170        0|
  -> 10.0.1.11:80                        2       14        0      780        0|
  -> 10.0.1.12:80                        1        7        0      390        0|
UDP  10.0.1.100:5060                     0        0        0        0        0|
UDP  10.0.1.103:53                       0        0        0        0        0|
  -> 10.0.1.11:53                        0        0        0        0        0|
  -> 10.0.1.12:53                        0        0        0        0        0|
SCTP 10.0.1.100:99                       0        0        0        0        0|
  -> 10.0.2.11:99                        0        0        0        0        0|
TCP  [fd01::100]:80                      1        7        5      530      591|
  -> [fd02::11]:80                       1        7        5      530      591|
FWM  7                                   0        0        0        0        0|
  -> 10.0.2.11:0                         0        0        0        0        0|
FWM  8 IPv6                              0        0        0        0        0|
  -> [fd02::11]:0                        0        0        0        0        0|
";

const RATE: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS|
  -> RemoteAddress:Port|
TCP  10.0.1.100:80                       0        1        1       79      106|
  -> 10.0.2.11:80                        0        1        1       38       54|
  -> 10.0.2.12:80                        0        1        1       41       52|
TCP  10.0.1.101:80                       0        1        0       55        0|
  -> 10.0.1.11:80                        0        0        0        0        0|
  -> 10.0.1.12:80                        0        1        0       55        0|
TCP  10.0.1.102:80                       0        1        0       82        0|
  -> 10.0.1.11:80                        0        1        0       55        0|
  -> 10.0.1.12:80                        0        0        0       27        0|
UDP  10.0.1.100:5060                     0        0        0        0        0|
UDP  10.0.1.103:53                       0        0        0        0        0|
  -> 10.0.1.11:53                        0        0        0        0        0|
  -> 10.0.1.12:53                        0        0        0        0        0|
SCTP 10.0.1.100:99                       0        0        0        0        0|
  -> 10.0.2.11:99                        0        0        0        0        0|
TCP  [fd01::100]:80                      0        1        0       50       55|
  -> [fd02::11]:80                       0        1        0       50       55|
FWM  7                                   0        0        0        0        0|
  -> 10.0.2.11:0                         0        0        0        0        0|
FWM  8 IPv6                              0        0        0        0        0|
  -> [fd02::11]:0                        0        0        0        0        0|
";

const THRESHOLDS: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn |
  -> RemoteAddress:Port|
TCP  10.0.1.100:80 rr|
  -> 10.0.2.11:80                 0          0          0          2         |
  -> 10.0.2.12:80                 0          0          0          2         |
TCP  10.0.1.101:80 wlc persistent 60 mask 255.255.255.0|
  -> 10.0.1.11:80                 100        50         0          0         |
  -> 10.0.1.12:80                 100        50         0          2         |
TCP  10.0.1.102:80 sh (sh-fallback,sh-port)|
  -> 10.0.1.11:80                 0          0          0          2         |
  -> 10.0.1.12:80                 0          0          0          1         |
UDP  10.0.1.100:5060 wrr persistent 120 pe sip ops|
UDP  10.0.1.103:53 mh (mh-port) ops|
  -> 10.0.1.11:53                 0          0          0          0         |
  -> 10.0.1.12:53                 0          0          0          0         |
SCTP 10.0.1.100:99 fo|
  -> 10.0.2.11:99                 0          0          0          0         |
TCP  [fd01::100]:80 rr persistent 30 mask 64|
  -> [fd02::11]:80                0          0          0          1         |
FWM  7 nq|
  -> 10.0.2.11:0                  0          0          0          0         |
FWM  8 IPv6 sed persistent 360|
  -> [fd02::11]:0                 0          0          0          0         |
";

const PERSISTENT: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn |
  -> RemoteAddress:Port|
TCP  10.0.1.100:80 rr|
  -> 10.0.2.11:80                 1         0           0          2         |
  -> 10.0.2.12:80                 2         0           0          2         |
TCP  10.0.1.101:80 wlc persistent 60 mask 255.255.255.0|
  -> 10.0.1.11:80                 1         0           0          0         |
  -> 10.0.1.12:80                 1         1           0          2         |
TCP  10.0.1.102:80 sh (sh-fallback,sh-port)|
  -> 10.0.1.11:80                 1         0           0          2         |
  -> 10.0.1.12:80                 1         0           0          1         |
UDP  10.0.1.100:5060 wrr persistent 120 pe sip ops|
UDP  10.0.1.103:53 mh (mh-port) ops|
  -> 10.0.1.11:53                 1         0           0          0         |
  -> 10.0.1.12:53                 1         0           0          0         |
SCTP 10.0.1.100:99 fo|
  -> 10.0.2.11:99                 0         0           0          0         |
TCP  [fd01::100]:80 rr persistent 30 mask 64|
  -> [fd02::11]:80                1         1           0          1         |
FWM  7 nq|
  -> 10.0.2.11:0                  1         0           0          0         |
FWM  8 IPv6 sed persistent 360|
  -> [fd02::11]:0                 1         0           0          0         |
";

const TUN_INFO: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port Scheduler Flags|
  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn|
TCP  10.0.1.100:80 rr|
  -> 10.0.2.11:80                 Masq    n/a           1      0          2         |
  -> 10.0.2.12:80                 Masq    n/a           2      0          2         |
TCP  10.0.1.101:80 wlc persistent 60 mask 255.255.255.0|
  -> 10.0.1.11:80                 Route   n/a           1      0          0         |
  -> 10.0.1.12:80                 Route   n/a           1      0          2         |
TCP  10.0.1.102:80 sh (sh-fallback,sh-port)|
  -> 10.0.1.11:80                 Tunnel  ipip          1      0          2         |
  -> 10.0.1.12:80                 Tunnel  ipip          1      0          1         |
UDP  10.0.1.100:5060 wrr persistent 120 pe sip ops|
UDP  10.0.1.103:53 mh (mh-port) ops|
  -> 10.0.1.11:53                 Tunnel  gue:6080:+c   1      0          0         |
  -> 10.0.1.12:53                 Tunnel  gre:+c        1      0          0         |
SCTP 10.0.1.100:99 fo|
  -> 10.0.2.11:99                 Masq    n/a           0      0          0         |
TCP  [fd01::100]:80 rr persistent 30 mask 64|
  -> [fd02::11]:80                Masq    n/a           1      0          1         |
FWM  7 nq|
  -> 10.0.2.11:0                  Masq    n/a           1      0          0         |
FWM  8 IPv6 sed persistent 360|
  -> [fd02::11]:0                 Masq    n/a           1      0          0         |
";

const NOSORT: &str = "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port Scheduler Flags|
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn|
TCP  10.0.1.102:80 sh (sh-fallback,sh-port)|
  -> 10.0.1.12:80                 Tunnel  1      0          1         |
  -> 10.0.1.11:80                 Tunnel  1      0          2         |
TCP  10.0.1.100:80 rr|
  -> 10.0.2.12:80                 Masq    2      0          2         |
  -> 10.0.2.11:80                 Masq    1      0          2         |
TCP  10.0.1.101:80 wlc persistent 60 mask 255.255.255.0|
  -> 10.0.1.12:80                 Route   1      0          2         |
  -> 10.0.1.11:80                 Route   1      0          0         |
UDP  10.0.1.103:53 mh (mh-port) ops|
  -> 10.0.1.12:53                 Tunnel  1      0          0         |
  -> 10.0.1.11:53                 Tunnel  1      0          0         |
TCP  [fd01::100]:80 rr persistent 30 mask 64|
  -> [fd02::11]:80                Masq    1      0          1         |
SCTP 10.0.1.100:99 fo|
  -> 10.0.2.11:99                 Masq    0      0          0         |
UDP  10.0.1.100:5060 wrr persistent 120 pe sip ops|
FWM  7 nq|
  -> 10.0.2.11:0                  Masq    1      0          0         |
FWM  8 IPv6 sed persistent 360|
  -> [fd02::11]:0                 Masq    1      0          0         |
";

const CONNECTIONS: &str = "\
IPVS connection entries|
pro expire state       source             virtual            destination|
TCP 00:52  ASSURED     10.0.1.0:0         10.0.1.101:80      10.0.1.12:80|
TCP 01:53  FIN_WAIT    10.0.1.2:34458     10.0.1.102:80      10.0.1.11:80|
TCP 01:50  TIME_WAIT   10.0.1.2:36562     10.0.1.100:80      10.0.2.12:80|
TCP 00:25  ASSURED     [fd01::]:0         [fd01::100]:80     [fd02::11]:80|
TCP 01:51  TIME_WAIT   10.0.1.2:36592     10.0.1.100:80      10.0.2.12:80|
TCP 01:51  TIME_WAIT   10.0.1.2:36602     10.0.1.100:80      10.0.2.11:80|
TCP 01:51  TIME_WAIT   10.0.1.2:36578     10.0.1.100:80      10.0.2.11:80|
TCP 01:53  FIN_WAIT    10.0.1.2:34454     10.0.1.102:80      10.0.1.11:80|
TCP 01:52  FIN_WAIT    10.0.1.2:39708     10.0.1.101:80      10.0.1.12:80|
TCP 01:52  FIN_WAIT    10.0.1.2:39724     10.0.1.101:80      10.0.1.12:80|
TCP 01:55  TIME_WAIT   [fd01::2]:50606    [fd01::100]:80     [fd02::11]:80|
TCP 01:54  FIN_WAIT    10.0.1.2:34470     10.0.1.102:80      10.0.1.12:80|
";

const CONNECTIONS_NAMED: &str = "\
IPVS connection entries|
pro expire state       source             virtual            destination|
TCP 00:52  ASSURED     10.0.1.0:0         10.0.1.101:http    10.0.1.12:http|
TCP 01:53  FIN_WAIT    10.0.1.2:34458     10.0.1.102:http    10.0.1.11:http|
TCP 01:50  TIME_WAIT   10.0.1.2:36562     10.0.1.100:http    10.0.2.12:http|
TCP 00:24  ASSURED     [fd01::]:0         [fd01::100]:http   [fd02::11]:http|
TCP 01:51  TIME_WAIT   10.0.1.2:36592     10.0.1.100:http    10.0.2.12:http|
TCP 01:51  TIME_WAIT   10.0.1.2:36602     10.0.1.100:http    10.0.2.11:http|
TCP 01:50  TIME_WAIT   10.0.1.2:36578     10.0.1.100:http    10.0.2.11:http|
TCP 01:53  FIN_WAIT    10.0.1.2:34454     10.0.1.102:http    10.0.1.11:http|
TCP 01:52  FIN_WAIT    10.0.1.2:39708     10.0.1.101:http    10.0.1.12:http|
TCP 01:52  FIN_WAIT    10.0.1.2:39724     10.0.1.101:http    10.0.1.12:http|
TCP 01:54  TIME_WAIT   [fd01::2]:50606    [fd01::100]:http   [fd02::11]:http|
TCP 01:53  FIN_WAIT    10.0.1.2:34470     10.0.1.102:http    10.0.1.12:http|
";

fn recorded(text: &str) -> String {
    text.replace("|\n", "\n")
}

fn parse(line: &str) -> Command {
    let words = line.split_whitespace().map(Into::into);
    grammar::parse(words, "ipvsadm", &Ports::default()).unwrap()
}

fn stats(counters: [u64; 5], rates: [u64; 5]) -> Stats {
    let [connections, in_packets, out_packets, in_bytes, out_bytes] = counters;
    let [connection_rate, in_packet_rate, out_packet_rate, in_byte_rate, out_byte_rate] = rates;
    Stats {
        connections,
        in_packets,
        out_packets,
        in_bytes,
        out_bytes,
        connection_rate,
        in_packet_rate,
        out_packet_rate,
        in_byte_rate,
        out_byte_rate,
    }
}

fn numbers(service: &str, server: &str) -> (u32, u32, Stats) {
    let found = NUMBERS.iter().find(|n| (n.0, n.1) == (service, server));
    found.map_or((0, 0, Stats::default()), |n| (n.2, n.3, stats(n.4, n.5)))
}

/// The services of a saved state, newest server first.
fn load(saved: &str) -> Vec<ServiceStatus> {
    let mut all: Vec<ServiceStatus> = Vec::new();
    for line in saved.lines() {
        match parse(line) {
            Command::AddService(spec) => {
                let name = service_option(&spec.id, &mut Names::numeric());
                let (_, _, stats) = numbers(&name, "");
                all.push(ServiceStatus { spec, stats, servers: Vec::new() });
            }
            Command::AddServer(id, mut spec) => {
                let name = service_option(&id, &mut Names::numeric());
                let (inactive, persistent, stats) = numbers(&name, &spec.address.ip().to_string());
                if name == "-t 10.0.1.101:80" {
                    (spec.upper_threshold, spec.lower_threshold) = (100, 50);
                }
                let service = all.iter_mut().find(|s| s.spec.id == id).unwrap();
                let server =
                    ServerStatus { spec, active: 0, inactive, persistent, stats, health: None };
                service.servers.insert(0, server);
            }
            other => panic!("{line}: {other:?}"),
        }
    }
    all
}

/// The recorded services in the order in which the daemon has them.
fn unsorted() -> Vec<ServiceStatus> {
    let mut all = load(SAVED);
    all.sort_by_key(|service| {
        let name = service_option(&service.spec.id, &mut Names::numeric());
        NOSORT_ORDER.iter().position(|n| *n == name).unwrap()
    });
    all
}

fn sorted() -> Vec<ServiceStatus> {
    let mut all = unsorted();
    sort(&mut all);
    all
}

fn listing(services: &[ServiceStatus], view: View, names: &mut Names) -> String {
    version_line(4096) + &super::services(services, view, names)
}

/// Names of ports only, so that the test does not depend on a resolver.
fn named() -> Names {
    Names::of_ports(ports())
}

#[test]
fn every_view_is_byte_for_byte_as_recorded() {
    let services = sorted();
    for (view, expected) in [
        (View::Default, LN),
        (View::Stats { exact: false }, STATS),
        (View::Stats { exact: true }, STATS),
        (View::Rate, RATE),
        (View::Thresholds, THRESHOLDS),
        (View::PersistentConn, PERSISTENT),
        (View::TunInfo, TUN_INFO),
    ] {
        let text = listing(&services, view, &mut Names::numeric());
        assert_eq!(text, recorded(expected), "{view:?}");
    }
    assert_eq!(listing(&services, View::Default, &mut named()), recorded(L));
}

#[test]
fn without_sorting_the_order_is_the_daemons() {
    let text = listing(&unsorted(), View::Default, &mut Names::numeric());
    assert_eq!(text, recorded(NOSORT));
}

#[test]
fn what_is_saved_is_what_made_it() {
    assert_eq!(save(&sorted(), &mut Names::numeric()), SAVED);
    let first = save(&sorted()[..1], &mut named());
    assert_eq!(
        first,
        "-A -t 10.0.1.100:http -s rr\n\
         -a -t 10.0.1.100:http -r 10.0.2.11:http -m -w 1\n\
         -a -t 10.0.1.100:http -r 10.0.2.12:http -m -w 2\n"
    );
}

/// What the recordings do not have; the rows are ipvsadm's own, but for FULLNAT,
/// which it does not know.
#[test]
fn rarer_options_are_listed_and_saved() {
    let saved = "\
-A -u 10.0.1.103:53 -s lblc -p 9 -M 0.0.0.0 --pe sip -o -b flag-1,flag-3
-a -u 10.0.1.103:53 -r 10.0.1.8:53 -i -w 1 --tun-type gre --tun-nocsum
-a -u 10.0.1.103:53 -r 10.0.1.8:54 -b -w 2147483647
-a -u 10.0.1.103:53 -r 10.0.1.9:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum
-a -u 10.0.1.103:53 -r [2001:db8:1111:2222:3333:4444:5555:7777]:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
";
    let mut services = load(saved);
    sort(&mut services);
    assert_eq!(save(&services, &mut Names::numeric()), saved);
    let text = super::services(&services, View::TunInfo, &mut Names::numeric());
    let expected = "\
Prot LocalAddress:Port Scheduler Flags|
  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn|
UDP  10.0.1.103:53 lblc (flag-1,flag-3) persistent 9 mask 0.0.0.0 pe sip ops|
  -> 10.0.1.8:53                  Tunnel  gre:-c        1      0          0         |
  -> 10.0.1.8:54                  FullNat n/a           2147483647 0          0         |
  -> 10.0.1.9:53                  Tunnel  gue:6080:-c   1      0          0         |
  -> [2001:db8:1111:2222:3333:4444:5555:7777]:53 Tunnel  gue:6080:r+c  1      0          0         |
";
    assert_eq!(text, recorded(expected));
}

#[test]
fn large_counters_are_cut_unless_exact() {
    let mut services = load("-A -u 10.0.1.103:53 -s rr\n");
    let numbers = [99_999_999, 100_000_000, 999_999_999, 1_000_000_000, 99_999_999_999];
    services[0].stats = stats(numbers, [0, 100_000_000, 12_345_678_901, 0, 0]);
    let row = |view| {
        let text = super::services(&services, view, &mut Names::numeric());
        text.lines().last().unwrap().to_owned()
    };
    assert_eq!(
        row(View::Stats { exact: false }),
        "UDP  10.0.1.103:53                99999999  100000K  999999K    1000M   99999M"
    );
    assert_eq!(
        row(View::Stats { exact: true }),
        "UDP  10.0.1.103:53                99999999 100000000 999999999 1000000000 99999999999"
    );
    assert_eq!(
        row(View::Rate),
        "UDP  10.0.1.103:53                       0 100000000 12345678901        0        0"
    );
    assert_eq!(rounded(100_000_000_000), "     100G");
    assert_eq!(rounded(99_999_999_999_999), "   99999G");
    assert_eq!(rounded(100_000_000_000_000), "     100T");
    assert_eq!(rounded(u64::MAX), "18446744T");
}

#[test]
fn names_of_ipv4_servers_are_cut_to_their_column() {
    let mut services = load(
        "-A -t 10.7.7.1:80 -s rr\n\
         -a -t 10.7.7.1:80 -r 10.7.7.2:80 -g -w 1\n",
    );
    let mut names = named();
    names.know("10.7.7.1", "vip.example.org");
    names.know("10.7.7.2", "a-really-long-host-name-of-a-server.example.org");
    sort(&mut services);
    let text = super::services(&services, View::Default, &mut names);
    let expected = "\
TCP  vip.example.org:http rr|
  -> a-really-long-host-name-of-a Route   1      0          0         |
";
    assert!(text.ends_with(&recorded(expected)), "{text}");
}

/// Makes a connection of a recorded row.
fn connection_of(row: &str) -> Connection {
    let fields: Vec<&str> = row.split_whitespace().collect();
    let (minutes, seconds) = fields[1].split_once(':').unwrap();
    let seconds = minutes.parse::<u64>().unwrap() * 60 + seconds.parse::<u64>().unwrap();
    Connection {
        protocol: Protocol::Tcp,
        state: fields[2].to_owned(),
        expires_ms: seconds * 1000 + 999,
        client: fields[3].parse().unwrap(),
        virtual_address: fields[4].parse().unwrap(),
        server: fields[5].parse().unwrap(),
        worker: 0,
        method: None,
        template: false,
    }
}

#[test]
fn connections_are_as_recorded() {
    let text = recorded(CONNECTIONS);
    let rows: Vec<&str> = text.lines().skip(2).collect();
    assert_eq!(rows.len(), 12);
    let mut numeric = connections_title(false).to_owned();
    let mut with_names = numeric.clone();
    for row in rows {
        let row = connection_of(row);
        numeric += &connection(&row, &mut Names::numeric());
        with_names += &connection(&row, &mut named());
    }
    assert_eq!(numeric, text);
    // The second recording is a second younger.
    let age = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.get(10..).unwrap_or(line).to_owned()).collect()
    };
    assert_eq!(age(&with_names), age(&recorded(CONNECTIONS_NAMED)));
    assert_eq!(
        connections_title(true).lines().nth(1),
        Some(
            "pro expire state       source             virtual            destination        \
             pe name          pe_data"
        )
    );
}

#[test]
fn timeouts_are_one_line() {
    let values = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    assert_eq!(timeouts(&values), "Timeout (tcp tcpfin udp): 900 120 300\n");
}

/// The log names changes as the operator typed them.
#[test]
fn requests_as_commands() {
    use crate::api::Request;
    let service = ServiceId::Address {
        protocol: Protocol::Tcp,
        address: "192.168.1.100:80".parse().unwrap(),
    };
    let server = ServerSpec {
        address: "192.168.1.31:80".parse().unwrap(),
        method: Method::Dr,
        weight: 3,
        upper_threshold: 0,
        lower_threshold: 0,
    };
    let address = server.address;
    for (request, expected) in [
        (Request::Flush {}, "-C"),
        (Request::DeleteService { service }, "-D -t 192.168.1.100:80"),
        (
            Request::AddServer { service, server },
            "-a -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 3",
        ),
        (
            Request::DeleteServer { service, server: address },
            "-d -t 192.168.1.100:80 -r 192.168.1.31:80",
        ),
        (Request::Zero { service: None }, "-Z"),
        (Request::SetTimeouts { timeouts: Timeouts { tcp: 1, tcp_fin: 0, udp: 3 } }, "--set 1 0 3"),
    ] {
        assert_eq!(command(&request).as_deref(), Some(expected));
    }
    assert_eq!(command(&Request::Counters {}), None);
}
