use super::*;

const QUICKSTART: &str = include_str!("../../../../deploy/samples/quickstart.yaml");

fn source(text: &str) -> Source {
    Source { name: "in.yaml".into(), text: text.into() }
}

fn refusal(text: &str) -> String {
    parse(&[source(text)]).expect_err("refused").to_string()
}

#[test]
fn the_sample_is_read_whole() {
    let observed = parse(&[source(QUICKSTART)]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(observed.namespace, "ai");
    assert_eq!(observed.tiers.keys().collect::<Vec<_>>(), ["compact", "frontier"]);
    assert_eq!(observed.paths.len(), 2);
    assert_eq!(observed.policies.keys().collect::<Vec<_>>(), ["assistants"]);
}

#[test]
fn unknown_fields_are_refused_with_their_place() {
    let message = refusal(&QUICKSTART.replacen("class: Small", "class: Small\n  clas: Small", 1));
    assert!(message.starts_with("in.yaml: document 1 (ModelTier compact): spec: "), "{message}");
    assert!(message.contains("'clas'"), "{message}");
}

#[test]
fn rules_of_the_crd_hold_offline() {
    let message =
        refusal(&QUICKSTART.replacen("  provider:\n", "  service: {serviceRef: {name: a, port: 1}}\n  provider:\n", 1));
    assert!(message.contains("spec: exactly one of pool, provider and service must be set"), "{message}");
}

#[test]
fn duplicates_are_refused() {
    let message = refusal(&QUICKSTART.replacen("name: drafts", "name: ticket-intent", 1));
    assert!(message.contains("spec.workloads[1]: Duplicate value"), "{message}");
    let twice = format!("{QUICKSTART}\n---\n{QUICKSTART}");
    assert!(refusal(&twice).contains("another document has the same kind and name"));
}

#[test]
fn namespaces_do_not_mix_and_other_groups_are_skipped() {
    let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: other}\n";
    assert!(parse(&[source(other), source(QUICKSTART)]).is_ok());
    let message = refusal(&QUICKSTART.replacen("namespace: ai", "namespace: b", 1));
    assert!(message.contains("more than one namespace: ai (") && message.contains("b ("), "{message}");
}

#[test]
fn text_that_is_not_yaml_says_where() {
    assert!(refusal("a: [").starts_with("in.yaml: "));
    assert!(refusal("apiVersion: smallfirst.dev/v1\nkind: ModelTier").contains("is not known"));
    assert!(refusal("apiVersion: smallfirst.dev/v1alpha1\nkind: Other").contains("is not one of"));
}
