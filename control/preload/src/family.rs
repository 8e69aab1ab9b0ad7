//! The generic netlink family `IPVS`: its numbers (`linux/ip_vs.h`), and the
//! controller's answer to the question for it.

use crate::netlink::{HEADER, Header, Message, attributes, text_of};

/// The message kind of generic netlink's controller, `nlctrl`.
pub(crate) const NLCTRL: u16 = 0x10;

/// The message kind of our family. The kernel numbers families upwards from 16
/// and ends with this, the largest, so that no other has it.
pub(crate) const FAMILY: u16 = 1023;

/// Bytes of generic netlink's header: command, version, two unused.
pub(crate) const COMMAND_HEADER: usize = 4;

const VERSION: u8 = 1;
const NAME: &str = "IPVS";

const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_VERSION: u16 = 3;
const CTRL_ATTR_HDRSIZE: u16 = 4;
const CTRL_ATTR_MAXATTR: u16 = 5;
const CTRL_ATTR_OPS: u16 = 6;

/// Commands of the family.
pub(crate) mod command {
    pub(crate) const NEW_SERVICE: u8 = 1;
    pub(crate) const SET_SERVICE: u8 = 2;
    pub(crate) const DEL_SERVICE: u8 = 3;
    pub(crate) const GET_SERVICE: u8 = 4;
    pub(crate) const NEW_DEST: u8 = 5;
    pub(crate) const SET_DEST: u8 = 6;
    pub(crate) const DEL_DEST: u8 = 7;
    pub(crate) const GET_DEST: u8 = 8;
    pub(crate) const NEW_DAEMON: u8 = 9;
    pub(crate) const DEL_DAEMON: u8 = 10;
    pub(crate) const GET_DAEMON: u8 = 11;
    pub(crate) const SET_CONFIG: u8 = 12;
    pub(crate) const GET_CONFIG: u8 = 13;
    /// The answer to [`GET_INFO`].
    pub(crate) const SET_INFO: u8 = 14;
    pub(crate) const GET_INFO: u8 = 15;
    pub(crate) const ZERO: u8 = 16;
    pub(crate) const FLUSH: u8 = 17;
}

/// The commands with their flags, as the kernel lists them: 1 needs a
/// privilege, 2 has an answer, 4 can be dumped, 8 has a policy.
const COMMANDS: [(u8, u32); 16] = [
    (command::NEW_SERVICE, 0xb),
    (command::SET_SERVICE, 0xb),
    (command::DEL_SERVICE, 0xb),
    (command::GET_SERVICE, 0xf),
    (command::NEW_DEST, 0xb),
    (command::SET_DEST, 0xb),
    (command::DEL_DEST, 0xb),
    (command::GET_DEST, 0xd),
    (command::NEW_DAEMON, 0xb),
    (command::DEL_DAEMON, 0xb),
    (command::GET_DAEMON, 0xd),
    (command::SET_CONFIG, 0xb),
    (command::GET_CONFIG, 0xb),
    (command::GET_INFO, 0xb),
    (command::ZERO, 0xb),
    (command::FLUSH, 0xb),
];

/// Whether a message is for us: one of our family, or the question which
/// number it has.
pub(crate) fn is_ours(message: &[u8]) -> bool {
    Header::of(message).is_some_and(|header| header.kind == FAMILY) || asks_for_family(message)
}

/// Whether a message asks the controller for the family `IPVS`.
pub(crate) fn asks_for_family(message: &[u8]) -> bool {
    let Some(header) = Header::of(message) else {
        return false;
    };
    let Some(body) = message.get(HEADER + COMMAND_HEADER..header.length) else {
        return false;
    };
    if header.kind != NLCTRL || message[HEADER] != CTRL_CMD_GETFAMILY {
        return false;
    }
    let [_, _, name] = attributes(body);
    name.is_some_and(|name| text_of(name) == Ok(NAME))
}

/// Begins an answer of the family.
pub(crate) fn answer(command: u8, flags: u16, sequence: u32, port: u32) -> Message {
    let mut message = Message::new(FAMILY, flags, sequence, port);
    message.raw(&[command, VERSION, 0, 0]);
    message
}

/// The controller's answer to the question for the family.
pub(crate) fn description(sequence: u32, port: u32) -> Vec<u8> {
    let mut message = Message::new(NLCTRL, 0, sequence, port);
    message.raw(&[CTRL_CMD_NEWFAMILY, 2, 0, 0]);
    message.text(CTRL_ATTR_FAMILY_NAME, NAME);
    message.u16(CTRL_ATTR_FAMILY_ID, FAMILY);
    message.u32(CTRL_ATTR_VERSION, VERSION.into());
    message.u32(CTRL_ATTR_HDRSIZE, 0);
    message.u32(CTRL_ATTR_MAXATTR, 6);
    message.nest(CTRL_ATTR_OPS, |message| {
        for (place, (command, flags)) in (1..).zip(COMMANDS) {
            message.nest(place, |message| {
                message.u32(1, command.into());
                message.u32(2, flags);
            });
        }
    });
    message.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What libnl 3.7 sends for `genl_ctrl_resolve("IPVS")`.
    const QUESTION: [u8; 32] = *b"\x20\0\0\0\x10\0\x05\0\x07\0\0\0\x09\0\0\0\
        \x03\x01\0\0\x09\0\x02\0IPVS\0\0\0\0";

    #[test]
    fn the_question_for_the_family_is_recognised() {
        assert!(asks_for_family(&QUESTION));
        assert!(is_ours(&QUESTION));
        let mut other = QUESTION;
        other[24..28].copy_from_slice(b"TASK");
        assert!(!asks_for_family(&other));
        for (at, byte) in [(0, 33), (4, 0x11), (16, 1), (20, 60)] {
            let mut other = QUESTION;
            other[at] = byte;
            assert!(!is_ours(&other), "byte {at}");
        }
        for end in 0..QUESTION.len() {
            assert!(!is_ours(&QUESTION[..end]), "{end} bytes");
        }
        assert!(is_ours(&answer(command::FLUSH, 5, 7, 9).finish()));
    }

    /// As recorded from Linux 6.1, but for the family's number.
    #[test]
    fn the_description_is_the_kernels() {
        let recorded = "\
            8401000010000000070000000900000001020000090002004950565300000000060001002000000008000300\
            0100000008000400000000000800050006000000440106001400010008000100010000000800020\
            00b000000140002000800010002000000080002000b000000140003000800010003000000080002000b0000\
            00140004000800010004000000080002000f000000140005000800010005000000080002000b00000014000\
            6000800010006000000080002000b000000140007000800010007000000080002000b000000140008000800\
            010008000000080002000d000000140009000800010009000000080002000b00000014000a00080001000a0\
            00000080002000b00000014000b00080001000b000000080002000d00000014000c00080001000c00000008\
            0002000b00000014000d00080001000d000000080002000b00000014000e00080001000f000000080002000\
            b00000014000f000800010010000000080002000b000000140010000800010011000000080002000b000000";
        let ours = description(7, 9);
        let mut hex: String = ours.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex[72..76], *"ff03");
        hex.replace_range(72..76, "2000");
        assert_eq!(hex, recorded);
    }
}
