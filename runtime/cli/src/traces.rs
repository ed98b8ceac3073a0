//! Traces for a collector: requests from arrival to their last token, and the engine's steps, as OpenTelemetry spans over HTTP.
//! Only with the feature `traces`, and only where the standard variable names a collector.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use bytes::Bytes;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, registry::LookupSpan};

/// How long the end of the command waits for spans that are still to be sent.
const FLUSH: Duration = Duration::from_secs(2);
/// How long a collector may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Sends spans by the client that downloads use.
#[derive(Debug)]
struct Client(ureq::Agent);

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter has a thread of its own, which may wait.
        let (parts, body) = request.into_parts();
        let answer = self.0.run(Request::from_parts(parts, body.to_vec()))?;
        let (parts, mut body) = answer.into_parts();
        Ok(Response::from_parts(parts, body.read_to_vec()?.into()))
    }
}

/// The layer that sends spans, if a collector is named.
///
/// # Errors
/// What is wrong with its address.
pub(crate) fn layer<S>() -> anyhow::Result<Option<impl Layer<S>>>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let named = [
        std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT"),
        std::env::var_os("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ];
    if named.iter().all(Option::is_none) {
        return Ok(None);
    }
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    let exporter = SpanExporter::builder().with_http().with_http_client(Client(agent)).build();
    let exporter = exporter.context("traces cannot be sent: see OTEL_EXPORTER_OTLP_ENDPOINT")?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("ossmith").build())
        .build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("ossmith"));
    let ours = Targets::new()
        .with_target("ossmith::requests", Level::DEBUG)
        .with_target("ossmith::steps", Level::DEBUG);
    // It is set once, because a command runs once.
    let _ = PROVIDER.set(provider);
    Ok(Some(spans.with_filter(ours)))
}

/// Sends what is still to be sent, for a moment at most.
pub(crate) fn flush() {
    if let Some(provider) = PROVIDER.get() {
        // A collector that is gone has been reported by the exporter.
        let _ = provider.shutdown_with_timeout(FLUSH);
    }
}
