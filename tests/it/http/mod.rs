//! HTTP rules of a response with a file: ranges, conditions, headers, connections.

mod conditions;
mod headers;
mod ranges;
mod transport;

use std::hash::{BuildHasher, RandomState};

use crate::support::{Answer, BASE, Connection, TestServer};

/// A client that requests one path repeatedly on one connection as `alice`: a wrongly framed response breaks the next
/// one.
pub struct Reader {
    pub connection: Connection,
    pub authorization: String,
    pub path: String,
}

impl Reader {
    pub fn of(server: &TestServer, id: &str) -> Self {
        Self {
            connection: server.connect(),
            authorization: format!("Bearer {}", server.token("alice")),
            path: format!("{BASE}/chatfiles/{id}"),
        }
    }

    pub fn get(&mut self, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", headers)
    }

    pub fn ask(&mut self, method: &str, headers: &[(&str, &str)]) -> Answer {
        let mut all = vec![("Authorization", self.authorization.as_str())];
        all.extend_from_slice(headers);
        self.connection.request(method, &self.path, &all, b"")
    }
}

/// A repeatable generator (xorshift64*): every failure names its seed.
pub struct Random(u64);

impl Random {
    pub fn from_seed(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A different seed in every run.
pub fn new_seed() -> u64 {
    RandomState::new().hash_one("seed")
}
