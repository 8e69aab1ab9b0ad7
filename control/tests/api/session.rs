//! What an operator types.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use control::api::{ErrorCode, Request, Response, Settings};
use control::client::Client;
use control::daemon::saved::Saved;

use crate::Test;
use crate::bench::{Bench, FIN, RS1, RS2, Ran, VIP, client_address, refusal, tcp};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("the session of the LVS guide", guide),
    ("refusals: messages and exit codes", refusals),
    ("schedulers, their flags, thresholds", schedulers),
    ("save, clear, restore gives the same services", save_and_restore),
    ("every kind of service and server is listed, saved and restored", kinds),
    ("settings are read, set and survive a crash", settings),
    ("what is logged is read and set", log_filter),
    ("timeouts are set and take effect", timeouts),
    ("zero starts the counters again", zero),
    ("a deleted service comes back with its connections", trash),
    ("the rvsadm program, also as ipvsadm", program),
    ("rvsadm run becomes the program", becomes),
    ("IPv6 services", ipv6),
];

const TITLE: &str = "IP Virtual Server version 1.2.1 (size=32768)\n\
     Prot LocalAddress:Port Scheduler Flags\n  \
     -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n";
const STATS: &str = "\
IP Virtual Server version 1.2.1 (size=32768)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
";

fn row(server: &str, weight: u32, active: u32, inactive: u32) -> String {
    format!("  -> {server:<28} Route   {weight:<6} {active:<10} {inactive:<10}\n")
}

fn stats(name: &str, conns: u32, packets: u32, bytes: u32) -> String {
    format!("{name:<33} {conns:>8} {packets:>8} {:>8} {bytes:>8} {:>8}\n", 0, 0)
}

fn guide() {
    let bench = Bench::start(1);
    assert_eq!(bench.adm_ok("-Ln"), TITLE);
    for line in [
        "-A -t 192.168.1.100:80 -s rr",
        "-a -t 192.168.1.100:80 -r 192.168.1.31:80 -g",
        "-a -t 192.168.1.100:80 -r 192.168.1.32:80 -g",
    ] {
        assert_eq!(bench.adm_ok(line), "");
    }
    let rows = |first: String, second: String| {
        TITLE.to_owned() + "TCP  192.168.1.100:80 rr\n" + &first + &second
    };
    assert_eq!(bench.adm_ok("-Ln"), rows(row(RS1, 1, 0, 0), row(RS2, 1, 0, 0)));

    bench.connect([client_address(0), client_address(1)], VIP);
    assert_eq!(bench.adm_ok("-Ln"), rows(row(RS1, 1, 1, 0), row(RS2, 1, 1, 0)));
    // A SYN and an ACK of 40 bytes each.
    let counted = STATS.to_owned()
        + &stats("TCP  192.168.1.100:80", 2, 4, 160)
        + &stats("  -> 192.168.1.31:80", 1, 2, 80)
        + &stats("  -> 192.168.1.32:80", 1, 2, 80);
    assert_eq!(bench.adm_ok("-Ln --stats"), counted);

    let listed = bench.adm_ok("-Lnc");
    let lines: Vec<_> = listed.lines().collect();
    assert_eq!(
        lines[..2],
        [
            "IPVS connection entries",
            "pro expire state       source             virtual            destination",
        ]
    );
    let mut rows_seen: Vec<_> =
        lines[2..].iter().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    rows_seen.sort_by_key(|row| row[3]);
    // The first connection goes to the server added last.
    for (row, (client, server)) in
        rows_seen.iter().zip([("192.168.1.12:1024", RS2), ("192.168.1.12:1025", RS1)])
    {
        assert_eq!(
            [row[0], row[2], row[3], row[4], row[5]],
            ["TCP", "ESTABLISHED", client, VIP, server]
        );
        let (minutes, _) = row[1].split_once(':').unwrap();
        assert!(["14", "15"].contains(&minutes), "{}", row[1]);
    }
    assert_eq!(rows_seen.len(), 2);

    bench.receive([tcp(client_address(0), VIP, FIN)]);
    assert_eq!(bench.adm_ok("-Ln"), rows(row(RS1, 1, 1, 0), row(RS2, 1, 0, 1)));
    assert!(bench.adm_ok("-Lnc").contains(" FIN_WAIT    192.168.1.12:1024 "));

    // A server that is drained gets nothing new and keeps what it has.
    assert_eq!(bench.adm_ok("-e -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 0"), "");
    bench.connect((2..6).map(client_address), VIP);
    assert_eq!(bench.adm_ok("-Ln"), rows(row(RS1, 0, 1, 0), row(RS2, 1, 4, 1)));
    assert_eq!(bench.adm_ok("-d -t 192.168.1.100:80 -r 192.168.1.32"), "");
    assert_eq!(bench.adm_ok("-Ln"), rows(row(RS1, 0, 1, 0), String::new()));
    assert_eq!(bench.adm_ok("-E -t 192.168.1.100:80 -s wrr"), "");
    assert_eq!(bench.adm_ok("-Ln").lines().nth(3), Some("TCP  192.168.1.100:80 wrr"));
    assert_eq!(bench.adm_ok("-D -t 192.168.1.100:80"), "");
    assert_eq!(bench.adm_ok("-Ln"), TITLE);
}

fn schedulers() {
    let bench = Bench::start(1);
    let service = || bench.adm_ok("-Ln").lines().nth(3).unwrap().to_owned();
    bench.adm_ok("-A -t 192.168.1.100:80");
    assert_eq!(service(), "TCP  192.168.1.100:80 wlc");
    for name in ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sed", "nq", "fo", "ovf", "twos"]
    {
        bench.adm_ok(&format!("-E -t 192.168.1.100:80 -s {name}"));
        assert_eq!(service(), format!("TCP  192.168.1.100:80 {name}"));
    }
    bench.adm_ok("-E -t 192.168.1.100:80 -s mh -b mh-port,flag-1");
    assert_eq!(service(), "TCP  192.168.1.100:80 mh (mh-fallback,mh-port)");
    bench.adm_ok("-E -t 192.168.1.100:80 -s sh -b sh-fallback");
    assert_eq!(service(), "TCP  192.168.1.100:80 sh (sh-fallback)");

    // All of one client's connections go to one server, until that is full.
    bench.adm_ok("-a -t 192.168.1.100:80 -r 192.168.1.31 -x 3 -y 2");
    bench.adm_ok("-a -t 192.168.1.100:80 -r 192.168.1.32 -x 3 -y 2");
    bench.connect((0..4).map(client_address), VIP);
    let listed = bench.adm_ok("-Ln");
    let mut rows: Vec<_> = listed.lines().skip(4).map(|row| format!("{row}\n")).collect();
    rows.sort();
    let full = [row(RS1, 1, 1, 0), row(RS2, 1, 3, 0)];
    assert!(rows == full || rows == [row(RS1, 1, 3, 0), row(RS2, 1, 1, 0)], "{listed}");
    let thresholds = bench.adm_ok("-Ln --thresholds");
    let server = thresholds.lines().find(|line| line.contains(RS1)).unwrap();
    assert_eq!(server.split_whitespace().nth(2), Some("3"), "{thresholds}");
    assert_eq!(server.split_whitespace().nth(3), Some("2"), "{thresholds}");
    let edit = bench.adm("-e -t 192.168.1.100:80 -r 192.168.1.31 -x 3 -y 4");
    let hint = "the lower threshold 4 is greater than the upper threshold 3\n";
    assert_eq!(edit.code, 255);
    assert!(edit.stderr.ends_with(hint), "{edit:?}");
}

fn refusals() {
    let bench = Bench::with_guide(1);
    for (line, code, message) in [
        ("-A -t 192.168.1.100:80 -s rr", 255, "Service already exists\n"),
        ("-A -t 192.168.1.101:80 -s nonsense", 255, "Scheduler or persistence engine not found\n"),
        ("-E -t 192.168.1.101:80 -s rr", 255, "No such service\n"),
        ("-D -t 192.168.1.101:80", 255, "No such service\n"),
        ("-D -u 192.168.1.100:80", 255, "No such service\n"),
        ("-Z -t 192.168.1.101:80", 255, "No such service\n"),
        ("-a -t 192.168.1.101:80 -r 192.168.1.31", 255, "Service not defined\n"),
        ("-e -t 192.168.1.101:80 -r 192.168.1.31", 255, "Service not defined\n"),
        ("-a -t 192.168.1.100:80 -r 192.168.1.31", 255, "Destination already exists\n"),
        ("-e -t 192.168.1.100:80 -r 192.168.1.33", 255, "No such destination\n"),
        ("-d -t 192.168.1.100:80 -r 192.168.1.33", 255, "No such destination\n"),
        ("-L -n -t 192.168.1.101:80", 1, "No such service\n"),
        (
            "-A -t 192.168.1.101:80 -w 3",
            2,
            "Illegal 'weight' option with the 'add-service' command\n",
        ),
        ("--stop-daemon master", 255, "No daemon is running\n"),
    ] {
        let ran = bench.adm(line);
        assert_eq!(
            (ran.code, ran.stderr.as_str(), ran.stdout.as_str()),
            (code, message, ""),
            "{line}"
        );
    }
    for (line, hint) in [
        (
            "-A -u 192.168.1.101:80 -s rr -p --pe sip",
            "persistence engines (sip) are not supported\n",
        ),
        ("-A -u 192.168.1.101:80 --mss 1400", "only TCP has an MSS\n"),
        (
            "-E -t 192.168.1.100:80 -s sh --take-up",
            "connections are taken up (--take-up) under the scheduler mh only, by which every director finds the same server\n",
        ),
        (
            "-a -t 192.168.1.100:80 -r 192.168.1.33 -b",
            "FullNat server 192.168.1.33 needs an IPv4 local address of its service: edit the service with --local-address\n",
        ),
    ] {
        let ran = bench.adm(line);
        assert_eq!(ran.code, 255, "{line}");
        assert!(ran.stderr.ends_with(hint), "{line}: {ran:?}");
    }
    let multicast = bench.adm("-a -t 192.168.1.100:80 -r 224.0.0.1");
    assert_eq!(multicast.code, 255);
    assert!(
        multicast.stderr.ends_with("rvsd: 224.0.0.1 is not a unicast address\n"),
        "{multicast:?}"
    );
    // Nothing of all that changed anything.
    assert_eq!(
        bench.adm_ok("-Sn"),
        "-A -t 192.168.1.100:80 -s rr\n\
         -a -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 1\n\
         -a -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 1\n"
    );
}

/// Saved lines, in the order of the listing, which restore the same.
const KINDS: &str = "\
-A -t 192.168.1.100:0 -s rr -p 300 -M 255.255.255.0
-a -t 192.168.1.100:0 -r 10.0.0.31:0 -m -w 1
-A -t 192.168.1.100:80 -s wlc --local-address 10.0.0.1,fd00::1 --client-address proxy --mss 1400
-a -t 192.168.1.100:80 -r 10.0.0.31:8080 -b -w 1
-a -t 192.168.1.100:80 -r 10.0.0.32:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum
-A -t 192.168.1.100:443 -s mh -b mh-port --take-up
-a -t 192.168.1.100:443 -r 10.0.0.31:443 -g -w 1
-A -u 192.168.1.100:53 -s rr -o
-a -u 192.168.1.100:53 -r 10.0.0.31:5353 -m -w 1
-A --sctp-service 192.168.1.100:9 -s rr
-a --sctp-service 192.168.1.100:9 -r 10.0.0.31:9 -i -w 1 --tun-type ipip
-A -f 7 -s rr
-a -f 7 -r 10.0.0.31:0 -m -w 1
-A -f 7 -6 -s rr
-a -f 7 -6 -r [fd00::31]:0 -g -w 1
";

fn kinds() {
    let bench = Bench::start(1);
    let restored = bench.adm_with("-R", KINDS);
    assert_eq!((restored.code, restored.stderr.as_str()), (0, ""));
    assert_eq!(bench.adm_ok("-Sn"), KINDS);
    let listed = bench.adm_ok("-Ln --tun-info");
    for row in [
        "TCP  192.168.1.100:0 rr persistent 300 mask 255.255.255.0",
        "  -> 10.0.0.31:0                  Masq    n/a           1      0          0         ",
        "TCP  192.168.1.100:80 wlc",
        "  -> 10.0.0.31:8080               FullNat n/a           1      0          0         ",
        "  -> 10.0.0.32:80                 Tunnel  gue:6080:+c   1      0          0         ",
        "UDP  192.168.1.100:53 rr ops",
        "SCTP 192.168.1.100:9 rr",
        "FWM  7 rr",
        "FWM  7 IPv6 rr",
    ] {
        assert!(listed.lines().any(|line| line.trim_end() == row.trim_end()), "{row}\n{listed}");
    }
    for view in ["--stats", "--rate", "--thresholds", "--persistent-conn"] {
        assert_eq!(bench.adm_ok(&format!("-Ln {view}")).lines().count(), 3 + 15, "{view}");
    }
    bench.adm_ok("-d -f 7 -r 10.0.0.31");
    bench.adm_ok("-e -u 192.168.1.100:53 -r 10.0.0.31:5353 -m -w 0");
    let edit = bench.adm("-e -u 192.168.1.100:53 -r 10.0.0.31 -m -w 0");
    assert_eq!((edit.code, edit.stderr.as_str()), (255, "No such destination\n"));
}

fn settings() {
    let bench = Bench::start(1);
    let mut client = bench.client();
    assert_eq!(client.settings().unwrap(), Settings::default());
    let set = |name: &str, value| Request::SetSetting { name: name.into(), value };
    client.change(&set("expire_nodest_conn", 1)).unwrap();
    assert_eq!(refusal(&mut client, &set("sloppy", 1)), ErrorCode::InvalidArgument);
    let wanted = Settings { expire_nodest_conn: 1, ..Settings::default() };
    assert_eq!(client.settings().unwrap(), wanted);
    let kept = Saved::new(bench.socket.parent().unwrap()).load().unwrap();
    assert_eq!(kept.changes, [set("expire_nodest_conn", 1)]);
}

fn save_and_restore() {
    let bench = Bench::start(2);
    let rules = "\
-A -t 192.168.1.100:80 -s rr
-a -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 1
-a -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 7
-A -u 192.168.1.100:53 -s wrr
-a -u 192.168.1.100:53 -r 192.168.1.31:53 -g -w 0
-a -u 192.168.1.100:53 -r 192.168.1.32:53 -g -w 65535
";
    let silent = Ran { code: 0, stdout: String::new(), stderr: String::new() };
    assert_eq!(bench.adm_with("-R", rules), silent);
    assert_eq!(bench.adm_ok("-S -n"), rules);
    assert_eq!(bench.adm_ok("-C"), "");
    assert_eq!(bench.adm_ok("-S -n"), "");
    assert_eq!(bench.adm_with("--restore", rules), silent);
    assert_eq!(bench.adm_ok("--save -n"), rules);

    // What is there already is named; what comes after it is carried out.
    let ran = bench.adm_with("-R", &rules.replace("-s rr\n", "-s rr\n-D -u 192.168.1.100:53\n"));
    assert_eq!(ran.code, 255);
    assert_eq!(
        ran.stderr,
        "line 1: -A -t 192.168.1.100:80 -s rr: Service already exists\n\
         line 3: -a -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 1: Destination already exists\n\
         line 4: -a -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 7: Destination already exists\n\
         The lines named above are not in force.\n"
    );
    assert_eq!(bench.adm_ok("-S -n"), rules);
}

fn timeouts() {
    let bench = Bench::with_guide(1);
    assert_eq!(bench.adm_ok("-L --timeout"), "Timeout (tcp tcpfin udp): 900 120 300\n");
    assert_eq!(bench.adm_ok("--set 60 0 7"), "");
    assert_eq!(bench.adm_ok("-L --timeout"), "Timeout (tcp tcpfin udp): 60 120 7\n");
    bench.connect([client_address(0)], VIP);
    let listed = bench.adm_ok("-Lnc");
    let expires = listed.lines().nth(2).unwrap().split_whitespace().nth(1).unwrap();
    assert!(["01:00", "00:59", "00:58"].contains(&expires), "{listed}");
    let refused = bench.adm("--set 0 0 2678401");
    assert_ne!(refused.code, 0);
    assert_eq!(bench.adm_ok("-L --timeout"), "Timeout (tcp tcpfin udp): 60 120 7\n");
}

fn zero() {
    let bench = Bench::with_guide(1);
    bench.adm_ok("-A -t 192.168.1.101:80 -s rr");
    bench.adm_ok("-a -t 192.168.1.101:80 -r 192.168.1.31");
    bench.connect([client_address(0), client_address(1)], VIP);
    bench.connect([client_address(0)], "192.168.1.101:80");
    bench.adm_ok("-Z -t 192.168.1.100:80");
    let zeroed = STATS.to_owned()
        + &stats("TCP  192.168.1.100:80", 0, 0, 0)
        + &stats("  -> 192.168.1.31:80", 0, 0, 0)
        + &stats("  -> 192.168.1.32:80", 0, 0, 0);
    let other = stats("TCP  192.168.1.101:80", 1, 2, 80) + &stats("  -> 192.168.1.31:80", 1, 2, 80);
    assert_eq!(bench.adm_ok("-Ln --stats"), zeroed + &other);
    bench.connect([client_address(2)], VIP);
    bench.adm_ok("-Z");
    let text = bench.adm_ok("-Ln --stats");
    for line in text.lines().skip(3) {
        assert!(line.ends_with(&stats("", 0, 0, 0).trim_end()[33..]), "{line}");
    }
    // Connections are not counters.
    assert!(bench.adm_ok("-Ln -t 192.168.1.100:80").contains(&row(RS2, 1, 2, 0)));
}

fn trash() {
    let bench = Bench::with_guide(2);
    bench.connect((0..10).map(client_address), VIP);
    bench.adm_ok("-D -t 192.168.1.100:80");
    // Its connections live on, unable to forward.
    assert_eq!(bench.adm_ok("-Lnc").lines().count(), 12);
    bench.receive((0..10).map(|n| tcp(client_address(n), VIP, crate::bench::ACK)));
    let dropped: u64 = crate::bench::counters(&mut bench.client())
        .iter()
        .flat_map(|worker| &worker.drops)
        .filter(|drop| drop.reason == "server_deleted")
        .map(|drop| drop.count)
        .sum();
    assert_eq!(dropped, 10);

    bench.adm_ok("-A -t 192.168.1.100:80 -s rr");
    bench.adm_ok("-a -t 192.168.1.100:80 -r 192.168.1.31");
    let shown = bench.adm_ok("-Ln -t 192.168.1.100:80");
    assert!(
        shown.ends_with(&("TCP  192.168.1.100:80 rr\n".to_owned() + &row(RS1, 1, 5, 0))),
        "{shown}"
    );
    // Its connections come back with it, but another service counts from 0.
    let text = bench.adm_ok("-Ln --stats");
    let expected =
        stats("TCP  192.168.1.100:80", 0, 0, 0) + &stats("  -> 192.168.1.31:80", 0, 0, 0);
    assert!(text.ends_with(&expected), "{text}");
}

fn ipv6() {
    let bench = Bench::start(1);
    bench.adm_ok("-A -t [fd00:1::100]:80 -s rr");
    bench.adm_ok("-a -t [fd00:1::100]:80 -r [fd00:1::31]:80 -g -w 3");
    let text = bench.adm_ok("-Ln");
    assert_eq!(
        text,
        TITLE.to_owned() + "TCP  [fd00:1::100]:80 rr\n" + &row("[fd00:1::31]:80", 3, 0, 0)
    );
    let mixed = bench.adm("-a -t [fd00:1::100]:80 -r 192.168.1.31");
    assert_eq!((mixed.code, mixed.stdout.as_str()), (2, ""), "{mixed:?}");
}

/// The program sees the library and the socket, and its exit code is rvsadm's.
fn becomes() {
    let bench = Bench::start(1);
    let library = bench.directory.0.join("library.so");
    std::fs::write(&library, "").unwrap();
    let run = |library: &Path, line: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rvsadm"));
        command.args(["run", "--socket", "dir/../rvsd.sock", "--"]).args(line);
        command.env("RVS_PRELOAD", library).env("LD_PRELOAD", "").current_dir("/");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    // ld.so tells that the library is none, and goes on.
    let script = "echo $LD_PRELOAD $RVS_SOCKET $1; exit 7";
    let (code, stdout, _) = run(&library, &["sh", "-c", script, "sh", "-Ln"]);
    let expected = format!("{} /dir/../rvsd.sock -Ln\n", library.display());
    assert_eq!((code, stdout), (Some(7), expected));
    let (code, _, stderr) = run(&library, &["/nonexistent/program"]);
    assert_eq!(code, Some(127), "{stderr}");
    assert!(stderr.contains("Can't run /nonexistent/program: No such file"), "{stderr}");
    let (code, stdout, stderr) = run(&bench.directory.0.join("none.so"), &["echo", "ran"]);
    assert_eq!((code, stdout.as_str()), (Some(125), ""), "nothing runs without the library");
    assert!(stderr.starts_with("Can't find librvs_ipvs.so. It is not at "), "{stderr}");
}

fn program() {
    let bench = Bench::start(1);
    let rvsadm = Path::new(env!("CARGO_BIN_EXE_rvsadm"));
    let ipvsadm = bench.directory.0.join("ipvsadm");
    std::os::unix::fs::symlink(rvsadm, &ipvsadm).unwrap();
    for program in [rvsadm, &ipvsadm] {
        let run = |line: &str, stdin: &str| run_program(program, &bench.socket, line, stdin);
        let ok = |line: &str| {
            let ran = run(line, "");
            assert_eq!((ran.code, ran.stderr.as_str()), (0, ""), "{line}");
            ran.stdout
        };
        if program == rvsadm {
            ok("set net.ipv4.vs.sloppy_tcp 1");
            assert!(ok("show settings").contains("sloppy_tcp = 1\n"));
            let wrong = run("set sloppy_tcp 2", "");
            let message = "setting sloppy_tcp 2 is not 0 to 1\n";
            assert_eq!((wrong.code, wrong.stderr.as_str()), (1, message));
        }
        // Without arguments: the listing.
        assert_eq!(ok(""), TITLE);
        ok("-A -t 192.168.1.100:http -s rr");
        ok("-a -t 192.168.1.100:80 -r 192.168.1.31:80 -g");
        assert_eq!(ok("-Ln"), TITLE.to_owned() + "TCP  192.168.1.100:80 rr\n" + &row(RS1, 1, 0, 0));
        let named = ok("-L");
        assert!(named.lines().nth(3).unwrap().ends_with(":http rr"), "{named}");
        let again = run("-A -t 192.168.1.100:80 -s rr", "");
        let message = "Service already exists\n".to_owned();
        assert_eq!(again, Ran { code: 255, stdout: String::new(), stderr: message });
        assert_eq!(run("-L -t 9.9.9.9:9", "").code, 1);
        assert_eq!(run("-A", "").code, 2);
        let saved = ok("-Sn");
        ok("-C");
        assert_eq!(run("-R", &saved).code, 0);
        assert_eq!(ok("-Sn"), saved);
        ok("-C");
        assert!(ok("-v").starts_with("rvsadm v"));
    }
    assert!(
        run_program(rvsadm, &bench.socket, "show workers", "")
            .stdout
            .starts_with("worker 0, core 0\n")
    );
    // The same words are a mistake of ipvsadm's.
    assert_eq!(run_program(&ipvsadm, &bench.socket, "show workers", "").code, 255);
    let nowhere = run_program(rvsadm, Path::new("/nonexistent/rvsd.sock"), "-Ln", "");
    assert_eq!(nowhere.code, 2);
    assert!(nowhere.stderr.starts_with("Can't reach rvsd: there is no socket /nonexistent/"));
}

pub(crate) fn run_program(program: &Path, socket: &Path, line: &str, stdin: &str) -> Ran {
    let mut child = Command::new(program)
        .args(line.split_whitespace())
        .env("RVS_SOCKET", socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran {
        code: output.status.code().expect("an exit code") as u8,
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// What is logged is the same for the whole process: put back at the end.
fn log_filter() {
    let bench = Bench::start(1);
    let mut client = bench.client();
    let log = |client: &mut Client| match client.call(&Request::Settings {}).unwrap() {
        Response::Settings { log, .. } => log,
        other => panic!("{other:?}"),
    };
    assert_eq!(log(&mut client), "info");
    client.change(&Request::SetLog { filter: "dataplane=debug,warn".into() }).unwrap();
    assert_eq!(log(&mut client), "dataplane=debug,warn");
    let wrong = Request::SetLog { filter: "dataplane=loud".into() };
    assert_eq!(refusal(&mut client, &wrong), ErrorCode::InvalidArgument);
    assert_eq!(log(&mut client), "dataplane=debug,warn");
    client.change(&Request::SetLog { filter: "info".into() }).unwrap();
}
