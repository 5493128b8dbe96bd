//! Upload tickets: the URL to post a file to, a signed policy that allows it, and the link that will open the file.
//!
//! A ticket stores nothing: policy and link are signed.

use std::time::Duration;

use hyper::Response;

use super::{
    Context, HookAction,
    link::{Link, ToType},
    policy, store_token,
    wire::{self, Ticket},
};
use crate::{
    delivery::Body,
    error::{Error, Result},
    store::{Class, Key},
};

/// How long a ticket is valid.
pub(super) const TICKET: Duration = Duration::from_secs(20 * 60);

pub(crate) async fn user_avatar(context: &Context<'_>) -> Result<Response<Body>> {
    let user = context.authenticate().await?;
    avatar(context, &user, None)
}

pub(crate) async fn group_avatar(context: &Context<'_>) -> Result<Response<Body>> {
    let user = context.authenticate().await?;
    let group = context.required_id("group_id")?;
    let to = (ToType::Group, &*group);
    context
        .ask_backend(&user, HookAction::GroupAvatar, to, None)
        .await?;
    avatar(context, &user, Some(&group))
}

fn avatar(context: &Context<'_>, user: &str, group: Option<&str>) -> Result<Response<Body>> {
    let key = context.api.files.new_key(Class::Avatar)?;
    let download_url = avatar_url(context, key);
    ticket(context, key, user, group, download_url)
}

pub(crate) async fn chat(context: &Context<'_>) -> Result<Response<Body>> {
    let user = context.authenticate().await?;
    let class = class_of(&context.required("file_type")?)?;
    let (to_type, to) = recipient(context)?;
    context
        .ask_backend(&user, HookAction::Upload, (to_type, &to), None)
        .await?;
    let link = Link {
        from: user,
        to,
        to_type,
        key: context.api.files.new_key(class)?,
    };
    let download_url = chat_url(context, &link);
    ticket(context, link.key, &link.from, Some(&link.to), download_url)
}

fn ticket(
    context: &Context<'_>,
    key: Key,
    owner: &str,
    recipient: Option<&str>,
    download_url: String,
) -> Result<Response<Body>> {
    let Context {
        call,
        tenant,
        lanying,
        ..
    } = context;
    let expires = call.now.plus(TICKET);
    let signed = policy::issue(
        &policy::Ticket {
            bucket: &lanying.app_id,
            object: &key.to_string(),
            bytes_max: tenant.limits.upload_bytes_max,
            expires,
            owner,
            recipient,
        },
        &lanying.upload_key,
    );
    let ticket = Ticket {
        download_url,
        upload_url: form_url(context),
        key,
        signed,
        expires,
        store_token: store_token::issue(lanying, key, owner, call.now),
    };
    Ok(wire::ticket(context, &ticket))
}

/// The URL to post a form to.
pub(super) fn form_url(context: &Context<'_>) -> String {
    let base = context.call.public_url(context.api);
    format!("{base}/file/oss/{}", &context.lanying.app_id)
}

/// The download URL of a link. `file_sign` is the only parameter, because clients split the URL at `sign=`.
pub(super) fn chat_url(context: &Context<'_>, link: &Link) -> String {
    let base = context.call.public_url(context.api);
    let file_sign = link.sign(context.lanying);
    format!("{base}/file/download/chat?file_sign={file_sign}")
}

fn avatar_url(context: &Context<'_>, key: Key) -> String {
    let base = context.call.public_url(context.api);
    format!("{base}/file/download/avatar?object_name={key}")
}

/// The recipient: `to_id` and `to_type`, which defaults to a user.
pub(super) fn recipient(context: &Context<'_>) -> Result<(ToType, String)> {
    let to_type = match context.query("to_type") {
        None => ToType::User,
        Some(text) => ToType::parse(&text)
            .ok_or_else(|| Error::invalid("to_type must be 1 (a user) or 2 (a group)"))?,
    };
    Ok((to_type, context.required_id("to_id")?))
}

/// The retention class of a `file_type`.
fn class_of(file_type: &str) -> Result<Class> {
    Ok(match file_type {
        "100" => Class::Chatfile,
        "101" | "104" => Class::Voice,
        "102" => Class::Image,
        "103" => Class::Video,
        "200" => Class::Shared,
        "201" => Class::SharedVoice,
        "202" => Class::SharedImage,
        "203" => Class::SharedVideo,
        _ => {
            return Err(Error::invalid(
                "file_type must be one of 100 to 104 and 200 to 203",
            ));
        }
    })
}
