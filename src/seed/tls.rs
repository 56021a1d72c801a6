//! TLS: a certificate that can be exchanged while connections are open.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ServerConfig};

use crate::trust;

/// Why a certificate and its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is not PEM.
    #[error("the {what} is not PEM: {why}")]
    Pem {
        /// `certificate` or `private key`.
        what: &'static str,
        /// What was found.
        why: String,
    },
    /// There is no certificate in it.
    #[error("found no certificate, wanted a PEM block `CERTIFICATE`, the server's own first")]
    NoCertificate,
    /// There is no key in it that can be read.
    #[error("found {found}, wanted one PEM block `PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY`")]
    NoKey {
        /// What was found instead.
        found: String,
    },
    /// They do not fit each other, or nobody could use them.
    #[error("the certificate and the private key cannot be used together: {0}")]
    Unusable(String),
}

/// The certificate in use.
struct Slot(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

impl ResolvesServerCert for Slot {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What TLS connections are made with.
pub struct Tls {
    provider: Arc<CryptoProvider>,
    slot: Arc<Slot>,
    config: Arc<ServerConfig>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// Reads a chain of certificates and the private key of its first one, both PEM.
    ///
    /// # Errors
    ///
    /// When they cannot be read or do not fit each other.
    pub fn new(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let slot = Arc::new(Slot(RwLock::new(Arc::new(parse(chain, key, &provider)?))));
        let unusable = |error: rustls::Error| TlsError::Unusable(error.to_string());
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&slot) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { provider, slot, config: Arc::new(config) })
    }

    /// Has new connections made with another certificate; those that are open stay as they are.
    ///
    /// # Errors
    ///
    /// As [`Tls::new`]; the certificate before stays in use then.
    pub fn replace(&self, chain: &[u8], key: &[u8]) -> Result<(), TlsError> {
        let parsed = Arc::new(parse(chain, key, &self.provider)?);
        *self.slot.0.write().unwrap_or_else(PoisonError::into_inner) = parsed;
        Ok(())
    }

    /// When the certificate in use ends, in seconds since 1970; 0 where that cannot be told.
    pub(super) fn end(&self) -> u64 {
        let key = Arc::clone(&self.slot.0.read().unwrap_or_else(PoisonError::into_inner));
        key.cert.first().and_then(|certificate| trust::certificate_end(certificate)).unwrap_or(0)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

fn parse(chain: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let blocks =
        |what, text| pem::parse_many(text).map_err(|error| TlsError::Pem { what, why: error.to_string() });
    let chain: Vec<CertificateDer<'static>> = blocks("certificate", chain)?
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let keys = blocks("private key", key)?;
    let found = keys.iter().map(|block| format!("`{}`", block.tag())).collect::<Vec<_>>().join(", ");
    let mut keys = keys.into_iter().filter_map(|block| {
        let tag = block.tag().to_owned();
        let bytes = block.into_contents();
        Some(match &*tag {
            "PRIVATE KEY" => PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bytes)),
            "RSA PRIVATE KEY" => PrivateKeyDer::Pkcs1(PrivatePkcs1KeyDer::from(bytes)),
            "EC PRIVATE KEY" => PrivateKeyDer::Sec1(PrivateSec1KeyDer::from(bytes)),
            _ => return None,
        })
    });
    let (Some(key), None) = (keys.next(), keys.next()) else {
        let found = if found.is_empty() { "nothing".to_owned() } else { found };
        return Err(TlsError::NoKey { found });
    };
    CertifiedKey::from_der(chain, key, provider).map_err(|error| TlsError::Unusable(error.to_string()))
}
