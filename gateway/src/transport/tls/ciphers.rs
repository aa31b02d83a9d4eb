//! The cryptography of listeners: that of the library, except that keys of TLS 1.3 are kept as they are.
//!
//! The library keeps a key with everything that AES derives from it, 550 bytes in each direction, which is
//! most of what an idle connection would need. Deriving takes a small part of the time of a message, so it is
//! done for each record.

use std::sync::LazyLock;

use ring::aead::{self, Aad, Algorithm, LessSafeKey, UnboundKey};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter, Nonce,
    OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload, Tls13AeadAlgorithm,
    UnsupportedOperationError, make_tls13_aad,
};
use rustls::crypto::{CryptoProvider, ring as library};
use rustls::{
    CipherSuite, CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion,
    SupportedCipherSuite, Tls13CipherSuite,
};

static AES_128: Suite = Suite(&aead::AES_128_GCM);
static AES_256: Suite = Suite(&aead::AES_256_GCM);
static CHACHA20: Suite = Suite(&aead::CHACHA20_POLY1305);

static SUITES: LazyLock<Vec<Tls13CipherSuite>> =
    LazyLock::new(|| library::ALL_CIPHER_SUITES.iter().filter_map(small).collect());

/// The cryptography of the library, with these suites in place of its own.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = library::default_provider();
    for suite in &mut provider.cipher_suites {
        if let Some(small) = SUITES.iter().find(|small| small.common.suite == suite.suite()) {
            *suite = SupportedCipherSuite::Tls13(small);
        }
    }
    provider
}

/// The suite with the same name. `None` for those of TLS 1.2.
fn small(suite: &SupportedCipherSuite) -> Option<Tls13CipherSuite> {
    let SupportedCipherSuite::Tls13(suite) = suite else { return None };
    let aead_alg: &'static Suite = match suite.common.suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => &AES_128,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => &AES_256,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => &CHACHA20,
        _ => return None,
    };
    let CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit } = suite.common;
    let common = CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit };
    Some(Tls13CipherSuite { common, hkdf_provider: suite.hkdf_provider, aead_alg, quic: None })
}

struct Suite(&'static Algorithm);

impl Suite {
    fn direction(&self, key: AeadKey, iv: Iv) -> Direction {
        Direction { algorithm: self.0, key, iv }
    }
}

impl Tls13AeadAlgorithm for Suite {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(self.direction(key, iv))
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(self.direction(key, iv))
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    /// Nobody else gets the keys.
    fn extract_keys(&self, _: AeadKey, _: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

/// One direction of a connection.
struct Direction {
    algorithm: &'static Algorithm,
    key: AeadKey,
    iv: Iv,
}

impl Direction {
    /// The key, ready for use, and the nonce of the record with this number.
    fn ready(&self, seq: u64) -> Result<(LessSafeKey, aead::Nonce), Error> {
        // The library gives a key of the length that was named.
        let key = UnboundKey::new(self.algorithm, self.key.as_ref()).map_err(|_| Error::EncryptError)?;
        let nonce = aead::Nonce::assume_unique_for_key(Nonce::new(&self.iv, seq).0);
        Ok((LessSafeKey::new(key), nonce))
    }
}

impl MessageEncrypter for Direction {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        seq: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let (key, nonce) = self.ready(seq)?;
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        // The type of a record is encrypted with its contents (RFC 8446, 5.2).
        payload.extend_from_slice(&message.typ.to_array());
        let header = Aad::from(make_tls13_aad(length));
        key.seal_in_place_append_tag(nonce, header, &mut payload).map_err(|_| Error::EncryptError)?;
        Ok(OutboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload))
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        payload_len + 1 + self.algorithm.tag_len()
    }
}

impl MessageDecrypter for Direction {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let (key, nonce) = self.ready(seq)?;
        let header = Aad::from(make_tls13_aad(message.payload.len()));
        let opened = key.open_in_place(nonce, header, &mut message.payload);
        let length = opened.map_err(|_| Error::DecryptError)?.len();
        message.payload.truncate(length);
        message.into_tls13_unpadded_message()
    }
}
