//! The file read again, states saved and restored, servers drained.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use control::api::{ErrorCode, Request, Response, ServerStatus, ServiceStatus, Settings, Timeouts};
use control::client::{Client, ClientError};
use control::commands::{self, Command};
use control::daemon::saved::Saved;
use control::show::Show;

use crate::Test;
use crate::bench::{
    Bench, Directory, RS1, RS2, VIP, client_address, connections, eventually, id, refusal, server,
    service,
};

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("a reload does what is different and nothing else", difference),
    ("while the file is read, others are answered", slow_file),
    ("a wrong file changes nothing and says what is wrong", wrong_file),
    ("changes at run time stay, are shown, and go on request", run_time),
    ("a start goes on where the last one ended, and follows the file", start),
    ("what was saved is restored exactly, and only what differs is touched", restored),
    ("a restore with an error changes nothing and names the line", wrong_line),
    ("a drained server runs empty and comes back", drained),
    ("of 10,000 services a reload touches the ten that changed", many),
];

const HEAD: &str = r#"
[director]
cores = [1]
[[port]]
name = "lan"
device = "0000:01:00.0"
"#;
const GUIDE: &str = r#"
[[service]]
protocol = "tcp"
address = "192.168.1.100:80"
scheduler = "rr"
[[service.server]]
address = "192.168.1.31"
[[service.server]]
address = "192.168.1.32"
"#;
const OTHER: &str = r#"
[[service]]
protocol = "udp"
address = "192.168.1.100:53"
"#;

fn write(bench: &Directory, text: &str) {
    fs::write(bench.0.join("rvsd.toml"), text).unwrap();
}

fn bench(text: &str) -> Bench {
    let directory = Directory::new();
    write(&directory, text);
    Bench::with_file(directory)
}

/// What a command printed, or why it failed.
fn run(bench: &Bench, command: &Command) -> Result<String, String> {
    let mut out = Vec::new();
    commands::run(&bench.socket, command, &mut out).map_err(|failure| failure.to_string())?;
    Ok(String::from_utf8(out).unwrap())
}

fn reload(bench: &Bench) -> Result<String, String> {
    run(bench, &Command::Reload { dry_run: false, exact: false, json: false })
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    show: Show,
}

fn shown(bench: &Bench, topic: &str) -> String {
    let line: Line = clap::Parser::parse_from(["show", topic]);
    let mut out = Vec::new();
    line.show.run(&bench.socket, None, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn status(client: &mut Client) -> ServiceStatus {
    client.services(Some(id(VIP))).unwrap().services.remove(0)
}

fn of<'a>(status: &'a ServiceStatus, address: &str) -> &'a ServerStatus {
    let address = address.parse().unwrap();
    status.servers.iter().find(|server| server.spec.address == address).unwrap()
}

fn difference() {
    let bench = bench(&[HEAD, GUIDE, OTHER].concat());
    let mut client = bench.client();
    bench.connect((0..10).map(client_address), VIP);
    let before = status(&mut client);
    assert_eq!(before.servers.iter().map(|s| s.active).sum::<u32>(), 10);
    assert!(of(&before, RS1).stats.connections > 0);

    let text =
        [HEAD, GUIDE, "weight = 3\n[timeouts]\ntcp = 100\n[settings]\nsloppy_tcp = 1\n"].concat();
    let text = text.replace("cores = [1]", "cores = [2]");
    write(&bench.directory, &text);
    let expected = "\
--set 100 0 0
set sloppy_tcp 1
-D -u 192.168.1.100:53
-e -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 3
needs a restart of rvsd: director.cores
";
    let dry = Command::Reload { dry_run: true, exact: false, json: false };
    assert_eq!(run(&bench, &dry).unwrap(), expected);
    assert_eq!(status(&mut client), before, "a dry run does nothing");
    let dry = Command::Reload { dry_run: true, exact: false, json: true };
    let json: Response = serde_json::from_str(&run(&bench, &dry).unwrap()).unwrap();
    let Response::Difference { changes, restart } = json else { panic!("{json:?}") };
    assert_eq!((changes.len(), restart), (4, vec!["director.cores".to_owned()]));

    assert_eq!(reload(&bench).unwrap(), expected);
    let after = status(&mut client);
    assert_eq!(of(&after, RS1), of(&before, RS1), "counters and connections are the same");
    assert_eq!(of(&after, RS2).spec, server(RS2, 3));
    assert_eq!(of(&after, RS2).active, of(&before, RS2).active);
    assert_eq!(client.services(None).unwrap().services.len(), 1);
    assert_eq!(client.timeouts().unwrap(), Timeouts { tcp: 100, tcp_fin: 120, udp: 300 });
    assert_eq!(client.settings().unwrap(), Settings { sloppy_tcp: 1, ..Settings::default() });
    assert_eq!(connections(&mut client).0.len(), 10);
    assert_eq!(reload(&bench).unwrap(), "needs a restart of rvsd: director.cores\n");
    assert!(shown(&bench, "config").ends_with("needs a restart of rvsd: director.cores\n"));
    write(&bench.directory, &text.replace("cores = [2]", "cores = [1]"));
    assert_eq!(reload(&bench).unwrap(), "Nothing is different.\n");
    assert!(!shown(&bench, "config").contains("restart"));
    // The record and the form of the file that it goes with are on disk.
    let saved = Saved::new(&bench.directory.0);
    let applied = saved.load_applied().unwrap();
    assert_eq!(applied.services[0].servers, [server(RS1, 1), server(RS2, 3)]);
    // The services that it began with, then the changes.
    assert_eq!(saved.load().unwrap().changes.len(), 4 + 4);
}

/// The file is a pipe, so that it is read as slowly as the test likes.
fn slow_file() {
    let bench = bench(&[HEAD, GUIDE].concat());
    let file = bench.directory.0.join("rvsd.toml");
    fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::thread::scope(|scope| {
        let reloads: Vec<_> = (0..2).map(|_| scope.spawn(|| reload(&bench))).collect();
        // Opens when the daemon has, too.
        let mut pipe = fs::File::options().write(true).open(&file).unwrap();
        let mut client = bench.client();
        client.change(&Request::EditServer { service: id(VIP), server: server(RS1, 9) }).unwrap();
        assert_eq!(of(&status(&mut client), RS1).spec.weight, 9);
        assert!(reloads.iter().all(|reload| !reload.is_finished()));
        pipe.write_all([HEAD, GUIDE, "weight = 3\n"].concat().as_bytes()).unwrap();
        drop(pipe);
        eventually("the first reload", || of(&status(&mut client), RS2).spec.weight == 3);
        // The other one reads the file after that, and finds nothing.
        let mut pipe = fs::File::options().write(true).open(&file).unwrap();
        pipe.write_all([HEAD, GUIDE, "weight = 3\n"].concat().as_bytes()).unwrap();
        drop(pipe);
        let mut said: Vec<_> =
            reloads.into_iter().map(|reload| reload.join().unwrap().unwrap()).collect();
        said.sort();
        let edit = "-e -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 3\n";
        assert_eq!(said, [edit, "Nothing is different.\n"]);
    });
    assert_eq!(of(&status(&mut bench.client()), RS1).spec.weight, 9, "at run time");
}

fn wrong_file() {
    let bench = bench(&[HEAD, GUIDE].concat());
    let mut client = bench.client();
    let before = client.services(None).unwrap();
    write(&bench.directory, &[HEAD, GUIDE, "weight = 70000\n", OTHER].concat());
    let file = bench.directory.0.join("rvsd.toml");
    let expected = format!(
        "{}:16: service[0].server[1].weight: 70000 is out of range; give an integer from 0 to 65535",
        file.display()
    );
    assert_eq!(reload(&bench).unwrap_err(), expected);
    let reload_request = Request::Reload { dry_run: true, exact: true };
    assert_eq!(refusal(&mut client, &reload_request), ErrorCode::BadConfiguration);
    fs::remove_file(&file).unwrap();
    assert!(reload(&bench).unwrap_err().contains("rvsd.toml: cannot be read: No such file"));
    assert_eq!(client.services(None).unwrap(), before);

    // One that is right, but not together with what was done by hand.
    let fullnat = [HEAD, OTHER, "local_addresses = [\"192.168.1.22\"]\n"].concat();
    write(&bench.directory, &fullnat);
    reload(&bench).unwrap();
    bench.adm_ok("-a -u 192.168.1.100:53 -r 10.0.0.1:53 -b");
    write(&bench.directory, &[HEAD, GUIDE, OTHER].concat());
    let error = reload(&bench).unwrap_err();
    assert!(error.contains("nothing was done: -E -u 192.168.1.100:53 -s wlc: FullNat"), "{error}");
    assert_eq!(client.services(None).unwrap().services.len(), 1, "not even the other service");
    // A daemon without a file.
    let bare = Bench::start(1);
    assert_eq!(refusal(&mut bare.client(), &reload_request), ErrorCode::Unsupported);
}

fn run_time() {
    let bench = bench(&[HEAD, GUIDE, OTHER].concat());
    bench.adm_ok("-e -t 192.168.1.100:80 -r 192.168.1.31 -g -w 7");
    bench.adm_ok("-a -t 192.168.1.100:80 -r 192.168.1.33 -g");
    bench.adm_ok("-A -t 192.168.1.100:443 -s rr");
    bench.adm_ok("-D -u 192.168.1.100:53");
    bench.adm_ok("--set 0 0 60");
    let origins = |topic: &str| -> Vec<String> {
        let text = shown(&bench, topic);
        let rows = text.lines().skip(1).map(|line| line.split_whitespace());
        rows.map(|words| {
            let words: Vec<_> = words.collect();
            format!("{} {}", words[if topic == "servers" { 2 } else { 1 }], words[words.len() - 1])
        })
        .collect()
    };
    assert_eq!(origins("services"), ["192.168.1.100:443 runtime", "192.168.1.100:80 changed"]);
    let expected = ["192.168.1.33:80 runtime", "192.168.1.32:80 file", "192.168.1.31:80 changed"];
    assert_eq!(origins("servers"), expected);
    let file = bench.directory.0.join("rvsd.toml");
    let changes = "changed at run time:
  --set 0 0 60
  -D -u 192.168.1.100:53
  -e -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 7
  -a -t 192.168.1.100:80 -r 192.168.1.33:80 -g -w 1
  -A -t 192.168.1.100:443 -s rr
";
    assert_eq!(shown(&bench, "config"), format!("file {}\n{changes}", file.display()));
    // The file is as it was.
    assert_eq!(reload(&bench).unwrap(), "Nothing is different.\n");
    // It says something new about the other server.
    write(&bench.directory, &[HEAD, GUIDE, "weight = 2\n", OTHER].concat());
    assert_eq!(reload(&bench).unwrap(), "-e -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 2\n");
    assert_eq!(of(&status(&mut bench.client()), RS1).spec.weight, 7);
    let exact = Command::Reload { dry_run: false, exact: true, json: false };
    let undone = "\
--set 0 0 300
-D -t 192.168.1.100:443
-d -t 192.168.1.100:80 -r 192.168.1.33:80
-e -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 1
-A -u 192.168.1.100:53 -s wlc
";
    assert_eq!(run(&bench, &exact).unwrap(), undone);
    assert!(shown(&bench, "config").ends_with("nothing was changed at run time\n"));
    assert!(shown(&bench, "services").lines().skip(1).all(|line| line.ends_with(" file")));
}

/// The daemon of a bench never ends, so its directory is copied as it is: what a
/// kill would leave.
fn start() {
    let first = bench(&[HEAD, GUIDE, OTHER].concat());
    first.adm_ok("-e -t 192.168.1.100:80 -r 192.168.1.31 -g -w 7");
    first.adm_ok("-A -t 192.168.1.100:443 -s rr");
    let server = [192, 168, 1, 32].into();
    let drain = Request::Drain { server, port: Some(80), service: None };
    first.client().change(&drain).unwrap();
    let copy = Directory::new();
    for file in ["services.json", "applied.json"] {
        fs::copy(first.directory.0.join(file), copy.0.join(file)).unwrap();
    }
    // Edited while rvsd was down.
    write(&copy, &[HEAD, GUIDE, "[timeouts]\nudp = 60\n"].concat());
    let second = Bench::with_file(copy);
    let mut client = second.client();
    let names = |client: &mut Client| {
        let services = client.services(None).unwrap().services;
        services.iter().map(|service| service.spec.id).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut client), [id("192.168.1.100:443"), id(VIP)]);
    assert_eq!(client.timeouts().unwrap().udp, 60);
    let weights = |client: &mut Client| {
        let status = status(client);
        [RS1, RS2].map(|address| of(&status, address).spec.weight)
    };
    assert_eq!(weights(&mut client), [7, 0]);
    let undrain = Request::Undrain { server, port: None, service: None };
    client.change(&undrain).unwrap();
    assert_eq!(weights(&mut client), [7, 1], "the weight is remembered");
}

fn restored() {
    let bench = bench(&[HEAD, GUIDE].concat());
    bench.adm_ok("-A -t 192.168.1.100:443 -s sh -p 60 -M 255.255.255.0 -b sh-port --mss 1400");
    bench.adm_ok("-a -t 192.168.1.100:443 -r 10.0.0.1:8443 -m -w 4 -x 10 -y 5");
    bench.adm_ok("-A -f 7 -6 -s rr");
    bench.adm_ok("--set 111 0 0");
    let mut client = bench.client();
    client.change(&Request::SetSetting { name: "pmtu_disc".into(), value: 0 }).unwrap();
    client
        .change(&Request::Drain { server: [192, 168, 1, 32].into(), port: None, service: None })
        .unwrap();
    let file: PathBuf = bench.directory.0.join("saved.txt");
    assert_eq!(run(&bench, &Command::Save { file: Some(file.clone()) }).unwrap(), "");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("--set 111 120 300\nset expire_nodest_conn 0\n"), "{text}");
    let services = "\
set pmtu_disc 0
-A -t 192.168.1.100:80 -s rr
-a -t 192.168.1.100:80 -r 192.168.1.31:80 -g -w 1
-a -t 192.168.1.100:80 -r 192.168.1.32:80 -g -w 1
drain 192.168.1.32:80 -t 192.168.1.100:80
-A -t 192.168.1.100:443 -s sh -p 60 -M 255.255.255.0 -b sh-port --mss 1400
-a -t 192.168.1.100:443 -r 10.0.0.1:8443 -m -w 4 -x 10 -y 5
-A -f 7 -6 -s rr
";
    assert!(text.ends_with(services), "{text}");
    let before = client.save().unwrap();
    let restore = Command::Restore { file: Some(file), dry_run: false, json: false };
    assert_eq!(run(&bench, &restore).unwrap(), "Nothing is different.\n");

    bench.connect((0..10).map(client_address), VIP);
    let busy = status(&mut client);
    bench.adm_ok("-D -t 192.168.1.100:443");
    bench.adm_ok("-A -t 192.168.1.100:9 -s rr");
    bench.adm_ok("--set 222 0 0");
    let lines = run(&bench, &restore).unwrap();
    let expected = "\
--set 111 0 0
-D -t 192.168.1.100:9
-A -t 192.168.1.100:443 -s sh -p 60 -M 255.255.255.0 -b sh-port --mss 1400
-a -t 192.168.1.100:443 -r 10.0.0.1:8443 -m -w 4 -x 10 -y 5
";
    assert_eq!(lines, expected);
    assert_eq!(status(&mut client), busy, "what is the same was not touched");
    // All but the order is as it was: what was deleted is the newest now.
    let mut after = client.save().unwrap();
    assert_eq!(after.len(), before.len());
    after.retain(|request| !before.contains(request));
    assert_eq!(after, []);
    // Into an empty director, in the order of the lines.
    bench.adm_ok("-C");
    run(&bench, &restore).unwrap();
    assert_eq!(client.save().unwrap(), before);
}

fn wrong_line() {
    let bench = bench(&[HEAD, GUIDE].concat());
    let mut client = bench.client();
    let before = client.save().unwrap();
    let file = bench.directory.0.join("saved.txt");
    fs::write(&file, "-A -t 10.0.0.9:80 -s rr\n\n-a -t 10.0.0.9:80 -r 10.0.0.1 -w 70000\n")
        .unwrap();
    let restore = Command::Restore { file: Some(file.clone()), dry_run: false, json: false };
    let expected = format!(
        "{}:3: -a -t 10.0.0.9:80 -r 10.0.0.1 -w 70000: weight 70000 is not 0 to 65535; nothing was changed",
        file.display()
    );
    assert_eq!(run(&bench, &restore).unwrap_err(), expected);
    // Who asks without rvsadm gets the same.
    let requests = vec![Request::Flush {}, Request::EditService { service: service(VIP, "rr") }];
    let restore = Request::Restore { requests, dry_run: false };
    assert_eq!(refusal(&mut client, &restore), ErrorCode::NoSuchService);
    let requests = vec![Request::Reload { dry_run: false, exact: false }];
    let restore = Request::Restore { requests, dry_run: false };
    assert_eq!(refusal(&mut client, &restore), ErrorCode::BadRequest);
    assert_eq!(client.save().unwrap(), before);
}

fn drained() {
    let bench = bench(&[HEAD, GUIDE, "weight = 5\n[timeouts]\ntcp = 3\n"].concat());
    bench.connect((0..10).map(client_address), VIP);
    let mut client = bench.client();
    let active = of(&status(&mut client), RS2).active;
    assert!(active > 0);
    let drain = |wait, timeout| Command::Drain { server: server_of("192.168.1.32"), wait, timeout };
    let expected = format!(
        "192.168.1.32: drained in 1 services, {active} active and 0 inactive connections left\n"
    );
    assert_eq!(run(&bench, &drain(false, None)).unwrap(), expected);
    let error = run(&bench, &drain(true, Some(0))).unwrap_err();
    assert_eq!(
        error,
        format!("192.168.1.32 still has {active} connections after 0 s; it stays drained")
    );
    let start = Instant::now();
    let said = run(&bench, &drain(true, Some(60))).unwrap();
    assert!(said.ends_with("0 active and 0 inactive connections left\n"), "{said}");
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let undrain = Command::Undrain { server: server_of("192.168.1.32:80") };
    assert_eq!(run(&bench, &undrain).unwrap(), "");
    assert_eq!(of(&status(&mut client), RS2).spec.weight, 5);
    let error = run(&bench, &undrain).unwrap_err();
    assert_eq!(error, "the server 192.168.1.32:80 is not drained; give it a weight with -e");
    let request = Request::Drain { server: [10, 9, 9, 9].into(), port: None, service: None };
    assert!(matches!(
        client.call(&request),
        Err(ClientError::Api(error)) if error.code == ErrorCode::NoSuchServer
    ));
}

fn server_of(text: &str) -> commands::Server {
    text.parse().unwrap()
}

fn many() {
    const SERVICES: usize = 10_000;
    let text = |weight: &dyn Fn(usize) -> u32| {
        let mut text = HEAD.to_owned();
        for n in 0..SERVICES {
            let (high, low) = (n / 250, 1 + n % 250);
            text += &format!(
                "[[service]]\nprotocol = \"tcp\"\naddress = \"10.0.{high}.{low}:80\"\nserver = [{{ address = \"10.1.0.1\", weight = {} }}]\n",
                weight(n)
            );
        }
        text
    };
    let bench = bench(&text(&|_| 1));
    bench.connect((0..20).map(client_address), "10.0.0.2:80");
    let mut client = bench.client();
    // What is the same whatever second it is: no rates.
    let mut list = || {
        let services = client.services(None).unwrap().services;
        let row = |service: ServiceStatus| {
            let server = service.servers[0].clone();
            (service.spec, server.spec, server.active, server.stats.connections)
        };
        services.into_iter().map(row).collect::<Vec<_>>()
    };
    let before = list();
    write(&bench.directory, &text(&|n| if n % 1000 == 0 { 9 } else { 1 }));
    let lines = reload(&bench).unwrap();
    assert_eq!(lines.lines().count(), 10, "{lines}");
    assert_eq!(lines.lines().next(), Some("-e -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 9"));
    let after = list();
    let differ: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
    assert_eq!(differ.len(), 10);
    assert!(differ.iter().all(|(_, after)| after.1.weight == 9));
    assert_eq!(before.iter().map(|row| row.2).sum::<u32>(), 20);
    // The record has a line for each, too.
    let changes = Saved::new(&bench.directory.0).load().unwrap().changes;
    assert_eq!(changes.len(), SERVICES * 2 + 10);
}
