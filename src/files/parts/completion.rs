//! The completion of an upload in parts: claimed by one call alone, joined, committed, and answered again to a
//! client that lost the answer.

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

/// Completions at once, and waiting. Each reads and writes up to `upload_bytes_max` bytes without bringing any, so
/// the budget of uploads in flight does not bound them.
const AT_ONCE: usize = 8;
const WAITING_MAX: usize = 256;
/// The longest wait, and when to come again after it.
const WAIT_MAX: Duration = Duration::from_secs(20);
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// An upload that was completed.
pub struct Completion {
    /// The file.
    pub stored: Arc<Stored>,
    /// Whether this call stored it, and not one before.
    pub is_new: bool,
}

/// An upload that is being completed by this call alone. Dropping it gives the upload back.
struct Claim(Option<Claimed>);

struct Claimed {
    upload: PartUpload,
    parts: ClaimedUpload,
    reserved: PartsPermit,
    /// Held as long as the work goes on, also where the client has gone.
    place: Permit,
}

/// A commit whose outcome decides over a claim. Dropping it leaves both to a thread that waits for the outcome.
struct Settling(Option<(Claim, Commit)>);

type Commit = BoxFuture<'static, Result<Stored>>;

/// The places of completions.
pub(in crate::files) fn places() -> FairQueue {
    FairQueue::new(fair_queue::Config {
        jobs_max: AT_ONCE,
        waiting_max: WAITING_MAX,
        wait_max: WAIT_MAX,
        ..fair_queue::Config::default()
    })
}

impl Files {
    /// Joins the parts of an upload into a file of at most `bytes_max` bytes, once: for some minutes, later calls are
    /// answered as the first one was. The file counts for the quotas of the days on which its parts came.
    ///
    /// # Errors
    /// `ObjectNotFound`; `AlreadyExists` while another call completes it; `InvalidArgument` where a part is missing
    /// or damaged, `TooLarge`; `Unavailable` where too many are being completed. After any error the upload is as
    /// it was.
    ///
    /// # Cancel safety
    /// All or nothing: a dropped call gives the upload back, or its commit runs to its end by itself and is
    /// answered to whoever asks again.
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
            let joined = self.join(claim.parts(), key, bytes_max).await;
            let commit = match joined.and_then(|received| received.into_commit(attributes)) {
                Ok(commit) => commit,
                // Before it is answered: the client may send what is missing at once.
                Err(error) => return to_end(claim.settle(Err(error))).await,
            };
            let (claim, stored) = Settling(Some((claim, commit))).await;
            to_end(claim.settle(stored)).await
        };
        match completed.await {
            Ok(stored) => Ok(Completion {
                stored,
                is_new: true,
            }),
            Err(error) if error.kind() == Kind::ObjectNotFound => {
                let stored = self.parts.completed(id, &owner).ok_or(error)?;
                Ok(Completion {
                    stored,
                    is_new: false,
                })
            }
            Err(error) => Err(error),
        }
    }

    async fn join(&self, claimed: &ClaimedUpload, key: Key, bytes_max: u64) -> Result<Received> {
        let stored = without_gap(claimed)?;
        let bytes: u64 = stored.iter().map(|part| part.bytes).sum();
        if bytes > bytes_max {
            return Err(Kind::TooLarge.into());
        }
        let upload = self.store.begin(key, UploadSize::Announced(bytes)).await?;
        // Parts are called `blob`: neither a name nor a type comes with them.
        let mut received = Received::new(upload, key, None, None);
        for part in stored {
            let (mut bytes, mut crc) = (claimed.parts.read(part), crc32fast::Hasher::new());
            while let Some(chunk) = bytes.try_next().await? {
                crc.update(&chunk);
                received.append(chunk, bytes_max).await?;
            }
            if crc.finalize() != part.crc {
                // Removed, so that the completion can be tried again once the part was sent again.
                claimed.parts.remove(part).await?;
                let text = format!("part {} is damaged: send it again.", part.number);
                return Err(Error::invalid(text));
            }
        }
        received.check_not_empty()
    }
}

impl PartUploads {
    /// The file that an upload of the owner's was completed into a short while ago.
    fn completed(&self, id: ObjectId, owner: &Owner) -> Option<Arc<Stored>> {
        let now = self.0.clock.monotonic();
        self.table().completed(id, owner, now)
    }

    /// Settles a completion that was cut short with its server.
    ///
    /// Where its object was stored, the client may have its answer or not; it is answered if it asks again. Only the
    /// secret of a restricted file is gone, so the upload is given back for another completion: a second file
    /// rather than one that nobody can open.
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
    /// Takes the upload for its completion into an object.
    async fn claim(self, key: Key, place: Permit) -> Result<Claim> {
        to_end(async move {
            let (uploads, id) = (self.uploads.clone(), self.id);
            let _alone = uploads.lock(id).await?;
            let reserved = uploads.table().claim(id)?;
            match uploads.stored().claim(id, key).await {
                Ok(parts) => Ok(Claim(Some(Claimed {
                    upload: self,
                    parts,
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
    fn parts(&self) -> &ClaimedUpload {
        &self.0.as_ref().expect("taken by its end alone").parts
    }

    /// Ends the completion as its commit ended.
    async fn settle(mut self, stored: Result<Stored>) -> Result<Arc<Stored>> {
        let claimed = self.0.take().expect("taken by its end alone");
        let stored = match stored {
            Ok(stored) => Arc::new(stored),
            Err(error) => {
                claimed.give_back().await;
                return Err(error);
            }
        };
        let Claimed {
            upload,
            parts,
            reserved,
            place: _place,
        } = claimed;
        let (uploads, id) = (&upload.uploads, upload.id);
        reserved.keep();
        // Remembered before the parts go: whoever finds none of them finds the answer.
        let now = uploads.0.clock.monotonic();
        let owner = upload.owner.clone();
        uploads.table().complete(id, owner, stored.clone(), now);
        if let Err(error) = parts.parts.discard().await {
            // The file is stored; the next start removes its parts.
            tracing::warn!(%id, %error, "the parts of a completed upload could not be removed");
        }
        Ok(stored)
    }
}

impl Claimed {
    async fn give_back(self) {
        let (uploads, id) = (&self.upload.uploads, self.upload.id);
        match self.parts.parts.give_back().await {
            Ok(()) => {
                let now = uploads.0.clock.monotonic();
                uploads.table().give_back(id, self.reserved, now);
            }
            Err(error) => {
                tracing::warn!(%id, %error, "an upload in parts could not be given back: the next start does it");
                uploads.table().remove(id);
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Without a runtime the process is ending, and the next start gives it back.
        if let (Some(claimed), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(claimed.give_back());
        }
    }
}

impl Future for Settling {
    type Output = (Claim, Result<Stored>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (_, commit) = self.0.as_mut().expect("polled until it is ready");
        let stored = ready!(commit.as_mut().poll(cx));
        let (claim, _) = self.0.take().expect("as above");
        Poll::Ready((claim, stored))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        let Some((claim, commit)) = self.0.take() else {
            return;
        };
        // The client has gone while the file became durable: it may be there, and must not be stored once more. On a
        // blocking thread, because the runtime waits for those when it ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn_blocking(move || {
                let settled =
                    Handle::current().block_on(async { claim.settle(commit.await).await });
                if let Err(error) = settled {
                    tracing::info!(%error, "a completion failed that nobody waited for");
                }
            });
        }
    }
}
