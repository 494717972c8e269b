//! Responses that may not fall silent.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};
use tower::BoxError;

/// A response's body.
pub(super) type GuardedBody = UnsyncBoxBody<Bytes, BoxError>;

/// The API server said nothing for too long.
#[derive(Debug, thiserror::Error)]
pub(super) enum Silent {
    #[error("the API server did not respond to a request within {} s", .0.as_secs_f32())]
    NoResponse(Duration),
    #[error("the API server said nothing for {} s in the middle of a response", .0.as_secs_f32())]
    InBody(Duration),
    #[error("the response was not complete after {} s", .0.as_secs_f32())]
    Whole(Duration),
}

/// What may come of a body.
pub(super) struct Limits {
    pub(super) silence: Duration,
    /// For the whole of it.
    pub(super) whole: Option<Duration>,
    /// A silent one ends, so that it is asked for again, and is no error.
    pub(super) silence_is_end: bool,
    /// Whether it ends with the watches.
    pub(super) is_watch: bool,
}

/// A body that breaks, or ends, when nothing comes of it. A watch ends with `watches_end`. `said` is
/// called at each frame, and at an end that the API server makes.
pub(super) fn guarded(
    body: Incoming,
    limits: Limits,
    watches_end: impl Future<Output = ()> + Send + 'static,
    said: impl Fn() + Send + 'static,
) -> GuardedBody {
    let whole = limits.whole.map(|whole| (Instant::now() + whole, whole));
    let open = Some((body, Box::pin(watches_end)));
    let frames = unfold(
        (open, said, limits, whole),
        async |(open, said, limits, whole)| {
            let (mut body, mut watches_end) = open?;
            let silent_at = Instant::now() + limits.silence;
            let failed = |silent| Some(Err(BoxError::from(silent)));
            let frame = tokio::select! {
                frame = body.frame() => {
                    if !matches!(frame, Some(Err(_))) {
                        said();
                    }
                    frame.map(|frame| frame.map_err(BoxError::from))
                }
                () = sleep_until(whole.map_or(silent_at, |(at, _)| at.min(silent_at))) => match whole {
                    _ if limits.silence_is_end => None,
                    Some((at, whole)) if at < silent_at => failed(Silent::Whole(whole)),
                    _ => failed(Silent::InBody(limits.silence)),
                },
                () = &mut watches_end, if limits.is_watch => None,
            };
            let is_over = !matches!(frame, Some(Ok(_)));
            let open = (!is_over).then_some((body, watches_end));
            Some((frame?, (open, said, limits, whole)))
        },
    );
    UnsyncBoxBody::new(StreamBody::new(frames))
}
