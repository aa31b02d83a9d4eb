//! What gateways write for each other into Redis, where others may write as well.

use bytes::Bytes;
use gateway::backplane::redis::again;

pub(super) fn message(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = again::is_message(&bytes);
}

pub(super) fn check_message(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for rewrite in [again::message, again::member] {
        let Some(written) = rewrite(&bytes) else { continue };
        // What a gateway writes it understands, and it would not write it in another way.
        let twice = rewrite(&Bytes::from(written.clone()));
        assert_eq!(twice, Some(written));
    }
}
