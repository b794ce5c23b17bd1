//! The messages of `tests/scaler/externalscaler.proto`, which is KEDA's.

use std::collections::HashMap;

/// Who asks: a ScaledObject, and what its trigger says.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ScaledObjectRef {
    /// Name of the ScaledObject.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its namespace.
    #[prost(string, tag = "2")]
    pub namespace: String,
    /// Metadata of its trigger.
    #[prost(map = "string, string", tag = "3")]
    pub scaler_metadata: HashMap<String, String>,
}

/// Whether what is scaled is wanted.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct IsActiveResponse {
    /// It is.
    #[prost(bool, tag = "1")]
    pub result: bool,
}

/// The metrics by which to scale.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetricSpecResponse {
    /// There is one.
    #[prost(message, repeated, tag = "1")]
    pub metric_specs: Vec<MetricSpec>,
}

/// A metric by which to scale.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricSpec {
    /// Its name.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// What a replica should have on average, in whole numbers: for KEDA before 2.12.
    #[prost(int64, tag = "2")]
    pub target_size: i64,
    /// What a replica should have on average.
    #[prost(double, tag = "3")]
    pub target_size_float: f64,
}

/// Asks for a value.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct GetMetricsRequest {
    /// Who asks.
    #[prost(message, optional, tag = "1")]
    pub scaled_object_ref: Option<ScaledObjectRef>,
    /// The metric.
    #[prost(string, tag = "2")]
    pub metric_name: String,
}

/// Values.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetMetricsResponse {
    /// There is one.
    #[prost(message, repeated, tag = "1")]
    pub metric_values: Vec<MetricValue>,
}

/// The value of a metric.
#[derive(Clone, PartialEq, prost::Message)]
pub struct MetricValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub metric_name: String,
    /// In whole numbers, rounded up: for KEDA before 2.12.
    #[prost(int64, tag = "2")]
    pub metric_value: i64,
    /// The value.
    #[prost(double, tag = "3")]
    pub metric_value_float: f64,
}
