//! ipvsadm's command line, in front of the control API: the same grammar, the
//! same listings, the same messages and exit codes.

pub mod grammar;
mod help;
pub mod names;
mod options;
mod order;
pub mod output;
mod run;
mod vocabulary;
mod words;

pub use run::{Streams, run};
