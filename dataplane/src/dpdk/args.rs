//! EAL's command line.

use nix::sched::CpuSet;

use super::eal::{EalConfig, EalError};
use super::hugepages::Memory;

/// EAL's command line. `cores` are those that the main thread may use,
/// `workers` those of each of its other threads.
pub(super) fn arguments(
    config: &EalConfig<'_>,
    memory: Memory,
    cores: &[usize],
    workers: &[Vec<usize>],
) -> Result<Vec<String>, EalError> {
    let mut args = vec![
        config.program.to_string(),
        "--log-level=notice".into(),
        "--log-level=lib.telemetry:error".into(),
    ];
    args.push(format!("--file-prefix={}", config.file_prefix));
    // The caller is EAL's main thread, on all its cores.
    let threads = std::iter::once(cores).chain(workers.iter().map(Vec::as_slice));
    let threads = threads.enumerate().map(|(thread, cores)| {
        let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
        format!("{thread}@({})", cores.join(","))
    });
    args.push(format!("--lcores={}", threads.collect::<Vec<_>>().join(",")));
    match memory {
        Memory::Mounted => {}
        Memory::Anonymous => args.push("--in-memory".into()),
        Memory::Ordinary => {
            args.extend(["--no-huge".into(), "-m".into(), config.memory_mb.to_string()]);
        }
    }
    let mut pci = false;
    for device in config.devices {
        let (option, is_pci) = match Kind::of(device) {
            Some(Kind::Pci) => ("-a", true),
            Some(Kind::Virtual) => ("--vdev", false),
            None => return Err(EalError::BadDevice(device.clone())),
        };
        pci |= is_pci;
        args.extend([option.to_string(), device.clone()]);
    }
    if !pci {
        args.push("--no-pci".into());
    }
    args.extend_from_slice(config.extra_args);
    Ok(args)
}

/// EAL refuses cores that are not there, so those of the thread are named.
pub(super) fn cores(affinity: Option<&CpuSet>) -> Vec<usize> {
    let Some(set) = affinity else { return vec![0] };
    (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false)).collect()
}

/// What a device string names, by the part before the first comma.
enum Kind {
    Pci,
    Virtual,
}

impl Kind {
    fn of(device: &str) -> Option<Self> {
        let name = device_name(device);
        if is_pci_address(name) {
            return Some(Self::Pci);
        }
        let word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        (word && name.starts_with(|first: char| first.is_ascii_alphabetic()))
            .then_some(Self::Virtual)
    }
}

/// A device string without its arguments.
pub(super) fn device_name(device: &str) -> &str {
    device.split(',').next().unwrap_or(device)
}

/// The name by which DPDK knows the port of a device string: a PCI port's is its
/// full address.
pub(super) fn full_name(device: &str) -> String {
    let name = device_name(device);
    let short = is_pci_address(name) && name.matches(':').count() == 1;
    if short { format!("0000:{name}") } else { name.to_string() }
}

/// `[domain:]bus:device.function`, in hexadecimal.
pub(super) fn is_pci_address(name: &str) -> bool {
    let Some((address, function)) = name.rsplit_once('.') else { return false };
    let parts: Vec<&str> = address.split(':').collect();
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let function =
        function.len() == 1 && function.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match parts[..] {
        [bus, device] => hex(bus, 2) && hex(device, 2) && function,
        [domain, bus, device] => hex(domain, 4) && hex(bus, 2) && hex(device, 2) && function,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::eal::HugePages;
    use super::*;

    fn config(devices: &[String]) -> EalConfig<'_> {
        EalConfig {
            program: "rvsd",
            memory_mb: 512,
            huge: HugePages::Never,
            file_prefix: "rvs",
            devices,
            workers: &[1, 2],
            extra_args: &[],
        }
    }

    fn line(devices: &[&str], memory: Memory) -> String {
        let devices: Vec<String> = devices.iter().map(ToString::to_string).collect();
        arguments(&config(&devices), memory, &[0, 3], &[vec![1], vec![1, 2]]).unwrap().join(" ")
    }

    #[test]
    fn command_line_names_only_listed_devices() {
        assert_eq!(
            line(&["net_tap0,iface=wire0"], Memory::Ordinary),
            "rvsd --log-level=notice --log-level=lib.telemetry:error --file-prefix=rvs --lcores=0@(0,3),1@(1),2@(1,2) --no-huge -m 512 \
             --vdev net_tap0,iface=wire0 --no-pci"
        );
        assert_eq!(
            line(&["0000:01:00.0", "02:00.1,opt=1"], Memory::Anonymous),
            "rvsd --log-level=notice --log-level=lib.telemetry:error --file-prefix=rvs --lcores=0@(0,3),1@(1),2@(1,2) --in-memory \
             -a 0000:01:00.0 -a 02:00.1,opt=1"
        );
    }

    #[test]
    fn refuses_what_is_no_device() {
        for device in ["", "eth 0", "--no-huge", "0000:01:00.8", "1:2", ",iface=x"] {
            let devices = [device.to_string()];
            let refused = arguments(&config(&devices), Memory::Ordinary, &[0], &[]);
            assert_eq!(refused, Err(EalError::BadDevice(device.to_string())), "{device}");
        }
    }

    #[test]
    fn main_thread_is_given_all_its_cores() {
        let mut set = CpuSet::new();
        set.set(1).unwrap();
        set.set(5).unwrap();
        assert_eq!(cores(Some(&set)), [1, 5]);
    }
}
