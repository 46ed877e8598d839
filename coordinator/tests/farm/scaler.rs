//! KEDA's external scaler.

use sanafarm_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use sanafarm_proto::externalscaler::{GetMetricsRequest, ScaledObjectRef};
use sanafarm_proto::v1;
use sanafarm_proto::v1::cell::Value;
use tonic::Code;
use tonic::transport::Channel;

use super::support::{Farm, farm, row};

fn object(metadata: &[(&str, &str)]) -> ScaledObjectRef {
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    ScaledObjectRef {
        name: "workers".to_owned(),
        namespace: "default".to_owned(),
        scaler_metadata: metadata.collect(),
    }
}

async fn client(farm: &Farm) -> ExternalScalerClient<Channel> {
    ExternalScalerClient::new(farm.coordinator.local_channel().await.unwrap())
}

async fn value(scaler: &mut ExternalScalerClient<Channel>, metadata: &[(&str, &str)]) -> f64 {
    let request = GetMetricsRequest {
        scaled_object_ref: Some(object(metadata)),
        metric_name: "backlog-device-seconds".to_owned(),
    };
    let values = scaler.get_metrics(request).await.unwrap().into_inner().metric_values;
    assert_eq!(values.len(), 1);
    assert_eq!(values[0].metric_value, values[0].metric_value_float.ceil() as i64);
    values[0].metric_value_float
}

#[tokio::test]
async fn the_backlog_is_pushed_and_told_as_the_view_tells_it() {
    let mut farm = farm().await;
    let mut scaler = client(&farm).await;
    let mut pushed = scaler.stream_is_active(object(&[])).await.unwrap().into_inner();
    assert!(!pushed.message().await.unwrap().unwrap().result);
    farm.submit("a", (1..=6).map(row).collect()).await;
    assert!(pushed.message().await.unwrap().unwrap().result);
    assert_eq!(value(&mut scaler, &[]).await, 60.0);
    assert_eq!(value(&mut scaler, &[("model", "sana-tiny"), ("memory", "1GB")]).await, 60.0);
    assert_eq!(value(&mut scaler, &[("model", "another")]).await, 0.0);
    assert!(scaler.is_active(object(&[])).await.unwrap().into_inner().result);
    assert!(!scaler.is_active(object(&[("model", "another")])).await.unwrap().into_inner().result);
    let (_, rows) = farm.sql("select sum(device_seconds) from keda_backlog").await.unwrap();
    assert_eq!(rows[0].cells[0].value, Some(Value::Real(60.0)));
    farm.render_all(|_| false).await;
    assert!(!pushed.message().await.unwrap().unwrap().result);
    assert_eq!(value(&mut scaler, &[]).await, 0.0);
}

#[tokio::test]
async fn jobs_that_ask_for_more_are_left_to_other_workers() {
    let mut farm = farm().await;
    let mut scaler = client(&farm).await;
    let needs = v1::Needs {
        labels: [("zone".to_owned(), "eu".to_owned())].into(),
        device_kind: "cuda".to_owned(),
        memory_bytes: 24_000_000_000,
    };
    farm.submit_with("a", (1..=2).map(row).collect(), |spec| spec.needs = Some(needs)).await;
    for (metadata, expected) in [
        (&[][..], 0.0),
        (&[("labels", "zone=eu")], 20.0),
        (&[("labels", "zone=us")], 0.0),
        (&[("labels", "zone=eu,rack=7"), ("memory", "24GB"), ("deviceKind", "cuda")], 20.0),
        (&[("labels", "zone=eu"), ("memory", "16GB")], 0.0),
        (&[("labels", "zone=eu"), ("deviceKind", "cpu")], 0.0),
    ] {
        assert_eq!(value(&mut scaler, metadata).await, expected, "{metadata:?}");
    }
}

#[tokio::test]
async fn the_target_is_what_the_trigger_says() {
    let farm = farm().await;
    let mut scaler = client(&farm).await;
    for (metadata, expected) in [(&[][..], 600.0), (&[("targetSeconds", "90.5")], 90.5)] {
        let spec = scaler.get_metric_spec(object(metadata)).await.unwrap().into_inner();
        let streamed =
            scaler.stream_metric_spec(object(metadata)).await.unwrap().into_inner().message().await;
        assert_eq!(streamed.unwrap(), Some(spec.clone()));
        assert_eq!(spec.metric_specs[0].metric_name, "backlog-device-seconds");
        assert_eq!(spec.metric_specs[0].target_size_float, expected);
    }
    let refused = scaler.is_active(object(&[("lables", "zone=eu")])).await.unwrap_err();
    let told = "unknown key lables in the trigger's metadata; did you mean labels?";
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, told));
    let request = GetMetricsRequest { scaled_object_ref: Some(object(&[])), metric_name: "x".to_owned() };
    let refused = scaler.get_metrics(request).await.unwrap_err();
    let told = r#"unknown metric "x"; there is backlog-device-seconds"#;
    assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, told));
}
