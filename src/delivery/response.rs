//! Renders the plan of RFC 9110 §13–14 for a file: status, headers and body.

use hyper::{HeaderMap, Method, Response, StatusCode};

use super::{Body, CachePolicy, Content};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::Claimant,
    http::{
        byteranges::{self, Boundary},
        plan::{Plan, plan},
    },
    time::Timestamp,
};

/// The parts of a request that decide how a file is delivered.
pub struct Request<'a> {
    /// GET or HEAD.
    pub method: &'a Method,
    /// Conditions and ranges are read from these.
    pub headers: &'a HeaderMap,
    /// When the request arrived.
    pub now: Timestamp,
    /// The tenant and client whose turn it is when the disk must be read.
    pub claimant: Claimant,
}

/// Answers a GET or HEAD with the content. Whether the client may have it was decided before.
///
/// # Errors
/// `PreconditionFailed`, `RangeNotSatisfiable`: each API renders them itself.
pub fn deliver(
    request: &Request<'_>,
    content: &Content,
    cache_policy: CachePolicy,
) -> Result<Response<Body>> {
    let (representation, rendered) = (content.representation(), content.headers());
    let claimant = request.claimant;
    let (status, mut headers, body) = match plan(request.method, request.headers, &representation) {
        Plan::PreconditionFailed => return Err(Kind::PreconditionFailed.into()),
        Plan::Unsatisfiable => return Err(Kind::RangeNotSatisfiable(representation.len).into()),
        Plan::NotModified => (
            StatusCode::NOT_MODIFIED,
            rendered.not_modified(),
            Body::empty(),
        ),
        Plan::Full => (StatusCode::OK, rendered.whole(), content.whole(claimant)),
        Plan::Single(range) => (
            StatusCode::PARTIAL_CONTENT,
            rendered.range(&range),
            content.range(range, claimant),
        ),
        Plan::Multi(ranges) => {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(Error::internal)?;
            let boundary = Boundary::from_random(random);
            let (content_type, len) = (rendered.content_type(), representation.len);
            let layout = byteranges::layout(ranges, content_type, len, boundary);
            (
                StatusCode::PARTIAL_CONTENT,
                rendered.ranges(&layout),
                content.ranges(layout, claimant),
            )
        }
    };
    cache_policy.apply(&mut headers, request.now);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}
