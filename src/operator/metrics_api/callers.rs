//! Who calls: whom the API server's front proxy names, or the user of a token.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};
use k8s_openapi::api::authentication::v1::UserInfo;
use k8s_openapi::api::core::v1::ConfigMap;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Group of every user but one.
const AUTHENTICATED: &str = "system:authenticated";
/// That one.
const ANONYMOUS: &str = "system:anonymous";

/// In which headers the API server's front proxy names a caller, and which certificates it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontProxy {
    /// Common names of its certificate; empty for any.
    names: Vec<String>,
    user: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    extra: Vec<String>,
}

/// What is wrong with a key of the ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}: {1}")]
pub struct Unusable(&'static str, String);

/// The part of the ConfigMap `extension-apiserver-authentication` that speaks of the front proxy, and its authority.
///
/// # Errors
/// When the API server runs without an aggregation layer, or what it says can't be used.
pub fn read(config: &ConfigMap) -> Result<(FrontProxy, RootCertStore), Unusable> {
    const CA: &str = "requestheader-client-ca-file";
    let text = |key: &str| config.data.as_ref().and_then(|data| data.get(key)).map(String::as_str);
    let list = |key: &'static str| -> Result<Vec<String>, Unusable> {
        let text = text(key).unwrap_or("[]");
        serde_json::from_str(text).map_err(|error| Unusable(key, format!("no list of texts: {error}")))
    };
    let headers = |key: &'static str| -> Result<Vec<HeaderName>, Unusable> {
        let name = |name: String| name.parse().map_err(|_| Unusable(key, format!("{name:?} is no header")));
        list(key)?.into_iter().map(name).collect()
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text(CA).unwrap_or_default().as_bytes()) {
        let certificate = certificate.map_err(|error| Unusable(CA, error.to_string()))?;
        roots.add(certificate).map_err(|error| Unusable(CA, error.to_string()))?;
    }
    if roots.is_empty() {
        let problem = "no certificate: the API server runs without --requestheader-client-ca-file";
        return Err(Unusable(CA, problem.to_owned()));
    }
    let front = FrontProxy {
        names: list("requestheader-allowed-names")?,
        user: headers("requestheader-username-headers")?,
        uid: headers("requestheader-uid-headers")?,
        groups: headers("requestheader-group-headers")?,
        extra: list("requestheader-extra-headers-prefix")?.into_iter().map(|each| each.to_lowercase()).collect(),
    };
    Ok((front, roots))
}

impl FrontProxy {
    /// Whether a verified certificate is the front proxy's.
    #[must_use]
    pub fn is(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
        let mut names = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        self.names.is_empty() || names.any(|name| self.names.iter().any(|allowed| allowed == name))
    }

    /// Whom it names. `None`: nobody.
    #[must_use]
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let texts = |names: &[HeaderName]| {
            let values = names.iter().flat_map(|name| headers.get_all(name));
            let texts = values.filter_map(|value| value.to_str().ok()).filter(|text| !text.is_empty());
            texts.map(str::to_owned).collect::<Vec<_>>()
        };
        let username = texts(&self.user).into_iter().next()?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra {
            for (name, value) in headers {
                let (Some(key), Ok(value)) = (name.as_str().strip_prefix(prefix), value.to_str()) else { continue };
                let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        let (uid, groups) = (texts(&self.uid).into_iter().next(), texts(&self.groups));
        Some(known(UserInfo { username: Some(username), uid, groups: Some(groups), extra: Some(extra) }))
    }
}

/// A user, with the group that all but one have.
fn known(mut user: UserInfo) -> UserInfo {
    let groups = user.groups.get_or_insert_default();
    if user.username.as_deref() != Some(ANONYMOUS) && !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::sync::authority::Authority;

    fn config(names: &str) -> ConfigMap {
        let ca = Authority::generate(jiff::civil::date(2026, 1, 1)).expect("an authority").certificate;
        let data = [
            ("requestheader-client-ca-file", ca.as_str()),
            ("requestheader-allowed-names", names),
            ("requestheader-username-headers", r#"["X-Remote-User", "X-Other"]"#),
            ("requestheader-uid-headers", r#"["X-Remote-Uid"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            ("requestheader-extra-headers-prefix", r#"["X-Remote-Extra-"]"#),
        ];
        let data = data.into_iter().map(|(key, text)| (key.to_owned(), text.to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn the_front_proxy_names_a_user_with_groups_and_extras() {
        let (front, roots) = read(&config(r#"["front-proxy-client"]"#)).expect("a front proxy");
        assert_eq!(roots.len(), 1);
        let mut headers = HeaderMap::new();
        assert_eq!(front.user(&headers), None);
        for (name, value) in [
            ("x-remote-user", "alice"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "devs"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-acme.com%2fproject", "one"),
            ("x-remote-extra-acme.com%2fproject", "two"),
        ] {
            headers.append(HeaderName::from_static(name), http::HeaderValue::from_static(value));
        }
        let extra = [("acme.com/project".to_owned(), vec!["one".to_owned(), "two".to_owned()])].into();
        let user = UserInfo {
            username: Some("alice".to_owned()),
            uid: Some("7".to_owned()),
            groups: Some(["devs", "ops", AUTHENTICATED].map(str::to_owned).to_vec()),
            extra: Some(extra),
        };
        assert_eq!(front.user(&headers), Some(user));
        let mut headers = HeaderMap::new();
        headers.append("x-other", http::HeaderValue::from_static(ANONYMOUS));
        headers.append("x-remote-group", http::HeaderValue::from_static("system:unauthenticated"));
        let groups = front.user(&headers).and_then(|user| user.groups);
        assert_eq!(groups, Some(vec!["system:unauthenticated".to_owned()]));
    }

    #[test]
    fn a_certificate_is_the_front_proxys_by_its_common_name() {
        let (front, roots) = read(&config(r#"["front-proxy-client"]"#)).expect("a front proxy");
        drop(roots);
        let certificate = |name: &str| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.self_signed(&key).expect("a certificate").der().clone()
        };
        assert!(front.is(&certificate("front-proxy-client")));
        assert!(!front.is(&certificate("somebody")));
        assert!(!front.is(&CertificateDer::from_slice(b"junk")));
        let (any, _) = read(&config("[]")).expect("a front proxy");
        assert!(any.is(&certificate("somebody")));
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_key() {
        let problem = |change: &dyn Fn(&mut BTreeMap<String, String>)| {
            let mut config = config("[]");
            change(config.data.as_mut().expect("data"));
            read(&config).expect_err("a problem").to_string()
        };
        let none = problem(&|data| drop(data.remove("requestheader-client-ca-file")));
        assert!(none.contains("without --requestheader-client-ca-file"), "{none}");
        let list = problem(&|data| drop(data.insert("requestheader-group-headers".to_owned(), "x".to_owned())));
        assert!(list.starts_with("requestheader-group-headers: no list"), "{list}");
        let header =
            problem(&|data| drop(data.insert("requestheader-uid-headers".to_owned(), r#"["a b"]"#.to_owned())));
        assert!(header.starts_with(r#"requestheader-uid-headers: "a b" is no header"#), "{header}");
    }
}
