//! Programs to begin with: a whole connection of every kind of service, and
//! what is rare.

use super::Step;

const SYN: u8 = 2;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;

/// A program being written.
struct Program(Vec<u8>);

impl Program {
    fn new(world: u8) -> Self {
        Self(vec![world])
    }

    fn step(mut self, step: Step, operands: &[u8]) -> Self {
        let number = Step::ALL.iter().position(|s| *s == step).expect("all steps are listed");
        self.0.push(number as u8);
        self.0.extend(operands);
        self
    }

    /// A packet of client 0, processed by a worker.
    fn client(self, how: u8, service: u8, flags: u8, payload: u8) -> Self {
        self.step(Step::Client, &[how, 0, service, flags, payload]).step(Step::Burst, &[0])
    }

    fn answer(self, flags: u8) -> Self {
        self.step(Step::Answer, &[0, flags]).step(Step::Burst, &[1])
    }
}

/// The programs.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for service in 0..16 {
        for family in [0, 4] {
            let world = service % 2;
            seeds.push(
                // TCP with options, from handshake to FIN.
                Program::new(world)
                    .client(family | 8, service, SYN, 0)
                    .answer(SYN_ACK)
                    .client(family, service, ACK, 0)
                    .client(family, service, ACK, 10)
                    .answer(ACK)
                    .client(family, service, FIN_ACK, 0)
                    .answer(FIN_ACK)
                    .step(Step::List, &[])
                    .step(Step::Time, &[0, 200]),
            );
            for protocol in [1, 2] {
                seeds.push(
                    Program::new(world)
                        .client(family | protocol, service, 1, 10)
                        .answer(2)
                        // Longer than the servers' network takes, in fragments,
                        // with options, and an error about it.
                        .client(family | protocol, service, 10, 178)
                        .step(Step::IcmpError, &[0, 3, 4, 4, 0, 40])
                        .step(Step::IcmpError, &[0, 2, 0, 5, 0, 80])
                        .step(Step::Client, &[family | protocol, 0, service, 10, 60])
                        .step(Step::Fragment, &[6, 7, service])
                        .step(Step::Burst, &[1])
                        .client(family | protocol | 16, service, 10, 4)
                        .answer(3)
                        .client(family | protocol | 16, service, 10, 178)
                        // An answer in fragments, with its connection and
                        // after it is gone.
                        .client(family | protocol, service, 10, 4)
                        .step(Step::Answer, &[0, 3])
                        .step(Step::Fragment, &[2, 8, service])
                        .step(Step::Burst, &[0])
                        .client(family | protocol, service, 10, 4)
                        .step(Step::Time, &[15, 255])
                        .step(Step::Answer, &[0, 3])
                        .step(Step::Fragment, &[2, 9, service])
                        .step(Step::Burst, &[1]),
                );
            }
        }
    }
    // Services for every port, by mark, and none.
    for service in [0x20, 0x29, 0x40, 0x45, 0x1f] {
        for how in 0..7 {
            seeds.push(Program::new(1).client(how, service, SYN, 0).answer(SYN_ACK));
        }
    }
    seeds.push(full_table());
    seeds.push(edits());
    let mut seeds: Vec<_> = seeds.into_iter().map(|program| program.0).collect();
    // Some of them while packets are observed.
    let observed: Vec<_> = seeds.iter().step_by(3).map(|program| observed(program)).collect();
    seeds.extend(observed);
    seeds
}

/// The program in a world where packets are observed.
fn observed(program: &[u8]) -> Vec<u8> {
    let mut program = program.to_vec();
    if let Some(world) = program.first_mut() {
        *world |= 4;
    }
    program
}

/// More connections of all methods than a very small table holds.
fn full_table() -> Program {
    let mut program = Program::new(2);
    for client in 0..12 {
        for service in [0, 1, 2, 15] {
            let open = [client % 2 * 4, client, service, SYN, 0];
            program = program.step(Step::Client, &open).step(Step::Burst, &[0]);
            if client % 3 == 0 {
                program = program.answer(SYN_ACK).step(Step::Again, &[0]).step(Step::Burst, &[0]);
            }
        }
    }
    program
}

fn edits() -> Program {
    let mut program = Program::new(0);
    for (what, value) in [(0, 0), (1, 1), (2, 2), (2, 3), (2, 4), (3, 100), (4, 1), (5, 2)] {
        for server in [0, 1, 2, 3, 4, 5] {
            program = program.step(Step::Server, &[server, what, value]);
        }
        program = program.step(Step::Settings, &[what * 31 + value]);
        for service in 0..3 {
            program = program.client(0, service, SYN, 0).client(1, service, 0, 3);
        }
    }
    program
        .step(Step::Raw, &[0, 3, 1, 2, 3])
        .client(0, 0, SYN, 2)
        .step(Step::Client, &[0, 1, 1, SYN, 40])
        .step(Step::Damage, &[20, 0x40, 1])
        .step(Step::Segments, &[10])
        .step(Step::Headroom, &[3])
        .step(Step::Burst, &[0])
}
