use super::*;

const GOOD: &str = "
tiers:
  small: {curve: {alpha: 0.02}}
requests:
- {model: intent, steps: {small: {refused: \"0.2\"}}}
outages:
- {tier: small, from: 1m, to: 2m}
";

fn wrong(text: &str) -> String {
    Scenario::parse("s.yaml", text).expect_err("refused").join("\n")
}

#[test]
fn defaults_are_filled_in() {
    let scenario = Scenario::parse("s.yaml", GOOD).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!((scenario.seed, scenario.load.scale, scenario.requests[0].share), (0, 1.0, 1.0));
    assert_eq!(scenario.tiers["small"].pod_start, Duration::from("60s"));
    assert_eq!(scenario.outages[0].looks, Looks::ServerError);
}

#[test]
fn what_is_wrong_is_named_with_file_and_field() {
    assert_eq!(
        wrong(&GOOD.replace("alpha", "alfa")),
        "s.yaml: tiers.small.curve.alfa: unknown field `alfa`, expected one of `overhead`, `alpha`, `beta`, `gamma`"
    );
    assert_eq!(
        wrong(&GOOD.replace("0.02", "-1")),
        "s.yaml: tiers.small.curve.alpha: must be a number from 0 to 3600, is -1"
    );
    assert_eq!(
        wrong(&GOOD.replace("{refused: \"0.2\"}", "{}")),
        "s.yaml: requests[0].steps.small: must have refused, scores or both"
    );
    assert_eq!(wrong(&GOOD.replace("to: 2m", "to: 30s")), "s.yaml: outages[0].to: must be after from");
    assert_eq!(
        wrong(&GOOD.replace("tier: small", "tier: big")),
        "s.yaml: outages[0].tier: \"big\" is none of tiers: small"
    );
    let both = wrong(&format!("load: {{scale: 0, duration: 2x, shape: [1]}}{GOOD}"));
    assert_eq!(both.lines().count(), 3, "all problems at once: {both}");
    assert!(both.contains("s.yaml: load.duration: \"2x\" is not a duration such as"), "{both}");
    assert!(wrong("a: [").starts_with("s.yaml: "), "where the YAML ends");
    assert_eq!(wrong("---\n---\n"), "s.yaml: must be one YAML document, has 0");
}
