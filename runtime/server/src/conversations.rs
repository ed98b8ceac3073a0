//! `/v1/conversations`: conversations that are kept here, and their items. A response that names one continues it: its input and
//! output are added at the end. They are in the store of responses, so they have its bounds and belong to one tenant.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use ossmith_guide::limits::json_bytes;
use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result, json_body, json_text};
use crate::extract::{PathName, RequestBody, aside};
use crate::fields::Fields;
use crate::ids::{new_id_of, unix_seconds};
use crate::page;
use crate::responses::items;
use crate::state::AppState;
use crate::store::{CONVERSATION, Entry, TenantStore};
use crate::tenant::Tenant;

/// Items that one request may add.
const MAX_ITEMS: usize = 20;
/// Pairs of metadata, and characters of a name and of a value, as OpenAI has them.
const MAX_METADATA: usize = 16;
const MAX_METADATA_NAME: usize = 64;
const MAX_METADATA_VALUE: usize = 512;

pub(crate) async fn create(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let create = move |app: &AppState, body: &Map<String, Value>| {
        let fields = Fields::new(body);
        let items = read_items(app, tenant, &fields)?;
        let id = new_id_of(CONVERSATION.trim_end_matches('_'));
        let conversation = json!({
            "id": id,
            "object": "conversation",
            "created_at": unix_seconds(),
            "metadata": metadata(&fields)?,
        });
        app.store.of(tenant).put(&id, &conversation, &[], &items)?;
        Ok(conversation)
    };
    Ok(json_body(&body.read(&app, create).await?))
}

pub(crate) async fn retrieve(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    Ok(json_text(find(app.store.of(tenant), &id)?.response()))
}

pub(crate) async fn update(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
    body: RequestBody,
) -> Result<impl IntoResponse> {
    let update = move |app: &AppState, body: &Map<String, Value>| {
        let (metadata, store) = (metadata(&Fields::new(body))?, app.store.of(tenant));
        find(store, &id)?;
        let set = |conversation: &mut Value, _: &mut Vec<Value>| {
            conversation["metadata"] = metadata.clone();
            Ok(())
        };
        store.update(&id, set)?.ok_or_else(|| missing(&id))
    };
    Ok(json_text(body.read(&app, update).await?.response()))
}

pub(crate) async fn delete(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
) -> Result<impl IntoResponse> {
    find(app.store.of(tenant), &id)?;
    app.store.of(tenant).remove(&id)?;
    Ok(json_body(&json!({"id": id, "object": "conversation.deleted", "deleted": true})))
}

pub(crate) async fn add_items(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
    body: RequestBody,
) -> Result<Response> {
    let add = move |app: &AppState, body: &Map<String, Value>| {
        let (fields, store) = (Fields::new(body), app.store.of(tenant));
        if fields.get("items").is_none() {
            return Err(fields.wrong("items", "is missing"));
        }
        let items = read_items(app, tenant, &fields)?;
        find(store, &id)?;
        append(store, &id, &items, &[], "items", app.config.body_bytes)?
            .ok_or_else(|| missing(&id))?;
        Ok(items)
    };
    Ok(page::list(&body.read(&app, add).await?, false))
}

pub(crate) async fn list_items(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    PathName(id): PathName,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Response> {
    let entry = find(app.store.of(tenant), &id)?;
    let list = move || {
        let items = entry.context().unwrap_or_default();
        page::page(items.into_iter().map(items::as_listed).collect(), &query)
    };
    aside(list).await?
}

pub(crate) async fn retrieve_item(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    Path((id, item)): Path<(String, String)>,
) -> Result<impl IntoResponse> {
    let entry = find(app.store.of(tenant), &id)?;
    let find = move || {
        let items = entry.context().unwrap_or_default();
        let found = items.into_iter().find(|one| one["id"] == item.as_str());
        let found = found.ok_or_else(|| missing_item(&id, &item))?;
        Ok(json_body(&items::as_listed(found)))
    };
    aside(find).await?
}

pub(crate) async fn delete_item(
    State(app): State<Arc<AppState>>,
    Extension(tenant): Extension<Tenant>,
    Path((id, item)): Path<(String, String)>,
) -> Result<impl IntoResponse> {
    let delete = move || {
        let store = app.store.of(tenant);
        let items = find(store, &id)?.context().unwrap_or_default();
        if !items.iter().any(|one| one["id"] == item.as_str()) {
            return Err(missing_item(&id, &item));
        }
        let remove = |_: &mut Value, all: &mut Vec<Value>| {
            all.retain(|one| one["id"] != item.as_str());
            Ok(())
        };
        let changed = store.update(&id, remove)?.ok_or_else(|| missing(&id))?;
        Ok(json_text(changed.response()))
    };
    aside(delete).await?
}

/// A stored conversation.
pub(crate) fn find(store: TenantStore<'_>, id: &str) -> Result<Entry> {
    let entry = store.get(id)?.filter(|_| id.starts_with(CONVERSATION));
    entry.ok_or_else(|| missing(id))
}

/// Adds items that a client sent, and those that answer them, at its end; none if it is not there any more. What others add
/// meanwhile counts, because the bytes are looked at where they are added.
///
/// # Errors
/// With the items of the client, which are in the field `param`, it would have more than `most` bytes.
pub(crate) fn append(
    store: TenantStore<'_>,
    id: &str,
    items: &[Value],
    answer: &[Value],
    param: &str,
    most: usize,
) -> Result<Option<Entry>> {
    let new = bytes_of(items);
    store.update(id, |_: &mut Value, all: &mut Vec<Value>| {
        check_room(bytes_of(all) + new, most, param)?;
        all.extend(items.iter().chain(answer).cloned());
        Ok(())
    })
}

/// Bytes of items.
pub(crate) fn bytes_of(items: &[Value]) -> usize {
    items.iter().map(json_bytes).sum()
}

/// Refuses what would make a conversation longer than it may be.
pub(crate) fn check_room(bytes: usize, most: usize, param: &str) -> Result<()> {
    if bytes <= most {
        return Ok(());
    }
    let why = format!(
        "`{param}` would make the conversation {bytes} bytes long; one has at most {most} \
         (--max-body-bytes): begin another one"
    );
    Err(ApiError::bad(param, why))
}

fn missing(id: &str) -> ApiError {
    ApiError::not_found(None, format!("there is no stored conversation `{id}`"))
}

fn missing_item(id: &str, item: &str) -> ApiError {
    ApiError::not_found(None, format!("the conversation `{id}` has no item `{item}`"))
}

fn read_items(app: &AppState, tenant: Tenant, fields: &Fields<'_>) -> Result<Vec<Value>> {
    let items = match fields.get("items") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(fields.wrong("items", "is not a list of items")),
    };
    if items.len() > MAX_ITEMS {
        let why = format!("has {} items; at most {MAX_ITEMS} can be added at a time", items.len());
        return Err(fields.wrong("items", why));
    }
    let read = items::read_list(items, app, tenant, "items")?;
    if let Some(kind) = read.ignored.first() {
        let why = format!("has an item of the type `{kind}`, which is not supported");
        return Err(fields.wrong("items", why));
    }
    // What cannot be part of a prompt is refused now and not with the next response.
    items::parse(&read.items, app.sealer.of(tenant), "items")?;
    Ok(read.items.into_iter().map(items::as_listed).collect())
}

/// The pairs that a client may attach to what is kept.
pub(crate) fn metadata(fields: &Fields<'_>) -> Result<Value> {
    let map = match fields.get("metadata") {
        None => return Ok(Value::Object(Map::new())),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fields.wrong("metadata", "is not an object")),
    };
    if map.len() > MAX_METADATA {
        let why = format!("has {} pairs; at most {MAX_METADATA} are taken", map.len());
        return Err(fields.wrong("metadata", why));
    }
    let is_short = |text: &str, most: usize| text.chars().nth(most).is_none();
    let fits = |(name, value): (&String, &Value)| {
        let value = value.as_str().is_some_and(|value| is_short(value, MAX_METADATA_VALUE));
        value && is_short(name, MAX_METADATA_NAME)
    };
    if !map.iter().all(fits) {
        let why = format!(
            "has a name of over {MAX_METADATA_NAME} characters, or a value that is not a string of at most \
             {MAX_METADATA_VALUE}"
        );
        return Err(fields.wrong("metadata", why));
    }
    Ok(Value::Object(map.clone()))
}
