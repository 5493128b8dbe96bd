// Sends a picture through chatfiles and opens it again, with the Easemob API or the Lanying API. Node 18 or later, no
// packages. examples/README.md lists the settings.
//
//     node examples/node/chatfiles.mjs easemob client-credentials photo.jpg
//     node examples/node/chatfiles.mjs lanying jwt photo.jpg

import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import https from "node:https";
import path from "node:path";
import { pipeline } from "node:stream/promises";

const setting = (name, fallback) => process.env[name] ?? fallback;
const URL_ = setting("FILES_URL", "http://127.0.0.1:8080");
const TENANT = setting("FILES_TENANT", "easemob-demo/chatdemoui");
const APP_ID = setting("FILES_APP_ID", "welovemaxim");
const CLIENT_ID = setting("FILES_CLIENT_ID", TENANT.replace("/", "."));
const USER = setting("FILES_USER", "alice");
const TRIES_MAX = 5;
const WAIT_SECONDS_MAX = 30;

class Failure extends Error {}

// --- Tokens: one of these three. A client never has the secrets: this is the part of your backend. ---

const tokens = {
    // chatfiles issues the token: first one of the application, then one of the user. Keep the former for its lifetime.
    async "client-credentials"() {
        const grant = async (body, headers = {}) => {
            const url = `${URL_}/${TENANT}/token`;
            const answer = await waiting({ method: "POST", url, headers, json: body });
            if (answer.status !== 200) throw new Failure(`no token: ${answer.status} ${answer.text}`);
            return JSON.parse(answer.text).access_token;
        };
        const client_secret = required("FILES_CLIENT_SECRET");
        const app = await grant({ grant_type: "client_credentials", client_id: CLIENT_ID, client_secret });
        const user = { grant_type: "inherit", username: USER, ttl: 3600 };
        return grant(user, { Authorization: `Bearer ${app}` });
    },

    // Easemob's dynamic token: no request. dynamic_token_ttl_seconds of the tenant must contain this ttl.
    dynamic() {
        const secret = required("FILES_CLIENT_SECRET");
        const appkey = TENANT.replace("/", "#");
        const curTime = Math.floor(Date.now() / 1000);
        const ttl = 600;
        const signed = CLIENT_ID + appkey + USER + curTime + ttl + secret;
        const signature = crypto.createHash("sha256").update(signed).digest("hex");
        const token = `dt-${JSON.stringify({ signature, appkey, userId: USER, curTime, ttl })}`;
        return Buffer.from(token).toString("base64url");
    },

    // A JWT of your own backend: no request. [tenant.auth.jwt] of the tenant has the same key, issuer and audience.
    jwt() {
        const now = Math.floor(Date.now() / 1000);
        const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
        const claims = {
            iss: setting("FILES_JWT_ISSUER", "https://chat.example.com"),
            aud: setting("FILES_JWT_AUDIENCE", "chatfiles"),
            sub: USER,
            app: TENANT,
            iat: now,
            exp: now + 600,
        };
        const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
        const key = Buffer.from(required("FILES_JWT_SECRET"));
        return `${signed}.${crypto.createHmac("sha256", key).update(signed).digest("base64url")}`;
    },
};

function required(name) {
    return setting(name) ?? fail(`set ${name}`);
}

function fail(message) {
    throw new Failure(message);
}

// --- One HTTP request ---

// Sends a request once. `form` is { fields, file, onProgress }: the file is streamed with a Content-Length. If the
// response is a file, it is written to `saveTo`; other bodies become `text`. Redirects (download_auth = "signed") are
// followed without the credentials.
async function exchange({ method = "GET", url, headers = {}, json, form, saveTo }) {
    const boundary = `chatfiles-${crypto.randomUUID()}`;
    let body = json === undefined ? Buffer.alloc(0) : Buffer.from(JSON.stringify(json));
    let length = body.length;
    const all = { ...headers };
    if (json !== undefined) all["Content-Type"] = "application/json";
    if (form) {
        body = Buffer.from(formHead(boundary, form));
        length = body.length + fs.statSync(form.file).size + formEnd(boundary).length;
        all["Content-Type"] = `multipart/form-data; boundary=${boundary}`;
    }
    if (length > 0) all["Content-Length"] = length;

    const request = (url.startsWith("https:") ? https : http).request(url, { method, headers: all });
    const response = new Promise((resolve, reject) => {
        request.on("response", resolve);
        request.on("error", reject);
    });
    response.catch(() => {}); // awaited below
    request.setTimeout(60_000, () => request.destroy(new Error("no progress for 60 s")));
    request.write(body);
    if (form) await sendFile(request, response, form, formEnd(boundary));
    request.end();

    const { statusCode: status, headers: received } = await response;
    const stream = await response;
    if (status === 302) {
        stream.resume();
        return exchange({ url: received.location, saveTo });
    }
    if (saveTo && status === 200 && !received["content-type"]?.startsWith("application/json")) {
        await pipeline(stream, fs.createWriteStream(saveTo));
        return { status, headers: received, saved: fs.statSync(saveTo).size };
    }
    const pieces = [];
    for await (const piece of stream) pieces.push(piece);
    return { status, headers: received, text: Buffer.concat(pieces).toString() };
}

const formEnd = (boundary) => `\r\n--${boundary}--\r\n`;

function formHead(boundary, { fields = {}, file }) {
    const part = (name, value) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
    const name = path.basename(file).replace(/["\r\n]/g, "_");
    return (
        Object.entries(fields)
            .map(([field, value]) => part(field, value))
            .join("") +
        `--${boundary}\r\nContent-Disposition: form-data; name="file"; filename="${name}"\r\n` +
        `Content-Type: ${TYPES[path.extname(file).toLowerCase()] ?? "application/octet-stream"}\r\n\r\n`
    );
}

const TYPES = {
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".mp4": "video/mp4",
    ".amr": "audio/amr",
    ".mp3": "audio/mpeg",
};

// Streams the file. Stops early if the server has answered already, for example with 413.
async function sendFile(request, response, { file, onProgress }, end) {
    let answered = false;
    response.then(
        () => (answered = true),
        () => (answered = true),
    );
    let sent = 0;
    for await (const piece of fs.createReadStream(file)) {
        if (answered) return;
        if (!request.write(piece)) {
            await Promise.race([new Promise((resolve) => request.once("drain", resolve)), response.catch(() => {})]);
        }
        onProgress?.((sent += piece.length));
    }
    request.write(end);
}

// --- Errors that a client should handle ---

// Repeats a request that was refused for now: 429 and 503 say in Retry-After when to come back. Nothing was stored.
async function waiting(request) {
    for (let attempt = 1; ; attempt += 1) {
        const answer = await exchange(request);
        if (answer.status !== 429 && answer.status !== 503) return answer;
        const seconds = Number(answer.headers["retry-after"] ?? 1);
        // A daily quota ends at midnight: tell the user instead of waiting.
        if (attempt === TRIES_MAX || !(seconds <= WAIT_SECONDS_MAX)) {
            fail(`refused for ${seconds} s: ${answer.status} ${answer.text}`);
        }
        console.error(`${answer.status}: trying again in ${seconds} s`);
        await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    }
}

// Requests with a token. A refused token is replaced once; a second refusal is an error.
class Session {
    constructor(mint) {
        this.mint = mint;
    }

    // `authenticated(token)` makes the request; `isExpired(answer)` says whether the token was refused.
    async call(authenticated, isExpired) {
        this.token ??= await this.mint();
        let answer = await waiting(authenticated(this.token));
        if (isExpired(answer)) {
            console.error("the token was refused: obtaining a new one");
            this.token = await this.mint();
            answer = await waiting(authenticated(this.token));
        }
        if (answer.status === 413) fail(`the file is too large: ${answer.text}`);
        return answer;
    }
}

// Prints each tenth of the file.
function progress(file) {
    const size = fs.statSync(file).size;
    let printed = 0;
    return (sent) => {
        const percent = Math.floor((sent / size) * 10) * 10;
        if (percent > printed) console.error(`sent ${(printed = percent)} %`);
    };
}

// --- The Easemob API ---

async function easemob(mint, file) {
    const session = new Session(mint);
    const call = async (request) => {
        const authenticated = (token) => ({
            ...request,
            headers: { ...request.headers, Authorization: `Bearer ${token}` },
        });
        const answer = await session.call(authenticated, ({ status }) => status === 401);
        return answer.status === 200 ? answer : fail(`${answer.status} ${answer.text}`);
    };
    const base = `${URL_}/${TENANT}/chatfiles`;
    const form = { file, onProgress: progress(file) };
    // With restrict-access, a download needs the share-secret: put it into the message, with the URL.
    const uploaded = await call({ method: "POST", url: base, headers: { "restrict-access": "true" }, form });
    const { uuid, "share-secret": secret } = JSON.parse(uploaded.text).entities[0];
    const [url, headers] = [`${base}/${uuid}`, { "share-secret": secret }];
    console.log(`uploaded: ${url}`);
    await report("downloaded", call({ url, headers, saveTo: outputs(file).copy }), file);
    await report(
        "thumbnail",
        call({ url, headers: { ...headers, thumbnail: "true" }, saveTo: outputs(file).thumbnail }),
    );
}

// --- The Lanying API ---

async function lanying(mint, file) {
    const session = new Session(mint);
    // Errors have status 200 and a code; 402 and 10008 are tokens that are no longer valid.
    const code = ({ text }) => (text?.startsWith("{") ? JSON.parse(text).code : undefined);
    const call = async (url, saveTo) => {
        const authenticated = (token) => ({ url, saveTo, headers: { "access-token": token, app_id: APP_ID } });
        const answer = await session.call(authenticated, (answer) => [402, 10008].includes(code(answer)));
        if (answer.saved) return answer;
        return code(answer) === 200 ? JSON.parse(answer.text).data : fail(`${answer.status} ${answer.text}`);
    };
    // 102: a picture in a chat. to_type 1: a user.
    const ticket = await call(`${URL_}/file/upload/chat?file_type=102&to_type=1&to_id=bob`);
    const form = { fields: ticket.oss_body_param, file, onProgress: progress(file) };
    // The upload has no token: the ticket is its permission. Its errors are XML, as those of OSS.
    const uploaded = await waiting({ method: "POST", url: ticket.upload_url, form });
    if (uploaded.text.includes("EntityTooLarge")) fail(`the file is too large: ${uploaded.text}`);
    if (uploaded.status !== 200) fail(`${uploaded.status} ${uploaded.text}`);
    // The message to bob has this URL. He needs a token of his own to open it.
    const url = ticket.download_url;
    console.log(`uploaded: ${url}`);
    await report("downloaded", call(url, outputs(file).copy), file);
    await report("thumbnail", call(`${url}&image_type=2`, outputs(file).thumbnail));
}

const outputs = (file) => ({
    copy: `copy-of-${path.basename(file)}`,
    thumbnail: `thumbnail-of-${path.basename(file)}`,
});

// Prints what was saved; compares it with the original, if there is one.
async function report(what, answer, original) {
    const { saved } = await answer;
    if (original && !fs.readFileSync(original).equals(fs.readFileSync(outputs(original).copy)))
        fail("the copy differs");
    console.log(`${what}: ${saved} bytes`);
}

const [api, kind, file] = process.argv.slice(2);
try {
    const use = { easemob, lanying }[api];
    if (!use || !tokens[kind] || !file)
        fail("usage: chatfiles.mjs easemob|lanying client-credentials|dynamic|jwt FILE");
    await use(async () => tokens[kind](), file);
} catch (error) {
    console.error(`error: ${error instanceof Failure ? error.message : error.stack}`);
    process.exit(1);
}
