//! The kinds of files that are told apart, and what may be done with each.
//!
//! How a kind is told stands in `sniff.rs`. The kind alone decides whether a body may be shown inline and
//! which decoder sees it.

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sniffed {
    /// JFIF, Exif and plain JPEG.
    Jpeg,
    /// PNG and APNG.
    Png,
    /// GIF87a and GIF89a.
    Gif,
    /// WebP in all its forms.
    Webp,
    /// A Windows bitmap with its file header.
    Bmp,
    /// TIFF and what builds on it (DNG, NEF).
    Tiff,
    /// HEIC and HEIF by their ISO-BMFF brands.
    Heif,
    /// AVIF by its ISO-BMFF brands.
    Avif,
    /// A Windows icon.
    Ico,
    /// AMR narrow-band (RFC 4867 §5).
    AmrNb,
    /// AMR wide-band (RFC 4867 §5).
    AmrWb,
    /// MPEG layer II or III audio, with or without an ID3 tag.
    Mp3,
    /// Ogg without Theora: Vorbis, Opus, Speex.
    OggAudio,
    /// Ogg with Theora.
    OggVideo,
    /// RIFF WAVE.
    Wav,
    /// FLAC.
    Flac,
    /// MPEG-4 audio by its ISO-BMFF brands.
    M4a,
    /// AAC in ADTS frames.
    Aac,
    /// MPEG-4 by its ISO-BMFF brands.
    Mp4,
    /// QuickTime.
    Mov,
    /// 3GPP and 3GPP2.
    ThreeGp,
    /// WebM (EBML with the document type `webm`).
    Webm,
    /// Matroska.
    Mkv,
    /// RIFF AVI.
    Avi,
    /// PDF.
    Pdf,
    /// ZIP and all that is one: OOXML, ODF, EPUB, APK, JAR.
    Zip,
    /// Compound File Binary: the old office formats.
    Ole,
    /// gzip.
    Gzip,
    /// 7z.
    SevenZip,
    /// RAR 1.5 and later.
    Rar,
    /// HTML: text that browsers would run.
    Html,
    /// SVG: text that browsers would run.
    Svg,
    /// XML other than SVG and XHTML.
    Xml,
    /// Other text: UTF-8 without control characters, or with a UTF-16 mark.
    Text,
    /// Anything else, the empty file too.
    Unknown,
}

/// Kinds that share a container, so that a declared type may be right although the bytes cannot say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// An image format of its own.
    Image,
    /// An audio format of its own.
    Audio,
    /// A video format of its own.
    Video,
    /// ISO base media with sound or pictures that move: mp4, mov, 3gp, m4a.
    IsoMedia,
    /// ISO base media with still pictures: HEIF, AVIF.
    IsoImage,
    /// WebM and Matroska, which hold audio as well as video.
    Ebml,
    /// Ogg, likewise.
    Ogg,
    /// ZIP.
    Zip,
    /// Compound File Binary.
    Ole,
    /// Text, the kinds that browsers run too.
    Text,
    /// PDF and archives: exactly what they are.
    Document,
    /// Nothing is known.
    Unknown,
}

impl Sniffed {
    /// The kind's own media type; `None` for [`Sniffed::Unknown`].
    pub fn mime(self) -> Option<&'static str> {
        Some(match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Gif => "image/gif",
            Self::Webp => "image/webp",
            Self::Bmp => "image/bmp",
            Self::Tiff => "image/tiff",
            Self::Heif => "image/heic",
            Self::Avif => "image/avif",
            Self::Ico => "image/vnd.microsoft.icon",
            Self::AmrNb => "audio/amr",
            Self::AmrWb => "audio/amr-wb",
            Self::Mp3 => "audio/mpeg",
            Self::OggAudio => "audio/ogg",
            Self::OggVideo => "video/ogg",
            Self::Wav => "audio/wav",
            Self::Flac => "audio/flac",
            Self::M4a => "audio/mp4",
            Self::Aac => "audio/aac",
            Self::Mp4 => "video/mp4",
            Self::Mov => "video/quicktime",
            Self::ThreeGp => "video/3gpp",
            Self::Webm => "video/webm",
            Self::Mkv => "video/x-matroska",
            Self::Avi => "video/x-msvideo",
            Self::Pdf => "application/pdf",
            Self::Zip => "application/zip",
            Self::Ole => "application/x-ole-storage",
            Self::Gzip => "application/gzip",
            Self::SevenZip => "application/x-7z-compressed",
            Self::Rar => "application/vnd.rar",
            Self::Html => "text/html",
            Self::Svg => "image/svg+xml",
            Self::Xml => "application/xml",
            Self::Text => "text/plain",
            Self::Unknown => return None,
        })
    }

    /// The kind whose own media type this is; of those alone that something is made of here.
    pub fn of_mime(mime: &str) -> Option<Self> {
        const KINDS: [Sniffed; 17] = [
            Sniffed::Svg,
            Sniffed::Jpeg,
            Sniffed::Png,
            Sniffed::Gif,
            Sniffed::Webp,
            Sniffed::Bmp,
            Sniffed::Tiff,
            Sniffed::Heif,
            Sniffed::Avif,
            Sniffed::Ico,
            Sniffed::AmrNb,
            Sniffed::AmrWb,
            Sniffed::Mp3,
            Sniffed::Mp4,
            Sniffed::Mov,
            Sniffed::ThreeGp,
            Sniffed::Webm,
        ];
        KINDS.into_iter().find(|kind| kind.mime() == Some(mime))
    }

    /// The family whose declared types are believed.
    pub fn family(self) -> Family {
        match self {
            Self::Jpeg
            | Self::Png
            | Self::Gif
            | Self::Webp
            | Self::Bmp
            | Self::Tiff
            | Self::Ico => Family::Image,
            Self::Heif | Self::Avif => Family::IsoImage,
            Self::AmrNb | Self::AmrWb | Self::Mp3 | Self::Wav | Self::Flac | Self::Aac => {
                Family::Audio
            }
            Self::OggAudio | Self::OggVideo => Family::Ogg,
            Self::M4a | Self::Mp4 | Self::Mov | Self::ThreeGp => Family::IsoMedia,
            Self::Webm | Self::Mkv => Family::Ebml,
            Self::Avi => Family::Video,
            Self::Pdf | Self::Gzip | Self::SevenZip | Self::Rar => Family::Document,
            Self::Zip => Family::Zip,
            Self::Ole => Family::Ole,
            Self::Html | Self::Svg | Self::Xml | Self::Text => Family::Text,
            Self::Unknown => Family::Unknown,
        }
    }

    /// Whether it is a picture, decodable or not. SVG is text.
    pub fn is_image(self) -> bool {
        matches!(self.family(), Family::Image | Family::IsoImage)
    }

    /// Whether a thumbnail can be made of it here.
    pub fn is_decodable_image(self) -> bool {
        matches!(
            self,
            Self::Jpeg | Self::Png | Self::Gif | Self::Webp | Self::Bmp
        )
    }

    /// Whether it is a voice as chats send them, which is converted on demand.
    pub fn is_voice(self) -> bool {
        matches!(self, Self::AmrNb | Self::AmrWb | Self::Mp3)
    }

    /// Whether it is a container of moving pictures (3gp and WebM may still hold sound alone).
    pub fn is_video(self) -> bool {
        matches!(
            self,
            Self::Mp4
                | Self::Mov
                | Self::ThreeGp
                | Self::Webm
                | Self::Mkv
                | Self::Avi
                | Self::OggVideo
        )
    }

    /// Whether a browser may show it in place. An allow-list of what cannot run code on our origin: what is
    /// not named is an attachment, SVG, HTML, XML, PDF and text above all.
    pub fn may_be_inline(self) -> bool {
        matches!(
            self,
            Self::Jpeg
                | Self::Png
                | Self::Gif
                | Self::Webp
                | Self::Bmp
                | Self::Heif
                | Self::Avif
                | Self::AmrNb
                | Self::AmrWb
                | Self::Mp3
                | Self::Wav
                | Self::Flac
                | Self::M4a
                | Self::Aac
                | Self::OggAudio
                | Self::OggVideo
                | Self::Mp4
                | Self::Mov
                | Self::ThreeGp
                | Self::Webm
        )
    }
}
