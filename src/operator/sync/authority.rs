//! The authority that routers trust, and the certificates that operators serve with.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::ToSpan;
use jiff::civil::Date;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::{SECRET, SERVER_NAME};

/// Keys of the Secret.
const CERTIFICATE: &str = "ca.crt";
/// See [`CERTIFICATE`].
const KEY: &str = "ca.key";
/// Annotation of the Secret: the day from which on the leader makes another authority.
const RENEW_AFTER: &str = "smallfirst.dev/renew-after";
/// Years for which an authority is valid.
const YEARS: i64 = 10;
/// Days for which an operator's certificate is valid; it is issued anew every day.
const DAYS: i64 = 8;

/// Why there is no authority or certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Secret is not as it was made.
    #[error("Secret {SECRET}: {0}. Delete it: the leader makes another")]
    Secret(&'static str),
    /// Making a certificate failed.
    #[error("a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The key does not fit TLS.
    #[error("a certificate: {0}")]
    Tls(#[from] rustls::Error),
    /// A day out of range.
    #[error("a certificate: {0}")]
    Day(#[from] jiff::Error),
}

/// An authority with its key.
pub struct Authority {
    /// Its certificate, as PEM.
    pub certificate: String,
    /// From this day on another should follow.
    pub renew_after: Date,
    key: KeyPair,
}

/// Valid from the day before, for clocks that are behind.
fn valid(params: &mut CertificateParams, today: Date, until: Date) -> Result<(), Error> {
    let day = |date: Date| {
        let part = |n: i8| u8::try_from(n).unwrap_or(1);
        rcgen::date_time_ymd(i32::from(date.year()), part(date.month()), part(date.day()))
    };
    params.not_before = day(today.checked_sub(1.day())?);
    params.not_after = day(until);
    Ok(())
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, SECRET);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate(today: Date) -> Result<Self, Error> {
        let key = KeyPair::generate()?;
        let mut params = params();
        valid(&mut params, today, today.checked_add(YEARS.years())?)?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, renew_after: today.checked_add((YEARS - 1).years())?, key })
    }

    /// The one in a Secret.
    ///
    /// # Errors
    /// When a part is missing or is not what it should be.
    pub fn read(secret: &Secret) -> Result<Self, Error> {
        let part = |name: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(name));
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        };
        let certificate = part(CERTIFICATE).ok_or(Error::Secret("it has no ca.crt"))?;
        let key = part(KEY).ok_or(Error::Secret("it has no ca.key"))?;
        let key = KeyPair::from_pem(&key).map_err(|_| Error::Secret("ca.key is no key"))?;
        let renew_after = secret.metadata.annotations.as_ref().and_then(|all| all.get(RENEW_AFTER)?.parse().ok());
        let renew_after = renew_after.ok_or(Error::Secret("its annotation smallfirst.dev/renew-after is no date"))?;
        Ok(Self { certificate, renew_after, key })
    }

    /// Puts it into a Secret.
    pub fn write(&self, secret: &mut Secret) {
        let annotations = secret.metadata.annotations.get_or_insert_default();
        annotations.insert(RENEW_AFTER.to_owned(), self.renew_after.to_string());
        let data = [(CERTIFICATE, self.certificate.clone()), (KEY, self.key.serialize_pem())];
        let data = data.into_iter().map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())));
        secret.data = Some(data.collect::<BTreeMap<_, _>>());
    }

    /// A certificate for an operator with these names, and a key that never leaves its process.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn issue(&self, names: &[String], today: Date) -> Result<Arc<CertifiedKey>, Error> {
        let mut own = CertificateParams::new(names.to_vec())?;
        own.distinguished_name = rcgen::DistinguishedName::new();
        own.distinguished_name.push(DnType::CommonName, SERVER_NAME);
        own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        own.use_authority_key_identifier_extension = true;
        valid(&mut own, today, today.checked_add(DAYS.days())?)?;
        let key = KeyPair::generate()?;
        let certificate = own.signed_by(&key, &Issuer::from_params(&params(), &self.key))?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
        Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_survives_its_secret_and_a_broken_one_says_what_to_do() {
        let today = jiff::civil::date(2026, 2, 28);
        let made = Authority::generate(today).expect("an authority");
        let mut secret = Secret::default();
        made.write(&mut secret);
        let read = Authority::read(&secret).expect("the same");
        assert_eq!((read.certificate, read.renew_after), (made.certificate, jiff::civil::date(2035, 2, 28)));
        assert_eq!(made.key.serialize_der(), read.key.serialize_der());
        secret.data.as_mut().expect("data").remove("ca.key");
        let error = Authority::read(&secret).err().expect("an error").to_string();
        assert!(error.contains("no ca.key") && error.contains("Delete it"), "{error}");
    }
}
