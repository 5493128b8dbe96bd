//! Builds the arguments of ffmpeg.
//!
//! Only two numbers and the sniffed kind of the file depend on the client. Rules for all commands:
//!
//! - The demuxer is fixed: a playlist or script named `.mp4` is a damaged mp4, and opens nothing.
//! - The input is a slice of the file on standard input, `subfile,,start,0,end,LEN,,:/proc/self/fd/0`. It has no path, and
//!   ends before the trailer (decoded with it, a voice message of 5.00 s plays for 5.34 s). `/proc/self/fd/0` opens the
//!   file again, so that seeking does not move the offset of others. Other protocols than these two are disabled, also for
//!   references inside the input.
//! - Only the named decoders and the requested stream are used, with one thread. No metadata is copied.

use crate::{
    derivative::{BoundingBox, VoiceFormat},
    media::sniff::Sniffed,
};

/// A frame is fitted into a square with sides of this many pixels: the largest thumbnail.
pub(super) const FRAME_SIDE_MAX: u16 = BoundingBox::SIDE_MAX;
/// MP3 is encoded with 16 kHz, mono, 32 kbit/s (4 KB per second). This is the sample rate of AMR-WB, twice that of AMR. At
/// the 8 kHz of AMR it would be MPEG 2.5, which some browsers do not play; 16 kHz is MPEG 2.
const MP3_HERTZ: &str = "16000";
const MP3_BITRATE: &str = "32k";
/// The highest bit rate of AMR. The format fixes the sample rate and the channels.
const AMR_BITRATE: &str = "12.2k";
const AMR_HERTZ: &str = "8000";
/// ffmpeg's own AMR decoders reject the frames in which a phone sends no speech (3GPP TS 26.093), and rejected frames are
/// missing from the output: of 5 s with a pause of 3 s, 2.2 s were left. So gaps and the end are filled with silence, and
/// any number of such frames is accepted.
const KEEP_PAUSES: &str = "-filter:a aresample=async=1:first_pts=0,apad -max_error_rate 1";
/// A Xing header would need seeking in the output. With a constant bit rate, players compute the duration from the size.
const NO_HEADER: &str = "-write_xing 0 -id3v2_version 0";

/// Decoders for the formats that phones, cameras and browsers record.
const VIDEO_DECODERS: &str =
    "h264,hevc,mpeg4,h263,mjpeg,vp8,vp9,libvpx,libvpx-vp9,libdav1d,libaom-av1,av1";
const AMR_DECODERS: &str = "amrnb,amrwb,libopencore_amrnb,libopencore_amrwb";
/// Files with layer II are sniffed as the same kind.
const MP3_DECODERS: &str = "mp3float,mp3,mp2float,mp2";

/// Makes the first frame of a video as JPEG. `None` for a kind without a demuxer here.
pub(super) fn first_frame(kind: Sniffed, len: u64, pixels_max: u64) -> Option<Vec<String>> {
    let demuxer = match kind {
        Sniffed::Mp4 | Sniffed::Mov | Sniffed::ThreeGp => "mov",
        Sniffed::Webm => "matroska",
        _ => return None,
    };
    // Non-square pixels become square. The frame is turned upright before this filter.
    let width = "(iw*sar)";
    let scale = format!("min(1,min({FRAME_SIDE_MAX}/{width},{FRAME_SIDE_MAX}/ih))");
    let filter = format!(
        "scale=w='max(1,round({width}*{scale}))':h='max(1,round(ih*{scale}))':out_range=pc,\
         setsar=1,format=yuvj420p"
    );
    let pixels_max = pixels_max.min(i32::MAX as u64);
    let options = format!("-an -sn -dn -max_pixels {pixels_max}");
    let input = input(demuxer, VIDEO_DECODERS, len, &options);
    let output = output("image2pipe");
    // `V` leaves out attached cover pictures.
    Some(words(&format!(
        "{input} -map 0:V:0 -frames:v 1 -filter:v {filter} -codec:v mjpeg -qscale:v 2 {output}"
    )))
}

/// Converts the first `play_ms` of a voice message to a format from the other one.
pub(super) fn voice(to: VoiceFormat, len: u64, play_ms: u64) -> Vec<String> {
    let (input, encoder, hertz, bitrate, output) = match to {
        VoiceFormat::Mp3 => (
            input("amr", AMR_DECODERS, len, "-vn -sn -dn"),
            "libmp3lame",
            MP3_HERTZ,
            MP3_BITRATE,
            format!("{KEEP_PAUSES} {NO_HEADER} {}", output("mp3")),
        ),
        VoiceFormat::Amr => (
            input("mp3", MP3_DECODERS, len, "-vn -sn -dn"),
            "libopencore_amrnb",
            AMR_HERTZ,
            AMR_BITRATE,
            output("amr"),
        ),
    };
    words(&format!(
        "{input} -map 0:a:0 -t {play_ms}ms -codec:a {encoder} -ac 1 -ar {hertz} -b:a {bitrate} {output}"
    ))
}

/// The arguments for the input. `options` are additional ones, such as the streams that are not read.
fn input(demuxer: &str, decoders: &str, len: u64, options: &str) -> String {
    format!(
        "-nostdin -hide_banner -loglevel error -filter_threads 1 -protocol_whitelist subfile,file \
         -f {demuxer} -codec_whitelist {decoders} -threads 1 {options} \
         -i subfile,,start,0,end,{len},,:/proc/self/fd/0"
    )
}

fn output(muxer: &str) -> String {
    format!(
        "-map_metadata -1 -map_chapters -1 -threads 1 -flags +bitexact -fflags +bitexact -f {muxer} pipe:1"
    )
}

/// Splits a command line at its spaces. No argument contains one.
fn words(arguments: &str) -> Vec<String> {
    arguments.split(' ').map(str::to_owned).collect()
}
