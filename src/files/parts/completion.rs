//! Completes an upload in parts: one call claims it, joins its parts and commits the file. A client that lost the
//! response gets it again.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::TryStreamExt;
use tokio::runtime::Handle;

use super::{PartUpload, PartUploads, owner_of};
use crate::{
    error::{Error, Kind, Result},
    fair_queue::{self, Claimant, FairQueue, Permit},
    files::{Attributes, Files, Received, Stored},
    limit::{Owner, PartsPermit},
    store::{BoxFuture, ClaimedUpload, Class, Key, ObjectId, StoredPart, UploadSize, to_end},
};

/// Completions at the same time, and in the queue. Each reads and writes up to `upload_bytes_max` bytes without
/// receiving any, so the budget for uploads in flight does not bound them.
const AT_ONCE: usize = 8;
const WAITING_MAX: usize = 256;
/// The longest time in the queue, and `Retry-After` after that.
const WAIT_MAX: Duration = Duration::from_secs(20);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The result of a completion.
pub struct Completion {
    /// The file.
    pub stored: Arc<Stored>,
    /// Whether this call stored the file, and not an earlier one.
    pub is_new: bool,
}

/// The exclusive right to complete an upload. Dropping it makes the upload unfinished again.
struct Claim(Option<Claimed>);

struct Claimed {
    call: PartUpload,
    upload: ClaimedUpload,
    reserved: PartsPermit,
    /// Held until the work has ended, also if the client has disconnected.
    place: Permit,
}

/// A commit, and the claim that its outcome settles. If it is dropped, a thread of its own waits for the outcome.
struct Settling(Option<(Claim, Commit)>);

type Commit = BoxFuture<'static, Result<Stored>>;

/// The queue of completions.
pub(in crate::files) fn places() -> FairQueue {
    FairQueue::new(fair_queue::Config {
        jobs_max: AT_ONCE,
        waiting_max: WAITING_MAX,
        wait_max: WAIT_MAX,
        ..fair_queue::Config::default()
    })
}

impl Files {
    /// Joins the parts of an upload into a file of at most `bytes_max` bytes, once: for ten minutes, later calls get
    /// the response of the first one. The file counts towards the quotas of the days on which its parts arrived.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` while another call completes it; `InvalidArgument` if a part is missing or
    /// damaged; `TooLarge`; `Unavailable` if too many uploads are being completed. After any error, the upload is
    /// unchanged.
    ///
    /// # Cancel safety
    /// All or nothing: a dropped call makes the upload unfinished again, or its commit runs to its end and the next
    /// call gets the response.
    pub async fn complete(
        &self,
        id: ObjectId,
        owner: Owner,
        claimant: Claimant,
        attributes: Attributes<'_>,
        bytes_max: u64,
    ) -> Result<Completion> {
        let completed = async {
            let upload = self.parts.find(id, owner.clone()).await?;
            let place = self.completions.acquire(claimant, 0).await.map_err(|_| {
                let text = "too many uploads are being completed just now: try again in a moment.";
                Error::new(Kind::Unavailable(AGAIN_AFTER)).public(text)
            })?;
            let key = self.new_key(Class::Chatfile)?;
            let claim = upload.claim(key, place).await?;
            let joined = self.join(claim.upload(), key, bytes_max).await;
            let commit = match joined.and_then(|received| received.into_commit(attributes)) {
                Ok(commit) => commit,
                // Before the response, because the client may send the missing part at once.
                Err(error) => return to_end(claim.settle(Err(error))).await,
            };
            let (claim, stored) = Settling(Some((claim, commit))).await;
            to_end(claim.settle(stored)).await
        };
        let (stored, is_new) = match completed.await {
            Ok(stored) => (stored, true),
            Err(error) if error.kind() == Kind::ObjectNotFound => {
                let now = self.clock.monotonic();
                let earlier = self.parts.table().completed.find(id, &owner, now);
                (earlier.ok_or(error)?, false)
            }
            Err(error) => return Err(error),
        };
        Ok(Completion { stored, is_new })
    }

    async fn join(&self, claimed: &ClaimedUpload, key: Key, bytes_max: u64) -> Result<Received> {
        let stored = without_gap(claimed)?;
        let bytes: u64 = stored.iter().map(|part| part.bytes).sum();
        if bytes > bytes_max {
            return Err(Kind::TooLarge.into());
        }
        let upload = self.store.begin(key, UploadSize::Announced(bytes)).await?;
        // The parts are named `blob` and have neither a file name nor a type.
        let mut received = Received::new(upload, key, None, None);
        for part in stored {
            let (mut bytes, mut crc) = (claimed.parts.read(part), crc32fast::Hasher::new());
            while let Some(chunk) = bytes.try_next().await? {
                crc.update(&chunk);
                received.append(chunk, bytes_max).await?;
            }
            if crc.finalize() != part.crc {
                // Removed, so that the client can send the part again and then complete the upload.
                claimed.parts.remove(part).await?;
                let text = format!("part {} is damaged: send it again.", part.number);
                return Err(Error::invalid(text));
            }
        }
        received.check_not_empty()
    }
}

impl PartUploads {
    /// Settles a completion whose server ended before it.
    ///
    /// If the object was stored, a client that did not get the response can ask again. Only the secret of a restricted
    /// file is lost. Then the upload becomes unfinished again for another completion, because a second file is better
    /// than one that nobody can open.
    pub(super) async fn settle_orphan(&self, orphan: ClaimedUpload) -> Result<()> {
        let ClaimedUpload {
            id,
            key,
            found,
            parts,
        } = orphan;
        let meta = self.0.store.open(key).await?.map(|opened| opened.meta);
        match (meta, found) {
            (Some(meta), Some(found)) if meta.secret_hash.is_none() => {
                let stored = Arc::new(Stored {
                    key,
                    meta,
                    share_secret: None,
                });
                let now = self.0.clock.monotonic();
                self.table()
                    .complete(id, owner_of(found.owner), stored, now);
                parts.discard().await
            }
            _ => parts.give_back().await,
        }
    }
}

/// The parts by number, if they are numbered from 1 without a gap.
///
/// # Errors
/// `InvalidArgument` if there is no part, or one is missing in between.
fn without_gap(claimed: &ClaimedUpload) -> Result<Vec<StoredPart>> {
    let found = claimed.found.as_ref().ok_or(Kind::ObjectNotFound)?;
    for (part, expected) in found.parts.iter().zip(1..) {
        if part.number != expected {
            return Err(Error::invalid(format!("part {expected} is missing.")));
        }
    }
    match found.parts.is_empty() {
        true => Err(Error::invalid("no part has been uploaded.")),
        false => Ok(found.parts.clone()),
    }
}

impl PartUpload {
    /// Claims the upload for its completion into an object.
    async fn claim(self, key: Key, place: Permit) -> Result<Claim> {
        to_end(async move {
            let (uploads, id) = (self.uploads.clone(), self.id);
            let _alone = uploads.lock(id).await?;
            let reserved = uploads.table().claim(id)?;
            match uploads.stored().claim(id, key).await {
                Ok(upload) => Ok(Claim(Some(Claimed {
                    call: self,
                    upload,
                    reserved,
                    place,
                }))),
                Err(error) => {
                    let now = uploads.0.clock.monotonic();
                    uploads.table().give_back(id, reserved, now);
                    uploads.forget_if_gone(id, Err(error))
                }
            }
        })
        .await
    }
}

impl Claim {
    fn upload(&self) -> &ClaimedUpload {
        &self
            .0
            .as_ref()
            .expect("the claim is taken only at its end")
            .upload
    }

    /// Ends the completion with the outcome of its commit.
    async fn settle(mut self, stored: Result<Stored>) -> Result<Arc<Stored>> {
        let claimed = self.0.take().expect("the claim is taken only at its end");
        let stored = match stored {
            Ok(stored) => Arc::new(stored),
            Err(error) => {
                claimed.give_back().await;
                return Err(error);
            }
        };
        let Claimed {
            call,
            upload,
            reserved,
            place: _place,
        } = claimed;
        let (uploads, id) = (&call.uploads, call.id);
        reserved.keep();
        // Remembered before the parts are removed, so that a call that finds no upload finds the response.
        let now = uploads.0.clock.monotonic();
        let owner = call.owner.clone();
        uploads.table().complete(id, owner, stored.clone(), now);
        if let Err(error) = upload.parts.discard().await {
            // The file is stored. The next start removes its parts.
            tracing::warn!(%id, %error, "the parts of a completed upload could not be removed");
        }
        Ok(stored)
    }
}

impl Claimed {
    async fn give_back(self) {
        let (uploads, id) = (&self.call.uploads, self.call.id);
        match self.upload.parts.give_back().await {
            Ok(()) => {
                let now = uploads.0.clock.monotonic();
                uploads.table().give_back(id, self.reserved, now);
            }
            Err(error) => {
                tracing::warn!(%id, %error, "an upload in parts could not be given back; the next start tries again");
                uploads.table().remove(id);
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without a runtime, the process is ending. The next start gives the upload back.
        if let (Some(claimed), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(claimed.give_back());
        }
    }
}

impl Future for Settling {
    type Output = (Claim, Result<Stored>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, commit) = self.0.as_mut().expect("not polled after it is ready");
        let stored = ready!(commit.as_mut().poll(cx));
        let (claim, _) = self.0.take().expect("not polled after it is ready");
        Poll::Ready((claim, stored))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let Some((claim, commit)) = self.0.take() else {
            return;
        };
        // The client disconnected during the commit. The file may be stored already and must not be stored again. This
        // runs on a blocking thread, because the runtime waits for those when it shuts down.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || {
                let settled =
                    Handle::current().block_on(async { claim.settle(commit.await).await });
                if let Err(error) = settled {
                    tracing::info!(%error, "a completion failed after its client had disconnected");
                }
            });
        }
    }
}
