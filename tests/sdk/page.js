//! The application in the browser: what a chat page does with the vendors' web SDKs, and a client of the Lanying API.
//! `run.mjs` calls these functions through playwright; each returns data, and run.mjs checks it.

"use strict";

async function sha256(blob) {
    const digest = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
    return [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/// A file of the page's own server, as a user would choose it.
async function chosen(name, type) {
    const response = await fetch(`/data/${name}`);
    return new File([await response.blob()], name, { type });
}

/// Size of the picture that an `<img>` shows at this address; null if it shows none.
function shown(url) {
    return new Promise((resolve) => {
        const image = new Image();
        image.onload = () => resolve([image.naturalWidth, image.naturalHeight]);
        image.onerror = () => resolve(null);
        image.src = url;
    });
}

/// Duration of what an `<audio>` or `<video>` plays; null if it refuses.
function playable(element, url) {
    return new Promise((resolve) => {
        const media = document.createElement(element);
        media.onloadedmetadata = () => resolve(media.duration);
        media.onerror = () => resolve(null);
        media.src = url;
    });
}

// --- Easemob and Agora: window.WebIM is the SDK ---

let connection;
// What arrived: type of the message → the first message.
const received = {};
const waiting = {};

/// Logs in at the chat servers, with a password or with a token of the application's own backend.
async function login({ appKey, apiUrl, url, user, pwd, accessToken }) {
    connection = new WebIM.connection({ appKey, apiUrl, url, isHttpDNS: false });
    const arrive = (message) => {
        received[message.type] = message;
        waiting[message.type]?.(message);
    };
    connection.addEventHandler("test", {
        onImageMessage: arrive,
        onVideoMessage: arrive,
        onAudioMessage: arrive,
        onFileMessage: arrive,
        onCombineMessage: arrive,
    });
    await connection.open(accessToken ? { user, accessToken } : { user, pwd });
}

function describe(error) {
    return { type: error?.type, message: error?.message, data: error?.data };
}

/// Sends a file message with the SDK: it uploads the file, then sends the message over the WebSocket.
async function sendFile({ type, to, name, mime, size }) {
    const data = size
        ? new File([new Uint8Array(size).map((_, index) => (index * 7919) >> 5)], name, { type: mime })
        : await chosen(name, mime);
    const progress = [];
    let uploaded = null;
    const message = WebIM.message.create({
        type,
        chatType: "singleChat",
        to,
        file: { data, filename: name, filetype: mime, url: "" },
        filename: name,
        onFileUploadProgress: (event) => progress.push(event.loaded),
        onFileUploadComplete: (answer) => (uploaded = answer),
        onFileUploadError: () => {},
    });
    try {
        const sent = await connection.send(message);
        return { id: sent.serverMsgId, uploaded, progress, sha256: await sha256(data) };
    } catch (error) {
        return { error: describe(error), progress };
    }
}

/// The next message of this type that arrives, or the one that has arrived.
async function incoming(type) {
    const message = received[type] ?? (await new Promise((resolve) => (waiting[type] = resolve)));
    delete received[type];
    const { url, thumb, secret, thumb_secret, from } = message;
    return { url, thumb, secret, thumb_secret, from };
}

/// Downloads with the SDK.
function sdkDownload({ url, secret, headers }) {
    return new Promise((resolve) => {
        WebIM.utils.download.call(connection, {
            url,
            secret,
            headers,
            onFileDownloadComplete: async (blob) =>
                resolve({ type: blob.type, size: blob.size, sha256: await sha256(blob) }),
            onFileDownloadError: (error) => resolve({ error: error.type }),
        });
    });
}

/// Sends a combined message: the SDK uploads the messages as a file of its own format.
async function sendCombined(to) {
    const text = WebIM.message.create({ type: "txt", chatType: "singleChat", to, msg: "inside a combined message" });
    text.from = connection.user;
    text.time = Date.now();
    const message = WebIM.message.create({
        type: "combine",
        chatType: "singleChat",
        to,
        compatibleText: "combined",
        title: "combined",
        summary: "one message",
        messageList: [text],
    });
    await connection.send(message);
}

async function readCombined({ url, secret }) {
    const messages = await connection.downloadAndParseCombineMessage({ url, secret });
    return messages.map((message) => message.msg);
}

const statusCodes = () => WebIM.statusCode;

// --- Without an SDK: what <img>, <audio> and <video> need (docs/integrate.md) ---

/// Uploads as a page without an SDK does.
async function upload({ base, token, name, mime, restrict }) {
    const form = new FormData();
    form.append("file", await chosen(name, mime));
    const headers = { Authorization: `Bearer ${token}`, ...(restrict ? { "restrict-access": "true" } : {}) };
    const answer = await fetch(`${base}/chatfiles`, { method: "POST", headers, body: form });
    const { entities } = await answer.json();
    const secret = entities[0]["share-secret"];
    return { url: `${base}/chatfiles/${entities[0].uuid}`, secret };
}

/// What a page learns about a file that is too large.
async function uploadTooLarge({ base, token, size }) {
    const form = new FormData();
    form.append("file", new File([new Uint8Array(size)], "large.bin"));
    const headers = { Authorization: `Bearer ${token}` };
    const answer = await fetch(`${base}/chatfiles`, { method: "POST", headers, body: form });
    return { status: answer.status, error: (await answer.json()).error };
}

/// The picture through fetch and a blob: URL, for `download_auth = "token"`.
async function shownThroughBlob({ url, token, secret }) {
    const headers = { Authorization: `Bearer ${token}`, ...(secret ? { "share-secret": secret } : {}) };
    const answer = await fetch(url, { headers });
    const address = URL.createObjectURL(await answer.blob());
    const size = await shown(address);
    URL.revokeObjectURL(address);
    return size;
}

/// The signed URL to which a download is redirected, without its body, for `download_auth = "signed"`.
async function signedUrl({ url, token, secret }) {
    const headers = { Authorization: `Bearer ${token}`, ...(secret ? { "share-secret": secret } : {}) };
    const answer = await fetch(url, { method: "HEAD", headers });
    return { status: answer.status, url: answer.url, length: answer.headers.get("content-length") };
}

// --- Lanying. Its web SDK is in no package registry, so this follows its published source and its document ---

class Lanying {
    /// `dnsServer` answers with the servers of the application; `ratel` is the REST server.
    static async start({ dnsServer, appId }) {
        const { data } = await (await fetch(`${dnsServer}?app_id=${appId}&source=sdk`)).json();
        const ratel = data.dns_list.find(({ group_level }) => group_level === 0).clusters[0].ratel[0];
        const client = new Lanying();
        client.appId = appId;
        client.rest = `${ratel.protocol}://${ratel.host}`;
        // The SDK measures the speed of each server before it uses it.
        await fetch(`${client.rest}/`);
        return client;
    }

    async call(method, path, parameters = {}) {
        const headers = { app_id: this.appId, ...(this.token ? { "access-token": this.token } : {}) };
        const query = method === "GET" ? `?${new URLSearchParams(parameters)}` : "";
        const body = method === "GET" ? undefined : JSON.stringify(parameters);
        if (body) headers["Content-Type"] = "application/json";
        const { code, message, data } = await (await fetch(this.rest + path + query, { method, headers, body })).json();
        if (code !== 200) throw new Error(`${path}: ${code} ${message}`);
        return data;
    }

    async login(name, password) {
        ({ token: this.token } = await this.call("POST", "/token/user", { name, password }));
    }

    /// Uploads with a ticket, as to OSS, and returns the address for the message.
    async upload(path, parameters, file, onProgress) {
        const ticket = await this.call("GET", path, parameters);
        const form = new FormData();
        for (const name of ["OSSAccessKeyId", "policy", "signature", "callback", "key"]) {
            form.append(name, ticket.oss_body_param[name]);
        }
        form.append("file", file);
        await new Promise((resolve, reject) => {
            const request = new XMLHttpRequest();
            request.upload.onprogress = (event) => onProgress?.(event.loaded);
            request.onerror = () => reject(new Error("the upload failed"));
            request.onload = () => {
                const accepted = request.status === 200 && JSON.parse(request.responseText).Status === "OK";
                accepted ? resolve() : reject(new Error(`${request.status}: ${request.responseText}`));
            };
            request.open("POST", ticket.upload_url);
            // The SDK sends its headers here too.
            request.setRequestHeader("app_id", this.appId);
            request.setRequestHeader("access-token", this.token);
            request.send(form);
        });
        return ticket.download_url;
    }

    /// The address for an element, which cannot send headers.
    element(url, parameters = {}) {
        const query = new URLSearchParams({ ...parameters, "access-token": this.token, app_id: this.appId });
        return `${url}${url.includes("?") ? "&" : "?"}${query}`;
    }
}

/// What an `<img>` shows of a picture that a user of the application sends.
async function lanyingPicture({ rest, appId, token }) {
    const client = Object.assign(new Lanying(), { rest, appId, token });
    const photo = await chosen("photo.jpg", "image/jpeg");
    const to = { file_type: 102, to_type: 1, to_id: "bob" };
    return shown(client.element(await client.upload("/file/upload/chat", to, photo)));
}

async function lanying({ dnsServer, appId, password }) {
    const alice = await Lanying.start({ dnsServer, appId });
    await alice.login("alice", password.alice);
    const bob = await Lanying.start({ dnsServer, appId });
    await bob.login("bob", password.bob);

    const photo = await chosen("photo.jpg", "image/jpeg");
    const progress = [];
    const to = { to_type: 1, to_id: "bob" };
    const chat = (file_type, file) =>
        alice.upload("/file/upload/chat", { file_type, ...to }, file, (at) => progress.push(at));
    const image = await chat(102, photo);
    const video = await chat(103, await chosen("video.mp4", "video/mp4"));
    const voice = await chat(101, await chosen("voice.amr", "audio/amr"));
    const avatar = await alice.upload("/file/upload/avatar/user", {}, photo);
    const forwarded = await bob.call("GET", "/file/upload/forward", {
        file_sign: image.split("sign=")[1],
        to_id: "carol",
    });

    const original = await (await fetch(bob.element(image))).blob();
    return {
        rest: bob.rest,
        image,
        forwarded,
        progress,
        sent: await sha256(photo),
        downloaded: await sha256(original),
        original: await shown(bob.element(image)),
        thumbnail: await shown(bob.element(image, { image_type: 2 })),
        cover: await shown(bob.element(video, { image_type: 3 })),
        video: await playable("video", bob.element(video)),
        voice: await playable("audio", bob.element(voice, { format: "mp3" })),
        amr: await playable("audio", bob.element(voice)),
        avatar: await shown(bob.element(avatar, { image_type: 2 })),
        withoutToken: await shown(image),
    };
}
