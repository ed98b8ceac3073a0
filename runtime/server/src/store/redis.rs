//! Entries in Redis, which several servers share: a response that one of them has stored is continued by any other. The bounds hold
//! for each tenant and are kept by scripts, so that they hold whoever writes. What a tenant has is under a name of its own, all of
//! it in one slot of a cluster.
//!
//! Calls block: they take a round trip, and at most a few seconds where Redis does not answer. On threads of the asynchronous
//! runtime they are made with `block_in_place`.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::{Client, Connection, FromRedisValue, RedisError, RedisResult, Script};
use serde_json::Value;

use super::{Change, Content, Entry, JsonText, StoreLimits, find_items, item_ids};
use crate::error::{ApiError, Result};
use crate::reading::in_place;
use crate::tenant::{Tenant, new_salt};

/// How long a connection may take to open, and a command to be answered.
const CONNECT_TIME: Duration = Duration::from_secs(2);
const COMMAND_TIME: Duration = Duration::from_secs(5);
/// Connections that are kept open.
const MAX_IDLE: usize = 32;
/// How long an entry counts as being worked on after its worker's last word.
pub(super) const ALIVE: Duration = Duration::from_secs(15);
/// Where the salt is with which all servers name their tenants.
const SALT: &str = "ossmith:salt";
/// Times that a change is tried again because another server was first.
const MAX_TRIES: usize = 100;

/// What the scripts share. An item's key names the entry that it was last stored with, and a set of the entry has the names of all
/// its items: their keys last as long as the entry is used, and are dropped with it.
const ITEMS: &str = r"
    local function keep_items(prefix, id, seconds)
        for _, item in ipairs(redis.call('SMEMBERS', prefix .. 'items:' .. id)) do
            redis.call('EXPIRE', prefix .. 'item:' .. item, seconds)
        end
        redis.call('EXPIRE', prefix .. 'items:' .. id, seconds)
    end
    local function drop_entry(prefix, id, used, sizes, bytes)
        for _, item in ipairs(redis.call('SMEMBERS', prefix .. 'items:' .. id)) do
            local key = prefix .. 'item:' .. item
            if redis.call('GET', key) == id then redis.call('DEL', key) end
        end
        redis.call('DEL', prefix .. 'items:' .. id)
        redis.call('ZREM', used, id)
        redis.call('DECRBY', bytes, redis.call('HGET', sizes, id) or 0)
        redis.call('HDEL', sizes, id)
        return redis.call('DEL', prefix .. 'entry:' .. id)
    end
";

fn script(code: &str) -> Script {
    Script::new(&[ITEMS, code].concat())
}

/// Stores an entry, unless another version is there than the expected one, and drops a tenant's oldest entries until it is within
/// its bounds. Keys: the entry, those in use by time, their sizes, all bytes. Arguments: the tenant's prefix, the id, response,
/// input, context, whether there is one, the expected version or nothing, now in microseconds, lifetime in seconds, most
/// entries, most bytes, ids of new items. Returns 1, or 0 if the version is another, or -1 if the entry that was to be
/// changed is gone.
static PUT: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
        local prefix, id = ARGV[1], ARGV[2]
        local version = redis.call('HGET', KEYS[1], 'version')
        if ARGV[7] ~= '' then
            if not version then return -1 end
            if version ~= ARGV[7] then return 0 end
        end
        local function drop(gone) drop_entry(prefix, gone, KEYS[2], KEYS[3], KEYS[4]) end
        redis.call('DEL', KEYS[1])
        redis.call('HSET', KEYS[1], 'response', ARGV[3], 'input', ARGV[4], 'version', (version or 0) + 1)
        if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'context', ARGV[5]) end
        local bytes = #ARGV[3] + #ARGV[4] + #ARGV[5]
        redis.call('INCRBY', KEYS[4], bytes - (redis.call('HGET', KEYS[3], id) or 0))
        redis.call('HSET', KEYS[3], id, bytes)
        redis.call('ZADD', KEYS[2], ARGV[8], id)
        for index = 12, #ARGV do
            redis.call('SET', prefix .. 'item:' .. ARGV[index], id)
            redis.call('SADD', prefix .. 'items:' .. id, ARGV[index])
        end
        keep_items(prefix, id, ARGV[9])
        redis.call('EXPIRE', KEYS[1], ARGV[9])
        for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[8] - ARGV[9] * 1000000)) do drop(gone) end
        while redis.call('ZCARD', KEYS[2]) > tonumber(ARGV[10]) or tonumber(redis.call('GET', KEYS[4])) > tonumber(ARGV[11]) do
            local oldest = redis.call('ZRANGE', KEYS[2], 0, 0)[1]
            if not oldest then break end
            drop(oldest)
        end
        for index = 2, 4 do redis.call('EXPIRE', KEYS[index], 2 * ARGV[9]) end
        return 1
        ",
    )
});

/// Reads an entry, which is used now: what is known of the tenant's sizes lasts longer than any entry. Keys: as those of a store.
/// Arguments: the tenant's prefix, the id, now, lifetime.
static GET: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
        local found = redis.call('HMGET', KEYS[1], 'response', 'input', 'context', 'version')
        if found[1] then
            redis.call('EXPIRE', KEYS[1], ARGV[4])
            keep_items(ARGV[1], ARGV[2], ARGV[4])
            redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
            for index = 2, 4 do redis.call('EXPIRE', KEYS[index], 2 * ARGV[4]) end
        end
        return found
        ",
    )
});

/// Drops an entry. Keys: as those of a store. Arguments: the tenant's prefix, the id.
static REMOVE: LazyLock<Script> =
    LazyLock::new(|| script("return drop_entry(ARGV[1], ARGV[2], KEYS[2], KEYS[3], KEYS[4])"));

/// A Redis server.
pub(super) struct RedisStore {
    client: Client,
    idle: Mutex<Vec<Connection>>,
    salt: [u8; 32],
}

impl std::fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The address may hold a password.
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

/// The keys of a tenant and of one of its entries.
struct Keys {
    prefix: String,
    entry: String,
    used: String,
    sizes: String,
    bytes: String,
}

fn keys(tenant: Tenant, id: &str) -> Keys {
    // What is in braces decides the slot of a cluster.
    let prefix = format!("ossmith:{{{}}}:", tenant.hex());
    let key = |name: &str| format!("{prefix}{name}");
    Keys {
        entry: key(&format!("entry:{id}")),
        used: key("used"),
        sizes: key("sizes"),
        bytes: key("bytes"),
        prefix,
    }
}

fn unavailable(why: &RedisError) -> ApiError {
    tracing::error!(%why, "the store cannot be reached");
    ApiError {
        code: Some("store_unavailable"),
        retry_after: Some(1),
        ..ApiError::unavailable("the store of responses cannot be reached; try again")
    }
}

/// Microseconds since 1970, which order what is used; a 64-bit float of Redis holds them.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// What Redis has of an entry: response, input, context, version.
type Row = (Option<String>, Option<String>, Option<String>, Option<u64>);

fn entry_of((response, input, context, version): Row) -> Option<(Entry, u64)> {
    let text = |text: Option<String>| -> JsonText { text.unwrap_or_default().into() };
    let response: JsonText = response?.into();
    let content = match context {
        Some(context) => Content::Done { response, context: context.into() },
        None => Content::Elsewhere { response },
    };
    Some((Entry { content, input: text(input) }, version.unwrap_or_default()))
}

impl RedisStore {
    /// Connects, and agrees with the other servers on the salt of tenants' names.
    pub(super) fn connect(url: &str) -> std::result::Result<RedisStore, String> {
        let client = Client::open(url).map_err(|why| why.to_string())?;
        let mut store = RedisStore { client, idle: Mutex::default(), salt: [0; 32] };
        let salt: RedisResult<Vec<u8>> = store.run(|connection| {
            let own = new_salt();
            let mut set = redis::cmd("SET");
            set.arg(SALT).arg(&own[..]).arg("NX").query::<Option<String>>(connection)?;
            redis::cmd("GET").arg(SALT).query(connection)
        });
        let salt = salt.map_err(|why| why.to_string())?;
        store.salt = salt.try_into().map_err(|_| format!("the key {SALT} is not 32 bytes long"))?;
        Ok(store)
    }

    pub(super) fn salt(&self) -> [u8; 32] {
        self.salt
    }

    fn open(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(CONNECT_TIME)?;
        connection.set_read_timeout(Some(COMMAND_TIME))?;
        connection.set_write_timeout(Some(COMMAND_TIME))?;
        Ok(connection)
    }

    /// Has `work` use a connection. One that was idle may be broken, so then a new one is tried.
    fn run<T>(&self, work: impl Fn(&mut Connection) -> RedisResult<T>) -> RedisResult<T> {
        in_place(|| {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(mut connection) = idle {
                match work(&mut connection) {
                    Ok(done) => {
                        self.give_back(connection);
                        return Ok(done);
                    }
                    Err(why) if why.is_connection_dropped() || why.is_io_error() => {}
                    Err(why) => return Err(why),
                }
            }
            let mut connection = self.open()?;
            let done = work(&mut connection)?;
            self.give_back(connection);
            Ok(done)
        })
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T> {
        self.run(|connection| command.query(connection)).map_err(|why| unavailable(&why))
    }

    /// Stores an entry. Without a context it is one that a server still works on.
    pub(super) fn put(
        &self,
        limits: StoreLimits,
        tenant: Tenant,
        id: &str,
        entry: &Entry,
        new_items: &[String],
    ) -> Result<()> {
        self.put_version(limits, tenant, id, entry, new_items, None).map(drop)
    }

    fn put_version(
        &self,
        limits: StoreLimits,
        tenant: Tenant,
        id: &str,
        entry: &Entry,
        new_items: &[String],
        expected: Option<u64>,
    ) -> Result<i32> {
        let keys = keys(tenant, id);
        let (response, context) = (entry.response(), entry.context_text());
        let expected = expected.map(|version| version.to_string()).unwrap_or_default();
        let mut call = PUT.prepare_invoke();
        call.key(&keys.entry).key(&keys.used).key(&keys.sizes).key(&keys.bytes);
        call.arg(&keys.prefix).arg(id).arg(&response).arg(entry.input.as_ref());
        call.arg(context.as_deref().unwrap_or_default()).arg(u8::from(context.is_some()));
        call.arg(expected).arg(now()).arg(limits.lifetime.as_secs().max(1));
        // Scripts count in 64-bit floating point.
        call.arg(limits.entries.min(1 << 50)).arg(limits.bytes.min(1 << 50));
        for item in new_items {
            call.arg(item);
        }
        self.run(|connection| call.invoke(connection)).map_err(|why| unavailable(&why))
    }

    fn get_version(
        &self,
        limits: StoreLimits,
        tenant: Tenant,
        id: &str,
    ) -> Result<Option<(Entry, u64)>> {
        let keys = keys(tenant, id);
        let mut call = GET.prepare_invoke();
        call.key(&keys.entry).key(&keys.used).key(&keys.sizes).key(&keys.bytes);
        call.arg(&keys.prefix).arg(id).arg(now()).arg(limits.lifetime.as_secs().max(1));
        let row: Row =
            self.run(|connection| call.invoke(connection)).map_err(|why| unavailable(&why))?;
        Ok(entry_of(row))
    }

    pub(super) fn get(
        &self,
        limits: StoreLimits,
        tenant: Tenant,
        id: &str,
    ) -> Result<Option<Entry>> {
        Ok(self.get_version(limits, tenant, id)?.map(|(entry, _)| entry))
    }

    /// Changes an entry that has ended, and returns it; none if it is not there, and an error if `change` refuses.
    pub(super) fn update(
        &self,
        limits: StoreLimits,
        tenant: Tenant,
        id: &str,
        change: impl Change,
    ) -> Result<Option<Entry>> {
        for _ in 0..MAX_TRIES {
            let Some((before, version)) = self.get_version(limits, tenant, id)? else {
                return Ok(None);
            };
            let Some(after) = before.changed(&change)? else { return Ok(None) };
            let old: HashSet<String> = item_ids(&before).collect();
            let new: Vec<String> = item_ids(&after).filter(|item| !old.contains(item)).collect();
            match self.put_version(limits, tenant, id, &after, &new, Some(version))? {
                0 => {}
                1 => return Ok(Some(after)),
                _ => return Ok(None),
            }
        }
        Err(ApiError::unavailable("others change this at the same time; try again"))
    }

    /// Whether there was such an entry.
    pub(super) fn remove(&self, tenant: Tenant, id: &str) -> Result<bool> {
        let keys = keys(tenant, id);
        let mut call = REMOVE.prepare_invoke();
        call.key(&keys.entry).key(&keys.used).key(&keys.sizes).key(&keys.bytes);
        call.arg(&keys.prefix).arg(id);
        self.run(|connection| call.invoke(connection)).map_err(|why| unavailable(&why))
    }

    /// Entries whose ids begin with this.
    pub(super) fn list(&self, tenant: Tenant, prefix: &str) -> Result<Vec<Entry>> {
        let used = keys(tenant, "").used;
        let ids: Vec<String> = self.query(redis::cmd("ZRANGE").arg(used).arg(0).arg(-1))?;
        let wanted = ids.iter().filter(|id| id.starts_with(prefix));
        let entries = wanted.map(|id| self.peek(tenant, id));
        entries.filter_map(Result::transpose).collect()
    }

    /// An entry, which does not count as used.
    fn peek(&self, tenant: Tenant, id: &str) -> Result<Option<Entry>> {
        let mut get = redis::cmd("HMGET");
        get.arg(keys(tenant, id).entry).arg(&["response", "input", "context", "version"]);
        Ok(entry_of(self.query(&get)?).map(|(entry, _)| entry))
    }

    /// Items of the input or output of any of a tenant's responses by their ids, as far as they exist.
    pub(super) fn items(
        &self,
        tenant: Tenant,
        ids: &HashSet<&str>,
    ) -> Result<HashMap<String, Value>> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return Ok(found);
        }
        let mut get = redis::cmd("MGET");
        for id in ids {
            get.arg(format!("{}item:{id}", keys(tenant, "").prefix));
        }
        let owners: Vec<Option<String>> = self.query(&get)?;
        let owners: HashSet<String> = owners.into_iter().flatten().collect();
        for owner in owners {
            if let Some(entry) = self.peek(tenant, &owner)? {
                find_items(&entry, ids, &mut found);
            }
        }
        Ok(found)
    }

    /// Says that this process still works on an entry. Returns whether another server wants it to be cancelled.
    pub(super) fn keep_alive(&self, tenant: Tenant, id: &str) -> Result<bool> {
        let prefix = keys(tenant, id).prefix;
        let mut set = redis::cmd("SET");
        set.arg(format!("{prefix}alive:{id}")).arg(1).arg("EX").arg(ALIVE.as_secs());
        self.query::<()>(&set)?;
        self.query(redis::cmd("EXISTS").arg(format!("{prefix}cancel:{id}")))
    }

    /// Whether some process still works on an entry.
    pub(super) fn is_alive(&self, tenant: Tenant, id: &str) -> Result<bool> {
        self.query(redis::cmd("EXISTS").arg(format!("{}alive:{id}", keys(tenant, id).prefix)))
    }

    /// Has whoever works on an entry cancel it.
    pub(super) fn request_cancel(&self, tenant: Tenant, id: &str) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(format!("{}cancel:{id}", keys(tenant, id).prefix)).arg(1).arg("EX").arg(60);
        self.query(&set)
    }
}

/// A store that several servers share.
#[derive(Clone, Debug)]
pub struct SharedStore(pub(super) Arc<RedisStore>);

impl SharedStore {
    /// Connects to a Redis server: `redis://[user:password@]host[:port][/database]`.
    ///
    /// # Errors
    /// The address is none, or the server cannot be reached. The message has no password in it.
    pub fn connect(url: &str) -> std::result::Result<SharedStore, String> {
        RedisStore::connect(url).map(|store| SharedStore(Arc::new(store)))
    }

    /// With what all servers of this store name their tenants.
    #[must_use]
    pub fn tenant_salt(&self) -> [u8; 32] {
        self.0.salt()
    }
}
