//! The figures that `versus` reports, and the aims for them.

use serde::{Deserialize, Serialize};

/// A reported figure: the ratio of two measurements, or one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Figure {
    /// CPU of a download ÷ that of nginx's best configuration for the size.
    DownloadCpuToNginx,
    /// Downloads per second ÷ those of nginx's best configuration for the size.
    DownloadRateToNginx,
    /// CPU of a download ÷ that of the floor.
    DownloadCpuToFloor,
    DownloadCpuToDufs,
    DownloadCpuToMiniserve,
    /// CPU of an upload without sync ÷ that of nginx's PUT.
    UploadCpuToNginx,
    /// CPU of an upload with sync ÷ that of nginx's PUT, which does not sync.
    UploadFullCpuToNginx,
    /// Synced uploads per second ÷ unsynced ones, both over 64 connections.
    UploadFullRateToNone,
    /// CPU of a thumbnail in memory ÷ that of a 4 KB download.
    ThumbnailHitToDownload,
    /// CPU of a new thumbnail (JPEG) ÷ that of libvips.
    ThumbnailMissToVips,
    /// The same ratio for PNG, WebP and GIF.
    OtherMissToVips,
    /// Resident memory with 10,000 connections that have sent nothing, in MB.
    MemorySilentMb,
    /// Resident memory with 10,000 connections that have had one answer, in MB.
    MemoryIdleMb,
    /// CPU of a download of the same objects with many stored ÷ with few.
    ObjectsManyToFew,
    /// Hot downloads that took more than 20 ms while cold files were read.
    ColdStalls,
    /// The same count without cold files: delays of the machine itself.
    ColdStallsBefore,
    ColdP99Us,
    ColdP99BeforeUs,
    ColdMaxUs,
    ColdMaxBeforeUs,
}

/// The bound of an aim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// The aims: the figure, the smallest size that the row is for, and the bound. A row is valid up to the next size of the
/// same figure. Unless a comment says otherwise, commit 6fe7127 set the aim; docs/performance.md shows the last results.
const AIMS: [(Figure, u64, Bound); 17] = {
    use Bound::{AtLeast, AtMost};
    use Figure::*;
    const KB: u64 = 1 << 10;
    const PIXELS: u64 = 1600 * 1200;
    [
        // Against the best of nginx's configurations for the size, without tokens, limits or metrics there.
        (DownloadCpuToNginx, 0, AtMost(1.0)),
        (DownloadCpuToNginx, 64 * KB, AtMost(0.9)),
        (DownloadCpuToNginx, 256 * KB, AtMost(0.8)),
        (DownloadRateToNginx, 0, AtLeast(1.0)),
        (DownloadRateToNginx, 64 * KB, AtLeast(1.1)),
        (DownloadRateToNginx, 256 * KB, AtLeast(1.3)),
        // The floor parses nothing: a real server cannot reach 1.
        (DownloadCpuToFloor, 0, AtMost(1.4)),
        (DownloadCpuToFloor, 64 * KB, AtMost(1.25)),
        (UploadCpuToNginx, 0, AtMost(0.6)),
        (UploadFullRateToNone, 0, AtLeast(0.5)),
        (ThumbnailHitToDownload, 0, AtMost(1.1)),
        (ThumbnailMissToVips, 0, AtMost(1.0)),
        (ThumbnailMissToVips, PIXELS + 1, AtMost(1.35)),
        (MemorySilentMb, 0, AtMost(40.0)),
        (MemoryIdleMb, 0, AtMost(220.0)),
        (ObjectsManyToFew, 0, AtMost(1.1)),
        (ColdStalls, 0, AtMost(0.0)),
    ]
};

impl Figure {
    /// The name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DownloadCpuToNginx => "download, CPU ÷ nginx's best",
            Self::DownloadRateToNginx => "download, requests/s ÷ nginx's best",
            Self::DownloadCpuToFloor => "download, CPU ÷ floor",
            Self::DownloadCpuToDufs => "download, CPU ÷ dufs",
            Self::DownloadCpuToMiniserve => "download, CPU ÷ miniserve",
            Self::UploadCpuToNginx => "upload, CPU ÷ nginx dav PUT",
            Self::UploadFullCpuToNginx => "upload with sync, CPU ÷ nginx dav PUT (without sync)",
            Self::UploadFullRateToNone => "upload, 64 connections, requests/s with sync ÷ without",
            Self::ThumbnailHitToDownload => "thumbnail in memory, CPU ÷ 4 KB download",
            Self::ThumbnailMissToVips => "new thumbnail of a JPEG, CPU ÷ libvips",
            Self::OtherMissToVips => "new thumbnail of another format, CPU ÷ libvips",
            Self::MemorySilentMb => "RSS, 10,000 silent connections, MB",
            Self::MemoryIdleMb => "RSS, 10,000 connections idle after a request, MB",
            Self::ObjectsManyToFew => "download, CPU, many objects ÷ few",
            Self::ColdStalls => "hot downloads over 20 ms while cold files are read",
            Self::ColdStallsBefore => "hot downloads over 20 ms without cold reads",
            Self::ColdP99Us => "hot downloads while cold files are read, p99 µs",
            Self::ColdP99BeforeUs => "hot downloads without cold reads, p99 µs",
            Self::ColdMaxUs => "hot downloads while cold files are read, slowest µs",
            Self::ColdMaxBeforeUs => "hot downloads without cold reads, slowest µs",
        }
    }

    /// The aim for files of `size` bytes (pictures: pixels); `None` for a figure that is only reported.
    pub(crate) fn aim(self, size: u64) -> Option<Bound> {
        let aim = |&&(figure, from, _): &&(Self, u64, Bound)| figure == self && from <= size;
        AIMS.iter().rev().find(aim).map(|&(_, _, bound)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_aim_by_size() {
        let cases = [
            (Figure::DownloadCpuToNginx, 4 << 10, Bound::AtMost(1.0)),
            (Figure::DownloadCpuToNginx, 64 << 10, Bound::AtMost(0.9)),
            (Figure::DownloadCpuToNginx, 256 << 10, Bound::AtMost(0.8)),
            (Figure::DownloadRateToNginx, 9 << 20, Bound::AtLeast(1.3)),
            (Figure::DownloadCpuToFloor, 16 << 10, Bound::AtMost(1.4)),
            (
                Figure::ThumbnailMissToVips,
                4000 * 2250,
                Bound::AtMost(1.35),
            ),
        ];
        for (figure, size, bound) in cases {
            assert_eq!(figure.aim(size), Some(bound), "{figure:?} {size}");
        }
        assert!(Bound::AtMost(1.0).is_met(1.0) && !Bound::AtMost(1.0).is_met(1.001));
        assert!(Bound::AtLeast(1.3).is_met(1.3) && !Bound::AtLeast(1.3).is_met(1.299));
    }
}
