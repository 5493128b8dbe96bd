//! What the figures are to be.

use serde::{Deserialize, Serialize};

/// A figure that is told: a relation of two measurements, or one number.
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
    /// CPU of an upload that is not synced ÷ that of nginx's PUT.
    UploadCpuToNginx,
    /// CPU of an upload that is synced ÷ that of nginx's PUT, which is not.
    UploadFullCpuToNginx,
    /// Synced uploads per second ÷ unsynced ones, both over 64 connections.
    UploadFullRateToNone,
    /// CPU of a thumbnail in memory ÷ that of a 4 KB download.
    ThumbnailHitToDownload,
    /// CPU of a thumbnail that is made ÷ that of libvips.
    ThumbnailMissToVips,
    /// The same of a picture that is no JPEG.
    OtherMissToVips,
    /// Resident memory with 10,000 connections that have sent nothing, in MB.
    MemorySilentMb,
    /// Resident memory with 10,000 connections that have had one answer, in MB.
    MemoryIdleMb,
    /// CPU of a download of the same objects with many stored ÷ with few.
    ObjectsManyToFew,
    /// Hot downloads that took more than 20 ms while cold files were read.
    ColdStalls,
    /// The same without cold files: what the machine itself does.
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

impl Figure {
    /// As a row of the table is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::DownloadCpuToNginx => "download, CPU ÷ nginx's best",
            Self::DownloadRateToNginx => "download, requests/s ÷ nginx's best",
            Self::DownloadCpuToFloor => "download, CPU ÷ floor",
            Self::DownloadCpuToDufs => "download, CPU ÷ dufs",
            Self::DownloadCpuToMiniserve => "download, CPU ÷ miniserve",
            Self::UploadCpuToNginx => "upload, CPU ÷ nginx dav PUT",
            Self::UploadFullCpuToNginx => "upload synced, CPU ÷ nginx dav PUT (not synced)",
            Self::UploadFullRateToNone => "upload, 64 connections, synced/s ÷ not synced/s",
            Self::ThumbnailHitToDownload => "thumbnail in memory, CPU ÷ 4 KB download",
            Self::ThumbnailMissToVips => "thumbnail made, CPU ÷ libvips",
            Self::OtherMissToVips => "thumbnail made of no JPEG, CPU ÷ libvips",
            Self::MemorySilentMb => "RSS, 10,000 silent connections, MB",
            Self::MemoryIdleMb => "RSS, 10,000 connections idle after a request, MB",
            Self::ObjectsManyToFew => "download, CPU, many objects ÷ few",
            Self::ColdStalls => "hot downloads over 20 ms while cold files are read",
            Self::ColdStallsBefore => "hot downloads over 20 ms before",
            Self::ColdP99Us => "hot downloads while cold files are read, p99 µs",
            Self::ColdP99BeforeUs => "hot downloads before, p99 µs",
            Self::ColdMaxUs => "hot downloads while cold files are read, slowest µs",
            Self::ColdMaxBeforeUs => "hot downloads before, slowest µs",
        }
    }

    /// What it is to be for files of `size` bytes (pictures: pixels); `None` where nothing is aimed at.
    pub(crate) fn aim(self, size: u64) -> Option<Bound> {
        use Bound::{AtLeast, AtMost};
        const KB_64: u64 = 64 << 10;
        let by_size = |below: f64, at_64: f64, above: f64| match size {
            ..KB_64 => below,
            KB_64..0x4_0000 => at_64,
            _ => above,
        };
        Some(match self {
            Self::DownloadCpuToNginx => AtMost(by_size(1.0, 0.9, 0.8)),
            Self::DownloadRateToNginx => AtLeast(by_size(1.0, 1.1, 1.3)),
            Self::DownloadCpuToFloor => AtMost(by_size(1.4, 1.25, 1.25)),
            Self::UploadCpuToNginx => AtMost(0.6),
            Self::UploadFullRateToNone => AtLeast(0.5),
            Self::ThumbnailHitToDownload => AtMost(1.1),
            Self::ThumbnailMissToVips if size <= 1600 * 1200 => AtMost(1.0),
            Self::ThumbnailMissToVips => AtMost(1.35),
            Self::MemorySilentMb => AtMost(40.0),
            Self::MemoryIdleMb => AtMost(220.0),
            Self::ObjectsManyToFew => AtMost(1.1),
            Self::ColdStalls => AtMost(0.0),
            Self::DownloadCpuToDufs
            | Self::DownloadCpuToMiniserve
            | Self::UploadFullCpuToNginx
            | Self::OtherMissToVips
            | Self::ColdStallsBefore
            | Self::ColdP99Us
            | Self::ColdP99BeforeUs
            | Self::ColdMaxUs
            | Self::ColdMaxBeforeUs => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_depend_on_the_size() {
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
