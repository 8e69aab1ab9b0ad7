//! Writes the seeds of one target into a directory: `fuzz-seeds TARGET DIR`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, dir] = args.as_slice() else {
        eprintln!("usage: fuzz-seeds TARGET DIR");
        std::process::exit(2);
    };
    let Some(target) = fuzz::TARGETS.iter().find(|target| target.name == name) else {
        let known: Vec<_> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("no target {name}; there are {}", known.join(", "));
        std::process::exit(2);
    };
    std::fs::create_dir_all(dir)?;
    for (number, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(Path::new(dir).join(format!("seed-{number:03}")), seed)?;
    }
    Ok(())
}
