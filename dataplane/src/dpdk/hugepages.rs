//! Which memory the machine has for EAL: free huge pages, and hugetlbfs mounts.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

const SYSFS: &str = "/sys/kernel/mm/hugepages";

/// Where EAL's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Memory {
    /// Files in a hugetlbfs mount: tools can attach.
    Mounted,
    /// Anonymous huge pages: no mount is needed, no tool can attach.
    Anonymous,
    /// Ordinary pages.
    Ordinary,
}

/// Huge pages of one size.
struct Size {
    page_kb: u64,
    free_kb: u64,
}

/// The huge page memory that a start can count on, in MB.
#[derive(Debug, Clone, Copy)]
pub(super) struct Available {
    mounted_mb: u64,
    any_mb: u64,
}

impl Available {
    /// Looks at the machine. Files that an earlier process of the same
    /// `file_prefix` left behind count as free: EAL removes them when it starts.
    pub(super) fn of_machine(file_prefix: &str) -> Self {
        let sizes = free_sizes();
        let mounts = mounts(&fs::read_to_string("/proc/mounts").unwrap_or_default());
        let default_kb = default_size_kb();
        let mut mounted_kb = 0;
        let mut left_behind_kb = 0;
        let mut seen = Vec::new();
        for (path, page_kb) in mounts {
            let page_kb = page_kb.unwrap_or(default_kb);
            if access(&path, AccessFlags::W_OK).is_err() || seen.contains(&page_kb) {
                continue;
            }
            seen.push(page_kb);
            mounted_kb += sizes
                .iter()
                .filter(|size| size.page_kb == page_kb)
                .map(|size| size.free_kb)
                .sum::<u64>();
            left_behind_kb += left_behind_kb_in(&path, file_prefix);
        }
        let any_kb: u64 = sizes.iter().map(|size| size.free_kb).sum();
        Self {
            mounted_mb: (mounted_kb + left_behind_kb) / 1024,
            any_mb: (any_kb + left_behind_kb) / 1024,
        }
    }

    /// The best kind of memory that holds `memory_mb`.
    pub(super) fn choose(self, memory_mb: u32) -> Memory {
        let needed = u64::from(memory_mb);
        if self.mounted_mb >= needed {
            return Memory::Mounted;
        }
        if self.any_mb >= needed {
            return Memory::Anonymous;
        }
        Memory::Ordinary
    }

    pub(super) fn free_mb(self) -> u64 {
        self.any_mb
    }
}

/// The commands that reserve `memory_mb`: ours, and without it that for huge pages
/// of the default size.
pub(super) fn reserve_command(memory_mb: u32) -> String {
    let page_kb = default_size_kb();
    let pages = (u64::from(memory_mb) * 1024).div_ceil(page_kb);
    format!(
        "`rvs-hugepages set {memory_mb}` or `echo {pages} > {SYSFS}/hugepages-{page_kb}kB/nr_hugepages`"
    )
}

fn free_sizes() -> Vec<Size> {
    let Ok(folders) = fs::read_dir(SYSFS) else { return Vec::new() };
    folders.flatten().filter_map(|folder| free_size(&folder.path())).collect()
}

/// Reserved pages are promised to a mapping that has not touched them yet.
fn free_size(folder: &Path) -> Option<Size> {
    let name = folder.file_name()?.to_str()?;
    let page_kb = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    };
    let free = number("free_hugepages")?.saturating_sub(number("resv_hugepages")?);
    Some(Size { page_kb, free_kb: free * page_kb })
}

fn default_size_kb() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Hugepagesize:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(2048)
}

/// The hugetlbfs mounts, with their page size in kB where one is named.
fn mounts(proc_mounts: &str) -> Vec<(PathBuf, Option<u64>)> {
    let lines = proc_mounts.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.len() >= 4 && fields[2] == "hugetlbfs")
        .map(|fields| (PathBuf::from(fields[1]), page_option_kb(fields[3])))
        .collect()
}

/// The kernel prints the option as `pagesize=2M` or `pagesize=1024M`.
fn page_option_kb(options: &str) -> Option<u64> {
    let text = options.split(',').find_map(|option| option.strip_prefix("pagesize="))?;
    let unit = match text.bytes().last()? {
        b'K' | b'k' => 1,
        b'M' | b'm' => 1024,
        b'G' | b'g' => 1024 * 1024,
        _ => return text.parse::<u64>().ok().map(|bytes| bytes / 1024),
    };
    text[..text.len() - 1].parse::<u64>().ok().map(|number| number * unit)
}

/// EAL names its files `<prefix>map_<n>`.
fn left_behind_kb_in(mount: &Path, file_prefix: &str) -> u64 {
    let Ok(files) = fs::read_dir(mount) else { return 0 };
    let prefix = format!("{file_prefix}map_");
    let ours =
        files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(&prefix));
    ours.filter_map(|file| file.metadata().ok()).map(|data| data.len() / 1024).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_page_sizes_of_mounts() {
        let text = "none /a hugetlbfs rw,relatime,pagesize=2M 0 0\n\
                    none /b hugetlbfs rw,pagesize=1024M 0 0\n\
                    none /c hugetlbfs rw,relatime 0 0\n\
                    tmpfs /run tmpfs rw 0 0\n";
        let expected = vec![
            (PathBuf::from("/a"), Some(2048)),
            (PathBuf::from("/b"), Some(1024 * 1024)),
            (PathBuf::from("/c"), None),
        ];
        assert_eq!(mounts(text), expected);
    }

    #[test]
    fn prefers_a_mount_and_ends_at_ordinary_pages() {
        let available = Available { mounted_mb: 100, any_mb: 300 };
        assert_eq!(available.choose(100), Memory::Mounted);
        assert_eq!(available.choose(101), Memory::Anonymous);
        assert_eq!(available.choose(301), Memory::Ordinary);
    }
}
