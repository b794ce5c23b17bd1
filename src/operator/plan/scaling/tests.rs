use serde_json::{Value, json};

use super::*;
use crate::operator::plan::{self, PoolPlan, Seen};

fn tier(scaling: Value) -> ModelTier {
    let mut tier = json!({
        "apiVersion": "smallfirst.dev/v1alpha1", "kind": "ModelTier", "metadata": {"name": "small", "namespace": "ns"},
        "spec": {
            "class": "Small", "owner": "team", "model": {"name": "m", "contextTokens": 2048},
            "pool": {
                "engine": "LlamaCpp", "modelFrom": {"path": "/m.gguf"}, "replicas": 4, "perReplica": {"concurrency": 8},
                "sizing": {}
            },
        },
    });
    if !scaling.is_null() {
        tier["spec"]["pool"]["scaling"] = scaling;
    }
    serde_json::from_value(tier).expect("a tier")
}

fn by(autoscaler: &str) -> ModelTier {
    tier(json!({"min": 2, "max": 9, "autoscaler": autoscaler}))
}

fn settings() -> Settings {
    Settings { scaler_address: Some("scaler:9444".into()), ..Settings::default() }
}

fn planned(tier: &ModelTier, scalers: Scalers) -> PoolPlan {
    let seen = Seen { scalers, ..Seen::default() };
    plan::tier(tier, &seen, &settings()).expect("valid").pool.expect("a pool")
}

fn keda() -> Scalers {
    Scalers { has_scaled_objects: true, ..Scalers::default() }
}

fn replicas(plan: &PoolPlan) -> Option<i32> {
    let spec = plan.deployment.spec.as_ref().expect("a spec");
    let annotations = plan.deployment.metadata.annotations.as_ref();
    let left = annotations.is_some_and(|annotations| annotations.contains_key(plan::AUTOSCALED));
    assert_eq!(left, spec.replicas.is_none(), "what is left to an autoscaler says so");
    spec.replicas
}

/// Kind, fewest and most replicas of the autoscaler.
fn autoscaler(plan: &PoolPlan) -> Option<(String, Value, Value)> {
    let Desired { resource, body, .. } = plan.scaled.autoscaler.as_ref()?;
    let spec = &body["spec"];
    Some(match resource.kind.as_str() {
        "ScaledObject" => (resource.kind.clone(), spec["minReplicaCount"].clone(), spec["maxReplicaCount"].clone()),
        kind => (kind.to_owned(), spec["minReplicas"].clone(), spec["maxReplicas"].clone()),
    })
}

fn sized(floor: i32, ceiling: i32) -> Option<SizingStatus> {
    let sizing = json!({
        "requestsPerSecond": "1", "escalationRatio": "0", "slots": 1, "needed": 1, "floor": floor, "ceiling": ceiling,
        "binding": "OwnDemand", "message": "so many"
    });
    Some(serde_json::from_value(sizing).expect("a sizing"))
}

#[test]
fn one_of_four_scales_and_the_others_leave_the_replicas_alone() {
    let made = |tier: &ModelTier| {
        let plan = planned(tier, keda());
        assert_eq!(plan.scaled.problem, None);
        let made = autoscaler(&plan);
        let reads = made.as_ref().is_some_and(|(kind, ..)| kind == "HorizontalPodAutoscaler");
        assert_eq!(plan.scaled.reads_metrics_api(), reads, "KEDA asks the operator");
        (replicas(&plan), made)
    };
    let hpa = ("HorizontalPodAutoscaler".to_owned(), json!(2), json!(9));
    assert_eq!(made(&tier(Value::Null)), (Some(4), None));
    assert_eq!(made(&by("External")), (Some(4), None));
    assert_eq!(made(&by("HorizontalPodAutoscaler")), (None, Some(hpa.clone())));
    assert_eq!(made(&by("KEDA")), (None, Some(("ScaledObject".to_owned(), json!(2), json!(9)))));
    assert_eq!(made(&tier(json!({"min": 2, "max": 9}))), (None, Some(hpa)), "the default");
    let settings = Settings { autoscaler: Autoscaler::External, ..settings() };
    let plan = plan::tier(&tier(json!({"max": 9})), &Seen::default(), &settings).expect("valid").pool.expect("a pool");
    assert_eq!(replicas(&plan), Some(4), "another default");
}

#[test]
fn the_bounds_are_those_of_sizing_within_the_specs() {
    for (min, said, hpa, keda_bounds) in [
        (2, None, [2, 9], [2, 9]),
        (2, sized(3, 7), [3, 7], [3, 7]),
        // What was said before the spec changed.
        (2, sized(1, 20), [2, 9], [2, 9]),
        (2, sized(20, 30), [9, 9], [9, 9]),
        (0, sized(0, 5), [1, 5], [0, 5]),
        (0, sized(0, 0), [1, 1], [0, 1]),
        (0, None, [1, 9], [0, 9]),
    ] {
        for (by, [least, most]) in [("HorizontalPodAutoscaler", hpa), ("KEDA", keda_bounds)] {
            let mut tier = tier(json!({"min": min, "max": 9, "autoscaler": by}));
            let found = autoscaler(&planned(&tier, Scalers { sizing: said.clone(), ..keda() })).expect("one");
            assert_eq!((found.1, found.2), (json!(least), json!(most)), "{by} {min} {said:?}");
            // After a restart what was said last stands.
            tier.status = Some(crate::api::ModelTierStatus { sizing: said.clone(), ..Default::default() });
            let found = autoscaler(&planned(&tier, keda())).expect("one");
            assert_eq!((found.1, found.2), (json!(least), json!(most)), "{by} {min} {said:?}");
        }
    }
}

#[test]
fn keda_waits_before_zero_from_the_beginning_and_is_told_nothing_that_it_warns_of() {
    let spec = |min: i32| {
        let tier = tier(json!({"min": min, "max": 9, "autoscaler": "KEDA", "idleAfter": "90s"}));
        planned(&tier, keda()).scaled.autoscaler.expect("one").body["spec"].clone()
    };
    let zero = spec(0);
    assert_eq!((&zero["cooldownPeriod"], &zero["initialCooldownPeriod"]), (&json!(90), &json!(90)), "{zero}");
    let one = spec(1);
    assert_eq!((&one["cooldownPeriod"], &one["initialCooldownPeriod"]), (&Value::Null, &Value::Null), "{one}");
}

#[test]
fn the_name_of_kedas_autoscaler_is_no_longer_than_a_label() {
    for (length, name) in [(49, None), (50, Some(55)), (56, Some(61))] {
        let mut tier = by("KEDA");
        tier.metadata.name = Some("t".repeat(length));
        let body = planned(&tier, keda()).scaled.autoscaler.expect("one").body;
        let config = &body["spec"]["advanced"]["horizontalPodAutoscalerConfig"];
        assert_eq!(config["name"].as_str().map(str::len), name, "{length}: {config}");
        // What KEDA makes of it otherwise.
        let derived = format!("keda-hpa-{}", body["metadata"]["name"].as_str().expect("a name"));
        assert_eq!(derived.len() > 63, name.is_some(), "{length}");
    }
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_made() {
    let plan = planned(&by("KEDA"), Scalers::default());
    assert_eq!((replicas(&plan), autoscaler(&plan)), (None, None));
    let problem = plan.scaled.problem.expect("a problem");
    assert_eq!(problem.reason, "Unsupported");
    assert!(problem.message.contains("no ScaledObject"), "{problem}");
    let seen = Seen { scalers: keda(), ..Seen::default() };
    let plan = plan::tier(&by("KEDA"), &seen, &Settings::default()).expect("valid").pool.expect("a pool");
    assert!(plan.scaled.problem.expect("a problem").message.contains("--scaler-address"));
}

fn other(of: Option<&str>, scales: Scales) -> Scalers {
    let other = Other { name: "mine".to_owned(), of: of.map(str::to_owned), scales };
    Scalers { others: vec![other], ..keda() }
}

#[test]
fn somebody_elses_autoscaler_is_named_and_left_alone() {
    let foreign = [Scales::Deployment, Scales::Tier].map(|scales| other(None, scales));
    let keda_of_others = other(Some("theirs"), Scales::Deployment);
    for tier in [by("HorizontalPodAutoscaler"), by("KEDA")] {
        for seen in foreign.iter().chain([&keda_of_others]) {
            let plan = planned(&tier, seen.clone());
            assert_eq!((replicas(&plan), autoscaler(&plan), plan.scaled.zero), (None, None, None));
            let problem = plan.scaled.problem.expect("a problem");
            assert_eq!((problem.condition, problem.reason), ("Ready", "Conflict"));
            assert!(problem.message.contains("HorizontalPodAutoscaler \"mine\""), "{problem}");
        }
    }
    for tier in [by("External"), tier(Value::Null)] {
        let plan = planned(&tier, other(None, Scales::Tier));
        assert_eq!((replicas(&plan), plan.scaled.problem.clone()), (Some(4), None), "that is what /scale is for");
        let plan = planned(&tier, other(None, Scales::Deployment));
        assert_eq!(replicas(&plan), None);
        let problem = plan.scaled.problem.expect("a problem");
        assert!(problem.message.contains("let it scale ModelTier small"), "{problem}");
    }
}

#[test]
fn nobody_begins_before_keda_has_gone() {
    let object = Scalers { scaled_object: true, ..keda() };
    let of_ours = other(Some("small-pool"), Scales::Deployment);
    for seen in [object, of_ours] {
        let plan = planned(&by("KEDA"), seen.clone());
        assert_eq!(plan.scaled.problem, None, "it is KEDA's");
        assert!(autoscaler(&plan).is_some());
        for tier in [by("HorizontalPodAutoscaler"), by("External"), tier(Value::Null)] {
            let plan = planned(&tier, seen.clone());
            assert_eq!((replicas(&plan), autoscaler(&plan), plan.scaled.hand_over), (None, None, None));
            assert_eq!(plan.scaled.problem.expect("a problem").reason, "Progressing");
        }
    }
}

#[test]
fn scale_takes_over_the_replicas_that_there_are() {
    let seen = |replicas| Scalers { autoscaled: Some(replicas), ..Scalers::default() };
    for (left, taken) in [(7, 7), (0, 1)] {
        let plan = planned(&by("External"), seen(left));
        assert_eq!((replicas(&plan), plan.scaled.hand_over), (None, Some(taken)));
    }
    let plan = planned(&by("External"), seen(4));
    assert_eq!((replicas(&plan), plan.scaled.hand_over), (Some(4), None), "it has");
    let plan = planned(&tier(Value::Null), seen(7));
    assert_eq!((replicas(&plan), plan.scaled.hand_over), (Some(4), None), "without scaling the spec's number holds");
}

const IDLE: Duration = Duration::from_secs(60);

#[test]
fn a_pool_sleeps_when_nobody_asked_for_long_enough_and_wakes_at_once() {
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let asked = |last: Option<u64>| Asked { last: last.map(at), idle_since: Some(at(last.unwrap_or_default())) };
    let zero = Zero { floor: 0, idle_after: IDLE };
    let turn = |replicas, last, now| zero.turn(replicas, Some(begin), asked(last), at(now));
    assert_eq!(turn(3, Some(10), 69), Turn::Look(Duration::from_secs(1)));
    assert_eq!(turn(3, Some(10), 70), Turn::To(0));
    assert_eq!(
        turn(3, None, 59),
        Turn::Look(Duration::from_secs(1)),
        "it may have been asked before it was listened to"
    );
    assert_eq!(turn(3, None, 60), Turn::To(0));
    assert_eq!(turn(0, Some(10), 69), Turn::To(1));
    assert_eq!(turn(0, Some(10), 70), Turn::Stay);
    assert_eq!(turn(0, None, 5), Turn::Stay, "a restart wakes nobody");
    // It never sleeps before it could serve, nor by what nobody knows.
    assert_eq!(zero.turn(1, None, asked(None), at(1000)), Turn::Stay);
    assert_eq!(zero.turn(1, Some(at(990)), asked(Some(10)), at(1000)), Turn::Look(Duration::from_secs(50)));
    assert_eq!(zero.turn(1, Some(at(990)), asked(Some(10)), at(1050)), Turn::To(0));
    let unheard = Asked { idle_since: None, ..asked(Some(10)) };
    assert_eq!(zero.turn(1, Some(begin), unheard, at(1000)), Turn::Look(SOON));
    assert_eq!(zero.turn(0, Some(begin), unheard, at(69)), Turn::To(1), "one is enough to wake it");
    // It may have been asked since somebody was last seen to.
    let perhaps = Asked { idle_since: Some(at(50)), ..asked(Some(10)) };
    assert_eq!(zero.turn(1, Some(begin), perhaps, at(70)), Turn::Look(Duration::from_secs(40)));
    assert_eq!(zero.turn(0, Some(begin), perhaps, at(70)), Turn::Stay);
    // What is needed is there, whoever asks.
    let warm = Zero { floor: 2, idle_after: IDLE };
    assert_eq!(warm.turn(0, None, asked(None), at(0)), Turn::To(2));
    assert_eq!(warm.turn(2, Some(begin), asked(None), at(1000)), Turn::Stay);
}
