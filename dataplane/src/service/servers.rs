//! Servers by number.

use std::sync::Arc;

use super::Server;

/// Servers in a block.
const BLOCK: usize = 64;

/// Servers by number, the number that connections keep.
///
/// They lie in blocks that a copy shares with the original until it changes one
/// of their servers, so that a snapshot is made from the last one at the cost
/// of what is new in it.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    blocks: Vec<Arc<Block>>,
}

type Block = [Option<Arc<Server>>; BLOCK];

impl Servers {
    /// A server.
    #[must_use]
    #[inline]
    pub fn get(&self, number: u32) -> Option<&Arc<Server>> {
        let number = number as usize;
        self.blocks.get(number / BLOCK)?[number % BLOCK].as_ref()
    }

    /// Puts a server, or none, in the place of another.
    pub fn set(&mut self, number: u32, server: Option<Arc<Server>>) {
        let number = number as usize;
        while self.blocks.len() <= number / BLOCK {
            self.blocks.push(Arc::new([const { None }; BLOCK]));
        }
        Arc::make_mut(&mut self.blocks[number / BLOCK])[number % BLOCK] = server;
    }

    /// The indexes of the blocks that it does not share with another.
    pub fn own_blocks(&self, other: &Self) -> impl Iterator<Item = usize> {
        let shared = |index: usize, block| {
            other.blocks.get(index).is_some_and(|other| Arc::ptr_eq(block, other))
        };
        let own = self.blocks.iter().enumerate().filter(move |&(i, block)| !shared(i, block));
        own.map(|(index, _)| index)
    }
}

impl FromIterator<Option<Arc<Server>>> for Servers {
    /// The servers numbered from 0 on.
    fn from_iter<T: IntoIterator<Item = Option<Arc<Server>>>>(servers: T) -> Self {
        let mut this = Self::default();
        for (number, server) in (0..).zip(servers) {
            this.set(number, server);
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ClientAddress, Hop, Method, ServerCounts};
    use super::*;

    #[test]
    fn a_copy_shares_what_is_not_changed() {
        let one = Arc::new(Server {
            address: "10.0.0.1:80".parse().unwrap(),
            method: Method::Dr,
            hop: Hop::NoRoute,
            weight: 1,
            deleted: false,
            client_address: ClientAddress::None,
            mss: None,
            counts: Arc::new(ServerCounts::new(1)),
        });
        let servers: Servers =
            (0..3 * BLOCK as u32).map(|n| (n % 2 == 0).then(|| Arc::clone(&one))).collect();
        let mut copy = servers.clone();
        copy.set(BLOCK as u32, None);
        copy.set(4 * BLOCK as u32 + 1, Some(Arc::clone(&one)));
        assert!(servers.get(BLOCK as u32).is_some() && copy.get(BLOCK as u32).is_none());
        assert!(servers.get(1).is_none() && servers.get(4 * BLOCK as u32 + 1).is_none());
        assert!(copy.get(4 * BLOCK as u32).is_none() && copy.get(4 * BLOCK as u32 + 1).is_some());
        assert!(copy.get(u32::MAX).is_none());
        assert_eq!(copy.own_blocks(&servers).collect::<Vec<_>>(), [1, 3, 4]);
    }
}
