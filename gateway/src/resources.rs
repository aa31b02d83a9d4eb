//! Finds out what the machine, the container and the process limits leave to the gateway.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// Limits above this count as none: version 1 of cgroups writes such a number for "no limit".
const NO_LIMIT: u64 = 1 << 60;

/// Memory that this process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// The total, including what the process already uses.
    pub total: u64,
    /// What is free of it now.
    pub free: u64,
    /// The cause of the limit.
    pub by: Limit,
}

/// The cause of a memory limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The memory of the machine.
    Machine,
    /// The cgroup of the process, that is of a container or a service.
    Cgroup,
    /// `ulimit -d`.
    Data,
    /// `ulimit -v`.
    AddressSpace,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "the machine",
            Self::Cgroup => "the control group of the process (memory.max)",
            Self::Data => "`ulimit -d`",
            Self::AddressSpace => "`ulimit -v`",
        })
    }
}

/// What this process uses; `None` for what the system does not report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Processor time of all threads since the start.
    pub processor_time: Duration,
    /// Bytes of memory in use.
    pub resident: Option<u64>,
    /// Bytes of reserved address space.
    pub reserved: Option<u64>,
    /// Number of open files and sockets. `None` also before Linux 6.2: see [`count_descriptors`].
    pub descriptors: Option<u64>,
    /// Maximum number of open files and sockets; `None` also for no limit.
    pub descriptors_max: Option<u64>,
}

/// What this process uses at this moment.
pub fn used() -> Used {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Used {
        processor_time: clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default(),
        resident: kib(&status, "VmRSS"),
        reserved: kib(&status, "VmSize"),
        descriptors: descriptors(),
        descriptors_max: getrlimit(Resource::Nofile).current,
    }
}

/// The size of the folder of descriptors is their number, so that none of them is looked at. Before Linux 6.2
/// the size is 0.
fn descriptors() -> Option<u64> {
    let folder = fs::metadata("/proc/self/fd").ok()?;
    Some(folder.len()).filter(|number| *number > 0)
}

/// Number of open files and sockets, one by one: 100,000 take 0.2 seconds.
pub fn count_descriptors() -> Option<u64> {
    // The folder itself is open while it is read.
    fs::read_dir("/proc/self/fd").ok().map(|all| all.count().saturating_sub(1) as u64)
}

/// Memory that this process may still use; `None` if the system does not report it.
pub fn memory() -> Option<Memory> {
    let mut found = shared();
    found.extend(limited(Resource::Data, Limit::Data, "VmData"));
    found.extend(address_space());
    least(found)
}

/// Memory that a child process may use: process limits apply to each process separately.
pub fn memory_of_another() -> Option<Memory> {
    least(shared())
}

/// Memory that this process shares with others.
fn shared() -> Vec<Memory> {
    let mut found = Vec::new();
    if let Ok(text) = fs::read_to_string("/proc/meminfo") {
        found.extend(machine(&text));
    }
    if let Ok(text) = fs::read_to_string("/proc/self/cgroup") {
        found.extend(cgroups(Path::new("/sys/fs/cgroup"), &text));
    }
    found
}

/// The entry with the least free memory, and the smallest total of all.
fn least(found: Vec<Memory>) -> Option<Memory> {
    let total = found.iter().map(|memory| memory.total).min()?;
    let least = found.into_iter().min_by_key(|memory| memory.free)?;
    Some(Memory { total, ..least })
}

/// The address space of this process, if it is limited.
pub fn address_space() -> Option<Memory> {
    limited(Resource::As, Limit::AddressSpace, "VmSize")
}

/// A limit of the process, with its usage from this line of `/proc/self/status`.
fn limited(resource: Resource, by: Limit, line: &str) -> Option<Memory> {
    let total = getrlimit(resource).current?;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let used = kib(&status, line).unwrap_or(0);
    Some(Memory { total, free: total.saturating_sub(used), by })
}

/// The bytes in a line such as `MemTotal:  16 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Memory of the machine, from `/proc/meminfo`.
fn machine(text: &str) -> Option<Memory> {
    let (total, free) = (kib(text, "MemTotal")?, kib(text, "MemAvailable")?);
    Some(Memory { total, free, by: Limit::Machine })
}

/// The limits of every cgroup of the process, from `/proc/self/cgroup`, below their mount point.
fn cgroups(mount: &Path, text: &str) -> Vec<Memory> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        if controllers.is_empty() {
            // If version 1 is in use, version 2 may be mounted elsewhere, and then it has no memory
            // controller.
            found.extend(groups(mount, path, &VERSION_2));
        } else if controllers.split(',').any(|controller| controller == "memory") {
            found.extend(groups(&mount.join("memory"), path, &VERSION_1));
        }
    }
    found
}

/// Names of the files of a cgroup version, and of the page cache that is reclaimed when memory is short.
struct Names {
    limit: &'static str,
    used: &'static str,
    files: &'static str,
}

const VERSION_1: Names =
    Names { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", files: "total_inactive_file" };
const VERSION_2: Names = Names { limit: "memory.max", used: "memory.current", files: "inactive_file" };

/// A cgroup and its ancestors. In a container the path may be that of the host, of which only the last part
/// exists.
fn groups(mount: &Path, path: &str, names: &Names) -> Vec<Memory> {
    let group: PathBuf = mount.join(path.trim_start_matches('/'));
    let within = group.ancestors().take_while(|folder| folder.starts_with(mount));
    within.filter_map(|folder| group_limit(folder, names)).collect()
}

fn group_limit(folder: &Path, names: &Names) -> Option<Memory> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    // "max" is not a number.
    let total = number(names.limit).filter(|limit| *limit < NO_LIMIT)?;
    let stat = read("memory.stat").unwrap_or_default();
    let files = stat.lines().find_map(|line| line.strip_prefix(names.files)?.trim().parse::<u64>().ok());
    let used = number(names.used)?.saturating_sub(files.unwrap_or(0));
    Some(Memory { total, free: total.saturating_sub(used), by: Limit::Cgroup })
}

/// Formats bytes for people, such as `1.5 GiB`.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", UNITS[unit]) } else { format!("{value:.0} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failing test may panic")]

    use rustix::process::{Rlimit, setrlimit};

    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_groups_above_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("kubepods/pod7");
        write(
            &pod,
            &[
                ("memory.max", "1000\n"),
                ("memory.current", "400\n"),
                ("memory.stat", "anon 1\ninactive_file 100\n"),
            ],
        );
        write(&pod.join("app"), &[("memory.max", "max\n"), ("memory.current", "300\n"), ("memory.stat", "")]);
        let found = cgroups(dir.path(), "0::/kubepods/pod7/app\n");
        assert_eq!(found, [Memory { total: 1000, free: 700, by: Limit::Cgroup }]);
    }

    #[test]
    fn a_container_that_sees_the_path_of_the_host_finds_its_own_limit() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            ("memory.limit_in_bytes", "134217728\n"),
            ("memory.usage_in_bytes", "34217728\n"),
            ("memory.stat", "cache 5\ntotal_inactive_file 0\n"),
        ];
        write(&dir.path().join("memory"), &files);
        let found = cgroups(dir.path(), "11:cpu,cpuacct:/docker/ab\n7:memory:/docker/ab\n0::/\n");
        assert_eq!(found, [Memory { total: 128 << 20, free: 100_000_000, by: Limit::Cgroup }]);
        write(&dir.path().join("memory"), &[("memory.limit_in_bytes", "9223372036854771712\n")]);
        assert_eq!(cgroups(dir.path(), "7:memory:/docker/ab\n"), []);
    }

    #[test]
    fn the_machine_tells_what_is_available() {
        let text = "MemTotal:       16 kB\nMemFree:         1 kB\nMemAvailable:    8 kB\n";
        assert_eq!(machine(text), Some(Memory { total: 16384, free: 8192, by: Limit::Machine }));
        assert!(memory().is_some_and(|memory| memory.free > 0 && memory.free <= memory.total));
    }

    #[test]
    fn descriptors_are_counted_without_a_look_at_each_of_them() {
        assert_eq!(descriptors(), count_descriptors());
        let limit = getrlimit(Resource::Nofile);
        let few = count_descriptors().map(|number| number + 20);
        setrlimit(Resource::Nofile, Rlimit { current: few, ..limit }).unwrap();
        let all: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
        let (counted, known) = (count_descriptors(), descriptors());
        setrlimit(Resource::Nofile, limit).unwrap();
        assert_eq!(counted, None, "that takes a descriptor, and none is left");
        assert_eq!(known, count_descriptors());
        drop(all);
        assert_eq!(descriptors(), count_descriptors());
    }

    #[test]
    fn sizes_are_for_people() {
        let shown = [512, 1024, 1536 << 10, 100 << 30, 3 << 50].map(show);
        assert_eq!(shown, ["0.5 KiB", "1.0 KiB", "1.5 MiB", "100 GiB", "3072 TiB"]);
    }
}
