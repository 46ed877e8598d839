//! `/metrics`, `/healthz` and `/readyz` over HTTP: a router. Who serves it chooses the listener and who may ask.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::recorder::Recorder;

/// What Prometheus reads.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A process that can be looked at.
#[async_trait]
pub trait Watched: Send + Sync + 'static {
    /// Measures what is only measured when somebody looks.
    async fn measure(&self);
    /// Why nothing should be sent here now; empty when all is well.
    async fn troubles(&self) -> Vec<String>;
}

#[derive(Clone)]
struct Context {
    watched: Arc<dyn Watched>,
    recorder: Recorder,
}

/// The routes of a process.
pub fn router(watched: Arc<dyn Watched>, recorder: Recorder) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        // That it answers is the answer.
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Context { watched, recorder })
}

async fn metrics(State(context): State<Context>) -> impl IntoResponse {
    context.watched.measure().await;
    ([(CONTENT_TYPE, TEXT)], context.recorder.render())
}

async fn ready(State(context): State<Context>) -> (StatusCode, String) {
    let troubles = context.watched.troubles().await;
    match troubles.as_slice() {
        [] => (StatusCode::OK, "ready\n".to_owned()),
        troubles => (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n"),
    }
}
