//! Writes HTTP responses by hand, for clients whose request the gateway does not read. No other module writes
//! a response by hand.

/// A complete response, after which the connection is closed. `retry_after` is in seconds.
pub fn answer(status: u16, retry_after: Option<u32>, content_type: &str, body: &str) -> String {
    let reason = match status {
        400 => "Bad Request",
        429 => "Too Many Requests",
        _ => "Service Unavailable",
    };
    let retry_after = retry_after.map(|seconds| format!("Retry-After: {seconds}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {status} {reason}\r\n{retry_after}Connection: close\r\nCache-Control: no-store\r\n\
         Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len(),
    )
}

/// The head of a response without a length: its body ends with the connection (RFC 9112, 6.3, rule 8).
pub fn open_ended(headers: &[(&str, &str)]) -> String {
    let mut head = String::from("HTTP/1.1 200 OK\r\n");
    for (name, value) in headers {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push_str("Connection: close\r\n\r\n");
    head
}

/// Content type of plain-text messages.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// A fatal alert `internal_error` of TLS (RFC 8446, 6).
const TLS_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// The bytes for a client that is refused before its handshake: a response in the clear, or an alert where
/// the client expects TLS. A handshake would cost more than the refusal is to save.
pub fn before_handshake(tls: bool, answer: String) -> Vec<u8> {
    if tls { TLS_ALERT.into() } else { answer.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete() {
        assert_eq!(
            answer(400, None, TEXT, "no\n"),
            "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nCache-Control: no-store\r\n\
             Content-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n\r\nno\n"
        );
        assert_eq!(open_ended(&[("A", "b")]), "HTTP/1.1 200 OK\r\nA: b\r\nConnection: close\r\n\r\n");
        let full = answer(503, Some(2), "application/json", "{}");
        assert!(full.starts_with("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\n"), "{full}");
    }
}
