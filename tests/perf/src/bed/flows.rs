//! Flows: who talks to which service, and what a director made of it.

/// A client's connection. Numbers are those of the blocks of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) client: u32,
    pub(crate) client_port: u16,
    pub(crate) service: u16,
    /// Filled in when the connection opens: the server that it was given, and
    /// the local address and port of FULLNAT.
    pub(crate) server: u16,
    pub(crate) local: u16,
    pub(crate) local_port: u16,
}

/// Ports of one client.
const PORTS: u32 = 50_000;

/// So many flows over so many services, in random order, the same at every run.
pub(crate) fn random_order(count: usize, services: u32) -> Vec<Flow> {
    let mut flows: Vec<_> = (0..count as u32)
        .map(|i| Flow {
            client: i / PORTS,
            client_port: 1024 + (i % PORTS) as u16,
            service: (i % services) as u16,
            ..Flow::default()
        })
        .collect();
    let mut random = Random(1);
    for i in (1..flows.len()).rev() {
        flows.swap(i, random.below(i + 1));
    }
    flows
}

/// The n-th of four thousand million flows to service 0 that follow no order.
pub(crate) fn scattered(n: u32) -> Flow {
    // An odd factor permutes the numbers of 32 bits.
    let n = n.wrapping_mul(0x9e37_79b1);
    let (client, client_port) = (n >> 8, 1024 + (n & 0xff) as u16);
    Flow { client, client_port, ..Flow::default() }
}

/// A small random number generator (xorshift64*), the same numbers at every run.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// Above 0, up to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_differ_and_are_in_no_order() {
        let flows = random_order(120_000, 1);
        let mut names: Vec<_> = flows.iter().map(|f| (f.client, f.client_port)).collect();
        let ascending = names.windows(2).filter(|pair| pair[0] < pair[1]).count();
        assert!((59_000..61_000).contains(&ascending), "{ascending}");
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), flows.len());
    }

    #[test]
    fn scattered_flows_differ() {
        let mut names: Vec<_> =
            (0..100_000).map(scattered).map(|f| (f.client, f.client_port)).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 100_000);
    }

    #[test]
    fn fractions_are_even() {
        let mut random = Random(7);
        let mean = (0..10_000).map(|_| random.fraction()).sum::<f64>() / 10_000.0;
        assert!((0.49..0.51).contains(&mean), "{mean}");
    }
}
