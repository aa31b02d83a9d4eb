//! Why a payload is invalid, in words that hold the place and the rule but no value of the payload: the text
//! goes to logs too, and payloads do not belong there.

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind;
use serde_json::Value;

/// Longest place that is named, in bytes. Names in it may be the client's own.
const PLACE_BYTES_MAX: usize = 64;

/// Longest value of a keyword that is repeated, in bytes.
const LIMIT_BYTES_MAX: usize = 48;

/// For example `invalid payload: /age breaks "maximum": 150`.
pub(crate) fn text(error: &ValidationError<'_>, schema: &Value) -> String {
    let place = error.instance_path().as_str();
    let place = if place.is_empty() { "it" } else { cut(place, PLACE_BYTES_MAX) };
    if matches!(error.kind(), ValidationErrorKind::FalseSchema) {
        return format!("invalid payload: {place} is not permitted");
    }
    let keyword = error.kind().keyword();
    let limit = schema.pointer(error.schema_path().as_str()).map(Value::to_string);
    match limit.filter(|limit| limit.len() <= LIMIT_BYTES_MAX) {
        Some(limit) => format!("invalid payload: {place} breaks \"{keyword}\": {limit}"),
        None => format!("invalid payload: {place} breaks \"{keyword}\""),
    }
}

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
