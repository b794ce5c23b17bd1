//! Pure: a request -> what it asks for, and which right it needs.

use k8s_openapi::api::authorization::v1::{NonResourceAttributes, ResourceAttributes};

use super::{GROUP, VERSION};
use crate::operator::plan::labels::TIER;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// All groups: there is one.
    Groups,
    /// The group.
    Group,
    /// What is in its version.
    Resources,
    /// Values of a metric.
    Values {
        /// Namespace of what the metric is of.
        namespace: &'a str,
        /// Its name.
        metric: &'a str,
    },
    /// Nothing that there is.
    Other,
}

impl<'a> Asked<'a> {
    /// What a path asks for.
    #[must_use]
    pub fn of(path: &'a str) -> Self {
        let mut parts = path.trim_matches('/').split('/');
        let parts = std::array::from_fn::<_, 7, _>(|_| parts.next());
        match parts {
            [Some("apis"), None, ..] => Self::Groups,
            [Some("apis"), Some(GROUP), None, ..] => Self::Group,
            [Some("apis"), Some(GROUP), Some(VERSION), None, ..] => Self::Resources,
            [Some("apis"), Some(GROUP), Some(VERSION), Some("namespaces"), Some(namespace), Some(metric), None]
                if !namespace.is_empty() && !metric.is_empty() =>
            {
                Self::Values { namespace, metric }
            }
            _ => Self::Other,
        }
    }

    /// The right that it needs, as the API server tells rights of its own resources: a metric's values are a list.
    #[must_use]
    pub fn right(self, path: &str) -> (Option<ResourceAttributes>, Option<NonResourceAttributes>) {
        let text = |text: &str| Some(text.to_owned());
        if let Self::Values { namespace, metric } = self {
            let resource = ResourceAttributes {
                group: text(GROUP),
                version: text(VERSION),
                namespace: text(namespace),
                resource: text(metric),
                verb: text("list"),
                ..ResourceAttributes::default()
            };
            return (Some(resource), None);
        }
        (None, Some(NonResourceAttributes { path: text(path), verb: text("get") }))
    }
}

/// The tier that a query's label selector names.
///
/// # Errors
/// What is wrong with the query.
pub fn tier(query: &str) -> Result<String, String> {
    let mut selector = String::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match name.as_ref() {
            "labelSelector" => selector = value.into_owned(),
            "watch" if value != "false" && value != "0" => return Err("watch: values can't be watched".to_owned()),
            _ => {}
        }
    }
    let rest = selector.trim().strip_prefix(TIER).map(str::trim_start);
    let name = rest.and_then(|rest| {
        let equals = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='));
        let within = || rest.strip_prefix("in")?.trim().strip_prefix('(')?.strip_suffix(')');
        equals.or_else(within)
    });
    let is_name =
        |name: &&str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
    let name = name.map(str::trim).filter(is_name);
    name.map(str::to_owned).ok_or_else(|| format!("labelSelector: must be {TIER}=NAME of a ModelTier, is {selector:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_of_five() {
        let values = Asked::Values { namespace: "ml", metric: "m" };
        for (path, wanted) in [
            ("/apis", Asked::Groups),
            ("/apis/", Asked::Groups),
            ("/apis/external.metrics.k8s.io", Asked::Group),
            ("/apis/external.metrics.k8s.io/v1beta1", Asked::Resources),
            ("/apis/external.metrics.k8s.io/v1beta1/namespaces/ml/m", values),
            ("/apis/external.metrics.k8s.io/v1beta1/namespaces/ml/m/x", Asked::Other),
            ("/apis/external.metrics.k8s.io/v1beta1/namespaces//m", Asked::Other),
            ("/apis/external.metrics.k8s.io/v1beta1/namespaces/ml", Asked::Other),
            ("/apis/external.metrics.k8s.io/v1beta2", Asked::Other),
            ("/apis/custom.metrics.k8s.io", Asked::Other),
            ("/openapi/v2", Asked::Other),
            ("/", Asked::Other),
        ] {
            assert_eq!(Asked::of(path), wanted, "{path}");
        }
        let (resource, other) = values.right("/x");
        let resource = resource.expect("a resource");
        assert_eq!((resource.verb.as_deref(), resource.resource.as_deref(), other), (Some("list"), Some("m"), None));
        let (resource, other) = Asked::Groups.right("/apis");
        assert_eq!((resource, other.and_then(|other| other.path).as_deref()), (None, Some("/apis")));
    }

    #[test]
    fn a_selector_names_one_tier_or_is_told_how() {
        for query in [
            "labelSelector=smallfirst.dev%2Ftier%3Dsmall",
            "labelSelector=smallfirst.dev/tier==small&timeout=3s",
            "labelSelector=smallfirst.dev%2Ftier+in+%28small%29",
            "watch=false&labelSelector=smallfirst.dev/tier=%20small",
        ] {
            assert_eq!(tier(query).as_deref(), Ok("small"), "{query}");
        }
        for query in [
            "",
            "labelSelector=",
            "labelSelector=tier%3Dsmall",
            "labelSelector=smallfirst.dev/tier",
            "labelSelector=smallfirst.dev/tier=",
            "labelSelector=smallfirst.dev/tier!=small",
            "labelSelector=smallfirst.dev/tier=small,smallfirst.dev/x=y",
            "labelSelector=smallfirst.dev/tier+in+(small,large)",
            "labelSelector=smallfirst.dev/tier=../x",
            "labelSelector=smallfirst.dev/tier=small&labelSelector=x",
        ] {
            let problem = tier(query).expect_err(query);
            assert!(problem.starts_with("labelSelector: must be smallfirst.dev/tier=NAME"), "{query}: {problem}");
        }
        assert!(tier("watch=true&labelSelector=smallfirst.dev/tier=small").is_err());
    }
}
