//! The local addresses of FULLNAT and the numbers that connections keep of
//! them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::service::Local;

use crate::api::{Error, ErrorCode};

/// Most addresses that a daemon numbers in its life.
const MOST: usize = 65_535;

/// All addresses that any service ever had. A number is not used again:
/// connections may still have it.
#[derive(Debug, Default)]
pub(super) struct Locals {
    numbers: HashMap<IpAddr, u16>,
    by_number: Arc<[IpAddr]>,
}

impl Locals {
    /// A service's addresses with their numbers, IPv4 ones first; new ones get
    /// the next.
    ///
    /// # Errors
    /// When the numbers do not suffice; then none is given.
    pub(super) fn number(&mut self, addresses: &[IpAddr]) -> Result<Arc<[Local]>, Error> {
        let new: Vec<_> =
            addresses.iter().filter(|ip| !self.numbers.contains_key(ip)).copied().collect();
        if self.by_number.len() + new.len() > MOST {
            let message = format!(
                "no number is free for one more local address: rvsd has had {MOST} since it started"
            );
            return Err(Error::new(ErrorCode::NoSpace, message));
        }
        if !new.is_empty() {
            for (number, address) in (self.by_number.len()..).zip(&new) {
                self.numbers.insert(*address, number as u16);
            }
            self.by_number = self.by_number.iter().chain(&new).copied().collect();
        }
        let local = |&address: &IpAddr| Local { number: self.numbers[&address], address };
        let mut locals: Vec<_> = addresses.iter().map(local).collect();
        locals.sort_by_key(|local| local.address.is_ipv6());
        Ok(locals.into())
    }

    /// The addresses by number.
    pub(super) fn by_number(&self) -> Arc<[IpAddr]> {
        Arc::clone(&self.by_number)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn ips(numbers: impl Iterator<Item = u32>) -> Vec<IpAddr> {
        numbers.map(|n| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + n))).collect()
    }

    #[test]
    fn numbers_stay_with_their_addresses() {
        let mut locals = Locals::default();
        let first = locals.number(&ips([5, 6].into_iter())).unwrap();
        let second = locals.number(&ips([6, 7].into_iter())).unwrap();
        let numbers = |list: &[Local]| list.iter().map(|l| l.number).collect::<Vec<_>>();
        assert_eq!((numbers(&first), numbers(&second)), (vec![0, 1], vec![1, 2]));
        assert_eq!(locals.by_number()[..], ips([5, 6, 7].into_iter()));
    }

    #[test]
    fn numbers_end_and_a_refusal_gives_none() {
        let mut locals = Locals::default();
        locals.number(&ips(0..65_534)).unwrap();
        let error = locals.number(&ips(65_534..65_536)).unwrap_err();
        assert_eq!(error.code, ErrorCode::NoSpace);
        assert_eq!(locals.by_number().len(), 65_534);
        assert_eq!(locals.number(&ips(70_000..70_001)).unwrap()[0].number, 65_534);
        assert!(locals.number(&ips(80_000..80_001)).is_err());
        assert_eq!(locals.number(&ips(3..4)).unwrap()[0].number, 3);
    }
}
