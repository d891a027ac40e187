//! Says in one line on what machine a run was.

use std::fs;

/// Processor, cores, memory, distribution, kernel.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let processor = value("/proc/cpuinfo", "model name", ':').unwrap_or_else(|| "processor".into());
    let memory = value("/proc/meminfo", "MemTotal", ':')
        .and_then(|text| text.split(' ').next()?.parse::<u64>().ok())
        .map_or(0, |kib| (kib + (1 << 19)) >> 20);
    let system = value("/etc/os-release", "PRETTY_NAME", '=').unwrap_or_else(|| "Linux".into());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel = kernel.split('-').next().unwrap_or_default().trim();
    format!("{processor}, {cores} cores, {memory} GiB, {system}, Linux {kernel}")
}

fn value(path: &str, key: &str, separator: char) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(separator)?;
        (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    })
}
