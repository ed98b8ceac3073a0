//! placeholder
use serde_json::Value;
pub(super) fn parameters_type(schema: &Value) -> String {
    super::schema::parameters_type(schema)
}
