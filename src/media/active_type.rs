//! Lists the active media types: those that a browser runs, or loads as code, style, page or settings for a page.
//!
//! `Content-Disposition: attachment` and a sandbox protect against a file that is opened by itself. They do not protect
//! against a file that a page loads with `<script src>`, `<link>` or `WebAssembly.instantiateStreaming`. There only the
//! type decides, since every response has `nosniff`. Files come from an origin that chat applications trust, so a file
//! with an active type is sent as `application/octet-stream`.
//!
//! Not listed: `image/svg+xml`, which pages show with `<img>`, where it runs no code (`content_type.rs` keeps it for files
//! that are SVG), and `application/pdf`, which browsers show in a viewer of their own. Opened by themselves, both are
//! attachments in a sandbox.

/// Whole types, in lower case.
const TYPES: &[&str] = &[
    // Scripts (https://mimesniff.spec.whatwg.org/#javascript-mime-type), and script types of older browsers.
    "application/ecmascript",
    "application/javascript",
    "application/x-ecmascript",
    "application/x-javascript",
    "text/ecmascript",
    "text/javascript",
    "text/jscript",
    "text/livescript",
    "text/vbscript",
    "text/x-ecmascript",
    "text/x-javascript",
    "text/x-component",
    // Code, and documents of plug-ins and of the operating system.
    "application/wasm",
    "application/hta",
    "application/futuresplash",
    "application/x-shockwave-flash",
    "application/vnd.adobe.flash.movie",
    "application/x-silverlight-app",
    // Style sheets.
    "text/css",
    "text/xsl",
    // Pages, and types that may contain one. So do types that end in `+xml`.
    "text/html",
    "text/webviewhtml",
    "text/x-server-parsed-html",
    "text/xml",
    "application/xml",
    "application/xml-dtd",
    "application/xml-external-parsed-entity",
    "text/xml-external-parsed-entity",
    "text/vnd.wap.wml",
    "application/x-mimearchive",
    "application/signed-exchange",
    "application/webbundle",
    // Settings of a page or a site.
    "text/cache-manifest",
    "application/manifest+json",
    "application/x-web-app-manifest+json",
    "application/importmap+json",
    "application/speculationrules+json",
    // Files that a browser or a phone offers to install.
    "application/x-xpinstall",
    "application/x-chrome-extension",
    "application/x-x509-ca-cert",
    "application/x-apple-aspen-config",
];

/// Prefixes of types, in lower case.
const PREFIXES: &[&str] = &[
    // `text/javascript1.0` to `1.5`.
    "text/javascript1.",
    // Applets, and files that start a program.
    "application/x-java-",
    "application/java-vm",
    // Messages may contain pages (MHTML). `multipart/` is never stored.
    "message/",
];

/// Whether a media type, in lower case and without parameters, is active.
pub(super) fn is_active(essence: &str) -> bool {
    TYPES.contains(&essence)
        || PREFIXES.iter().any(|prefix| essence.starts_with(prefix))
        || essence.ends_with("+xml") && essence != "image/svg+xml"
}
