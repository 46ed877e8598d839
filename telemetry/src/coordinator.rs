//! What a coordinator counts.

use crate::metric::{Kind, Label, Metric, SHORT, open};

/// 1, with the version and the role as labels.
pub const BUILD_INFO: &str = "sanafarm_build_info";
/// Jobs by state.
pub const JOBS: &str = "sanafarm_jobs";
/// Images to render.
pub const QUEUE_IMAGES: &str = "sanafarm_queue_images";
/// How long the oldest waits.
pub const QUEUE_AGE: &str = "sanafarm_queue_age_seconds";
/// What the queue will take.
pub const BACKLOG: &str = "sanafarm_backlog_device_seconds";
/// Open sessions.
pub const WORKERS: &str = "sanafarm_workers";
/// Leases given out.
pub const CLAIMS: &str = "sanafarm_claims_total";
/// How long that takes.
pub const CLAIM_SECONDS: &str = "sanafarm_claim_seconds";
/// Results reported.
pub const RESULTS: &str = "sanafarm_results_total";
/// How long their commits take.
pub const COMMIT_SECONDS: &str = "sanafarm_commit_seconds";
/// Leases that expired.
pub const LEASES_LOST: &str = "sanafarm_leases_lost_total";
/// Leases handed back.
pub const LEASES_RELEASED: &str = "sanafarm_leases_released_total";
/// Calls.
pub const RPC_SECONDS: &str = "sanafarm_rpc_seconds";
/// Connections to the database.
pub const DATABASE_CONNECTIONS: &str = "sanafarm_database_connections";
/// Whether the database is out of reach.
pub const DATABASE_TROUBLE: &str = "sanafarm_database_trouble";
/// Callers that were refused for who they are.
pub const AUTH_FAILURES: &str = "sanafarm_auth_failures_total";
/// Webhooks sent.
pub const WEBHOOKS: &str = "sanafarm_webhooks_total";

/// All of them.
pub const TABLE: &[Metric] = &[
    Metric {
        name: BUILD_INFO,
        kind: Kind::Gauge,
        labels: &[open("version"), open("role")],
        help: "Always 1: which program this is.",
    },
    Metric {
        name: JOBS,
        kind: Kind::Gauge,
        labels: &[Label {
            name: "state",
            values: &["pending", "running", "paused", "succeeded", "failed", "cancelled"],
        }],
        help: "Jobs by their state.",
    },
    Metric {
        name: QUEUE_IMAGES,
        kind: Kind::Gauge,
        labels: &[open("model")],
        help: "Images without a result of jobs that may run now, those that are being rendered included.",
    },
    Metric {
        name: QUEUE_AGE,
        kind: Kind::Gauge,
        labels: &[],
        help: "Seconds since the submission of the oldest job that has a shard ready; 0 when none has.",
    },
    Metric {
        name: BACKLOG,
        kind: Kind::Gauge,
        labels: &[open("model")],
        help: "Seconds that one device would take for the queue, by what its last images took; models that nothing was rendered with yet have none.",
    },
    Metric { name: WORKERS, kind: Kind::Gauge, labels: &[], help: "Workers with an open session." },
    Metric { name: CLAIMS, kind: Kind::Counter, labels: &[], help: "Leases given out by this coordinator." },
    Metric {
        name: CLAIM_SECONDS,
        kind: Kind::Histogram(SHORT),
        labels: &[],
        help: "Seconds of a call to the database that gives out leases.",
    },
    Metric {
        name: RESULTS,
        kind: Kind::Counter,
        labels: &[Label { name: "outcome", values: &["picture", "error", "known", "taken", "refused"] }],
        help: "Results reported to this coordinator: pictures and errors that were committed, those that were known already, pictures of a tar that have a result from elsewhere, and those of a report that was refused.",
    },
    Metric {
        name: COMMIT_SECONDS,
        kind: Kind::Histogram(SHORT),
        labels: &[],
        help: "Seconds of a call to the database that commits results.",
    },
    Metric {
        name: LEASES_LOST,
        kind: Kind::Counter,
        labels: &[],
        help: "Leases that this coordinator took back because they had expired.",
    },
    Metric {
        name: LEASES_RELEASED,
        kind: Kind::Counter,
        labels: &[Label { name: "reason", values: &["drain", "storage", "finished", "unknown"] }],
        help: "Leases that workers handed back.",
    },
    Metric {
        name: RPC_SECONDS,
        kind: Kind::Histogram(SHORT),
        labels: &[open("method"), open("code")],
        help: "Seconds from a gRPC call to its end; calls that wait for work and streams are as long as they wait.",
    },
    Metric {
        name: DATABASE_CONNECTIONS,
        kind: Kind::Gauge,
        labels: &[Label { name: "state", values: &["idle", "busy"] }],
        help: "Connections to the database that calls share; those of duties are not counted.",
    },
    Metric {
        name: DATABASE_TROUBLE,
        kind: Kind::Gauge,
        labels: &[],
        help: "1 while the database did not answer when it was last asked.",
    },
    Metric {
        name: AUTH_FAILURES,
        kind: Kind::Counter,
        labels: &[Label { name: "reason", values: &["missing", "invalid", "role", "limit", "address"] }],
        help: "Calls that were refused for who made them: without a token, with a wrong one, for another role, too many at once, too many wrong ones from one address.",
    },
    Metric {
        name: WEBHOOKS,
        kind: Kind::Counter,
        labels: &[Label { name: "outcome", values: &["delivered", "again", "given_up"] }],
        help: "Tries to deliver a webhook: it was taken, it will be tried again, it was the last.",
    },
];
