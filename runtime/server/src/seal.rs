//! Texts that clients keep for this server and cannot read: reasoning and summaries, as strings that come back with a later
//! request. They are sealed with a key, so one that was changed or made elsewhere cannot be opened, and neither can another
//! tenant's.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, Generate, Key, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::error::ApiError;
use crate::tenant::{Keys, Tenant};

/// What a sealed text is. One of a kind is not taken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sealed {
    Reasoning,
    /// What a compacted conversation was about.
    Summary,
}

impl Sealed {
    fn label(self) -> &'static [u8] {
        match self {
            Sealed::Reasoning => b"reasoning",
            Sealed::Summary => b"summary",
        }
    }
}

/// What the key is derived for.
const CONTEXT: &str = "ossmith-server 2026-11-30 sealed reasoning and summaries";
/// The version of the form, the first byte of each string.
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// Seals and opens texts.
pub(crate) struct Sealer {
    /// None if the system gives no random numbers: then nothing can be sealed.
    cipher: Option<XChaCha20Poly1305>,
    /// What a tenant's texts are marked with. It depends on the secret and the API key alone, so that replicas agree.
    labels: HashMap<Tenant, [u8; 32]>,
}

/// Seals and opens one tenant's texts.
#[derive(Clone, Copy)]
pub(crate) struct TenantSealer<'a> {
    sealer: &'a Sealer,
    tenant: Tenant,
}

impl Sealer {
    /// With a key from this secret, or with a random one, which no other process has.
    pub(crate) fn new(secret: Option<&str>, keys: &Keys) -> Sealer {
        let derived = secret.map(|secret| blake3::derive_key(CONTEXT, secret.as_bytes()));
        let random = || Key::<XChaCha20Poly1305>::try_generate().ok();
        let key = derived.map(Into::into).or_else(random);
        if key.is_none() {
            tracing::error!("the system gives no random numbers: reasoning cannot be sealed");
        }
        let label = |api_key: &str| {
            blake3::keyed_hash(&derived.unwrap_or_default(), api_key.as_bytes()).into()
        };
        let tenants = keys.tenants().filter(|(_, tenant)| *tenant != Tenant::ONLY);
        let labels = tenants.map(|(api_key, tenant)| (tenant, label(api_key))).collect();
        Sealer { cipher: key.map(|key| XChaCha20Poly1305::new(&key)), labels }
    }

    /// The texts of one tenant.
    pub(crate) fn of(&self, tenant: Tenant) -> TenantSealer<'_> {
        TenantSealer { sealer: self, tenant }
    }
}

impl TenantSealer<'_> {
    /// What is authenticated beside a text: its kind and whose it is.
    fn aad(&self, kind: Sealed) -> Vec<u8> {
        let label = self.sealer.labels.get(&self.tenant);
        [kind.label(), label.map_or(&[], |label| &label[..])].concat()
    }

    /// The text as a string that only this server can read. None, with a line in the log, if the system gives no random numbers.
    pub(crate) fn seal(&self, kind: Sealed, text: &str) -> Option<String> {
        let sealed = self.sealer.cipher.as_ref().and_then(|cipher| {
            let nonce = XNonce::try_generate().ok()?;
            let payload = Payload { msg: text.as_bytes(), aad: &self.aad(kind) };
            let sealed = cipher.encrypt(&nonce, payload).ok()?;
            Some([&[VERSION], nonce.as_slice(), &sealed].concat())
        });
        if sealed.is_none() {
            tracing::error!("a text could not be sealed");
        }
        sealed.map(|bytes| BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The text in a string that [`TenantSealer::seal`] made with the same key. `param` is the field that holds it.
    ///
    /// # Errors
    /// It was made elsewhere, with another key or as another kind, or was changed.
    pub(crate) fn open(&self, kind: Sealed, sealed: &str, param: &str) -> Result<String, ApiError> {
        self.opened(kind, sealed).ok_or_else(|| ApiError {
            code: Some("invalid_encrypted_content"),
            ..ApiError::bad(
                param,
                format!(
                    "`{param}` cannot be opened: it was not made by this server, or for another API key, or its seal key \
                     has changed since; leave it out, or start the servers with one --seal-key"
                ),
            )
        })
    }

    fn opened(&self, kind: Sealed, sealed: &str) -> Option<String> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let rest = bytes.strip_prefix(&[VERSION])?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_BYTES)?;
        let nonce = XNonce::try_from(nonce).ok()?;
        let payload = Payload { msg: sealed, aad: &self.aad(kind) };
        let text = self.sealer.cipher.as_ref()?.decrypt(&nonce, payload).ok()?;
        String::from_utf8(text).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_kind_and_tenant_open_a_text() {
        let keys = || Keys::new(&["a".to_owned(), "b".to_owned()], false, None);
        let (here, there) = (keys(), keys());
        let tenant = |keys: &Keys, n: usize| keys.tenants().nth(n).unwrap().1;
        let sealer = Sealer::new(Some("secret"), &here);
        let replica = Sealer::new(Some("secret"), &there);
        let (a, b) = (tenant(&here, 0), tenant(&here, 1));
        let sealed = sealer.of(a).seal(Sealed::Reasoning, "Hm 🙂").unwrap();
        let open = |sealer: &Sealer, tenant, kind, sealed: &str| {
            sealer.of(tenant).open(kind, sealed, "x").ok()
        };
        let want = Some("Hm 🙂".to_owned());
        assert_eq!(open(&sealer, a, Sealed::Reasoning, &sealed), want);
        assert_eq!(open(&replica, tenant(&there, 0), Sealed::Reasoning, &sealed), want);
        assert_eq!(open(&sealer, b, Sealed::Reasoning, &sealed), None);
        assert_eq!(open(&sealer, Tenant::ONLY, Sealed::Reasoning, &sealed), None);
        assert_eq!(open(&sealer, a, Sealed::Summary, &sealed), None);
        let other = Sealer::new(Some("other"), &here);
        assert_eq!(open(&other, a, Sealed::Reasoning, &sealed), None);
        assert_eq!(open(&Sealer::new(None, &here), a, Sealed::Reasoning, &sealed), None);
        let again = sealer.of(a).seal(Sealed::Reasoning, "Hm 🙂").unwrap();
        assert_ne!(again, sealed, "a new nonce");
        for broken in ["", "x", "AQ", &sealed[1..], &sealed[..sealed.len() - 2]] {
            assert_eq!(open(&sealer, a, Sealed::Reasoning, broken), None, "{broken}");
        }
        let why = sealer.of(a).open(Sealed::Reasoning, "x", "input[1].encrypted_content");
        let why = why.unwrap_err();
        assert_eq!(why.param.as_deref(), Some("input[1].encrypted_content"));
        assert_eq!(why.status.as_u16(), 400);
    }
}
