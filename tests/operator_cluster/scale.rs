//! `/scale` of a tier: what `kubectl scale modeltier` and an autoscaler use.

use super::*;

#[test]
fn a_tier_is_scaled_like_a_deployment() {
    let _alone = alone();
    server::with_server(|client| async move {
        let ns = namespace(&client, "scale").await;
        let wire = Wire::default();
        let running = Running::start(&wire, &ns).await;
        create(&client, &ns, &tier(&ns, "small")).await;
        let mut outside = tier(&ns, "outside");
        outside.spec.pool = None;
        outside.spec.service = serde_json::from_value(json!({"serviceRef": {"name": "other", "port": 80}})).unwrap();
        create(&client, &ns, &outside).await;
        let tiers: Api<ModelTier> = Api::namespaced(client.clone(), &ns);
        let deployments: Api<Deployment> = Api::namespaced(client.clone(), &ns);

        let patch = Patch::Merge(json!({"spec": {"replicas": 2}}));
        tiers.patch_scale("small", &PatchParams::default(), &patch).await.unwrap();
        until("the second replica", || async {
            let spec = deployments.get_opt("small-pool").await.unwrap()?.spec?;
            (spec.replicas == Some(2)).then_some(())
        })
        .await;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &ns);
        let scale = until("the selector", || async {
            tiers.get_scale("small").await.unwrap().status.filter(|status| status.selector.is_some())
        })
        .await;
        let labels = ListParams::default().labels(&scale.selector.unwrap());
        until("its pods", || async { (pods.list(&labels).await.unwrap().items.len() == 2).then_some(()) }).await;

        let refused = tiers.patch_scale("outside", &PatchParams::default(), &patch).await.unwrap_err();
        assert!(refused.to_string().contains("spec.pool"), "{refused}");
        running.stop().await;
    });
}
