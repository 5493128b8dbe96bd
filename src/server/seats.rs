//! How many connections one address may have: one client that opens all it can must not keep the others out.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

/// The connections of each address. Locked for a look-up when one comes and when it goes; at most one entry for
/// each connection that is open.
#[derive(Debug)]
pub struct Seats {
    taken: Mutex<HashMap<IpAddr, usize>>,
    most: usize,
    exempt: Vec<IpNet>,
}

/// One connection's place; given back with this.
#[derive(Debug)]
pub struct Seat(Option<(Arc<Seats>, IpAddr)>);

impl Seat {
    /// Of a connection that nobody counts.
    pub fn uncounted() -> Self {
        Self(None)
    }
}

impl Seats {
    /// At most `most` for each address, but for those of `exempt`: proxies, the backend's own servers.
    pub fn new(most: usize, exempt: Vec<IpNet>) -> Self {
        Self {
            taken: Mutex::default(),
            most,
            exempt,
        }
    }

    /// A place for a connection from `address`; `None` where it has too many. Of IPv6, a /64 is one address, as
    /// one client has at least that much.
    pub fn take(self: &Arc<Self>, address: IpAddr) -> Option<Seat> {
        let address = address.to_canonical();
        if self.exempt.iter().any(|net| net.contains(&address)) {
            return Some(Seat::uncounted());
        }
        let key = network(address);
        let mut taken = self.lock();
        let count = taken.entry(key).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Seat(Some((self.clone(), key))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((seats, key)) = self.0.take() else {
            return;
        };
        let mut taken = seats.lock();
        if let Some(count) = taken.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&key);
            }
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(bits).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let exempt = vec!["10.0.0.0/8".parse().unwrap()];
        let seats = Arc::new(Seats::new(2, exempt));
        let take = |text: &str| seats.take(text.parse().unwrap());
        let first = take("192.0.2.1").unwrap();
        let _second = take("::ffff:192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        let _other = take("192.0.2.2").unwrap();
        drop(first);
        let _again = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none());
        // One network of IPv6 is one client.
        let _six = (take("2001:db8::1").unwrap(), take("2001:db8::2").unwrap());
        assert!(take("2001:db8::3").is_none());
        let _another = take("2001:db8:0:1::1").unwrap();
        let many: Vec<_> = (0..10).map(|_| take("10.1.2.3").unwrap()).collect();
        drop((many, _second, _other, _again, _six, _another));
        assert!(seats.lock().is_empty(), "nothing is kept of who has left");
    }
}
