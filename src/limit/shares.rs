//! Shares of a resource that is occupied for a long time, such as unfinished uploads and their bytes: how much each
//! tenant, user and client has, and whether it may have more.
//!
//! The share of a tenant is not fixed: a tenant may have as much as it leaves free. So a single tenant gets half of the
//! resource, and the next one half of the rest. The same rule applies to the clients of a tenant. A user has a fixed
//! bound instead, since one attacker may have many users. The caller says how much is free: a bound minus what is in
//! use, or the free space of the disk.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::{fair_queue::Claimant, metrics::ShareRefusal};

/// The owner of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The tenant's name: an index is valid in one process only, and the resource may be older.
    pub tenant: Arc<str>,
    /// The user; empty for the application itself, which counts as one user.
    pub user: Arc<str>,
    /// The client; `None` if it is not known any more.
    pub client: Option<Claimant>,
}

/// The amounts in use, by tenant, user and client.
///
/// Memory: an entry for each tenant, user and client with an amount above zero.
#[derive(Debug, Default)]
pub struct Shares {
    total: u64,
    tenants: HashMap<Arc<str>, u64>,
    users: HashMap<(Arc<str>, Arc<str>), u64>,
    clients: HashMap<Claimant, u64>,
}

impl Shares {
    /// The amount of all owners together.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The amount of the owner's user.
    pub fn of_user(&self, owner: &Owner) -> u64 {
        amount(&self.users, &user_key(owner))
    }

    /// Checks whether an owner may have `more`, if `free` is free and a user may have `user_max` in total.
    ///
    /// # Errors
    /// The share that would be exceeded.
    pub fn check(
        &self,
        owner: &Owner,
        more: u64,
        free: u64,
        user_max: u64,
    ) -> Result<(), ShareRefusal> {
        if self.of_user(owner).saturating_add(more) > user_max {
            return Err(ShareRefusal::User);
        }
        if more > free {
            return Err(ShareRefusal::Server);
        }
        let of_tenant = amount(&self.tenants, &owner.tenant);
        // What the tenant may take until it has as much as is then free.
        let left = free.saturating_sub(of_tenant) / 2;
        if more > left {
            return Err(ShareRefusal::Tenant);
        }
        let of_client = owner
            .client
            .map_or(0, |client| amount(&self.clients, &client));
        if owner.client.is_some() && more > left.saturating_sub(of_client) / 2 {
            return Err(ShareRefusal::Client);
        }
        Ok(())
    }

    /// Adds `more` to an owner, without a check.
    pub fn add(&mut self, owner: &Owner, more: u64) {
        if more == 0 {
            return;
        }
        self.total += more;
        *self.tenants.entry(owner.tenant.clone()).or_default() += more;
        *self.users.entry(user_key(owner)).or_default() += more;
        if let Some(client) = owner.client {
            *self.clients.entry(client).or_default() += more;
        }
    }

    /// Subtracts what was added before.
    pub fn subtract(&mut self, owner: &Owner, less: u64) {
        self.total = self.total.saturating_sub(less);
        subtract(&mut self.tenants, &owner.tenant, less);
        subtract(&mut self.users, &user_key(owner), less);
        if let Some(client) = owner.client {
            subtract(&mut self.clients, &client, less);
        }
    }
}

fn user_key(owner: &Owner) -> (Arc<str>, Arc<str>) {
    (owner.tenant.clone(), owner.user.clone())
}

fn amount<K: Hash + Eq>(amounts: &HashMap<K, u64>, key: &K) -> u64 {
    amounts.get(key).copied().unwrap_or(0)
}

fn subtract<K: Hash + Eq>(amounts: &mut HashMap<K, u64>, key: &K, less: u64) {
    if let Some(amount) = amounts.get_mut(key) {
        *amount = amount.saturating_sub(less);
        if *amount == 0 {
            amounts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u64 = 1000;
    const USER_MAX: u64 = 10;

    fn owner(tenant: u32, user: u32, client: u8) -> Owner {
        Owner {
            tenant: format!("org/app{tenant}").into(),
            user: format!("user{user}").into(),
            client: Some(Claimant::new(tenant, [10, 0, 0, client].into())),
        }
    }

    /// Takes 1 at a time, each as another user, until one is refused.
    fn fill(shares: &mut Shares, tenant: u32, client: Option<u8>) -> (u64, ShareRefusal) {
        for taken in 0.. {
            let mut owner = owner(tenant, taken as u32, client.unwrap_or(0));
            if client.is_none() {
                owner.client = None;
            }
            let free = FREE - shares.total();
            match shares.check(&owner, 1, free, USER_MAX) {
                Ok(()) => shares.add(&owner, 1),
                Err(refusal) => return (taken, refusal),
            }
        }
        unreachable!("the resource is bounded")
    }

    #[test]
    fn limits_each_user() {
        let mut shares = Shares::default();
        let alice = owner(1, 1, 1);
        for _ in 0..USER_MAX {
            assert!(shares.check(&alice, 1, FREE, USER_MAX).is_ok());
            shares.add(&alice, 1);
        }
        let refused = shares.check(&alice, 1, FREE, USER_MAX);
        assert_eq!(refused, Err(ShareRefusal::User));
        assert!(shares.check(&owner(1, 2, 1), 1, FREE, USER_MAX).is_ok());
        assert!(shares.check(&owner(2, 1, 1), 1, FREE, USER_MAX).is_ok());
        shares.subtract(&alice, 1);
        assert!(shares.check(&alice, 1, FREE, USER_MAX).is_ok());
    }

    #[test]
    fn client_and_tenant_leave_half() {
        let mut shares = Shares::default();
        assert_eq!(
            fill(&mut shares, 1, Some(1)),
            (FREE / 4, ShareRefusal::Client)
        );
        // Further clients of the tenant get half of what is left for it, until the tenant has its half.
        let (second, _) = fill(&mut shares, 1, Some(2));
        assert!((80..=130).contains(&second), "{second}");
        let (rest, refusal) = fill(&mut shares, 1, None);
        assert_eq!(refusal, ShareRefusal::Tenant);
        assert_eq!(FREE / 4 + second + rest, FREE / 2);
        // Another tenant gets half of the other half.
        let (other, refusal) = fill(&mut shares, 2, None);
        assert_eq!(refusal, ShareRefusal::Tenant);
        assert!((240..=250).contains(&other), "{other}");
        // The next tenant always gets something.
        for tenant in 3..8 {
            assert!(fill(&mut shares, tenant, None).0 > 0);
        }
    }

    #[test]
    fn refuses_more_than_is_free() {
        let mut shares = Shares::default();
        let alice = owner(1, 1, 1);
        for (more, expected) in [
            (101, Err(ShareRefusal::Server)),
            (u64::MAX, Err(ShareRefusal::User)),
            (51, Err(ShareRefusal::Tenant)),
            (26, Err(ShareRefusal::Client)),
            (25, Ok(())),
        ] {
            assert_eq!(
                shares.check(&alice, more, 100, u64::MAX - 1),
                expected,
                "{more}"
            );
        }
        shares.add(&alice, 25);
        shares.subtract(&alice, u64::MAX);
        assert_eq!(shares.total(), 0);
    }

    #[test]
    fn forgets_owners_with_nothing() {
        let mut shares = Shares::default();
        for user in 0..100 {
            shares.add(&owner(user % 3, user, 1), 5);
        }
        for user in 0..100 {
            shares.subtract(&owner(user % 3, user, 1), 5);
        }
        assert_eq!(shares.total(), 0);
        assert!(shares.tenants.is_empty() && shares.users.is_empty() && shares.clients.is_empty());
    }
}
