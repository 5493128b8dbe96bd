//! strace on a running process or a new one: logs its system calls and injects errors and signals.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::Signal;

use super::process::{Process, lines, poll, send};

/// Time in which strace must attach.
const TIMEOUT: Duration = Duration::from_secs(60);

/// strace on a running process: injects results into its system calls.
pub struct Strace {
    child: Child,
    log: PathBuf,
}

impl Strace {
    /// Attaches to every thread of a process. `inject` has strace's syntax, for example `fdatasync:error=EIO:when=1`.
    /// Calls are counted per thread.
    #[track_caller]
    pub fn attach(process: &Process, inject: &str) -> Self {
        let log = process.store.with_extension("strace");
        let mut child = strace(&log, inject)
            .arg(format!("--attach={}", process.pid()))
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let said = lines(child.stderr.take().expect("piped"));
        let attached = std::iter::from_fn(|| said.recv_timeout(TIMEOUT).ok())
            .any(|line| line.contains(" attached"));
        assert!(attached, "strace does not attach: is ptrace allowed?");
        Self { child, log }
    }

    /// Detaches from the process and returns the log.
    pub fn detach(mut self) -> String {
        send(self.child.id(), Signal::INT);
        self.child.wait().expect("a child");
        read(&self.log)
    }

    /// As [`Strace::detach`], once the log satisfies `is_so`. A client may see the effect of a call before it returns,
    /// and a call that has not returned is logged without its result.
    #[track_caller]
    pub fn detach_when(self, is_so: impl Fn(&str) -> bool) -> String {
        poll("the traced calls", || is_so(&read(&self.log)));
        self.detach()
    }

    /// Waits for the end of the traced process and returns the line of the call in which it was killed.
    pub fn last_call(mut self) -> String {
        self.child.wait().expect("a child");
        killed_in(&self.log)
    }
}

/// An strace command with a log, not started; the caller adds a process or a program.
pub fn strace(log: &Path, inject: &str) -> Command {
    let (calls, _) = inject
        .split_once(':')
        .expect("calls, a colon, and an action");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-y", "-s", "1024", "-o"])
        .arg(log)
        .args(["-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={inject}")]);
    command
}

/// The last call before the process was killed. strace writes `???(` for a thread that died before its call could be
/// read.
pub fn killed_in(log: &Path) -> String {
    read(log)
        .lines()
        .rfind(|line| line.contains('(') && !line.contains("???("))
        .unwrap_or_default()
        .to_owned()
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).expect("strace's log")).into_owned()
}
