//! Connections with an entry for each direction.

use super::*;

use crate::service::Local;

const LOCAL: [u8; 4] = [192, 168, 1, 21];
const RIP: [[u8; 4]; 2] = [[192, 168, 1, 31], [192, 168, 1, 32]];

impl Bench {
    fn use_method(&mut self, method: Method, client_address: ClientAddress) {
        let mut list = Vec::new();
        for (protocol, vip) in [(Protocol::Tcp, IpAddr::from(VIP)), (Protocol::Udp, VIP.into())] {
            let mut service = (*service(protocol, vip, [1, 1])).clone();
            service.locals = [Local { number: 0, address: LOCAL.into() }].into();
            list.push(Arc::new(service));
        }
        self.snapshot.services = Services::new(list, Arc::default());
        self.snapshot.locals = [IpAddr::from(LOCAL)].into();
        for number in 0..2 {
            self.change_server(number, |server| {
                server.method = method;
                server.client_address = client_address;
            });
        }
    }

    /// What the director's own drops, connections and entries say.
    fn is_empty_after(&mut self, now: Tick, seconds: u32) -> bool {
        self.pass_time(now, seconds);
        (0..2).all(|n| self.connections(n) == (0, 0))
            && self.director.counters_mut().connections == 0
    }
}

/// A full table whose only half-open connection is the one being made.
#[test]
fn a_new_pair_does_not_take_its_own_place() {
    let mut bench = Bench::new(1, 3);
    bench.use_method(Method::Nat, ClientAddress::None);
    bench.send(NOON, &tcp4(5000, "S"));
    bench.send(NOON, &tcp4(5000, "A"));
    let (verdict, _) = bench.send(NOON, &tcp4(5001, "S"));
    assert_eq!(verdict, Verdict::Drop(DropReason::TableFull));
    assert_eq!((bench.connections(0), bench.connections(1)), ((1, 0), (0, 0)));
    assert_eq!(bench.director.counters_mut().recycled, 0);
    assert!(bench.is_empty_after(NOON, 902));
}
