//! Media types that a browser runs, or loads as code, style, page or settings, when a page names such a file.
//!
//! `Content-Disposition: attachment` and a sandbox hold for a file that is opened by itself. They do not hold for one
//! that a page loads with `<script src>`, `<link>` or `WebAssembly.instantiateStreaming`: only its type does, since
//! every answer says `nosniff`. Files come from an origin that chat applications trust, so none is called by such a
//! type: it is `application/octet-stream`.
//!
//! Not here: `image/svg+xml`, which pages show with `<img>`, where it runs nothing (`content_type.rs` keeps it for files
//! that are SVG), and `application/pdf`, which browsers show in a viewer of their own. By themselves both are
//! attachments in a sandbox.

/// Whole types, in lower case.
const TYPES: &[&str] = &[
    // Scripts (https://mimesniff.spec.whatwg.org/#javascript-mime-type), and those of older browsers.
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
    // Code, and pages of plug-ins and of the system.
    "application/wasm",
    "application/hta",
    "application/futuresplash",
    "application/x-shockwave-flash",
    "application/vnd.adobe.flash.movie",
    "application/x-silverlight-app",
    // Styles.
    "text/css",
    "text/xsl",
    // Pages and what may hold one. `+xml` too.
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
    // Settings of a page or of a site.
    "text/cache-manifest",
    "application/manifest+json",
    "application/x-web-app-manifest+json",
    "application/importmap+json",
    "application/speculationrules+json",
    // What a browser or a phone offers to install.
    "application/x-xpinstall",
    "application/x-chrome-extension",
    "application/x-x509-ca-cert",
    "application/x-apple-aspen-config",
];

/// Beginnings of types, in lower case.
const PREFIXES: &[&str] = &[
    // `text/javascript1.0` to `1.5`.
    "text/javascript1.",
    // Applets and what starts a program.
    "application/x-java-",
    "application/java-vm",
    // Messages hold pages (MHTML); `multipart/` is stored for no file.
    "message/",
];

/// Whether a type, in lower case and without parameters, is active.
pub(super) fn is_active(essence: &str) -> bool {
    TYPES.contains(&essence)
        || PREFIXES.iter().any(|prefix| essence.starts_with(prefix))
        || essence.ends_with("+xml") && essence != "image/svg+xml"
}
