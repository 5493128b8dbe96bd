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
struct Request {
    #[serde(flatten)]
    grant: Grant,
    ttl: Option<Ttl>,
}

#[derive(Deserialize)]
#[serde(tag = "grant_type", rename_all = "snake_case")]
enum Grant {
    ClientCredentials {
        client_id: String,
        client_secret: Secret,
    },
    Inherit {
        username: String,
    },
    Password {
        username: String,
        password: Secret,
    },
}

/// Seconds, as a number or as a number in a string.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ttl {
    Number(u64),
    Text(String),
}

impl Request {
    fn ttl_secs(&self) -> Result<Option<u64>> {
        match &self.ttl {
            None => Ok(None),
            Some(Ttl::Number(secs)) => Ok(Some(*secs)),
            Some(Ttl::Text(text)) if text.trim().is_empty() => Ok(None),
            Some(Ttl::Text(text)) => {
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
    let (grants, ttl_secs) = (&api.grants, || request.ttl_secs());
    let granted = match &request.grant {
        Grant::ClientCredentials {
            client_id: id,
            client_secret: secret,
        } => grants.client_credentials(tenant, call.client, id, secret, ttl_secs()?, call.now)?,
        Grant::Inherit { username } => {
            let caller = context.authenticate().await?;
            grants.inherit(tenant, &caller, username, ttl_secs()?, call.now)?
        }
        Grant::Password { username, password } => {
            let (client, now) = (call.client, call.now);
            let granted = grants.password(tenant, client, username, password, ttl_secs()?, now);
            granted.await?
        }
    };
    Ok(wire::granted(context, &granted))
}
