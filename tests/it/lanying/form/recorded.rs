//! A server over a store that records its calls.

use std::sync::Arc;

use super::{Fields, assert_nothing_stays, assert_xml, file, form_of, post, signed};
use crate::support::{Answer, Faults, FaultyStore, Step, TestServer};

/// The server and the recorded calls.
pub(super) struct Recorded {
    pub(super) server: TestServer,
    calls: Faults,
    _directory: tempfile::TempDir,
}

impl Recorded {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let calls = Faults::default();
        let faults = calls.clone();
        let toml = signed::configuration("", "");
        let server = TestServer::over(directory.path(), &toml, |inner| {
            Arc::new(FaultyStore { inner, faults })
        });
        Self {
            server,
            calls,
            _directory: directory,
        }
    }

    /// Checks an error to a form that never reaches the store.
    #[track_caller]
    pub(super) fn check(&self, what: &str, answer: &Answer, status: u16, code: &str) -> String {
        println!("{what}");
        let message = assert_xml(answer, status, code);
        assert_eq!(self.calls.count(Step::Begin), 0, "{what}: begun");
        assert_nothing_stays(&self.server);
        message
    }

    /// Checks an error to a form with these fields and a valid file.
    #[track_caller]
    pub(super) fn check_fields(
        &self,
        what: &str,
        fields: &Fields,
        status: u16,
        code: &str,
    ) -> String {
        let answer = post(&self.server, &file(form_of(fields)));
        self.check(what, &answer, status, code)
    }
}
