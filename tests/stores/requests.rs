//! How often the store is asked.

use std::fs;

use crate::harness::make_unit;
use crate::mount::{Mounted, command, trial};

#[test]
fn a_publication_with_nothing_new_asks_the_store_nothing() {
    let trial = trial();
    let mounted = Mounted::store(&trial, &[]);
    let restored = command(&trial, "restore", ("mounted", "local"));
    assert_eq!(restored.code, 0, "{}", restored.log_text());
    assert!(mounted.requests() > 0);
    // What the job did to a restored tool is not published, and asks nothing either.
    fs::write(trial.path("local/tools/packed/1.0.0/x64/tool"), "changed").unwrap();
    let mounted = Mounted::store(&trial, &[]);
    let published = command(&trial, "publish", ("mounted", "local"));
    assert_eq!(published.stdout, "published 0 units, 0 files, 0 bytes\n");
    assert_eq!(mounted.requests(), 0);
    // The same with what is new is not so: the requests are counted.
    fs::write(trial.path("local/npm/new"), "new").unwrap();
    let mounted = Mounted::store(&trial, &[]);
    let published = command(&trial, "publish", ("mounted", "local"));
    assert_eq!(published.stdout, "published 0 units, 1 files, 3 bytes\n");
    assert!(mounted.requests() > 0);
}

#[test]
fn a_link_whose_answer_is_lost_was_made() {
    let trial = trial();
    make_unit(&trial.path("local/tools"), "new/1.0.0/x64", "new");
    let _mounted = Mounted::store(&trial, &["--fault", "link=lost"]);
    let published = command(&trial, "publish", ("mounted", "local"));
    assert_eq!(published.code, 0, "{}", published.log_text());
    assert!(published.stdout.starts_with("published new/1.0.0/x64\n"));
    let packs = fs::read_dir(trial.path("store/units")).unwrap().count();
    let drafts = fs::read_dir(trial.path("store/tmp")).unwrap().count();
    assert_eq!((packs, drafts), (2, 0));
}
