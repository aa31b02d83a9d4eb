//! Reads the options of the method `subscribe`.

use bytes::Bytes;

use super::fields::{Failure, Fields, bad_request};
use crate::backplane::{Overrides, SubscribeOptions};
use crate::protocol::code::ReplyError;

/// Maximum bytes of what members of a channel see of a client because of one subscription.
const INFO_BYTES_MAX: usize = 4096;

/// Reads the optional fields. Fields that mean nothing together with the channel are refused later.
pub(super) fn options(fields: &mut Fields) -> Result<SubscribeOptions, Failure> {
    let info = json(fields, "info", "b64info")?;
    if info.len() > INFO_BYTES_MAX {
        let message = format!("`info` has {} bytes, at most {INFO_BYTES_MAX} are accepted", info.len());
        return Err(ReplyError::LIMIT_EXCEEDED.because(message).into());
    }
    Ok(SubscribeOptions {
        info,
        data: json(fields, "data", "b64data")?,
        recover: fields.position("recover_since")?,
        expires_at: fields.optional("expire_at")?.filter(|seconds| *seconds != 0),
        overrides: overrides(fields)?,
    })
}

/// JSON in one of two fields; empty if both are missing or null.
fn json(fields: &mut Fields, plain: &'static str, base64: &'static str) -> Result<Bytes, Failure> {
    match fields.payload(plain, base64)? {
        Some((json, true)) if *json == *b"null" => Ok(Bytes::new()),
        Some((json, true)) => Ok(json),
        // Clients of both encodings see it, and those of JSON cannot get other bytes.
        Some((_, false)) => Err(bad_request(format!("`{base64}` is not JSON")).into()),
        None => Ok(Bytes::new()),
    }
}

fn overrides(fields: &mut Fields) -> Result<Overrides, Failure> {
    let Some(mut fields) = fields.object("override")? else { return Ok(Overrides::default()) };
    let mut setting = |name: &'static str| {
        let Some(mut setting) = fields.object(name)? else { return Ok(None) };
        let value = setting.optional("value")?.unwrap_or(false);
        setting.finish()?;
        Ok::<_, Failure>(Some(value))
    };
    let overrides = Overrides {
        presence: setting("presence")?,
        join_leave: setting("join_leave")?,
        push_join_leave: setting("force_push_join_leave")?,
        recovery: setting("force_recovery")?,
        positioning: setting("force_positioning")?,
    };
    fields.finish()?;
    Ok(overrides)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Position;

    fn read(body: &str) -> Result<SubscribeOptions, Failure> {
        let mut fields = Fields::parse(body.as_bytes()).expect(body);
        let options = options(&mut fields)?;
        fields.finish()?;
        Ok(options)
    }

    #[test]
    fn every_option_is_read() {
        let all = r#"{
            "info": {"color": "red"}, "b64data": "WzFd", "recover_since": {"offset": 7, "epoch": "e"},
            "expire_at": 9, "override": {
                "presence": {"value": false}, "join_leave": {"value": true},
                "force_push_join_leave": {"value": true}, "force_recovery": {"value": false},
                "force_positioning": {}
            }
        }"#;
        let expected = SubscribeOptions {
            info: Bytes::from_static(b"{\"color\": \"red\"}"),
            data: Bytes::from_static(b"[1]"),
            recover: Some(Position { offset: 7, epoch: "e".into() }),
            expires_at: Some(9),
            overrides: Overrides {
                presence: Some(false),
                join_leave: Some(true),
                push_join_leave: Some(true),
                recovery: Some(false),
                positioning: Some(false),
            },
        };
        assert_eq!(read(all), Ok(expected));
    }

    #[test]
    fn what_a_library_leaves_empty_is_no_option() {
        for body in [
            "{}",
            r#"{"info":null,"b64info":"","data":null,"b64data":"","recover_since":null,"expire_at":0,
                "override":null,"all_users":false}"#,
            r#"{"override":{"presence":null,"join_leave":null}}"#,
        ] {
            assert_eq!(read(body), Ok(SubscribeOptions::default()), "{body}");
        }
        assert_eq!(read("{\"data\":{}}").map(|options| options.data), Ok(Bytes::from_static(b"{}")));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_its_name() {
        let long = format!("{{\"info\":\"{}\"}}", "i".repeat(INFO_BYTES_MAX));
        for (body, code, named) in [
            (r#"{"info":1,"b64info":"MQ=="}"#, 107, "`info` and `b64info`"),
            (r#"{"data":1,"b64data":"MQ=="}"#, 107, "`data` and `b64data`"),
            (r#"{"b64info":"/w=="}"#, 107, "`b64info` is not JSON"),
            (r#"{"b64data":"/w=="}"#, 107, "`b64data` is not JSON"),
            (r#"{"recover_since":{"since":1}}"#, 107, "`since` is not supported"),
            (r#"{"override":{"persistent":{"value":true}}}"#, 107, "`persistent` is not supported"),
            (r#"{"override":{"presence":{"on":true}}}"#, 107, "`on` is not supported"),
            (r#"{"all_users":true}"#, 107, "`all_users` is not supported"),
            (&long, 106, "`info` has 4098 bytes"),
        ] {
            let Err(Failure::Api(error)) = read(body) else { panic!("{body}") };
            assert_eq!(error.code, code, "{body}");
            assert!(error.message.contains(named), "{body}: {}", error.message);
        }
        for (body, named) in [
            (r#"{"b64data":"?"}"#, "`b64data` is not Base64"),
            (r#"{"expire_at":"soon"}"#, "`expire_at`"),
            (r#"{"override":{"presence":true}}"#, "`presence`"),
            (r#"{"override":{"presence":{"value":1}}}"#, "`value`"),
            (r#"{"recover_since":{"offset":-1}}"#, "`offset`"),
        ] {
            let Err(Failure::Malformed(message)) = read(body) else { panic!("{body}") };
            assert!(message.contains(named), "{body}: {message}");
        }
    }
}
