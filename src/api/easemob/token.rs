//! `POST /{org}/{app}/token`: issues a token. The body is parsed as JSON, whatever the `Content-Type`.

use hyper::Response;
use serde::Deserialize;

use super::{Context, wire};
use crate::{
    delivery::Body,
    error::{Error, Result},
    http::body::RequestBody,
    secret::Secret,
};

/// The longest token request.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// A token request. Other fields (`timestamp`, `autoCreateUser`) are ignored.
#[derive(Deserialize)]
#[serde(tag = "grant_type", rename_all = "snake_case")]
enum Request {
    ClientCredentials {
        client_id: String,
        client_secret: Secret,
        ttl: Option<Ttl>,
    },
    Inherit {
        username: String,
        ttl: Option<Ttl>,
    },
    Password {
        username: String,
        password: Secret,
        ttl: Option<Ttl>,
    },
}

/// Seconds, as a number or as a number in a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ttl {
    Number(u64),
    Text(String),
}

impl Ttl {
    fn secs(ttl: Option<Self>) -> Result<Option<u64>> {
        match ttl {
            None => Ok(None),
            Some(Self::Number(secs)) => Ok(Some(secs)),
            Some(Self::Text(text)) if text.trim().is_empty() => Ok(None),
            Some(Self::Text(text)) => {
                let secs = text.trim().parse();
                secs.map(Some)
                    .map_err(|_| Error::invalid("ttl must be a number of seconds."))
            }
        }
    }
}

pub(crate) async fn token(context: &Context<'_>, body: &mut RequestBody) -> Result<Response<Body>> {
    let Context { api, call, tenant } = context;
    let bytes = body.collect(BODY_BYTES_MAX).await?;
    let request: Request = serde_json::from_slice(&bytes).map_err(|error| {
        // The text of the parser may repeat what was sent, such as a secret.
        let what = if error.is_data() { "a field is missing or has the wrong type" } else { "not JSON" };
        Error::invalid(format!(
            "the request must be JSON with a grant_type of client_credentials, inherit or password: {what}."
        ))
    })?;
    let granted = match request {
        Request::ClientCredentials {
            client_id,
            client_secret,
            ttl,
        } => api.grants.client_credentials(
            tenant,
            call.client,
            &client_id,
            &client_secret,
            Ttl::secs(ttl)?,
            call.now,
        )?,
        Request::Inherit { username, ttl } => {
            let caller = context.authenticate()?;
            api.grants
                .inherit(tenant, &caller, &username, Ttl::secs(ttl)?, call.now)?
        }
        Request::Password {
            username,
            password,
            ttl,
        } => {
            api.grants
                .password(
                    tenant,
                    call.client,
                    &username,
                    &password,
                    Ttl::secs(ttl)?,
                    call.now,
                )
                .await?
        }
    };
    Ok(wire::granted(context, &granted))
}
