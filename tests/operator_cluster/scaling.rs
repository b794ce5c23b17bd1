//! Replicas of routers change hands between the spec and an autoscaler, and never fall on the way.

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;

use super::*;

#[test]
fn replicas_change_hands_without_a_fall_or_a_fight() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "scaling").await;
        let wire = Wire::default();
        let running = Running::start(&wire, &ns).await;
        create(&client, &ns, &tier(&ns, "small")).await;
        let (path, mut policy) = route(&ns, "small");
        policy.spec.router.replicas = 3;
        create(&client, &ns, &path).await;
        create(&client, &ns, &policy).await;
        let policies: Api<RoutingPolicy> = Api::namespaced(client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);
        let autoscalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), &ns);
        let replicas = || async { deployments.get_opt("front-router").await.unwrap()?.spec?.replicas };
        let set = |spec: Value| {
            let policies = policies.clone();
            let patch = Patch::Merge(json!({"spec": {"router": spec}}));
            async move { policies.patch("front", &PatchParams::default(), &patch).await.unwrap() }
        };
        // Whether the routers were ever at another number than these, by the generations that the test saw.
        until("three routers", || async { (replicas().await == Some(3)).then_some(()) }).await;

        set(json!({"scaling": {"min": 2, "max": 6}})).await;
        let made = until("the autoscaler", || async { autoscalers.get_opt("front-router").await.unwrap() }).await;
        let spec = serde_json::to_value(made.spec.unwrap()).unwrap();
        assert_eq!(spec["metrics"][0]["resource"]["target"]["averageUtilization"], 70, "{spec}");
        pause(1000).await;
        assert_eq!(replicas().await, Some(3), "it did not fall to one");
        // As an autoscaler writes it.
        let scale = Patch::Merge(json!({"spec": {"replicas": 5}}));
        let params = PatchParams { field_manager: Some("autoscaler".to_owned()), ..PatchParams::default() };
        deployments.patch_scale("front-router", &params, &scale).await.unwrap();
        set(json!({"maxBodyBytes": 2048})).await;
        until("the argument", || async {
            let deployment = serde_json::to_string(&deployments.get("front-router").await.unwrap()).unwrap();
            deployment.contains("--max-body-bytes").then_some(())
        })
        .await;
        assert_eq!(replicas().await, Some(5), "the autoscaler's number stays");
        let wanted = || async { policies.get("front").await.unwrap().status?.routers.map(|routers| routers.replicas) };
        until("the number in status", || async { (wanted().await == Some(5)).then_some(()) }).await;

        // And back.
        set(json!({"scaling": null})).await;
        until("the spec's number", || async { (replicas().await == Some(3)).then_some(()) }).await;
        until("no autoscaler", || async { autoscalers.get_opt("front-router").await.unwrap().is_none().then_some(()) })
            .await;
        set(json!({"replicas": 4})).await;
        until("another number", || async { (replicas().await == Some(4)).then_some(()) }).await;
        let ready = condition(&policies.get("front").await.unwrap(), "Ready").unwrap();
        assert_ne!(ready["reason"], "Conflict", "{ready}");
        running.stop().await;
    });
}
