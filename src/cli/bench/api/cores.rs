//! Who runs on which core.
//!
//! A server and the one who asks it take turns over loopback. Where they share cores, schedulers put both on one as often as
//! not, so that each waits for the other, and the rates of one measurement are twice those of the next.

/// Cores of servers, and of the one who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cores {
    pub(super) serving: Vec<usize>,
    pub(super) asking: Vec<usize>,
}

impl Cores {
    /// The first cores for so many serving threads, the others for who asks; `None` where there are not enough, or where
    /// the system does not say.
    pub(super) fn split(serving_threads: usize) -> Option<Self> {
        Self::split_of(allowed()?, serving_threads)
    }

    fn split_of(mut serving: Vec<usize>, serving_threads: usize) -> Option<Self> {
        if serving.len() <= serving_threads {
            return None;
        }
        let asking = serving.split_off(serving_threads);
        Some(Self { serving, asking })
    }
}

/// The cores this thread may run on.
#[cfg(target_os = "linux")]
fn allowed() -> Option<Vec<usize>> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let set = sched_getaffinity(None).ok()?;
    let cores = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core));
    Some(cores.collect())
}

/// Lets this thread, and those it starts, run on these cores alone.
#[cfg(target_os = "linux")]
pub(super) fn pin(cores: &[usize]) {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    for core in cores.iter().filter(|core| **core < CpuSet::MAX_CPU) {
        set.set(*core);
    }
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!("cannot keep to cores {cores:?}: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Option<Vec<usize>> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(super) fn pin(_: &[usize]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_gets_what_servers_leave() {
        let split = |cores: &[usize], threads| Cores::split_of(cores.to_vec(), threads);
        let cores = split(&[2, 3, 5, 8], 3).unwrap();
        assert_eq!((cores.serving, cores.asking), (vec![2, 3, 5], vec![8]));
        assert_eq!(split(&[0, 1], 2), None);
        assert_eq!(split(&[], 1), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_thread_keeps_to_its_cores() {
        let own = allowed().unwrap();
        let last = *own.last().unwrap();
        let pinned = std::thread::spawn(move || {
            pin(&[last]);
            allowed()
        });
        assert_eq!(pinned.join().unwrap(), Some(vec![last]));
        assert_eq!(allowed(), Some(own));
    }
}
