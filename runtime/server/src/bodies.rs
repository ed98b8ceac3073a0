//! Receiving request bodies. A body is held only as far as it has come, within a limit of its own, a budget of all bodies
//! together and a time; the first bytes of each are free, so that ordinary requests come through whatever else is sent. A
//! body that is refused is still read for a while, because a client that is writing reads the refusal only when it is done.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{HeaderMap, header};
use bytes::Bytes;
use futures_core::Stream;
use tokio::time::timeout;

use crate::error::{ApiError, Result};
use crate::tenant::Tenant;

/// Bytes of each body that do not count.
const FREE_BYTES: usize = 64 << 10;
/// Bytes of a refused body that are read, and for how long.
const DISCARD_BYTES: usize = 256 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(10);
/// Refused bodies that are read at a time; others are cut off.
const MAX_DISCARDS: usize = 32;

/// Bounds of bodies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    /// Most bytes of one.
    pub(crate) body_bytes: usize,
    /// Most bytes of all at a time.
    pub(crate) total_bytes: usize,
    /// Most bytes of one tenant's.
    pub(crate) tenant_bytes: usize,
    /// How long one may take to arrive.
    pub(crate) time: Option<Duration>,
}

/// All bodies that are there.
#[derive(Debug)]
pub(crate) struct Bodies {
    limits: BodyLimits,
    held: Mutex<HashMap<Tenant, usize>>,
    discards: Arc<AtomicUsize>,
}

/// A body, or what its request keeps of it, whose bytes count until this is dropped.
#[derive(Debug)]
pub(crate) struct HeldBody {
    bytes: Vec<u8>,
    counted: usize,
    tenant: Tenant,
    bodies: Arc<Bodies>,
}

impl Bodies {
    pub(crate) fn new(limits: BodyLimits) -> Arc<Bodies> {
        Arc::new(Bodies { limits, held: Mutex::default(), discards: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Tenant, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives a whole body.
    ///
    /// # Errors
    /// It is too large, too slow, or broken off, or there is no room for it now.
    pub(crate) async fn receive(
        self: &Arc<Bodies>,
        tenant: Tenant,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<HeldBody> {
        let waits = headers.contains_key(header::EXPECT);
        let claimed = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let claimed = claimed.and_then(|length| length.parse::<u64>().ok()).unwrap_or(0);
        let (mut data, limit) = (body.into_data_stream(), self.limits.body_bytes);
        let refused = if claimed > limit as u64 {
            ApiError::too_large(limit)
        } else {
            let mut held = HeldBody::empty(tenant, Arc::clone(self));
            let received = held.receive(&mut data);
            let done = match self.limits.time {
                None => received.await,
                Some(time) => match timeout(time, received).await {
                    Ok(done) => done,
                    Err(_) => return Err(ApiError::slow_body(time)),
                },
            };
            match done {
                Ok(()) => return Ok(held),
                Err(refused) => refused,
            }
        };
        // Who waits for leave to send has sent nothing.
        if !waits {
            self.discard(data);
        }
        Err(refused)
    }

    /// Reads what a client still sends of a body that is refused, and drops it.
    pub(crate) fn discard(&self, mut data: BodyDataStream) {
        let discards = Arc::clone(&self.discards);
        if discards.fetch_add(1, Ordering::Relaxed) >= MAX_DISCARDS {
            discards.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        tokio::spawn(async move {
            let mut left = DISCARD_BYTES;
            let read = async {
                while let Some(Ok(bytes)) = next(&mut data).await {
                    left = left.saturating_sub(bytes.len());
                    if left == 0 {
                        return;
                    }
                }
            };
            // Whether or not it has come to its end.
            let _ = timeout(DISCARD_TIME, read).await;
            discards.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

async fn next(data: &mut BodyDataStream) -> Option<std::result::Result<Bytes, axum::Error>> {
    poll_fn(|context| Pin::new(&mut *data).poll_next(context)).await
}

impl HeldBody {
    fn empty(tenant: Tenant, bodies: Arc<Bodies>) -> HeldBody {
        HeldBody { bytes: Vec::new(), counted: 0, tenant, bodies }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Drops the body, and counts this many bytes from now on: those that its request keeps until it is answered.
    ///
    /// # Errors
    /// There is no room for them now.
    pub(crate) fn keep(&mut self, bytes: usize) -> Result<()> {
        self.bytes = Vec::new();
        let counted = bytes.saturating_sub(FREE_BYTES);
        self.release(self.counted.saturating_sub(counted));
        self.count(counted)
    }

    fn release(&mut self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.counted -= bytes;
        let mut held = self.bodies.lock();
        match held.get(&self.tenant).copied().unwrap_or(0).saturating_sub(bytes) {
            0 => drop(held.remove(&self.tenant)),
            own => drop(held.insert(self.tenant, own)),
        }
        drop(held);
        if bytes > crate::memory::WORTH_BYTES {
            crate::memory::released();
        }
    }

    async fn receive(&mut self, data: &mut BodyDataStream) -> Result<()> {
        let limit = self.bodies.limits.body_bytes;
        while let Some(bytes) = next(data).await {
            let bytes = bytes.map_err(|why| {
                ApiError::bad("", format!("the request body cannot be read: {why}"))
            })?;
            if bytes.len() > limit - self.bytes.len() {
                return Err(ApiError::too_large(limit));
            }
            let needed = self.bytes.len() + bytes.len();
            if needed > self.bytes.capacity() {
                // Half as much again, so that little is reserved that never comes.
                let capacity = (needed + needed / 2).min(limit);
                self.count(capacity.saturating_sub(FREE_BYTES))?;
                self.bytes.reserve_exact(capacity - self.bytes.len());
            }
            self.bytes.extend_from_slice(&bytes);
        }
        Ok(())
    }

    /// Counts this many bytes in all.
    fn count(&mut self, bytes: usize) -> Result<()> {
        let more = bytes.saturating_sub(self.counted);
        let mut held = self.bodies.lock();
        let (all, limits) = (held.values().sum::<usize>(), self.bodies.limits);
        let own = held.get(&self.tenant).copied().unwrap_or(0);
        if all + more > limits.total_bytes || own + more > limits.tenant_bytes {
            return Err(ApiError::unavailable(
                "the bodies of other requests take all the room there is for them; try again",
            ));
        }
        if more > 0 {
            *held.entry(self.tenant).or_default() += more;
            self.counted += more;
        }
        Ok(())
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.release(self.counted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bodies(total_bytes: usize, tenant_bytes: usize, time: Option<Duration>) -> Arc<Bodies> {
        Bodies::new(BodyLimits { body_bytes: 1 << 20, total_bytes, tenant_bytes, time })
    }

    async fn receive(bodies: &Arc<Bodies>, body: Body) -> std::result::Result<HeldBody, u16> {
        let received = bodies.receive(Tenant::ONLY, &HeaderMap::new(), body).await;
        received.map_err(|why| why.status.as_u16())
    }

    #[tokio::test]
    async fn bodies_together_have_a_budget_that_comes_back() {
        let bodies = bodies(1 << 20, 1 << 20, None);
        let large = || Body::from(vec![b' '; 600 << 10]);
        let one = receive(&bodies, large()).await.expect("there is room");
        assert_eq!(one.bytes().len(), 600 << 10);
        assert_eq!(receive(&bodies, large()).await.err(), Some(503));
        // A small one needs no room.
        assert!(receive(&bodies, Body::from(vec![b' '; FREE_BYTES / 2])).await.is_ok());
        drop(one);
        assert!(bodies.lock().is_empty());
        assert!(receive(&bodies, large()).await.is_ok());
        assert_eq!(receive(&bodies, Body::from(vec![0; (1 << 20) + 1])).await.err(), Some(413));
        assert!(bodies.lock().is_empty());
    }

    #[tokio::test]
    async fn what_a_request_keeps_of_its_body_counts_until_it_is_answered() {
        let bodies = bodies(1 << 20, 1 << 20, None);
        let mut held = receive(&bodies, Body::from(vec![b' '; 600 << 10])).await.expect("room");
        held.keep(700 << 10).expect("room");
        assert_eq!(bodies.lock().values().sum::<usize>(), (700 << 10) - FREE_BYTES);
        // So may be what it continues, of which the body is but a name.
        let mut other = receive(&bodies, Body::from("{}")).await.expect("room");
        assert_eq!(other.keep(500 << 10).err().map(|why| why.status.as_u16()), Some(503));
        held.keep(FREE_BYTES).expect("room");
        assert!(bodies.lock().is_empty() && held.bytes().is_empty());
        assert!(other.keep(500 << 10).is_ok());
        drop(other);
        assert!(bodies.lock().is_empty());
    }

    #[tokio::test]
    async fn a_tenant_has_a_share_of_the_budget() {
        let bodies = bodies(1 << 20, 512 << 10, None);
        let large = || Body::from(vec![b' '; 600 << 10]);
        assert_eq!(receive(&bodies, large()).await.err(), Some(503));
    }

    struct Never;

    impl Stream for Never {
        type Item = std::result::Result<Bytes, std::io::Error>;

        fn poll_next(
            self: Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Self::Item>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_given_up() {
        let bodies = bodies(1 << 20, 1 << 20, Some(Duration::from_millis(20)));
        assert_eq!(receive(&bodies, Body::from_stream(Never)).await.err(), Some(408));
    }
}
