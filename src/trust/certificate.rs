//! Certificates of a site's own: an authority, and what it issues for the site's server.
//!
//! Machines of a site may have clocks that are years off, so the times in these certificates say as
//! little as they can: everything begins in 1970, the authority never ends (RFC 5280, section
//! 4.1.2.5: `99991231235959Z`), and a server's certificate ends long after the latest of what the
//! clock says and when this program was written.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use x509_cert::certificate::{CertificateInner, TbsCertificateInner};
use x509_cert::der::asn1::{BitString, Ia5String, ObjectIdentifier, OctetString, UtcTime};
use x509_cert::der::{Any, DateTime, Decode as _, Encode as _};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
    SubjectKeyIdentifier,
};
use x509_cert::ext::{AsExtension, Extension};
use x509_cert::name::Name;
use x509_cert::serial_number::SerialNumber;
use x509_cert::spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned};
use x509_cert::time::{Time, Validity};
use x509_cert::{Certificate, Version};
use zeroize::Zeroizing;

use super::keys::encode_pem;
use crate::fsio::Hasher;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const SERVER_AUTH: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
/// How long a server's certificate is good for.
const LIFE: Duration = Duration::from_hours(20 * 365 * 24);
/// With how much of that left it is made anew.
const LEFT: Duration = Duration::from_hours(7 * 365 * 24);
/// No clock that is right says less: 2026-01-01.
const WRITTEN: Duration = Duration::from_hours(490_896);

/// A name by which clients reach a server: a DNS name or an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerName {
    /// A DNS name, in lower case.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

/// A text that names no server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a name of a server, wanted a DNS name or an IP address without a port")]
pub struct BadServerName {
    found: String,
}

impl FromStr for ServerName {
    type Err = BadServerName;

    fn from_str(text: &str) -> Result<Self, BadServerName> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Address(address));
        }
        let label = |label: &str| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len())
                && label.bytes().all(plain)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let numeric =
            text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if text.len() > 253 || numeric || !text.split('.').all(label) {
            return Err(BadServerName {
                found: text.chars().filter(|c| !c.is_control()).take(120).collect(),
            });
        }
        Ok(Self::Dns(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for ServerName {
    /// As it stands in a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => f.write_str(name),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The key of the authority cannot be read.
    #[error("the authority's key is not a private key of this program: {0}")]
    Key(String),
    /// A certificate cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Certificate(String),
    /// Key and certificate are not of one authority.
    #[error("the authority's key and its certificate do not belong together")]
    Mismatch,
    /// It could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(String),
}

impl From<x509_cert::der::Error> for CertificateError {
    fn from(error: x509_cert::der::Error) -> Self {
        Self::Make(error.to_string())
    }
}

impl From<aws_lc_rs::error::Unspecified> for CertificateError {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self::Make("the cryptographic library refused".to_owned())
    }
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: Zeroizing<String>,
}

/// An authority that can issue.
pub struct Authority {
    key: EcdsaKeyPair,
    name: Name,
    identity: Identity,
}

impl Authority {
    /// Makes one. Its name tells it from those of other sites.
    ///
    /// # Errors
    ///
    /// When the system has no random bytes.
    pub fn generate() -> Result<Self, CertificateError> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let short: String = hex::encode(identifier(&key)).chars().take(8).collect();
        let name = Name::from_str(&format!("CN=fleetpack site {short}"))?;
        let usage = KeyUsage(KeyUsages::KeyCertSign | KeyUsages::CRLSign);
        let mut extensions = Extensions::new(&name);
        extensions.add(&BasicConstraints { ca: true, path_len_constraint: Some(0) })?;
        extensions.add(&usage)?;
        extensions.add(&SubjectKeyIdentifier(OctetString::new(identifier(&key))?))?;
        let validity = Validity { not_before: begin()?, not_after: Time::INFINITY };
        let certificate = sign(&key, &key, (&name, &name), validity, extensions.list)?;
        Ok(Self { identity: Identity { certificate, key: private_pem(&key)? }, key, name })
    }

    /// Reads one back.
    ///
    /// # Errors
    ///
    /// When key or certificate cannot be read, or do not belong together.
    pub fn read(certificate: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let bad_key = |why: String| CertificateError::Key(why);
        let block = pem::parse(key).map_err(|error| bad_key(error.to_string()))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, block.contents())
            .map_err(|error| bad_key(error.to_string()))?;
        let parsed = parse(certificate)?;
        let public = &parsed.tbs_certificate.subject_public_key_info.subject_public_key;
        if public.raw_bytes() != pair.public_key().as_ref() {
            return Err(CertificateError::Mismatch);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let identity = Identity { certificate: text(certificate), key: Zeroizing::new(text(key)) };
        Ok(Self { key: pair, name: parsed.tbs_certificate.subject, identity })
    }

    /// Its certificate and key.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Issues a certificate for a server that is called by any of `names`.
    ///
    /// # Errors
    ///
    /// When there is no name, or the system has no random bytes.
    pub fn issue(&self, names: &BTreeSet<ServerName>, now: SystemTime) -> Result<Identity, CertificateError> {
        let first = names.first().ok_or_else(|| CertificateError::Make("no name is given".to_owned()))?;
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        // Clients look at the alternative names; the subject is for people, and short.
        let subject = Name::from_str(&match first {
            ServerName::Dns(name) if name.len() <= 64 => format!("CN={name}"),
            ServerName::Address(address @ IpAddr::V4(_)) => format!("CN={address}"),
            _ => "CN=fleetpack".to_owned(),
        })?;
        let alternative = names.iter().map(|name| {
            Ok(match name {
                ServerName::Dns(name) => GeneralName::DnsName(Ia5String::new(name)?),
                ServerName::Address(IpAddr::V4(address)) => {
                    GeneralName::IpAddress(OctetString::new(address.octets())?)
                }
                ServerName::Address(IpAddr::V6(address)) => {
                    GeneralName::IpAddress(OctetString::new(address.octets())?)
                }
            })
        });
        let alternative = alternative.collect::<Result<Vec<_>, CertificateError>>()?;
        let mut extensions = Extensions::new(&subject);
        extensions.add(&BasicConstraints { ca: false, path_len_constraint: None })?;
        extensions.add(&KeyUsage(KeyUsages::DigitalSignature.into()))?;
        extensions.add(&ExtendedKeyUsage(vec![SERVER_AUTH]))?;
        extensions.add(&SubjectAltName(alternative))?;
        extensions.add(&SubjectKeyIdentifier(OctetString::new(identifier(&key))?))?;
        extensions.add(&AuthorityKeyIdentifier {
            key_identifier: Some(OctetString::new(identifier(&self.key))?),
            authority_cert_issuer: None,
            authority_cert_serial_number: None,
        })?;
        let from = now.duration_since(UNIX_EPOCH).unwrap_or_default().max(WRITTEN);
        let end = DateTime::from_unix_duration(from.saturating_add(LIFE))?;
        let validity = Validity { not_before: begin()?, not_after: time(end)? };
        let certificate = sign(&self.key, &key, (&self.name, &subject), validity, extensions.list)?;
        Ok(Identity { certificate, key: private_pem(&key)? })
    }

    /// Whether `certificate` is one that [`Authority::issue`] would not have to make anew: of this
    /// authority, for all of `names`, and far from its end.
    #[must_use]
    pub fn still_good(&self, certificate: &[u8], names: &BTreeSet<ServerName>, now: SystemTime) -> bool {
        let Ok(certificate) = parse(certificate) else { return false };
        let found = &certificate.tbs_certificate;
        let end = UNIX_EPOCH + found.validity.not_after.to_unix_duration();
        let now = now.max(UNIX_EPOCH + WRITTEN);
        found.issuer == self.name
            && issued_by(&certificate, &self.key)
            && names.is_subset(&names_of(&certificate))
            && end.duration_since(now).is_ok_and(|left| left > LEFT)
    }
}

/// When a certificate (DER) ends, in seconds since 1970.
#[must_use]
pub fn certificate_end(certificate: &[u8]) -> Option<u64> {
    let parsed = Certificate::from_der(certificate).ok()?;
    Some(parsed.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

fn parse(certificate: &[u8]) -> Result<Certificate, CertificateError> {
    let bad = |why: String| CertificateError::Certificate(why);
    let block = pem::parse(certificate).map_err(|error| bad(error.to_string()))?;
    Certificate::from_der(block.contents()).map_err(|error| bad(error.to_string()))
}

/// Whether the key of the authority made the signature, for two authorities may have one name.
fn issued_by(certificate: &Certificate, authority: &EcdsaKeyPair) -> bool {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    let Ok(signed) = certificate.tbs_certificate.to_der() else { return false };
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, authority.public_key().as_ref());
    public.verify(&signed, certificate.signature.raw_bytes()).is_ok()
}

fn names_of(certificate: &Certificate) -> BTreeSet<ServerName> {
    let Ok(Some((_, found))) = certificate.tbs_certificate.get::<SubjectAltName>() else {
        return BTreeSet::new();
    };
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(ServerName::Dns(name.as_str().to_owned())),
        GeneralName::IpAddress(bytes) => {
            let bytes = bytes.as_bytes();
            let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok().map(ServerName::Address)
        }
        _ => None,
    };
    found.0.iter().filter_map(name).collect()
}

/// The first second of 1970: earlier than any clock without a battery.
fn begin() -> Result<Time, CertificateError> {
    Ok(Time::UtcTime(UtcTime::from_unix_duration(Duration::ZERO)?))
}

/// RFC 5280, section 4.1.2.5: two digits of the year until 2049, four from then on.
fn time(at: DateTime) -> Result<Time, CertificateError> {
    Ok(if at.year() < 2050 {
        Time::UtcTime(UtcTime::from_date_time(at)?)
    } else {
        Time::GeneralTime(at.into())
    })
}

fn algorithm() -> AlgorithmIdentifierOwned {
    AlgorithmIdentifierOwned { oid: ECDSA_SHA256, parameters: None }
}

/// RFC 7093, section 2, method 1.
fn identifier(key: &EcdsaKeyPair) -> Vec<u8> {
    let mut hasher = Hasher::new();
    hasher.update(key.public_key().as_ref());
    hex::decode(hasher.finish().hex()).unwrap_or_default().into_iter().take(20).collect()
}

fn private_pem(key: &EcdsaKeyPair) -> Result<Zeroizing<String>, CertificateError> {
    let document = key.to_pkcs8v1()?;
    Ok(Zeroizing::new(encode_pem("PRIVATE KEY", document.as_ref().to_vec())))
}

struct Extensions<'n> {
    subject: &'n Name,
    list: Vec<Extension>,
}

impl<'n> Extensions<'n> {
    const fn new(subject: &'n Name) -> Self {
        Self { subject, list: Vec::new() }
    }

    fn add(&mut self, extension: &impl AsExtension) -> Result<(), CertificateError> {
        let extension = extension.to_extension(self.subject, &self.list)?;
        self.list.push(extension);
        Ok(())
    }
}

/// A certificate for `key`, signed by `issuer`; `names` are the issuer's and its own.
fn sign(
    issuer: &EcdsaKeyPair,
    key: &EcdsaKeyPair,
    names: (&Name, &Name),
    validity: Validity,
    extensions: Vec<Extension>,
) -> Result<String, CertificateError> {
    let random = SystemRandom::new();
    let mut serial = [0; 16];
    random.fill(&mut serial)?;
    // Positive, and never shortened.
    serial[0] = serial[0] & 0x7f | 0x40;
    let algorithm_of_key =
        AlgorithmIdentifierOwned { oid: EC_PUBLIC_KEY, parameters: Some(Any::encode_from(&P256)?) };
    let public = BitString::from_bytes(key.public_key().as_ref())?;
    let tbs_certificate = TbsCertificateInner {
        version: Version::V3,
        serial_number: SerialNumber::new(&serial)?,
        signature: algorithm(),
        issuer: names.0.clone(),
        validity,
        subject: names.1.clone(),
        subject_public_key_info: SubjectPublicKeyInfoOwned {
            algorithm: algorithm_of_key,
            subject_public_key: public,
        },
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: Some(extensions),
    };
    let signature = issuer.sign(&random, &tbs_certificate.to_der()?)?;
    let certificate: Certificate = CertificateInner {
        tbs_certificate,
        signature_algorithm: algorithm(),
        signature: BitString::from_bytes(signature.as_ref())?,
    };
    Ok(encode_pem("CERTIFICATE", certificate.to_der()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<ServerName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn names_of_servers() {
        for (text, shown) in [
            ("Registry.Site", "registry.site"),
            ("10.0.0.1", "10.0.0.1"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("node-1", "node-1"),
        ] {
            assert_eq!(text.parse::<ServerName>().unwrap().to_string(), shown);
        }
        for bad in ["", "a b", "a:1", "10.0.0.1:5", "*.site", "-a", "a..b", "a/b", "1.2.3", "\u{1b}", "ä"] {
            assert!(bad.parse::<ServerName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_authority_is_read_back_and_knows_its_own() {
        let authority = Authority::generate().unwrap();
        let Identity { certificate, key } = authority.identity().clone();
        let again = Authority::read(certificate.as_bytes(), key.as_bytes()).unwrap();
        let all = names(&["registry.site", "127.0.0.1", "::1"]);
        let now = UNIX_EPOCH + WRITTEN + Duration::from_hours(24);
        let issued = again.issue(&all, now).unwrap();
        let good = |authority: &Authority, names: &BTreeSet<ServerName>, now| {
            authority.still_good(issued.certificate.as_bytes(), names, now)
        };
        assert!(good(&authority, &all, now));
        assert!(good(&authority, &names(&["registry.site"]), UNIX_EPOCH));
        assert!(!good(&authority, &names(&["other.site"]), now));
        assert!(!good(&authority, &all, now + Duration::from_hours(14 * 365 * 24)));
        let other = Authority::generate().unwrap();
        assert!(!good(&other, &all, now));
        assert!(Authority::read(certificate.as_bytes(), other.identity().key.as_bytes()).is_err());
        assert!(Authority::read(b"x", key.as_bytes()).is_err());
        assert!(authority.issue(&BTreeSet::new(), now).is_err());
    }

    #[test]
    fn a_clock_that_was_never_set_gives_a_certificate_that_lasts() {
        let authority = Authority::generate().unwrap();
        let issued = authority.issue(&names(&["a"]), UNIX_EPOCH).unwrap();
        let end = certificate_end(pem::parse(&issued.certificate).unwrap().contents()).unwrap();
        assert!(end > (WRITTEN + LEFT).as_secs());
        assert!(certificate_end(b"x").is_none());
    }
}
