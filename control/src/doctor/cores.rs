//! The workers' cores: isolation, hyperthreads, clock, frequency.

use std::collections::BTreeSet;

use super::{Finding, Host};
use crate::config::{Config, Poll, show_cores};

const CPU: &str = "/sys/devices/system/cpu";
/// Clocks that are read without a system call.
const FAST_CLOCKS: [&str; 3] = ["tsc", "kvm-clock", "hyperv_clocksource_tsc_page"];

pub(super) fn check(host: &Host, config: &Config) -> Vec<Finding> {
    let workers: BTreeSet<u32> = config.director.cores.iter().copied().collect();
    let mut findings = Vec::new();
    if config.director.poll == Poll::Busy {
        findings.extend(isolation(host, &workers));
    }
    findings.extend(clock(host));
    findings.extend(frequency(host, &workers));
    findings
}

fn isolation(host: &Host, workers: &BTreeSet<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let online = host.cores(&format!("{CPU}/online"));
    let isolated = host.cores(&format!("{CPU}/isolated"));
    let siblings =
        |core: u32| host.cores(&format!("{CPU}/cpu{core}/topology/thread_siblings_list"));
    // Core 0 cannot be isolated, and has a finding of its own.
    let exposed: BTreeSet<u32> =
        workers.difference(&isolated).copied().filter(|&core| core != 0).collect();
    if !online.is_empty() && online.is_subset(workers) {
        findings.push(
            Finding::warning("cores", "workers have all cores")
                .because(
                    "the kernel, rvsadm and keepalived wait for workers, and packets wait for them",
                )
                .mend("leave a core out of director.cores"),
        );
    } else if !exposed.is_empty() {
        // With the other threads of their physical cores, which slow them.
        let others = workers.iter().flat_map(|&core| siblings(core));
        let wanted = workers.iter().copied().chain(others).filter(|&core| core != 0).collect();
        findings.push(
            Finding::warning(
                "cores",
                format!(
                    "workers run on cores {} that the kernel gives to others too",
                    show_cores(&exposed)
                ),
            )
            .because("whatever else runs there delays packets by milliseconds")
            .mend(format!("rvs-isolate-cores set {}, then a reboot", show_cores(&wanted))),
        );
    }
    if workers.contains(&0) && online.len() > 1 {
        findings.push(
            Finding::warning("cores", "a worker runs on core 0")
                .because("interrupts and timers that cannot be moved are handled there")
                .mend("take another core in director.cores"),
        );
    }
    for &core in workers {
        let other = siblings(core).intersection(workers).copied().find(|&other| other > core);
        if let Some(other) = other {
            findings.push(
                Finding::warning(
                    "cores",
                    format!("cores {core} and {other} are threads of one physical core"),
                )
                .because("two workers there get little more done than one")
                .mend("rvs-isolate-cores propose"),
            );
        }
    }
    findings
}

fn clock(host: &Host) -> Option<Finding> {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let clock = host.text(path)?;
    if FAST_CLOCKS.contains(&clock.as_str()) {
        return None;
    }
    Some(
        Finding::warning("clock", format!("the kernel's clock is {clock}"))
            .because("workers read the time in every loop, which takes a system call with this clock")
            .mend(format!("echo tsc > {path}; if it does not stay: clocksource=tsc tsc=reliable on the kernel's command line")),
    )
}

fn frequency(host: &Host, workers: &BTreeSet<u32>) -> Option<Finding> {
    let slow: BTreeSet<u32> = workers
        .iter()
        .copied()
        .filter(|core| {
            let governor = host.text(&format!("{CPU}/cpu{core}/cpufreq/scaling_governor"));
            governor.is_some_and(|governor| governor != "performance")
        })
        .collect();
    if slow.is_empty() {
        return None;
    }
    Some(
        Finding::warning("cores", format!("cores {} change their frequency", show_cores(&slow)))
            .because("packets wait while a core speeds up")
            .mend("cpupower frequency-set -g performance"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::host::tests::{Tree, config, lines};
    use super::*;

    const DEVICE: &str = "device = \"net_tap0\"";

    fn machine(name: &str, isolated: &str) -> Tree {
        let tree = Tree::new(name);
        tree.put(&format!("{CPU}/online"), "0-3").put(&format!("{CPU}/isolated"), isolated);
        for core in 0..4 {
            let siblings = format!("{},{}", core % 2, core % 2 + 2);
            tree.put(&format!("{CPU}/cpu{core}/topology/thread_siblings_list"), &siblings);
        }
        tree
    }

    #[test]
    fn cores_of_workers_are_to_be_isolated() {
        let tree = machine("isolated", "1");
        let config_of = |cores: &str| config(&format!("cores = {cores}"), DEVICE);
        assert!(check(&tree.host(), &config_of("[1]")).is_empty());
        assert_eq!(
            lines(&check(&tree.host(), &config_of("[1, 2]"))),
            "Warning cores: workers run on cores 2 that the kernel gives to others too | rvs-isolate-cores set 1-3, then a reboot\n"
        );
        let said = lines(&check(&tree.host(), &config_of("[0, 2]")));
        assert!(said.contains("workers run on cores 2 that"), "{said}");
        assert!(said.contains("rvs-isolate-cores set 2, then a reboot"), "{said}");
        // Core 0, which that command refuses, is told apart.
        let said = lines(&check(&tree.host(), &config_of("[0, 1]")));
        assert!(!said.contains("rvs-isolate-cores set"), "{said}");
        assert!(said.contains("a worker runs on core 0"), "{said}");
        let said = lines(&check(&tree.host(), &config_of("[0, 1, 2, 3]")));
        assert!(said.contains("workers have all cores"), "{said}");
        assert!(said.contains("a worker runs on core 0"), "{said}");
        assert!(said.contains("cores 0 and 2 are threads of one physical core"), "{said}");
        assert!(said.contains("cores 1 and 3 are threads"), "{said}");
        // Those who sleep when idle may share cores.
        assert!(
            check(&tree.host(), &config("cores = [0, 1]\npoll = \"adaptive\"", DEVICE)).is_empty()
        );
    }

    #[test]
    fn slow_clocks_and_frequencies_are_told() {
        let tree = machine("clock", "1");
        let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
        tree.put(clock, "hpet").put(&format!("{CPU}/cpu1/cpufreq/scaling_governor"), "powersave");
        let config = config("cores = [1]", DEVICE);
        let said = lines(&check(&tree.host(), &config));
        assert!(
            said.contains("Warning clock: the kernel's clock is hpet | echo tsc > /sys"),
            "{said}"
        );
        assert!(said.contains("cores 1 change their frequency | cpupower"), "{said}");
        tree.put(clock, "tsc").put(&format!("{CPU}/cpu1/cpufreq/scaling_governor"), "performance");
        assert!(check(&tree.host(), &config).is_empty());
    }
}
