//! A queue of which each tenant's entries leave in their order, and the tenants' in turn: who sends much waits for his own.

use std::collections::VecDeque;

use crate::tenant::Tenant;

pub(super) struct FairQueue<T> {
    /// Tenants with entries; the first is next.
    tenants: VecDeque<(Tenant, VecDeque<T>)>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> FairQueue<T> {
        FairQueue { tenants: VecDeque::new() }
    }
}

impl<T> FairQueue<T> {
    pub(super) fn push(&mut self, tenant: Tenant, entry: T) {
        match self.tenants.iter_mut().find(|(of, _)| *of == tenant) {
            Some((_, entries)) => entries.push_back(entry),
            None => self.tenants.push_back((tenant, VecDeque::from([entry]))),
        }
    }

    pub(super) fn pop(&mut self) -> Option<T> {
        let (tenant, mut entries) = self.tenants.pop_front()?;
        let next = entries.pop_front();
        if !entries.is_empty() {
            self.tenants.push_back((tenant, entries));
        }
        next
    }

    pub(super) fn len(&self) -> usize {
        self.tenants.iter().map(|(_, entries)| entries.len()).sum()
    }

    /// Entries of one tenant.
    pub(super) fn len_of(&self, tenant: Tenant) -> usize {
        self.tenants.iter().find(|(of, _)| *of == tenant).map_or(0, |(_, entries)| entries.len())
    }

    pub(super) fn clear(&mut self) {
        self.tenants.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tenant::Keys;

    #[test]
    fn tenants_take_turns() {
        let keys = Keys::new(&["a".to_owned(), "b".to_owned()], false, None);
        let tenant = |key: &str| {
            let value = format!("Bearer {key}").parse().expect("a header");
            let headers = [(axum::http::header::AUTHORIZATION, value)].into_iter().collect();
            keys.tenant("/v1", &headers).expect("a tenant")
        };
        let (a, b) = (tenant("a"), tenant("b"));
        let mut queue = FairQueue::default();
        for (of, entry) in [(a, 1), (a, 2), (a, 3), (b, 4), (b, 5)] {
            queue.push(of, entry);
        }
        assert_eq!((queue.len(), queue.len_of(a), queue.len_of(b)), (5, 3, 2));
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, [1, 4, 2, 5, 3]);
        assert_eq!((queue.len(), queue.len_of(a)), (0, 0));
    }
}
