//! The pages for people lead somewhere: every link of README.md, docs/ and the
//! other pages names a file that is there, and a heading that the file has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// What a page has that others can point to, and what it points to.
#[derive(Default)]
struct Page {
    anchors: BTreeSet<String>,
    links: Vec<String>,
    /// What is set as code.
    code: BTreeSet<String>,
}

impl Page {
    fn read(text: &str) -> Self {
        let mut page = Self::default();
        let mut heading: Option<String> = None;
        for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = page.anchor(&heading.take().unwrap_or_default());
                    page.anchors.insert(anchor);
                }
                Event::Text(text) => heading.iter_mut().for_each(|heading| heading.push_str(&text)),
                Event::Code(text) => {
                    heading.iter_mut().for_each(|heading| heading.push_str(&text));
                    page.code.insert(text.into_string());
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(dest_url.into_string());
                }
                _ => {}
            }
        }
        page
    }

    /// A heading's anchor as GitHub makes it: lower case, blanks as hyphens, no other
    /// punctuation, and a number when an earlier heading has the same.
    fn anchor(&self, heading: &str) -> String {
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let first: String = heading.to_lowercase().chars().filter(kept).collect();
        let first = first.replace(' ', "-");
        let mut anchor = first.clone();
        let mut number = 0;
        while self.anchors.contains(&anchor) {
            number += 1;
            anchor = format!("{first}-{number}");
        }
        anchor
    }
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
}

fn pages() -> BTreeMap<PathBuf, Page> {
    let mut pages = BTreeMap::new();
    for directory in [root(), root().join("docs")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if is_page(&path) {
                let page = Page::read(&fs::read_to_string(&path).unwrap());
                pages.insert(path, page);
            }
        }
    }
    pages
}

/// Why a link of the page at `from` leads nowhere.
fn mistake(pages: &BTreeMap<PathBuf, Page>, from: &Path, link: &str) -> Option<String> {
    if link.starts_with("https://") || link.starts_with("http://") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => from.to_path_buf(),
        _ => match from.parent()?.join(file).canonicalize() {
            Ok(target) => target,
            Err(_) => return Some("there is no such file".into()),
        },
    };
    if !target.starts_with(root()) {
        return Some("it leaves the repository".into());
    }
    let known = pages.get(&target).is_some_and(|page| page.anchors.contains(anchor));
    (!anchor.is_empty() && !known).then(|| "the page has no such heading".into())
}

#[test]
fn every_link_leads_somewhere() {
    let pages = pages();
    let mut wrong = Vec::new();
    let mut links = 0;
    for (path, page) in &pages {
        for link in &page.links {
            links += 1;
            if let Some(mistake) = mistake(&pages, path, link) {
                wrong.push(format!("{}: {link}: {mistake}", path.display()));
            }
        }
    }
    assert!(pages.len() > 25 && links > 100, "{} pages, {links} links", pages.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn links_that_lead_nowhere_are_found() {
    let pages = pages();
    let readme = root().join("README.md");
    let said = |link| mistake(&pages, &readme, link);
    assert_eq!(said("docs/lab.md"), None);
    assert_eq!(said("#see-it-work-one-command"), None);
    assert_eq!(said("docs/routing.md#take-up"), None);
    assert_eq!(said("docs/lap.md").unwrap(), "there is no such file");
    assert_eq!(said("docs/lab.md#no-such").unwrap(), "the page has no such heading");
    assert_eq!(said("#no-such").unwrap(), "the page has no such heading");
    assert_eq!(said("configs/rvsd.toml#no-such").unwrap(), "the page has no such heading");
    assert_eq!(said("../elsewhere").unwrap(), "there is no such file");
    assert_eq!(said("/etc/passwd").unwrap(), "it leaves the repository");
}

#[test]
fn anchors_are_those_of_github() {
    let page = Page::read("# `rvsd -c FILE`: it, again\n## Twice\n## Twice\n## a_b & c\n");
    let wanted = ["a_b--c", "rvsd--c-file-it-again", "twice", "twice-1"];
    assert_eq!(page.anchors.iter().map(String::as_str).collect::<Vec<_>>(), wanted);
}

/// docs/README.md is how the other pages are found.
#[test]
fn the_index_has_every_page() {
    let pages = pages();
    let docs = root().join("docs");
    let index = &pages[&docs.join("README.md")];
    let listed: BTreeSet<_> = index.links.iter().map(|link| docs.join(link)).collect();
    let missing: Vec<_> = pages
        .keys()
        .filter(|path| path.parent() == Some(&docs) && !path.ends_with("README.md"))
        .filter(|path| !listed.contains(*path))
        .collect();
    assert!(missing.is_empty(), "docs/README.md does not name {missing:?}");
}

#[test]
fn the_page_of_the_lab_has_every_test() {
    let page = &pages()[&root().join("docs/lab.md")];
    let named = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        name.strip_prefix("t-")?.strip_suffix(".sh").map(str::to_owned)
    };
    let tests: BTreeSet<_> = fs::read_dir(root().join("tests/lab"))
        .unwrap()
        .filter_map(|entry| named(entry.unwrap()))
        .collect();
    assert!(tests.len() > 30, "{tests:?}");
    let missing: Vec<_> = tests.difference(&page.code).collect();
    assert!(missing.is_empty(), "docs/lab.md does not name {missing:?}");
}

/// docs/datapath.md tells the way of a packet by the names in the code.
#[test]
fn the_data_path_is_told_with_names_that_there_are() {
    let page = &pages()[&root().join("docs/datapath.md")];
    let mut sources = String::new();
    let mut files = Vec::new();
    for part in ["dataplane/src", "control/src", "control/api/src", "dpdk-sys"] {
        read_sources(&root().join(part), &mut sources, &mut files);
    }
    let words: BTreeSet<_> = sources.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let is_path = |name: &&String| name.split("::").count() > 1;
    let functions = page
        .code
        .iter()
        .filter(is_path)
        .filter(|name| name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | ':')));
    let unknown: Vec<_> = functions
        .clone()
        .filter(|name| !name.split("::").all(|part| words.contains(part)))
        .collect();
    assert!(functions.count() > 50);
    assert!(unknown.is_empty(), "not in the code: {unknown:?}");

    let gone: Vec<_> = page
        .code
        .iter()
        .filter(|name| name.ends_with(".rs"))
        .filter(|name| !files.iter().any(|file| file.ends_with(name)))
        .collect();
    assert!(gone.is_empty(), "no such files: {gone:?}");
}

fn read_sources(directory: &Path, text: &mut String, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, text, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&fs::read_to_string(&path).unwrap());
            files.push(path);
        }
    }
}
