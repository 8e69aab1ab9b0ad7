//! Against what Linux 6.1 had in these files; `|` marks the end of a line, as
//! blanks before it count.

use control_api::api::{
    Method, Persistence, Reply, Response, ServerSpec, ServerStatus, ServiceSpec, Tunnel,
};
use control_api::test_server::{TestServer, hello};

use super::*;
use crate::director::tests::at;

fn written(file: File, replies: Vec<Reply>) -> String {
    let server = TestServer::start(std::iter::once(hello()).chain(replies).collect());
    let mut bytes = Vec::new();
    file.write(&at(server.path()), &mut bytes).unwrap();
    String::from_utf8(bytes).unwrap().replace('\n', "|\n")
}

fn connection(client: &str, vip: &str, server: &str, state: &str, seconds: u64) -> Connection {
    Connection {
        protocol: Protocol::Tcp,
        state: state.into(),
        expires_ms: seconds * 1000 + 999,
        client: client.parse().unwrap(),
        virtual_address: vip.parse().unwrap(),
        server: server.parse().unwrap(),
        worker: 0,
        method: None,
        template: false,
    }
}

fn connections() -> Vec<Reply> {
    let connections = vec![
        connection("10.0.1.0:0", "10.0.1.101:80", "10.0.1.12:80", "ASSURED", 48),
        connection("10.0.1.2:34458", "10.0.1.102:80", "10.0.1.11:80", "FIN_WAIT", 110),
        connection("[fd01::2]:50606", "[fd01::100]:80", "[fd02::11]:80", "TIME_WAIT", 111),
    ];
    vec![Ok(Response::Connections { connections, next: None, count: None })]
}

#[test]
fn connections_are_the_kernels_text() {
    assert_eq!(
        written(File::Connections, connections()),
        "\
Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData|
TCP 0A000100 0000 0A000165 0050 0A00010C 0050 ASSURED          48|
TCP 0A000102 869A 0A000166 0050 0A00010B 0050 FIN_WAIT        110|
TCP fd01:0000:0000:0000:0000:0000:0000:0002 C5AE fd01:0000:0000:0000:0000:0000:0000:0100 \
         0050 fd02:0000:0000:0000:0000:0000:0000:0011 0050 TIME_WAIT       111|
"
    );
    assert_eq!(
        written(File::Synchronised, connections()).lines().take(2).collect::<Vec<_>>(),
        [
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Origin Expires|",
            "TCP 0A000100 0000 0A000165 0050 0A00010C 0050 ASSURED     LOCAL       48|",
        ]
    );
}

fn service(id: ServiceId, scheduler: &str, persistence: Option<(u32, u8)>) -> ServiceStatus {
    let mut spec = ServiceSpec::new(id, scheduler);
    spec.persistence =
        persistence.map(|(timeout, prefix)| Persistence { timeout, prefix, engine: None });
    ServiceStatus { spec, stats: Stats::default(), servers: Vec::new() }
}

fn id(protocol: Protocol, address: &str) -> ServiceId {
    ServiceId::Address { protocol, address: address.parse().unwrap() }
}

fn with(mut service: ServiceStatus, address: &str, method: Method, inactive: u32) -> ServiceStatus {
    let address = address.parse().unwrap();
    let spec = ServerSpec { address, method, weight: 1, upper_threshold: 0, lower_threshold: 0 };
    let stats = Stats::default();
    service.servers.push(ServerStatus {
        spec,
        active: 0,
        inactive,
        persistent: 0,
        stats,
        health: None,
    });
    service
}

fn services() -> Vec<Reply> {
    let tun = || Method::Tun(Tunnel::Ipip);
    let mut ops = service(id(Protocol::Udp, "10.0.1.103:53"), "mh", None);
    ops.spec.one_packet = true;
    let mut both = service(id(Protocol::Udp, "10.0.1.100:5060"), "wrr", Some((120, 32)));
    both.spec.one_packet = true;
    let mut first = service(id(Protocol::Tcp, "10.0.1.77:80"), "rr", None);
    first.stats = Stats { connections: 8, in_packets: 0x45, in_byte_rate: 11, ..first.stats };
    both.stats = Stats { connections: 2, in_bytes: 0xf94, ..both.stats };
    let first = with(first, "10.0.1.13:80", Method::Dr, 0);
    let services = vec![
        with(first, "10.0.1.1:8080", Method::Nat, 0),
        service(id(Protocol::Tcp, "10.0.1.101:80"), "wlc", Some((60, 24))),
        with(ops, "10.0.1.12:53", tun(), 0),
        with(
            service(id(Protocol::Tcp, "[fd01::100]:80"), "rr", Some((30, 64))),
            "[fd02::11]:80",
            Method::Nat,
            1,
        ),
        service(id(Protocol::Sctp, "10.0.1.100:99"), "fo", None),
        both,
        service(ServiceId::Fwmark { mark: 7, ipv6: false }, "nq", None),
        service(ServiceId::Fwmark { mark: 8, ipv6: true }, "sed", Some((360, 128))),
    ];
    vec![Ok(Response::Services { services, next: None, table_size: 4096 })]
}

#[test]
fn services_are_the_kernels_text() {
    assert_eq!(
        written(File::Services, services()),
        "\
IP Virtual Server version 1.2.1 (size=4096)|
Prot LocalAddress:Port Scheduler Flags|
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn|
TCP  0A00014D:0050 rr  |
  -> 0A00010D:0050      Route   1      0          0         |
  -> 0A000101:1F90      Masq    1      0          0         |
TCP  0A000165:0050 wlc  persistent 15000 FFFFFF00|
UDP  0A000167:0035 mh ops  |
  -> 0A00010C:0035      Tunnel  1      0          0         |
TCP  [fd01:0000:0000:0000:0000:0000:0000:0100]:0050 rr persistent 7500 40000000|
  -> [fd02:0000:0000:0000:0000:0000:0000:0011]:0050      Masq    1      0          1         |
SCTP  0A000164:0063 fo  |
UDP  0A000164:13C4 wrr ops  persistent 30000 FFFFFFFF|
FWM  00000007 nq |
FWM  00000008 sed persistent 90000 80000000|
"
    );
}

#[test]
fn counters_are_summed_in_hexadecimal() {
    assert_eq!(
        written(File::Stats, services()),
        "   Total Incoming Outgoing         Incoming         Outgoing|
   Conns  Packets  Packets            Bytes            Bytes|
       A       45        0              F94                0|
|
 Conns/s   Pkts/s   Pkts/s          Bytes/s          Bytes/s|
       0        0        0                B                0|
"
    );
}

#[test]
fn the_files_are_those_of_ipvs() {
    for (path, file) in [
        ("/proc/net/ip_vs", Some(File::Services)),
        ("/proc/self/net/ip_vs_conn", Some(File::Connections)),
        ("/proc/net/ip_vs_conn_sync", Some(File::Synchronised)),
        ("/proc/net/ip_vs_stats", Some(File::Stats)),
        ("/proc/net/dev", None),
        ("/proc/net/ip_vs_app", None),
        ("/tmp/proc/net/ip_vs", None),
        ("ip_vs", None),
    ] {
        assert_eq!(File::of(OsStr::new(path)), file, "{path}");
    }
}

#[test]
fn without_a_director_there_is_no_file() {
    let nowhere = at(Path::new("/nonexistent/rvsd.sock"));
    let mut bytes = Vec::new();
    assert_eq!(File::Services.write(&nowhere, &mut bytes), Err(Errno::ENODEV));
    assert_eq!(bytes, b"");
}
