//! Target `config`: the configuration file's text. What is accepted must be
//! taken by the registry, which the daemon relies on; what is refused is
//! refused in one line.

use std::collections::BTreeSet;
use std::path::Path;

use control::config::Config;
use control::registry::Registry;
use dataplane::service::Hop;

/// Reads a file of these bytes.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let online: BTreeSet<u32> = (0..4).collect();
    match Config::parse("rvsd.toml", text, &online) {
        Ok(config) => accepted(&config),
        Err(error) => {
            let message = error.to_string();
            assert!(message.starts_with("rvsd.toml:"), "says where: {message:?}");
            assert!(!message.contains('\n'), "one line: {message:?}");
        }
    }
}

fn accepted(config: &Config) {
    assert!(!config.ports.is_empty() && !config.director.cores.is_empty());
    let mut registry = Registry::new(config.director.cores.len(), Vec::new(), config.timeouts);
    for service in &config.services {
        registry.add_service(service.spec.clone()).expect("a service of the file");
        for server in &service.servers {
            let added = registry.add_server(&service.spec.id, server.clone(), &|_| Hop::Unresolved);
            added.expect("a server of the file");
        }
    }
    assert_eq!(registry.saved(0, usize::MAX).0.services.len(), config.services.len());
}

/// The examples of `configs/`, the lab and the page.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut seeds: Vec<Vec<u8>> = ["configs", "tests/lab"]
        .iter()
        .flat_map(|dir| std::fs::read_dir(root.join(dir)).expect("a directory of the repository"))
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| std::fs::read(path).expect("a readable file"))
        .collect();
    let page = std::fs::read_to_string(root.join("docs/configuration.md")).expect("the page");
    let blocks = page.split("```toml\n").skip(1).filter_map(|block| block.split("```").next());
    seeds.extend(blocks.map(|block| block.as_bytes().to_vec()));
    seeds.sort();
    seeds
}
