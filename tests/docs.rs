//! What the documents at the top of the repository say, compared with the repository.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot read its files has failed"
)]

use std::fs;
use std::path::Path;

fn read(name: &str) -> String {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    fs::read_to_string(top.join(name)).unwrap()
}

#[test]
fn the_readme_says_of_every_dependency_what_it_is_for() {
    let manifest = read("Cargo.toml");
    let (_, rest) = manifest.split_once("[workspace.dependencies]").unwrap();
    let (dependencies, _) = rest.split_once("\n[").unwrap();
    let readme = read("README.md");
    let named: Vec<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|crates| crates.split(", "))
        .collect();
    let declared = dependencies
        .lines()
        .filter(|line| !line.contains("path ="))
        .filter_map(|line| Some(line.split_once(" = ")?.0));
    let missing: Vec<&str> = declared.filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "not in the README's table: {missing:?}");
}

#[test]
fn every_file_that_the_documents_link_to_exists() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .unwrap();
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(document);
        let links = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            assert!(top.join(link).exists(), "{document} links to {link}");
        }
    }
}
