//! The cores of the machine.

use std::collections::BTreeSet;
use std::{fs, io};

/// The cores that are online, whether or not this process may use them now.
///
/// # Errors
/// When the kernel's list cannot be read.
pub fn online_cores() -> io::Result<BTreeSet<u32>> {
    let path = "/sys/devices/system/cpu/online";
    let list = fs::read_to_string(path)?;
    parse(list.trim())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} holds {list:?}")))
}

/// Reads the kernel's form of a list: `0-3,5`.
pub(crate) fn parse(list: &str) -> Option<BTreeSet<u32>> {
    let mut cores = BTreeSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cores.extend(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?);
    }
    Some(cores)
}

/// Writes that form.
pub(crate) fn show(cores: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &core in cores {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => ranges.push((core, core)),
        }
    }
    let show = |&(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(show).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_round_trip() {
        for list in ["0", "0-3", "0-3,5", "0,2,4-7"] {
            assert_eq!(show(&parse(list).unwrap()), list);
        }
        assert_eq!(parse("0-3,5"), Some(BTreeSet::from([0, 1, 2, 3, 5])));
        for list in ["", "a", "1-", "0,,1"] {
            assert_eq!(parse(list), None, "{list}");
        }
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!online_cores().unwrap().is_empty());
    }
}
