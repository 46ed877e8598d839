//! As many workers as KEDA would start.

use std::collections::HashMap;

use sanafarm_proto::externalscaler::external_scaler_client::ExternalScalerClient;
use sanafarm_proto::externalscaler::{GetMetricsRequest, ScaledObjectRef};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::support::books::assert_whole;
use crate::support::cluster::{Cluster, LONG_LEASES};
use crate::support::{Running, wait_until};

/// What KEDA and the autoscaler behind it do, without their patience.
pub struct Keda {
    runtime: Runtime,
    client: ExternalScalerClient<Channel>,
    object: ScaledObjectRef,
}

impl Keda {
    fn at(address: &str, metadata: &[(&str, &str)]) -> Self {
        Self::over(&Endpoint::from_shared(format!("http://{address}")).unwrap(), metadata)
    }

    pub fn over(endpoint: &Endpoint, metadata: &[(&str, &str)]) -> Self {
        let runtime = Runtime::new().unwrap();
        let channel = runtime.block_on(endpoint.connect()).unwrap();
        let scaler_metadata: HashMap<_, _> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let object =
            ScaledObjectRef { name: "workers".to_owned(), namespace: "farm".to_owned(), scaler_metadata };
        Self { runtime, client: ExternalScalerClient::new(channel), object }
    }

    /// Device-seconds that are to do.
    pub fn backlog(&mut self) -> f64 {
        self.metric().0
    }

    /// Workers that there should be: none while there is nothing to do, else one at least.
    fn wanted(&mut self, most: usize) -> usize {
        let (seconds, target) = self.metric();
        let Self { runtime, client, object } = self;
        if !runtime.block_on(client.is_active(object.clone())).unwrap().into_inner().result {
            return 0;
        }
        ((seconds / target).ceil() as usize).clamp(1, most)
    }

    /// What is to do, and how much of it a worker should have.
    fn metric(&mut self) -> (f64, f64) {
        let Self { runtime, client, object } = self;
        runtime.block_on(async {
            let spec = client.get_metric_spec(object.clone()).await.unwrap().into_inner();
            let [spec] = <[_; 1]>::try_from(spec.metric_specs).unwrap();
            let request = GetMetricsRequest {
                scaled_object_ref: Some(object.clone()),
                metric_name: spec.metric_name.clone(),
            };
            let values = client.get_metrics(request).await.unwrap().into_inner().metric_values;
            (values[0].metric_value_float, spec.target_size_float)
        })
    }
}

/// Workers that were started, and those that were told to stop.
#[derive(Default)]
struct Workers {
    running: Vec<Running>,
    stopping: Vec<Running>,
    started: usize,
    stopped: usize,
}

impl Workers {
    fn scale(&mut self, cluster: &Cluster, address: &str, wanted: usize) {
        while self.running.len() < wanted {
            self.started += 1;
            self.running.push(cluster.worker(address, &format!("w{}", self.started)));
        }
        // Any of them: KEDA does not know which one is idle.
        while self.running.len() > wanted {
            let victim = self.running.remove(0);
            // A process that has hardly begun does not hear it yet.
            let opened = format!("select count(*) from sessions where worker = 'w{}'", self.stopped + 1);
            wait_until("the worker to connect", || cluster.number(&opened) > 0);
            self.stopped += 1;
            victim.terminate();
            self.stopping.push(victim);
        }
    }

    /// Whether all have stopped, and well.
    fn are_gone(&mut self, cluster: &Cluster) -> bool {
        if !self.running.is_empty() || !self.stopping.iter_mut().all(Running::has_ended) {
            return false;
        }
        for stopped in self.stopping.drain(..) {
            assert_eq!(stopped.wait().code(), Some(0), "{}", cluster.sandbox.running_log());
        }
        true
    }
}

#[test]
fn a_farm_scales_from_zero_and_back_and_loses_nothing() {
    const IMAGES: usize = 48;
    const MOST: usize = 3;
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(&LONG_LEASES);
    let address = coordinator.address.as_str();
    let mut keda = Keda::at(address, &[("model", "sana-tiny"), ("targetSeconds", "200")]);
    assert_eq!(keda.wanted(MOST), 0);
    let mut workers = Workers::default();
    let mut peaks = Vec::new();
    for size in ["64x64", "96x96"] {
        let job = cluster.submit(address, IMAGES, size, "2");
        let ended = format!("select count(*) from audit_jobs where job_id = '{job}' and state = 'succeeded'");
        let mut peak = 0;
        wait_until("the farm to be at zero again", || {
            let wanted = keda.wanted(MOST);
            workers.scale(&cluster, address, wanted);
            peak = peak.max(wanted);
            wanted == 0 && cluster.number(&ended) == 1 && workers.are_gone(&cluster)
        });
        assert_whole(&cluster, &job, IMAGES);
        peaks.push(peak);
    }
    // Of the model nothing was known at first: ten seconds an image. Then it was: a moment.
    assert_eq!(peaks, [MOST, 1], "{}", cluster.sandbox.running_log());
    let ends = "select count(*) from audit_attempts where outcome = 'lost'";
    assert_eq!(cluster.number(ends), 0, "workers that are told to stop lose nothing");
}
