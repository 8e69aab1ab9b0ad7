//! Frames byte by byte, put together by hand outside of this program: they show
//! what the other tables' builder builds, and that it builds it right.

use dataplane::counters::DropReason;
use dataplane::service::{Encapsulation, Method};

use crate::bench::Row;
use crate::network::{V4, V6};
use crate::setup::Setup;

/// A client's SYN, padded.
const SYN_PADDED: &str = "0200 0000 0010 0200 0000 0011 0800
             4500 0028 1c46 4000 4006 31e6 c633 640c c000 0264
             9c40 0050 1122 3344 0000 0000 5002 faf0 e756 0000 0000 0000 0000";

/// The same under DR.
const SYN_DR: &str = "0200 0000 0031 0200 0000 0020 0800
             4500 0028 1c46 4000 3f06 32e6 c633 640c c000 0264
             9c40 0050 1122 3344 0000 0000 5002 faf0 e756 0000";

/// A client's datagram.
const UDP4: &str = "0200 0000 0010 0200 0000 0011 0800
             4500 0021 1c46 4000 4011 31e2 c633 640c c000 0264
             9c40 0050 000d 32cd 6865 6c6c 6f";

/// The same over IPv6.
const UDP6: &str = "0200 0000 0010 0200 0000 0011 86dd
             6000 beef 000d 1140 2001 0db8 000c 0000 0000 0000 0000 0012 2001 0db8
             0001 0000 0000 0000 0000 0100
             9c40 0050 000d c2e0 6865 6c6c 6f";

/// The same under DR.
const UDP6_DR: &str = "0200 0000 0031 0200 0000 0020 86dd
             6000 beef 000d 113f 2001 0db8 000c 0000 0000 0000 0000 0012 2001 0db8
             0001 0000 0000 0000 0000 0100
             9c40 0050 000d c2e0 6865 6c6c 6f";

/// The datagram under NAT, to port 8080.
const UDP4_NAT: &str = "0200 0000 0031 0200 0000 0020 0800
             4500 0021 1c46 4000 3f11 eb27 c633 640c 0a00 001f
             9c40 1f90 000d cbd2 6865 6c6c 6f";

/// The datagram in IPIP.
const UDP4_IPIP: &str = "0200 0000 0031 0200 0000 0020 0800
             4500 0035 0000 4000 3f04 27a6 0a00 0001 0a00 001f
             4500 0021 1c46 4000 3f11 32e2 c633 640c c000 0264
             9c40 0050 000d 32cd 6865 6c6c 6f";

/// The datagram in IPIP over IPv6.
const UDP4_IPIP6: &str = "0200 0000 0031 0200 0000 0020 86dd
             6000 0000 0021 043f 2001 0db8 0002 0000 0000 0000 0000 0001 2001 0db8
             0002 0000 0000 0000 0000 0031
             4500 0021 1c46 4000 3f11 32e2 c633 640c c000 0264
             9c40 0050 000d 32cd 6865 6c6c 6f";

/// The datagram in GRE with a checksum.
const UDP4_GRE: &str = "0200 0000 0031 0200 0000 0020 0800
             4500 003d 0000 4000 3f2f 2773 0a00 0001 0a00 001f
             8000 0800 64c2 0000 4500 0021 1c46 4000 3f11 32e2 c633 640c c000 0264
             9c40 0050 000d 32cd 6865 6c6c 6f";

/// The datagram under FULLNAT.
const UDP4_FULLNAT: &str = "0200 0000 0031 0200 0000 0020 0800
             4500 0021 1c46 4000 3f11 0aa0 0a00 00c8 0a00 001f
             07e8 0050 000d 9ee3 6865 6c6c 6f";

/// The datagram under FULLNAT to IPv6.
const UDP4_FULLNAT6: &str = "0200 0000 0031 0200 0000 0020 86dd
             6000 0000 000d 113f 2001 0db8 0002 0000 0000 0000 0000 0200 2001 0db8
             0002 0000 0000 0000 0000 0031
             07e8 0050 000d 5623 6865 6c6c 6f";

/// Port unreachable about the datagram.
const UDP4_REFUSED: &str = "0200 0000 0011 0200 0000 0010 0800
             45c0 003d 03e8 0000 4001 8974 c000 0264 c633 640c
             0303 e9bf 0000 0000 4500 0021 1c46 4000 4011 31e2 c633 640c c000 0264
             9c40 0050 000d 32cd 6865 6c6c 6f";

/// The same over IPv6.
const UDP6_REFUSED: &str = "0200 0000 0011 0200 0000 0010 86dd
             6000 0000 003d 3a40 2001 0db8 0001 0000 0000 0000 0000 0100 2001 0db8
             000c 0000 0000 0000 0000 0012
             0104 71d4 0000 0000 6000 beef 000d 1140 2001 0db8 000c 0000 0000 0000
             0000 0012 2001 0db8 0001 0000 0000 0000 0000 0100 9c40 0050 000d c2e0
             6865 6c6c 6f";

/// A client's SYN with options, as Linux sends it.
const SYN: &str = "0200 0000 0010 0200 0000 0011 0800
             4500 003c 1c46 4000 4006 31d2 c633 640c c000 0264
             9c40 0050 1122 3344 0000 0000 a002 faf0 7f73 0000 0204 05b4 0402 080a
             0000 0001 0000 0000 0103 0307";

/// The same under NAT, to port 8080.
const SYN_NAT: &str = "0200 0000 0031 0200 0000 0020 0800
             4500 003c 1c46 4000 3f06 eb17 c633 640c 0a00 001f
             9c40 1f90 1122 3344 0000 0000 a002 faf0 1879 0000 0204 05b4 0402 080a
             0000 0001 0000 0000 0103 0307";

/// The server's answer.
const SYN_ACK: &str = "0200 0000 0020 0200 0000 0031 0800
             4500 003c 0000 4000 4006 065e 0a00 001f c633 640c
             1f90 9c40 9988 7766 1122 3345 a012 fe88 03e1 0000 0204 05b4 0402 080a
             0000 0001 0000 0000 0103 0307";

/// The same to the client.
const SYN_ACK_NAT: &str = "0200 0000 0011 0200 0000 0010 0800
             4500 003c 0000 4000 3f06 4f18 c000 0264 c633 640c
             0050 9c40 9988 7766 1122 3345 a012 fe88 6adb 0000 0204 05b4 0402 080a
             0000 0001 0000 0000 0103 0307";

/// A router on the client's side about the server's answer: 3/4, MTU 1400.
const TOO_BIG: &str = "0200 0000 0010 0200 0000 0011 0800
             45c0 0038 0009 0000 4001 7b8e cb00 7109 c000 0264
             0304 2819 0000 0578 4500 0021 0007 4000 3c11 5221 c000 0264 c633 640c
             0050 9c40 000d 32cd";

/// The same to the server. The quoted UDP checksum is still the VIP's.
const TOO_BIG_NAT: &str = "0200 0000 0031 0200 0000 0020 0800
             45c0 0038 0009 0000 3f01 34d4 cb00 7109 0a00 001f
             0304 08d9 0000 0578 4500 0021 0007 4000 3c11 0a67 0a00 001f c633 640c
             1f90 9c40 000d 32cd";

pub(crate) fn rows() -> Vec<Row> {
    let setup = |method, family| Setup::new(method, family);
    let to_8080 = || setup(Method::Nat, V4).with(|s| s.targets[0].port = 8080);
    let to_ip6 = |method| setup(method, V4).with(|s| s.servers = V6);
    let gre = Method::Tun(Encapsulation::Gre { checksum: true });
    let ipip = Method::Tun(Encapsulation::Ipip);
    let refused = |family| setup(Method::Dr, family).with(|s| s.targets.clear());
    let row = |name: &str, setup, came, left| Row::new(name, setup).frame(0, came).gives(1, left);
    vec![
        row("dr: SYN", setup(Method::Dr, V4), SYN_PADDED, SYN_DR),
        row("dr: udp over IPv6", setup(Method::Dr, V6), UDP6, UDP6_DR),
        row("nat: udp", to_8080(), UDP4, UDP4_NAT),
        row("ipip", setup(ipip, V4), UDP4, UDP4_IPIP),
        row("ipip, 4in6", to_ip6(ipip), UDP4, UDP4_IPIP6),
        row("gre with checksum", setup(gre, V4), UDP4, UDP4_GRE),
        row("fullnat", setup(Method::Fullnat, V4), UDP4, UDP4_FULLNAT),
        row("fullnat, 4->6", to_ip6(Method::Fullnat), UDP4, UDP4_FULLNAT6),
        row("nat: SYN and SYN-ACK", to_8080(), SYN, SYN_NAT)
            .frame(1, SYN_ACK)
            .gives(0, SYN_ACK_NAT),
        row("nat: fragmentation needed", to_8080(), UDP4, UDP4_NAT)
            .frame(0, TOO_BIG)
            .gives(1, TOO_BIG_NAT),
        Row::new("no server", refused(V4))
            .frame(0, UDP4)
            .dropped(DropReason::NoServer)
            .gives(0, UDP4_REFUSED),
        Row::new("no server, IPv6", refused(V6))
            .frame(0, UDP6)
            .dropped(DropReason::NoServer)
            .gives(0, UDP6_REFUSED),
    ]
}
