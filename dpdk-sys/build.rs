//! Finds libdpdk, compiles the shim and generates its bindings.
//!
//! bindgen reads `shim.h` only: it names no DPDK type by its layout, so neither
//! a change of DPDK's structs nor of its macros reaches Rust.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The oldest DPDK whose API the shim uses.
const MINIMUM: &str = "22.11";

fn main() {
    for file in ["build.rs", "shim.h", "shim.c"] {
        println!("cargo::rerun-if-changed={file}");
    }
    let found = find_dpdk().and_then(|()| compile_flags());
    let built = found.and_then(|flags| {
        compile_shim(&flags);
        generate_bindings()
    });
    if let Err(reason) = built {
        fail(&reason);
    }
}

/// Emits the linker flags of the system's libdpdk. Dynamic linking, and no
/// driver by name: EAL loads drivers from its plugin folder.
fn find_dpdk() -> Result<(), String> {
    pkg_config::Config::new().atleast_version(MINIMUM).probe("libdpdk").map(|_| ()).map_err(
        |error| format!("pkg-config finds no libdpdk {MINIMUM} or newer ({})", cause(&error)),
    )
}

fn cause(error: &pkg_config::Error) -> String {
    match error {
        pkg_config::Error::Command { .. } => "pkg-config cannot be run".into(),
        pkg_config::Error::Failure { output, .. }
        | pkg_config::Error::ProbeFailure { output, .. } => {
            let text = String::from_utf8_lossy(&output.stderr);
            text.lines().next().unwrap_or("it is not installed").trim().to_string()
        }
        _ => "it is not installed".into(),
    }
}

/// DPDK's own compiler flags. The crate `pkg-config` drops `-march` and
/// `-include rte_config.h`, without which DPDK's headers do not compile.
fn compile_flags() -> Result<Vec<String>, String> {
    let output = Command::new("pkg-config")
        .args(["--cflags", "libdpdk"])
        .output()
        .map_err(|error| format!("pkg-config cannot be run ({error})"))?;
    let flags = String::from_utf8_lossy(&output.stdout);
    Ok(flags.split_whitespace().map(str::to_string).collect())
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("shim.c").opt_level(3).std("gnu11").flag("-D_GNU_SOURCE");
    for flag in flags {
        build.flag(flag);
    }
    build.compile("rvs_shim");
}

fn generate_bindings() -> Result<(), String> {
    clang_sys::load().map_err(|_| "bindgen finds no libclang".to_string())?;
    let rust = bindgen::RustTarget::stable(85, 0).map_err(|error| error.to_string())?;
    let bindings = bindgen::Builder::default()
        .header("shim.h")
        .allowlist_item("rvs_.*|RVS_.*")
        .rust_target(rust)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true)
        .derive_default(true)
        .generate()
        .map_err(|error| format!("bindgen cannot read shim.h ({})", error.to_string().trim()))?;
    let out: PathBuf = std::env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    bindings
        .write_to_file(Path::new(&out).join("bindings.rs"))
        .map_err(|error| format!("cannot write bindings.rs ({error})"))
}

/// `cargo::error` alone ends the build; a bad exit code would add a dump.
fn fail(reason: &str) {
    println!(
        "cargo::error=The DPDK adapter cannot be built: {reason}. On Debian or Ubuntu: \
         `apt-get install libdpdk-dev libclang-dev clang pkg-config`. \
         Without DPDK, `--no-default-features` builds everything but the DPDK adapter and rvsd."
    );
}
