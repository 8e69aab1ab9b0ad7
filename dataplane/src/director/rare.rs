//! Stage 1 of packets that are not plain, and whose they are.

use super::{Context, Core, Kind, NOT_PLAIN, Staged, Verdict};
use crate::conn::Tables;
use crate::counters::DropReason;
use crate::fragment::Fragments;
use crate::packet::headers::{Addresses, Parsed, parse, vlan_id};
use crate::packet::{Frame, Headers, Key4, Key6, Protocol, Tuple4, Tuple6};
use crate::punt::PuntKind;

impl Core {
    /// Stage 1 of a frame that is not plain.
    #[inline(never)]
    #[expect(clippy::too_many_arguments, reason = "the whole packet")]
    pub(super) fn read_rare(
        &mut self,
        cx: Context<'_>,
        tables: &mut Tables,
        fragments: &mut Fragments,
        frame: &mut Frame<'_>,
        headers: &mut Headers,
        stage: &mut Staged,
        verdict: &mut Verdict,
    ) {
        stage.kind = Kind::Decided;
        stage.ip_len = NOT_PLAIN;
        match self.classify(cx, frame, headers) {
            Ok(Parsed::Flow) if headers.fragment => {
                *verdict = self.fragment(cx, tables, fragments, frame, headers);
                self.opened = true;
            }
            Ok(Parsed::Flow) => match key(headers) {
                Key::V4(key) => {
                    stage.kind = Kind::Flow4;
                    stage.hash = tables.v4.hash(&key);
                    stage.set_key4(key);
                    stage.home = tables.v4.prefetch_group(stage.hash);
                }
                Key::V6(key) => {
                    stage.kind = Kind::Flow6;
                    stage.hash = tables.v6.hash(&key);
                    stage.key = key.words();
                    stage.home = tables.v6.prefetch_group(stage.hash);
                }
            },
            Ok(_) => stage.kind = Kind::IcmpError,
            Err(decided) => *verdict = decided,
        }
    }

    /// Decides that another worker gets a packet that is not plain, where that
    /// one owns it.
    #[inline(never)]
    pub(super) fn hand_over(
        &self,
        cx: Context<'_>,
        frame: &Frame<'_>,
        headers: &Headers,
        stage: &mut Staged,
        verdict: &mut Verdict,
    ) {
        if self.shard.workers() == 1 || !matches!(stage.kind, Kind::Flow4 | Kind::Flow6) {
            return;
        }
        // NICs differ in whether they find ports behind options and extension
        // headers, and the connection's other packets have none.
        let nic = frame.rss_hash.filter(|_| headers.is_plain());
        if let Some(handoff) = self.unless_own(self.owner(cx.snapshot, headers, nic)) {
            (stage.kind, *verdict) = (Kind::Decided, handoff);
        }
    }

    /// Parses any frame: a flow or an ICMP error. `Err` is the verdict of one
    /// that is no service's.
    pub(super) fn classify(
        &mut self,
        cx: Context<'_>,
        frame: &mut Frame<'_>,
        headers: &mut Headers,
    ) -> Result<Parsed, Verdict> {
        if let Some(id) = vlan_id(frame.bytes()) {
            match cx.snapshot.vlan_port(frame.port, id) {
                Some(port) => frame.port = port,
                None => return Err(self.drop(DropReason::VlanUnknown)),
            }
        }
        let Some(port) = cx.snapshot.ports.get(usize::from(frame.port)) else {
            // Before the first configuration nothing is ours.
            return Err(self.punt(cx.now, PuntKind::Other));
        };
        match parse(frame, port.mac, headers) {
            Ok(Parsed::Kernel(kind)) => Err(self.punt(cx.now, kind)),
            Ok(parsed) => Ok(parsed),
            Err(reason) => Err(self.drop(reason)),
        }
    }
}

/// The key of a packet's entry, in either table.
pub(super) enum Key {
    V4(Key4),
    V6(Key6),
}

#[inline]
pub(super) fn key(headers: &Headers) -> Key {
    let Headers { protocol, src_port, dst_port, .. } = *headers;
    match headers.addresses {
        Addresses::V4 { src, dst } => {
            Key::V4(Key4::new(protocol, Tuple4 { src, dst, src_port, dst_port }))
        }
        Addresses::V6 { src, dst } => {
            Key::V6(Key6::new(protocol, Tuple6 { src, dst, src_port, dst_port }))
        }
    }
}

/// The kind of a packet that no service takes.
pub(super) const fn punt_kind(headers: &Headers) -> PuntKind {
    const BGP: u16 = 179;
    // RFC 5881, section 4, and RFC 5883, section 5.
    const BFD: [u16; 2] = [3784, 4784];
    let Headers { protocol, src_port, dst_port, .. } = *headers;
    match protocol {
        Protocol::Tcp if src_port == BGP || dst_port == BGP => PuntKind::Routing,
        Protocol::Tcp => PuntKind::Tcp,
        Protocol::Udp if dst_port == BFD[0] || dst_port == BFD[1] => PuntKind::Routing,
        Protocol::Udp | Protocol::Sctp => PuntKind::Other,
    }
}
