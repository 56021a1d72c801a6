//! Keys, signatures, certificates of a site's own, and the one door through which a release becomes [`Verified`].
//!
//! May use `archive`, `fsio` and `model`, and hash nothing but what it is handed. Must never touch
//! the network, a clock or a trust root: what counts is a public key that the caller names.

mod bundle;
mod certificate;
mod keys;
mod private;
mod verify;

pub use bundle::sign;
pub use certificate::{Authority, BadServerName, CertificateError, Identity, ServerName, certificate_end};
pub use keys::{KeyError, PublicKey};
pub use private::{KeyFile, NewKeyPair, PrivateKey, write_key_pair};
pub use verify::{Finding, Signer, Verified, VerifyError, verify, verify_manifest};
