//! How large the programs are.

use anyhow::{Context, Result};

use crate::bench::Bench;
use crate::programs;
use crate::results::Unit;
use crate::sections::Section;

pub(crate) const SECTION: Section = Section {
    name: "size",
    title: "Sizes",
    run,
};

const MIB: f64 = 1_048_576.0;

fn run(bench: &mut Bench<'_>) -> Result<()> {
    for (program, promised) in [("dindd", Some(10.0 * MIB)), ("supervisor", None)] {
        let path = programs::find(program)?;
        let size = path.metadata().context("size of a program")?.len();
        let name = format!("size_{program}");
        let what = format!("{program}, the binary");
        #[expect(clippy::cast_precision_loss, reason = "a few MiB")]
        bench.figure((&name, &what), Unit::Bytes, size as f64, promised)?;
    }
    Ok(())
}
