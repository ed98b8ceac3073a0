//! Whose a request is. What one key stores, caches and compiles is not another's: it is kept under a salted digest of the
//! key, from which nobody finds the key. A server without keys has one tenant, and so has one whose operator says that all
//! keys are of one trust domain.

use std::hash::{BuildHasher, RandomState};

use axum::http::{HeaderMap, HeaderName, header};

use crate::error::ApiError;

/// Where Anthropic's SDKs put a key.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Paths that change the server for all, and are the operator's.
const ADMIN: [&str; 7] = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/pause",
    "/resume",
    "/sleep",
    "/wake_up",
    "/update_weights",
];

/// Paths that need a key where there are any, with all below them.
const GUARDED: [&str; 7] =
    ["/v1", "/api", "/inference", "/generate", "/tokenize", "/detokenize", "/tokenizer_info"];

/// The digest of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tenant([u8; 32]);

impl Tenant {
    /// The tenant of a server that does not distinguish any.
    pub(crate) const ONLY: Tenant = Tenant([0; 32]);

    /// The salt under which this tenant's prefixes are cached: its own for each salt that requests name.
    pub(crate) fn cache_salt(self, requested: u64) -> u64 {
        if self == Tenant::ONLY {
            return requested;
        }
        first_word(blake3::keyed_hash(&self.0, &requested.to_le_bytes()))
    }

    /// Its name in files and stores.
    pub(crate) fn hex(self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }

    /// A number for the engine, which gives competing tenants equal shares.
    pub(crate) fn number(self) -> u64 {
        self.0.first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
    }

    /// A digest of some bytes that is this tenant's own.
    pub(crate) fn digest(self, bytes: &[u8]) -> [u8; 32] {
        blake3::keyed_hash(&self.0, bytes).into()
    }
}

/// The salt that a request's `cache_salt` stands for.
pub(crate) fn salt_of(text: &str) -> u64 {
    first_word(blake3::hash(text.as_bytes()))
}

fn first_word(hash: blake3::Hash) -> u64 {
    hash.as_bytes().first_chunk().map_or(0, |word| u64::from_le_bytes(*word))
}

/// A random salt for the names of tenants.
#[must_use]
pub fn new_salt() -> [u8; 32] {
    let mut salt = [0; 32];
    for (index, word) in salt.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&RandomState::new().hash_one(index).to_le_bytes());
    }
    salt
}

/// The keys that open a server, and the tenant of each.
pub(crate) struct Keys {
    keys: Vec<(String, Tenant)>,
    /// Opens what shows all tenants' traffic.
    operator: Option<String>,
}

impl Keys {
    /// With `one_tenant` all keys are of one trust domain. Without a salt there is a new one in each process.
    pub(crate) fn new(keys: &[String], one_tenant: bool, salt: Option<[u8; 32]>) -> Keys {
        let salt = salt.unwrap_or_else(new_salt);
        let tenant = |key: &String| match one_tenant {
            true => Tenant::ONLY,
            false => Tenant(blake3::keyed_hash(&salt, key.as_bytes()).into()),
        };
        let keys = keys.iter().map(|key| (key.clone(), tenant(key))).collect();
        Keys { keys, operator: None }
    }

    /// The same keys, and one of the operator's.
    pub(crate) fn with_operator(self, operator: Option<String>) -> Keys {
        Keys { operator, ..self }
    }

    /// Each key and its tenant.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = (&str, Tenant)> {
        self.keys.iter().map(|(key, tenant)| (key.as_str(), *tenant))
    }

    /// Whether no key is needed.
    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether requests are told apart by their keys.
    pub(crate) fn has_tenants(&self) -> bool {
        self.keys.iter().any(|(_, tenant)| *tenant != Tenant::ONLY)
    }

    /// The tenant of a request to this path. Keys guard generation, stored responses, and what takes time in proportion to
    /// a body. Health, versions and metrics need no key, so that a
    /// monitor can read them. What shows all tenants' traffic is the operator's.
    ///
    /// # Errors
    /// The path is guarded, and the headers have no known key.
    pub(crate) fn tenant(&self, path: &str, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        let guarded = GUARDED.iter().any(|root| {
            path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        });
        if path.starts_with("/debug/") || ADMIN.contains(&path) {
            return self.operator(headers);
        }
        if self.keys.is_empty() || !guarded || path == "/api/version" {
            return Ok(Tenant::ONLY);
        }
        self.known(headers)
    }

    /// Whether these are the operator's headers: they have the operator's key or, where the server has neither that nor
    /// several tenants, any key that opens it.
    fn operator(&self, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        if let Some(operator) = &self.operator {
            let keys = Keys { keys: vec![(operator.clone(), Tenant::ONLY)], operator: None };
            return keys.known(headers);
        }
        if self.keys.is_empty() {
            return Ok(Tenant::ONLY);
        }
        let tenant = self.known(headers)?;
        if self.keys.iter().any(|(_, other)| *other != tenant) {
            return Err(ApiError::no_operator());
        }
        Ok(tenant)
    }

    /// The tenant whose key these headers have.
    fn known(&self, headers: &HeaderMap) -> Result<Tenant, ApiError> {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).map(|value| {
            let (scheme, given) = value.split_once(' ').unwrap_or((value, ""));
            if scheme.eq_ignore_ascii_case("bearer") { given.trim() } else { "" }
        });
        // Anthropic's SDKs send a key under a name of their own, and may send both.
        let given = [bearer, text(API_KEY).map(str::trim)];
        if given == [None, None] {
            return Err(ApiError::no_key(
                "You did not provide an API key: send it as `Authorization: Bearer KEY` or as `x-api-key: KEY`",
            ));
        }
        // All keys are compared, so that the time does not reveal which one was nearly right.
        let known = |given: &str| {
            self.keys.iter().fold(
                None,
                |known, (key, tenant)| {
                    if same(key, given) { Some(*tenant) } else { known }
                },
            )
        };
        let found = given.into_iter().flatten().fold(None, |found, given| found.or(known(given)));
        found.ok_or_else(|| ApiError::no_key("Incorrect API key provided"))
    }
}

/// Compares in a time that depends only on the lengths.
fn same(key: &str, given: &str) -> bool {
    let (key, given) = (key.as_bytes(), given.as_bytes());
    let mut differ = u8::from(key.len() != given.len() || key.is_empty());
    for (index, byte) in given.iter().enumerate() {
        differ |= byte ^ key.get(index % key.len().max(1)).copied().unwrap_or(0);
    }
    std::hint::black_box(differ) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn headers(value: Option<&str>) -> HeaderMap {
        value.map(|value| (header::AUTHORIZATION, value.parse().unwrap())).into_iter().collect()
    }

    #[test]
    fn only_a_known_key_opens_a_guarded_path() {
        let keys = Keys::new(&["first".to_owned(), "second".to_owned()], false, None);
        for (path, value, open) in [
            ("/v1/models", Some("Bearer first"), true),
            ("/v1/models", Some("bearer second"), true),
            ("/v1/models", Some("Bearer firs"), false),
            ("/v1/models", Some("Bearer firstfirst"), false),
            ("/v1/models", Some("Bearer "), false),
            ("/v1/models", Some("Basic first"), false),
            ("/v1/models", Some("first"), false),
            ("/v1/models", None, false),
            ("/inference/v1/generate", None, false),
            ("/tokenize", None, false),
            ("/detokenize", Some("Bearer wrong"), false),
            ("/detokenize", Some("Bearer second"), true),
            ("/tokenizer_info", None, false),
            ("/generate", None, false),
            ("/server_info", None, true),
            ("/v1beta", None, true),
            ("/health", None, true),
            ("/metrics", Some("Bearer wrong"), true),
            ("/v1/messages", Some("second"), false),
            ("/api/chat", None, false),
            ("/api/chat", Some("Bearer first"), true),
            ("/api/version", None, true),
        ] {
            let headers = headers(value);
            assert_eq!(keys.tenant(path, &headers).is_ok(), open, "{path} {value:?}");
            assert!(Keys::new(&[], false, None).tenant(path, &headers).is_ok());
        }
    }

    #[test]
    fn a_key_may_come_under_anthropic_s_name() {
        let keys = Keys::new(&["first".to_owned()], false, None);
        for (key, bearer, open) in [
            (Some("first"), None, true),
            (Some("wrong"), None, false),
            (Some(""), None, false),
            (Some("first"), Some("Bearer of something else"), true),
            (Some("wrong"), Some("Bearer first"), true),
            (Some("wrong"), Some("Bearer wrong"), false),
        ] {
            let mut headers = headers(bearer);
            headers.extend(key.map(|v| (API_KEY, v.parse().unwrap())));
            let given = keys.tenant("/v1/messages", &headers);
            assert_eq!(given.is_ok(), open, "{key:?} {bearer:?}");
        }
    }

    #[test]
    fn what_shows_all_tenants_is_the_operators() {
        let keys = |given: &[&str], one_tenant: bool, operator: Option<&str>| {
            let given: Vec<String> = given.iter().map(|key| (*key).to_owned()).collect();
            Keys::new(&given, one_tenant, None).with_operator(operator.map(str::to_owned))
        };
        let status = |keys: &Keys, key: Option<&str>| {
            let value = key.map(|key| format!("Bearer {key}"));
            let answer = keys.tenant("/debug/steps", &headers(value.as_deref()));
            answer.map_or_else(|refused| refused.status.as_u16(), |_| 200)
        };
        let (one, two) = (&["a"][..], &["a", "b"][..]);
        for (given, one_tenant, operator, key, want) in [
            (&[][..], false, None, None, 200),
            (one, false, None, None, 401),
            (one, false, None, Some("a"), 200),
            (two, false, None, Some("a"), 403),
            (two, true, None, Some("b"), 200),
            (two, false, Some("root"), Some("a"), 401),
            (two, false, Some("root"), Some("root"), 200),
            (&[][..], false, Some("root"), None, 401),
        ] {
            let keys = keys(given, one_tenant, operator);
            assert_eq!(status(&keys, key), want, "{given:?} {one_tenant} {operator:?} {key:?}");
        }
    }

    #[test]
    fn each_key_is_a_tenant_unless_the_operator_says_otherwise() {
        let all = ["a".to_owned(), "b".to_owned()];
        let tenant = |keys: &Keys, key: &str| {
            keys.tenant("/v1", &headers(Some(&format!("Bearer {key}")))).unwrap()
        };
        let keys = Keys::new(&all, false, None);
        let (a, b) = (tenant(&keys, "a"), tenant(&keys, "b"));
        assert!(a != b && a != Tenant::ONLY && a == tenant(&keys, "a"));
        // The digest is not that of another process.
        assert_ne!(a, tenant(&Keys::new(&all, false, None), "a"));
        let salted = || tenant(&Keys::new(&all, false, Some([7; 32])), "a");
        assert_eq!(salted(), salted(), "unless they share a salt");
        let one = Keys::new(&all, true, None);
        assert_eq!((tenant(&one, "a"), tenant(&one, "b")), (Tenant::ONLY, Tenant::ONLY));
        // Requests share prefixes within a tenant and a salt.
        let salts = [0, 1].map(|salt| [a, b, Tenant::ONLY].map(|of| of.cache_salt(salt)));
        let mut distinct = salts.as_flattened().to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 6);
        assert_eq!(Tenant::ONLY.cache_salt(0), 0);
    }
}
