//! Runs the seeds of all targets, and every input that once failed.

use std::path::Path;

use fuzz::TARGETS;

#[test]
fn seeds_pass() {
    for target in TARGETS {
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} has seeds", target.name);
        for seed in seeds {
            (target.run)(&seed);
        }
    }
}

/// Inputs that made a target fail, by target: the defects stay mended.
#[test]
fn regressions_pass() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for target in TARGETS {
        let Ok(dir) = std::fs::read_dir(all.join(target.name)) else { continue };
        for entry in dir {
            let path = entry.expect("a readable directory").path();
            println!("{}", path.display());
            (target.run)(&std::fs::read(&path).expect("a readable file"));
        }
    }
}
