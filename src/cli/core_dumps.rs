//! No file with a picture of the process's memory, keys included, is left behind by a crash.

/// Has the operating system write no core dump of this process, whatever the user's limits and the machine's settings say.
///
/// On Linux this also keeps other processes of the same user from reading its memory and its environment.
pub(super) fn refuse() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let none = Rlimit {
            current: Some(0),
            maximum: Some(0),
        };
        // Lowering limits is always allowed.
        if let Err(error) = setrlimit(Resource::Core, none) {
            eprintln!("warning: core dumps cannot be switched off: {error}");
        }
    }
    // A program that core dumps are handed to does not have to respect the limit.
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
            eprintln!("warning: core dumps cannot be switched off: {error}");
        }
    }
}
