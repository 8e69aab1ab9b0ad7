//! Configuration files that cannot be read, and one that can.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use control::config::{Config, MAX_SIZE};

const GOOD: &str = r#"[director]
cores = [1]
[[port]]
name = "lan"
device = "0000:01:00.0"
"#;

fn online() -> BTreeSet<u32> {
    BTreeSet::from([0, 1])
}

#[test]
fn files_that_cannot_be_read() {
    let directory = Temporary::new();
    let refusal = |path: &Path| Config::from_file(path, &online()).unwrap_err().to_string();
    let name = |file: &str| directory.0.join(file);

    assert_eq!(
        refusal(&name("none.toml")),
        format!(
            "{}: cannot be read: No such file or directory; check the path, or start from configs/rvsd.toml",
            name("none.toml").display()
        )
    );
    assert_eq!(
        refusal(&directory.0),
        format!(
            "{}: cannot be read: Is a directory; give the path of a file",
            directory.0.display()
        )
    );
    fs::write(name("latin1.toml"), b"# ok\n# caf\xe9\n").unwrap();
    assert_eq!(
        refusal(&name("latin1.toml")),
        format!(
            "{}:2: byte 0xe9 is not UTF-8; save the file as UTF-8",
            name("latin1.toml").display()
        )
    );
    let large = vec![b'#'; usize::try_from(MAX_SIZE).unwrap() + 1];
    fs::write(name("large.toml"), &large).unwrap();
    assert_eq!(
        refusal(&name("large.toml")),
        format!(
            "{}: is larger than 16 MiB, the most that is read; add the services with rvsadm instead",
            name("large.toml").display()
        )
    );
    fs::write(name("largest.toml"), &large[1..]).unwrap();
    assert!(refusal(&name("largest.toml")).contains(":1: director.cores: missing"));
    assert!(refusal(Path::new("/dev/zero")).contains("is larger than 16 MiB"));
}

#[test]
fn a_good_file_is_read() {
    let directory = Temporary::new();
    let path = directory.0.join("rvsd.toml");
    fs::write(&path, GOOD).unwrap();
    assert_eq!(Config::from_file(&path, &online()).unwrap().ports[0].name, "lan");
}

/// A directory that is removed in the end.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Self {
        let unique = format!("rvs-config-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(unique);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
