//! Changes by Debian's ipvsadm, on a real daemon, and what it says when one is
//! refused: the words and exit codes that were recorded from a kernel.

use crate::bench::{Bench, Ran, client_address};
use crate::{Row, debian, ours, preloaded, ran};

pub(crate) const TESTS: &[Row] = &[
    ("a recorded session, by Debian's ipvsadm", "ipvsadm", || session(debian)),
    ("a recorded session, by rvsadm", "sh", || session(ours)),
    ("Debian's ipvsadm restores and lists all that it saves", "ipvsadm", restore),
    ("connections are read from /proc", "ipvsadm", connections),
    ("a director that is away is an error", "ipvsadm", away),
    ("other files pass through", "cat", other_files),
];

const SERVICES: &str = "\
-A -t 10.0.1.100:80 -s rr
-a -t 10.0.1.100:80 -r 10.0.2.11:80 -m -w 1
-a -t 10.0.1.100:80 -r 10.0.2.12:80 -m -w 2
-A -t 10.0.1.101:80 -s wlc -p 60 -M 255.255.255.0
-a -t 10.0.1.101:80 -r 10.0.1.11:80 -g -w 1
-a -t 10.0.1.101:80 -r 10.0.1.12:80 -g -w 1
-A -t 10.0.1.102:80 -s sh -b sh-fallback,sh-port
-a -t 10.0.1.102:80 -r 10.0.1.11:80 -i -w 1 --tun-type ipip
-A -u 10.0.1.103:53 -s mh -o -b mh-port
-a -u 10.0.1.103:53 -r [fd01::12]:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum
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

/// Commands with what they print and their exit codes, as recorded. The lines
/// that rvsd adds to the kernel's words are left out of the comparison.
const RECORDED: &[(&str, &str, u8)] = &[
    ("-A -t 10.0.1.100:80", "Service already exists\n", 255),
    ("-A -t 10.0.1.105:80 -s foo", "Scheduler or persistence engine not found\n", 255),
    ("-D -t 9.9.9.9:1", "No such service\n", 255),
    ("-a -t 10.0.1.100:80 -r 10.0.2.11:80 -m", "Destination already exists\n", 255),
    ("-a -t 10.0.1.200:80 -r 10.0.2.11:80 -m", "Service not defined\n", 255),
    ("-d -t 10.0.1.100:80 -r 1.1.1.1:80", "No such destination\n", 255),
    ("-e -t 10.0.1.100:80 -r 1.1.1.1:80", "No such destination\n", 255),
    ("--set 100 20 30", "", 0),
    ("-Ln --timeout", "Timeout (tcp tcpfin udp): 100 20 30\n", 0),
    ("-Z", "", 0),
    ("-A -t 10.0.1.100:0", "Zero port specified for non-persistent service\n", 2),
    ("-A -t 10.0.1.100:81 -o", "One-Packet Scheduling is only for UDP virtual services\n", 2),
    (
        "-a -t 10.0.1.100:80 -r fd02::11 -m",
        "Different address family is allowed only for tunneling servers\n",
        2,
    ),
    ("--stop-daemon backup", "No daemon is running\n", 255),
    ("-A -t 10.0.1.77:80 -p 3 -s wlc", "", 0),
    (
        "-a -t 10.0.1.77:80 -r 0.0.0.0:80 -m",
        "Invalid operation.  Possibly wrong module version, address not unicast, ...\n",
        255,
    ),
    ("-a -t 10.0.1.77:80 -r 10.0.1.1:8080 -m", "", 0),
    ("-a -t 10.0.1.77:80 -r 10.0.1.13:8080 -g", "", 0),
    (
        "-Ln -t 10.0.1.77:80",
        "Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.1.77:80 wlc persistent 3
  -> 10.0.1.1:8080                Masq    1      0          0         
  -> 10.0.1.13:80                 Route   1      0          0         
",
        0,
    ),
    ("-E -t 10.0.1.77:80 -s rr", "", 0),
    (
        "-Ln -t 10.0.1.77:80",
        "Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  10.0.1.77:80 rr
  -> 10.0.1.1:8080                Masq    1      0          0         
  -> 10.0.1.13:80                 Route   1      0          0         
",
        0,
    ),
    ("-e -t 10.0.1.77:80 -r 10.0.1.1:8080 -m -w 9 -x 20 -y 10", "", 0),
    (
        "-Ln --thresholds -t 10.0.1.77:80",
        "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn 
  -> RemoteAddress:Port
TCP  10.0.1.77:80 rr
  -> 10.0.1.1:8080                20         10         0          0         
  -> 10.0.1.13:80                 0          0          0          0         
",
        0,
    ),
    ("-d -t 10.0.1.77:80 -r 10.0.1.1:8080", "", 0),
    ("-D -t 10.0.1.77:80", "", 0),
    ("-Ln -t 10.0.1.77:80", "No such service\n", 1),
    ("-D -f 7", "", 0),
    ("-Ln -f 7", "No such service\n", 1),
    ("-C", "", 0),
    (
        "-Ln",
        "IP Virtual Server version 1.2.1 (size=32768)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
",
        0,
    ),
    ("-Sn", "", 0),
];

fn session(adm: fn(&str, &str, &std::path::Path) -> Ran) {
    let bench = Bench::start(1);
    assert_eq!(adm("-R", SERVICES, &bench.socket).code, 0);
    for &(line, printed, code) in RECORDED {
        let ran = adm(line, "", &bench.socket);
        let all = ran.stdout + &ran.stderr;
        let said: String =
            all.split_inclusive('\n').filter(|line| !line.starts_with("rvsd: ")).collect();
        assert_eq!((said.as_str(), ran.code), (printed, code), "{line}");
    }
}

fn restore() {
    let bench = Bench::start(1);
    let restored = debian("-R", SERVICES, &bench.socket);
    assert_eq!(restored, Ran { code: 0, stdout: String::new(), stderr: String::new() });
    let saved = debian("-Sn", "", &bench.socket);
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&saved.stdout), sorted(SERVICES));
    // rvsd itself has understood the same.
    for line in ["-Sn", "-Ln --thresholds", "-Ln --tun-info", "-Ln --stats", "-Ln"] {
        assert_eq!(debian(line, "", &bench.socket), bench.adm(line), "{line}");
    }
    let refused = debian("-A -u 10.0.1.100:5060 -p 120 --pe sip", "", &bench.socket);
    let stderr = "rvsd: persistence engines (sip) are not supported\nProtocol not supported\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (255, stderr));
    let refused = debian("--start-daemon master --mcast-interface lo", "", &bench.socket);
    assert_eq!(refused.code, 255);
    assert!(refused.stderr.starts_with("Connection synchronisation is not"), "{refused:?}");
}

fn connections() {
    let bench = Bench::with_guide(1);
    bench.connect([client_address(0), client_address(1)], crate::bench::VIP);
    let listed = debian("-Lnc", "", &bench.socket);
    assert_eq!((listed.code, listed.stderr.as_str()), (0, ""));
    let mut rows: Vec<Vec<&str>> =
        listed.stdout.lines().skip(2).map(|row| row.split_whitespace().collect()).collect();
    rows.sort_by_key(|row| row[3]);
    for (row, (client, server)) in rows
        .iter()
        .zip([("192.168.1.12:1024", crate::bench::RS2), ("192.168.1.12:1025", crate::bench::RS1)])
    {
        let seen = [row[0], row[2], row[3], row[4], row[5]];
        assert_eq!(seen, ["TCP", "ESTABLISHED", client, crate::bench::VIP, server]);
    }
    assert_eq!(rows.len(), 2);
}

fn away() {
    let nowhere = std::path::Path::new("/nonexistent/rvsd.sock");
    for line in ["-Ln", "-A -t 1.2.3.4:80", "-C", "-L --timeout"] {
        let ran = debian(line, "", nowhere);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{line}");
        assert!(
            ran.stderr.contains("Can't reach rvsd: there is no socket /nonexistent/rvsd.sock.")
                && ran.stderr.contains("Can't initialize ipvs: No such device"),
            "{line}: {}",
            ran.stderr
        );
    }
}

fn other_files() {
    let bench = Bench::with_guide(1);
    let cat = |path: &str| {
        let mut command = preloaded("cat", &bench.socket);
        command.arg(path);
        ran(command, "")
    };
    let services = cat("/proc/net/ip_vs");
    assert!(services.stdout.contains("\nTCP  C0A80164:0050 rr  \n"), "{services:?}");
    let stats = cat("/proc/net/ip_vs_stats");
    assert!(stats.stdout.starts_with("   Total Incoming Outgoing  "), "{stats:?}");
    assert_eq!(cat("/proc/version").stdout, std::fs::read_to_string("/proc/version").unwrap());
    assert_eq!(cat("/proc/net/ip_vs_app").code, 1);
}
