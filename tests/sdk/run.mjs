//! Runs the vendors' web SDKs, a client of the Lanying API and the example programs against a real server, through the
//! path splits of deploy/examples: a stub of the chat servers answers logins and messages, chatfiles has the files.
//! scripts/integration starts it.
//!
//!     node run.mjs PROGRAM REPOSITORY FOLDER_WITH_NODE_MODULES

import { execFileSync, spawn, spawnSync } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import { createRequire } from "node:module";
import net from "node:net";
import os from "node:os";
import path from "node:path";

import { INTROSPECTION_SECRET, startStub } from "./stub-chat.mjs";

const [program, repository, modules] = process.argv.slice(2).map((argument) => path.resolve(argument));
const { chromium } = createRequire(path.join(modules, "package.json"))("playwright-core");
const examples = path.join(repository, "deploy/examples");
const directory = fs.mkdtempSync(path.join(os.tmpdir(), "chatfiles-integration-"));
const inside = (name) => path.join(directory, name);
const children = [];

const began = Date.now();
let passed = 0;
function check(what, condition, detail) {
    if (!condition) throw new Error(`${what}: ${JSON.stringify(detail)}`);
    passed += 1;
}
const equal = (what, found, expected) =>
    check(what, JSON.stringify(found) === JSON.stringify(expected), { found, expected });
const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest("hex");

// --- Programs ---

/// Starts a program and waits until `ready` returns something.
async function start(name, command, args, ready, environment = {}) {
    const log = inside(`${name}.log`);
    const output = fs.openSync(log, "w");
    const child = spawn(command, args, { stdio: ["ignore", output, output], env: { ...process.env, ...environment } });
    children.push(child);
    const said = () => fs.readFileSync(log, "utf8");
    let ended = null;
    child.on("error", (error) => (ended = error.message));
    child.on("exit", (code, signal) => (ended ??= `exit ${code ?? signal}`));
    for (const deadline = Date.now() + 20_000; ; await new Promise((resolve) => setTimeout(resolve, 20))) {
        const found = await ready(said());
        if (found) return { found, log: said, child };
        if (ended || Date.now() > deadline) throw new Error(`${name} does not start (${ended}): ${said()}`);
    }
}

/// Polls until something is found.
async function until(find) {
    for (const deadline = Date.now() + 20_000; ; await new Promise((resolve) => setTimeout(resolve, 20))) {
        const found = await find();
        if (found) return found;
        if (Date.now() > deadline) throw new Error(`nothing found by ${find}`);
    }
}

async function freePort() {
    const server = net.createServer();
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address();
    await new Promise((resolve) => server.close(resolve));
    return port;
}

const answers = (url) => async () => {
    const answer = await fetch(url).catch(() => null);
    await answer?.arrayBuffer();
    return answer !== null && answer.status < 500;
};

/// Replaces each text, which must occur exactly once.
function replaced(text, pairs) {
    for (const [theirs, ours] of pairs) {
        check(`the example has this once: ${theirs}`, text.split(theirs).length === 2, text.split(theirs).length - 1);
        text = text.replace(theirs, () => ours);
    }
    return text;
}

// --- chatfiles ---

const SECRET = "hYw3JkVq8sT2ZbXnR5dLpM7cGf4uEa9K";
const ACCOUNT = "a password of an account here";
const JWT_SECRET = "Zk4vQm8wTn2xRc6yLb9sHd3fGj7pEa5uWq1eYt0iOo4hVz8n";

const configuration = (hash, stub) => `
[server]
listen = ["127.0.0.1:0"]

[limits]
trusted_proxies = ["127.0.0.1/32"]
# All clients of this test have one address.
calls_per_second = 1000
calls_burst = 1000

[store]
free_space_min_bytes = 1048576

[log]
format = "json"
access_sample = 1

# The SDKs put ?share-secret= into the addresses of <img> and <video> and send no token.
[[tenant]]
org = "acme"
app = "chat"
app_id = "acme"
client_secret = "${SECRET}"
download_auth = "secret"
dynamic_token_ttl_seconds = [600]
[[tenant.account]]
name = "alice"
password_hash = "${hash}"
[tenant.auth.jwt]
issuer = "https://chat.example.com"
audience = "chatfiles"
keys = "${inside("jwks.json")}"
algorithms = ["HS256"]
app_claim = "app"
[tenant.auth.introspection]
url = "http://127.0.0.1:${stub.port}/introspect"
client_id = "chatfiles"
client_secret = "${INTROSPECTION_SECRET}"

[[tenant]]
org = "acme"
app = "token"
app_id = "acme-token"
client_secret = "${SECRET}-token"
download_auth = "token"

[[tenant]]
org = "acme"
app = "signed"
app_id = "acme-signed"
client_secret = "${SECRET}-signed"
download_auth = "signed"

# 64 KiB per file.
[[tenant]]
org = "acme"
app = "small"
app_id = "acme-small"
client_secret = "${SECRET}-small"
upload_bytes_max = 65536
dynamic_token_ttl_seconds = [600]
`;

async function startServer(stub) {
    const key = { kty: "oct", alg: "HS256", k: Buffer.from(JWT_SECRET).toString("base64url") };
    fs.writeFileSync(inside("jwks.json"), JSON.stringify({ keys: [key] }), { mode: 0o600 });
    const hash = execFileSync(program, ["hash-password"], { input: ACCOUNT }).toString().trim();
    fs.writeFileSync(inside("chatfiles.toml"), configuration(hash, stub));
    const args = ["serve", "--config", inside("chatfiles.toml"), "--store-path", inside("store")];
    const server = await start(
        "chatfiles",
        program,
        args,
        (log) => JSON.parse(log.match(/^\{.*"message":"started".*\}\n/m)?.[0] ?? "{}").listen?.[0],
    );
    await answers(`${server.found}/healthz`)();
    return { url: server.found, log: server.log };
}

/// A user token of chatfiles, as a chat backend obtains it: client_credentials, then inherit.
async function inherit(url, org, app, user) {
    const grant = async (body, token) => {
        const headers = { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
        const answer = await fetch(`${url}/${org}/${app}/token`, {
            method: "POST",
            headers,
            body: JSON.stringify(body),
        });
        const json = await answer.json();
        check(`a token for ${user}`, answer.status === 200, json);
        return json.access_token;
    };
    const secret = app === "chat" ? SECRET : `${SECRET}-${app}`;
    const client = { grant_type: "client_credentials", client_id: `${org}.${app}`, client_secret: secret };
    return grant({ grant_type: "inherit", username: user, ttl: 600 }, await grant(client));
}

/// Easemob's dynamic token, which a chat backend makes without a request.
function dynamicToken(org, app, user) {
    const [clientId, appkey, curTime, ttl] = [`${org}.${app}`, `${org}#${app}`, Math.floor(Date.now() / 1000), 600];
    const signature = sha256(clientId + appkey + user + curTime + ttl + SECRET);
    const token = JSON.stringify({ signature, appkey, userId: user, curTime, ttl });
    return Buffer.from(`dt-${token}`).toString("base64url");
}

// --- Proxies ---

async function startNginx(name, server, stub, uncomment = false) {
    const port = await freePort();
    let example = fs.readFileSync(path.join(examples, "nginx-split.conf"), "utf8");
    const pairs = [
        ["server 127.0.0.1:8080;", `server ${new URL(server).host};`],
        ["server 127.0.0.1:9000;", `server 127.0.0.1:${stub.port};`],
        ["    listen 80 ", `    listen 127.0.0.1:${port} `],
    ];
    if (uncomment) {
        for (const line of [
            "location ~ ^/[^/]+/[^/]+/token$ {\n    #    proxy_pass http://chatfiles;\n    #}",
            "proxy_intercept_errors on;",
            "error_page 404 = @old_files;",
        ]) {
            pairs.push([`#${line}`, line.replaceAll("\n    #", "\n    ")]);
        }
    }
    example = replaced(example, pairs);
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(
        (kind) => `${kind}_temp_path ${inside(`${name}-${kind}`)};`,
    );
    fs.writeFileSync(
        inside(`${name}.conf`),
        `daemon off; master_process off; pid ${inside(`${name}.pid`)}; error_log stderr warn;\nevents {}\n` +
            `http { access_log off; ${temporary.join(" ")}\n${example}}\n`,
    );
    const url = `http://127.0.0.1:${port}`;
    await start(name, "nginx", ["-p", directory, "-e", "stderr", "-c", inside(`${name}.conf`)], answers(url));
    return url;
}

async function startHaproxy(server, stub) {
    const port = await freePort();
    const example = replaced(fs.readFileSync(path.join(examples, "haproxy-split.cfg"), "utf8"), [
        ["    bind :80\n", `    bind 127.0.0.1:${port}\n`],
        ["server files1 127.0.0.1:8080", `server files1 ${new URL(server).host}`],
        ["server chat1 127.0.0.1:9000", `server chat1 127.0.0.1:${stub.port}`],
    ]);
    fs.writeFileSync(inside("haproxy.cfg"), example);
    const url = `http://127.0.0.1:${port}`;
    await start("haproxy", "haproxy", ["-db", "-f", inside("haproxy.cfg")], answers(url));
    return url;
}

// --- The page's own server: another origin ---

function media() {
    const make = (name, args) => execFileSync("ffmpeg", ["-loglevel", "error", "-y", ...args, inside(name)]);
    make("video.mp4", [
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=640x360:rate=10:duration=2",
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-movflags",
        "+faststart",
    ]);
    make("voice.amr", [
        "-f",
        "lavfi",
        "-i",
        "sine=frequency=440:duration=2",
        "-ar",
        "8000",
        "-ac",
        "1",
        "-c:a",
        "libopencore_amrnb",
        "-b:a",
        "12.2k",
    ]);
    fs.copyFileSync(path.join(repository, "tests/data/photo.jpg"), inside("photo.jpg"));
}

async function startPages() {
    const scripts = {
        "/page.js": path.join(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), "page.js"),
        "/easemob-websdk.js": path.join(modules, "node_modules/easemob-websdk/Easemob-chat.js"),
        "/agora-chat.js": path.join(modules, "node_modules/agora-chat/Agora-chat.js"),
    };
    const server = http.createServer((request, response) => {
        const url = new URL(request.url, "http://pages");
        const data = url.pathname.match(/^\/data\/([a-z.0-9]+)$/)?.[1];
        const file = scripts[url.pathname] ?? (data && inside(data));
        if (file) {
            response.setHeader("Content-Type", file.endsWith(".js") ? "text/javascript" : "application/octet-stream");
            return fs.createReadStream(file).pipe(response);
        }
        const sdk = url.searchParams.get("sdk");
        response.setHeader("Content-Type", "text/html; charset=utf-8");
        const script = (name) => `<script src="/${name}.js"></script>`;
        response.end(`<!doctype html><title>chat</title>${sdk ? script(sdk) : ""}${script("page")}`);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    return { url: `http://127.0.0.1:${server.address().port}`, server };
}

// --- Cases ---

let browser;
let pages;

async function openPage(sdk) {
    const page = await browser.newPage();
    page.on("pageerror", (error) => console.error(`page error: ${error.message}`));
    page.setDefaultTimeout(20_000);
    await page.goto(`${pages.url}/?sdk=${sdk ?? ""}`);
    return page;
}

/// Runs a function of page.js.
const run = (page, name, argument) => page.evaluate(([name, argument]) => globalThis[name](argument), [name, argument]);

const MEBIBYTE = 1024 * 1024;

/// Two users with an SDK: one sends, the other receives and opens. `isBrief` leaves out files above 7.5 MiB.
async function sdk(name, rest, loginOf, isBrief) {
    const [alice, bob] = [await openPage(name), await openPage(name)];
    const at = { appKey: "acme#chat", apiUrl: rest, url: `${rest.replace("http", "ws")}/websocket` };
    await run(alice, "login", { ...at, ...(await loginOf("alice")) });
    await run(bob, "login", { ...at, ...(await loginOf("bob")) });
    const close = () => Promise.all([alice.close(), bob.close()]);
    const codes = await bob.evaluate(() => WebIM.statusCode);

    const send = async (file) => {
        const sent = await run(alice, "sendFile", { to: "bob", ...file });
        check(`${name} sends ${file.name}`, sent.id && sent.progress.length > 0, sent);
        const message = await run(bob, "incoming", file.type);
        equal(`${name}: sender of ${file.name}`, message.from, "alice");
        check(`${name}: ${file.name} is at the split`, message.url.startsWith(`${rest}/acme/chat/chatfiles/`), message);
        check(`${name}: ${file.name} is restricted`, message.secret?.length > 0, message);
        const { url, secret } = message;
        const headers = { Accept: "application/octet-stream" };
        const copy = await run(bob, "sdkDownload", { url, secret, headers });
        equal(`${name}: ${file.name} arrives`, copy.sha256, sent.sha256);
        return message;
    };

    const image = await send({ type: "img", name: "photo.jpg", mime: "image/jpeg" });
    const thumbnail = await run(bob, "shown", image.thumb);
    check(`${name}: <img> of the thumbnail`, thumbnail && Math.max(...thumbnail) === 170, { thumbnail, image });
    check(`${name}: <img> of the picture`, (await run(bob, "shown", image.url))?.[0] > 170, image);
    const bare = image.url.split("?")[0];
    const refused = await run(bob, "sdkDownload", { url: bare, secret: "wrong" });
    equal(`${name}: a wrong secret`, refused.error, codes.WEBIM_DOWNLOADFILE_ERROR_NO_PERMISSION);

    const video = await send({ type: "video", name: "video.mp4", mime: "video/mp4" });
    // The address of the cover that arrives has no secret.
    check(`${name}: the cover needs the secret`, (await run(bob, "shown", video.thumb)) === null, video);
    const cover = await run(bob, "shown", `${video.thumb}&share-secret=${video.secret}`);
    check(`${name}: <img> of the video's cover`, cover && Math.max(...cover) === 170, { cover, video });
    check(`${name}: <video>`, (await bob.evaluate((url) => playable("video", url), video.url)) > 1.5, video);

    const voice = await send({ type: "audio", name: "voice.amr", mime: "audio/amr" });
    check(
        `${name}: <audio> of the voice`,
        (await bob.evaluate((url) => playable("audio", `${url}&voice=mp3`), voice.url)) > 1.5,
        voice,
    );
    const mp3 = await run(bob, "sdkDownload", {
        url: voice.url,
        secret: voice.secret,
        headers: { Accept: "audio/mp3" },
    });
    equal(`${name}: the voice as MP3`, mp3.type, "audio/mpeg");

    if (isBrief) return close();
    // Above 7.5 MiB, the SDK uploads in parts.
    await send({ type: "file", name: "parts.bin", mime: "application/octet-stream", size: 8 * MEBIBYTE });
    const large = {
        type: "file",
        to: "bob",
        name: "large.bin",
        mime: "application/octet-stream",
        size: 10 * MEBIBYTE + 1,
    };
    const tooLarge = await run(alice, "sendFile", large);
    check(`${name} reports a file that is too large`, tooLarge.error?.type === codes.WEBIM_UPLOADFILE_ERROR, tooLarge);

    await run(alice, "sendCombined", "bob");
    const combined = await run(bob, "incoming", "combine");
    equal(`${name}: a combined message`, await run(bob, "readCombined", combined), ["inside a combined message"]);
    await close();
}

/// What elements of a page need in each mode of download_auth (docs/integrate.md).
async function elements(server) {
    const page = await openPage();
    const open = (name, argument) => run(page, name, argument);
    const files = async (app) => {
        const [base, token] = [`${server.url}/acme/${app}`, await inherit(server.url, "acme", app, "alice")];
        const photo = await open("upload", { base, token, name: "photo.jpg", mime: "image/jpeg", restrict: true });
        const plain = await open("upload", { base, token, name: "photo.jpg", mime: "image/jpeg" });
        return { token, photo, plain };
    };
    const withSecret = ({ url, secret }, more = "") => `${url}?share-secret=${secret}${more}`;

    const token = await files("token");
    equal("token: <img> with the secret alone", await open("shown", withSecret(token.photo)), null);
    equal("token: <img> of an unrestricted file", await open("shown", token.plain.url), null);
    const blob = await open("shownThroughBlob", { ...token.photo, token: token.token });
    check("token: fetch and a blob: URL", blob?.[0] > 170, blob);

    const secret = await files("chat");
    check("secret: <img> with the secret", (await open("shown", withSecret(secret.photo)))?.[0] > 170, secret);
    check("secret: <img> of an unrestricted file", (await open("shown", secret.plain.url))?.[0] > 170, secret);
    equal("secret: <img> without the secret", await open("shown", secret.photo.url), null);

    const signed = await files("signed");
    equal("signed: <img> with the secret alone", await open("shown", withSecret(signed.photo)), null);
    const file = await open("signedUrl", { ...signed.photo, token: signed.token });
    check("signed: HEAD names a signed URL", file.status === 200 && /[?&]signature=/.test(file.url), file);
    check("signed: HEAD has the length", Number(file.length) > 0, file);
    check("signed: <img> of the signed URL", (await open("shown", file.url))?.[0] > 170, file);
    const small = await open("signedUrl", {
        ...signed.photo,
        url: `${signed.photo.url}?thumbnail=true`,
        token: signed.token,
    });
    equal("signed: <img> of a signed thumbnail", Math.max(...(await open("shown", small.url))), 170);
    const picture = await open("lanyingPicture", { rest: server.url, appId: "acme-signed", token: signed.token });
    check("signed: <img> of the Lanying API", picture?.[0] > 170, picture);
    equal("signed: a changed URL", await open("shown", small.url.replace("thumbnail=true", "thumbnail=false")), null);
    await page.close();
}

/// Refusals and addresses through a split: as if there were no proxy.
async function transparent(name, rest, server) {
    const page = await openPage();
    const [base, token] = [`${rest}/acme/chat`, dynamicToken("acme", "chat", "alice")];
    const large = await run(page, "uploadTooLarge", { base, token, size: 12 * MEBIBYTE });
    equal(`${name}: a page can read the refusal`, large, { status: 413, error: "file exceeding maximum limit" });
    await page.close();

    const before = server.log().length;
    const { port } = new URL(rest);
    const request = { port, path: "/acme/chat/chatfiles/missing", host: "127.0.0.1", localAddress: "127.0.0.9" };
    const id = await new Promise((resolve, reject) => {
        http.get(request, (answer) => answer.resume().on("end", () => resolve(answer.headers["x-request-id"]))).on(
            "error",
            reject,
        );
    });
    const line = await until(() =>
        server
            .log()
            .slice(before)
            .split("\n")
            .find((line) => line.includes(id) && line.includes('"access"')),
    );
    equal(`${name}: the client's address`, JSON.parse(line).fields.client, "127.0.0.9");
}

async function lanying(rest, stub) {
    const page = await openPage();
    const password = { alice: "password of alice", bob: "password of bob" };
    const dnsServer = `http://127.0.0.1:${stub.port}/v2/app_dns`;
    const found = await run(page, "lanying", { dnsServer, appId: "acme", password });
    equal("Lanying: REST server of the DNS document", found.rest, rest);
    check("Lanying: links are at the split", found.image.startsWith(`${rest}/file/download/chat?file_sign=`), found);
    check(
        "Lanying: a forwarded link is at the split",
        found.forwarded.startsWith(`${rest}/file/download/chat?`),
        found,
    );
    check("Lanying: progress", found.progress.length > 0, found);
    equal("Lanying: the picture arrives", found.downloaded, found.sent);
    check("Lanying: <img> of the picture", found.original?.[0] > 170, found);
    equal("Lanying: <img> of the thumbnail", Math.max(...found.thumbnail), 170);
    check("Lanying: <img> of the cover", found.cover?.[0] > 0, found);
    check("Lanying: <video>", found.video > 1.5, found);
    check("Lanying: <audio> with format=mp3", found.voice > 1.5, found);
    equal("Lanying: <audio> of AMR", found.amr, null);
    equal("Lanying: <img> of the avatar", Math.max(...found.avatar), 170);
    equal("Lanying: <img> without a token", found.withoutToken, null);
    await page.close();
}

/// Who got what: only files at chatfiles, no file at the chat servers.
function routed(name, server, stub, before) {
    const here = server.log().slice(before.log).split("\n");
    const paths = here.flatMap((line) => {
        const fields = line.startsWith("{") ? (JSON.parse(line).fields ?? {}) : {};
        return fields.message === "access" ? [`${fields.method} ${fields.path}`] : [];
    });
    const there = stub.requests.slice(before.requests);
    const isFile = /^[A-Z]+ \/(file\/|[^/]+\/[^/]+\/(sdk\/)?chatfiles(\/|$))/;
    equal(
        `${name}: files at the chat servers`,
        there.filter((path) => isFile.test(path)),
        [],
    );
    const allowed = (path) => isFile.test(path) || /\/(healthz|acme\/[a-z]+\/token)$/.test(path);
    equal(
        `${name}: other requests at chatfiles`,
        paths.filter((path) => !allowed(path)),
        [],
    );
    return { here: paths, there };
}

// --- examples/ ---

/// A proxy that answers the first requests itself, as `plan` says, and passes on all others. It makes refusals that a
/// client must handle happen at a known request.
async function startFaults(server, plan) {
    const proxy = http.createServer((request, response) => {
        const kind =
            request.method === "POST" && /\/chatfiles$|^\/file\/oss\//.test(request.url)
                ? "upload"
                : /\/file\/upload\//.test(request.url)
                  ? "ticket"
                  : request.method === "GET"
                    ? "download"
                    : "token";
        const fault = plan[kind]?.shift();
        if (fault) {
            request.resume();
            const { status, retryAfter, body = { error: "planned" } } = fault;
            const headers = {
                "Content-Type": "application/json",
                ...(retryAfter ? { "Retry-After": retryAfter } : {}),
            };
            request.on("end", () => response.writeHead(status, headers).end(JSON.stringify(body)));
            return;
        }
        const { method, url, headers } = request;
        const onward = http.request(server.url + url, { method, headers }, (answer) => {
            response.writeHead(answer.statusCode, answer.headers);
            answer.pipe(response);
        });
        onward.on("error", () => response.destroy());
        request.pipe(onward);
    });
    await new Promise((resolve) => proxy.listen(0, "127.0.0.1", resolve));
    return { url: `http://127.0.0.1:${proxy.address().port}`, close: () => proxy.close() };
}

/// Runs a program to its end.
function output(command, args, cwd, environment) {
    const child = spawn(command, args, { cwd, env: { ...process.env, ...environment } });
    children.push(child);
    const said = { out: "", err: "" };
    child.stdout.on("data", (piece) => (said.out += piece));
    child.stderr.on("data", (piece) => (said.err += piece));
    return new Promise((resolve, reject) => {
        child.on("error", reject);
        child.on("close", (code) => resolve({ ...said, code }));
    });
}

/// Runs an example program in a directory of its own.
async function runExample({ name, command }, args, environment) {
    const cwd = inside(`example-${name}`);
    fs.mkdirSync(cwd, { recursive: true });
    const file = path.join(repository, "tests/data/photo.jpg");
    return { ...(await output(command[0], [...command.slice(1), ...args, file], cwd, environment)), cwd };
}

const TOKENS = ["client-credentials", "dynamic", "jwt"];

async function example(program_, server, nginx) {
    const { name } = program_;
    const as = (url, app = "chat") => ({
        FILES_URL: url,
        FILES_TENANT: `acme/${app}`,
        FILES_APP_ID: app === "chat" ? "acme" : `acme-${app}`,
        FILES_CLIENT_SECRET: app === "chat" ? SECRET : `${SECRET}-${app}`,
        FILES_JWT_SECRET: JWT_SECRET,
    });
    const size = fs.statSync(path.join(repository, "tests/data/photo.jpg")).size;
    for (const api of ["easemob", "lanying"]) {
        for (const token of program_.tokens) {
            // Tokens are issued by chatfiles itself, files go through the split.
            const url = token === "client-credentials" ? server.url : nginx;
            const done = await runExample(program_, [api, token], as(url));
            check(`${name} ${api} ${token}`, done.code === 0 && done.out.includes(`downloaded: ${size} bytes`), done);
            check(`${name} ${api} ${token}: progress`, done.err.includes("sent 100 %"), done);
            const thumbnail = fs.readFileSync(path.join(done.cwd, "thumbnail-of-photo.jpg"));
            equal(`${name} ${api} ${token}: thumbnail`, thumbnail.subarray(0, 2).toString("hex"), "ffd8");
            check(`${name} ${api} ${token}: a small thumbnail`, thumbnail.length < size, thumbnail.length);
        }
        const tooLarge = await runExample(program_, [api, "dynamic"], as(server.url, "small"));
        check(`${name} ${api}: 413`, tooLarge.code === 1 && tooLarge.err.includes("the file is too large"), tooLarge);
        const refused = await runExample(program_, [api, "jwt"], {
            ...as(server.url),
            FILES_JWT_SECRET: "x".repeat(32),
        });
        check(
            `${name} ${api}: a wrong token`,
            refused.code === 1 && /error: (401|200 .*10008)/.test(refused.err),
            refused,
        );
    }

    const busy = { status: 503, retryAfter: "1" };
    const tooMany = { status: 429, retryAfter: "1" };
    const waits = async (what, api, plan, expected) => {
        const faults = await startFaults(server, plan);
        const done = await runExample(program_, [api, "dynamic"], as(faults.url));
        faults.close();
        const said = done.err.split("\n").filter((line) => /trying again|obtaining|refused for/.test(line));
        equal(
            `${name}: ${what}`,
            said.map((line) => line.replace(/refused for ([0-9]+) s.*/, "refused for $1 s")),
            expected,
        );
        equal(`${name}: ${what}: exit code`, done.code, expected.at(-1).includes("refused for") ? 1 : 0);
    };
    await waits("503, 401 and 429", "easemob", { upload: [busy, { status: 401 }, tooMany], download: [busy] }, [
        "503: trying again in 1 s",
        "the token was refused: obtaining a new one",
        "429: trying again in 1 s",
        "503: trying again in 1 s",
    ]);
    await waits(
        "an expired token and 503",
        "lanying",
        { ticket: [{ status: 200, body: { code: 402 } }], upload: [busy] },
        ["the token was refused: obtaining a new one", "503: trying again in 1 s"],
    );
    await waits("a quota until midnight", "easemob", { upload: [{ status: 429, retryAfter: "40000" }] }, [
        "error: refused for 40000 s",
    ]);
}

/// The example programs whose language is installed: always node and Python; Java and Go where they are.
function programs() {
    const at = (file) => path.join(repository, "examples", file);
    const found = [
        { name: "node", command: [process.execPath, at("node/chatfiles.mjs")], tokens: TOKENS },
        { name: "python", command: ["python3", at("python/chatfiles.py")], tokens: TOKENS },
    ];
    const classes = inside("java");
    const java = spawnSync("javac", ["-Xlint:all", "-Werror", "-d", classes, at("java/Chatfiles.java")]);
    if (java.error) {
        console.log("skipped: examples/java, because there is no javac");
    } else {
        equal("examples/java compiles", java.stdout.toString() + java.stderr.toString(), "");
        found.push({ name: "java", command: ["java", "-cp", classes, "Chatfiles"], tokens: TOKENS.slice(-1) });
    }
    const binary = inside("go-chatfiles");
    const environment = { ...process.env, GOTOOLCHAIN: "local", GOPROXY: "off" };
    const go = spawnSync("go", ["build", "-o", binary, at("go/chatfiles.go")], { env: environment });
    if (go.error) {
        console.log("skipped: examples/go, because Go is not installed");
    } else {
        equal("examples/go compiles", go.stdout.toString() + go.stderr.toString(), "");
        found.push({ name: "go", command: [binary], tokens: TOKENS.slice(-1) });
    }
    return found;
}

// --- docs/integrate.md ---

/// Runs the commands of the guide, and checks its configurations. The Chinese guide has the same.
async function documents(server, nginx, stub) {
    const blocksOf = (file) =>
        [...fs.readFileSync(path.join(repository, file), "utf8").matchAll(/^ *```(\w+)\n(.*?)^ *```/gms)].map(
            ([, kind, text]) => ({ kind, text }),
        );
    const blocks = blocksOf("docs/integrate.md");
    equal("the Chinese guide has the same blocks", blocksOf("docs/zh/integrate.md"), blocks);
    const texts = (kind) => blocks.filter((block) => block.kind === kind).map(({ text }) => text);
    check("the guide has commands", texts("sh").length >= 5, texts("sh"));
    texts("json").forEach((text) => equal("the list of servers", JSON.parse(text).code, 200));

    const cwd = inside("documents");
    fs.mkdirSync(cwd);
    const key = crypto
        .generateKeyPairSync("ec", { namedCurve: "P-256" })
        .publicKey.export({ type: "spki", format: "pem" });
    fs.writeFileSync(inside("key.pem"), key, { mode: 0o600 });
    fs.writeFileSync(
        path.join(cwd, "chatfiles.toml"),
        replaced(texts("toml").join("\n"), [["/etc/chatfiles/jwks.json", inside("key.pem")]]),
    );
    fs.copyFileSync(path.join(repository, "tests/data/photo.jpg"), path.join(cwd, "photo.jpg"));
    fs.symlinkSync(program, path.join(cwd, "chatfiles"));
    const before = stub.requests.length;
    const environment = { PATH: `${cwd}:${process.env.PATH}`, FILES: server.url, SPLIT: nginx };
    const ran = await output("bash", ["-euxo", "pipefail", "-c", texts("sh").join("\n")], cwd, environment);
    check("the commands of the guide", ran.code === 0, ran);
    equal("the split sends the rest to the chat servers", stub.requests.slice(before), ["GET /acme/chat/users/alice"]);
}

// --- Everything ---

async function main() {
    media();
    let server;
    let rest;
    const stub = await startStub({
        // The Easemob API: the backend asks chatfiles. The Lanying API: chatfiles asks the backend.
        tokenFor: (org, app, user) => (org ? inherit(server.url, org, app, user) : stub.opaqueToken(user)),
        dnsFor: () => {
            const here = { protocol: "http", host: new URL(rest).host };
            return {
                version: 1,
                dns_list: [{ group_level: 0, clusters: [{ ratel: [here], webim: [here], rtc: [here] }] }],
            };
        },
    });
    server = await startServer(stub);
    pages = await startPages();
    const nginx = await startNginx("nginx", server.url, stub);
    const haproxy = await startHaproxy(server.url, stub);
    const tokens = await startNginx("nginx-tokens", server.url, stub, true);
    browser = await chromium.launch({
        executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
        args: ["--no-sandbox", "--disable-gpu"],
    });

    const password = async (user) => ({ user, pwd: `password of ${user}` });
    const dynamic = async (user) => ({ user, accessToken: dynamicToken("acme", "chat", user) });
    for (const [name, split] of [
        ["nginx", nginx],
        ["haproxy", haproxy],
    ]) {
        rest = split;
        const before = { log: server.log().length, requests: stub.requests.length };
        for (const [package_, login] of [
            ["easemob-websdk", password],
            ["agora-chat", dynamic],
        ]) {
            const logins = stub.logins.length;
            // Both SDKs upload large files in the same way.
            await sdk(package_, split, login, package_ === "agora-chat");
            equal(
                `${package_} logs in at the chat servers`,
                stub.logins.slice(logins).map(({ user }) => user),
                ["alice", "bob"],
            );
            console.log(`ok: ${package_} through ${name}`);
        }
        await transparent(name, split, server);
        await lanying(split, stub);
        console.log(`ok: Lanying through ${name}`);
        const { here, there } = routed(name, server, stub, before);
        for (const path of [
            "POST /acme/chat/token",
            "WEBSOCKET /websocket",
            "POST /token/user",
            "POST /introspect",
            "GET /",
        ]) {
            check(`${name}: ${path} at the chat servers`, there.includes(path), there);
        }
        for (const path of [
            "POST /acme/chat/chatfiles",
            "POST /acme/chat/sdk/chatfiles/part-upload",
            "POST /file/oss/acme",
            "GET /file/upload/avatar/user",
        ]) {
            check(`${name}: ${path} at chatfiles`, here.includes(path), here);
        }
    }

    // With /token at chatfiles too: an account of the configuration.
    const before = stub.requests.length;
    const page = await openPage("easemob-websdk");
    await run(page, "login", {
        appKey: "acme#chat",
        apiUrl: tokens,
        url: `ws://127.0.0.1:${stub.port}/websocket`,
        user: "alice",
        pwd: ACCOUNT,
    });
    equal(
        "no login at the chat servers",
        stub.requests.slice(before).filter((path) => path.endsWith("/token")),
        [],
    );
    check(
        "the WebSocket has a token of chatfiles",
        stub.logins.at(-1).token.split(".").length === 3,
        stub.logins.at(-1).user,
    );
    const sent = await run(page, "sendFile", { type: "img", to: "nobody", name: "photo.jpg", mime: "image/jpeg" });
    check("the token opens an upload", sent.id && sent.uploaded, sent);
    const old = await fetch(`${tokens}/acme/chat/chatfiles/${stub.oldFile}`);
    equal("a file from before chatfiles", [old.status, await old.text()], [200, "a file of the chat servers"]);
    const missing = await fetch(`${tokens}/acme/chat/chatfiles/01a22ce6-0000-7000-8000-000000000000`);
    equal("a file that neither has", missing.status, 404);
    await page.close();
    console.log("ok: login at chatfiles, and old files");

    await elements(server);
    console.log("ok: elements in each mode of download_auth");

    await documents(server, nginx, stub);
    console.log("ok: commands of docs/integrate.md");

    // Each spends most of its time waiting.
    await Promise.all(
        programs().map(async (one) => {
            await example(one, server, nginx);
            console.log(`ok: examples/${one.name}`);
        }),
    );
}

async function stop() {
    await browser?.close();
    for (const child of children) child.kill("SIGKILL");
    fs.rmSync(directory, { recursive: true, force: true });
}

process.on("SIGTERM", () => stop().finally(() => process.exit(1)));

let failure = null;
try {
    await main();
} catch (error) {
    failure = error;
    console.error(error);
    for (const name of fs.readdirSync(directory).filter((name) => name.endsWith(".log"))) {
        console.error(`--- end of ${name}\n${fs.readFileSync(inside(name), "utf8").slice(-2000)}`);
    }
}
await stop();
console.log(`${Math.round((Date.now() - began) / 1000)} s`);
console.log(`${passed} passed, ${failure ? 1 : 0} failed`);
process.exit(failure ? 1 : 0);
