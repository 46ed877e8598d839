//! The messages and services between Sanafarm's coordinator, workers and command line, and those of KEDA.
//!
//! Generated at build time from `sanafarm/v1/*.proto` and `externalscaler/`; the life cycle of jobs, shards and leases is
//! written in those files.

/// Package `sanafarm.v1`.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("sanafarm.v1");
}

/// Every file of `sanafarm/v1`, as an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
/// Package `externalscaler`, of KEDA.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod externalscaler {
    tonic::include_proto!("externalscaler");
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::externalscaler::{GetMetricsRequest, MetricSpec, MetricValue, ScaledObjectRef};

    /// A double in a message.
    fn double(tag: u8, value: f64) -> Vec<u8> {
        [&[tag][..], &value.to_le_bytes()].concat()
    }

    #[test]
    fn keda_numbers_its_fields_so() {
        let spec = MetricSpec { metric_name: "m".to_owned(), target_size: 2, target_size_float: 1.5 };
        let wire = [&b"\x0a\x01m\x10\x02"[..], &double(0x19, 1.5)].concat();
        assert_eq!(spec.encode_to_vec(), wire);
        let value = MetricValue { metric_name: "m".to_owned(), metric_value: 2, metric_value_float: 1.5 };
        assert_eq!(value.encode_to_vec(), wire);
        let scaler_metadata = [("k".to_owned(), "v".to_owned())].into();
        let object = ScaledObjectRef { name: "a".to_owned(), namespace: "b".to_owned(), scaler_metadata };
        let request = GetMetricsRequest { scaled_object_ref: Some(object), metric_name: "m".to_owned() };
        let wire = b"\x0a\x0e\x0a\x01a\x12\x01b\x1a\x06\x0a\x01k\x12\x01v\x12\x01m";
        assert_eq!(request.encode_to_vec(), wire);
    }
}
