//! A stub of the vendors' chat servers: login, the other REST calls of the SDKs, and enough of Easemob's WebSocket
//! protocol (MSYNC) that a web SDK logs in, sends a message, and another one receives it. It stores nothing. It has one
//! file, as if it had been uploaded before chatfiles was installed; `requests` shows who asks for files here. It is
//! also the introspection server for its opaque tokens.
//!
//!     node tests/sdk/stub-chat.mjs [PORT]

import crypto from "node:crypto";
import http from "node:http";
import { pathToFileURL } from "node:url";

/// Authenticates chatfiles when it asks about a token.
export const INTROSPECTION_SECRET = "qR7sVn2wXb9KfYtLcJ4hZgMd8pUe3Ta6";
const OLD_FILE = "0aa22ce6-a9ce-11ef-af57-963d88c2625c";
const PASSWORDS = { alice: "password of alice", bob: "password of bob" };

/// Starts the stub. `tokenFor(org, app, user)` returns the token that a login answers with: how a chat backend obtains
/// tokens is the caller's choice. `dnsFor(appId)` is the document that the Lanying SDKs fetch from their `dnsServer`.
export async function startStub({ tokenFor, dnsFor = () => ({ dns_list: [] }), port = 0 }) {
    // The method and path of each request, and the token of each WebSocket login.
    const requests = [];
    const logins = [];
    const sockets = new Map(); // user → send(bytes)
    const opaque = new Map(); // token → user

    const server = http.createServer((request, response) => {
        const body = [];
        request.on("data", (piece) => body.push(piece));
        request.on("end", async () => {
            const url = new URL(request.url, "http://stub");
            const answer = (status, json) => {
                response.writeHead(status, {
                    "Content-Type": "application/json",
                    "Access-Control-Allow-Origin": "*",
                    "Access-Control-Allow-Headers": "authorization, content-type, app_id, access-token",
                    "Access-Control-Allow-Methods": "GET, POST, PUT, DELETE",
                });
                response.end(typeof json === "string" ? json : JSON.stringify(json));
            };
            if (request.method === "OPTIONS") return answer(200, {});
            requests.push(`${request.method} ${url.pathname}`);
            try {
                await route(request, url, Buffer.concat(body).toString(), answer);
            } catch (error) {
                answer(500, { error: "stub", error_description: String(error) });
            }
        });
    });

    async function route(request, url, body, answer) {
        const easemob = url.pathname.match(/^\/([^/]+)\/([^/]+)\/(.+)$/);
        if (request.method === "POST" && easemob?.[3] === "token") {
            const { username, password } = JSON.parse(body);
            if (!PASSWORDS[username] || PASSWORDS[username] !== password) {
                return answer(400, { error: "invalid_grant", error_description: "invalid password" });
            }
            const access_token = await tokenFor(easemob[1], easemob[2], username);
            return answer(200, { access_token, expires_in: 600, user: { type: "user", username, activated: true } });
        }
        // Lanying: servers of an application, and login.
        if (url.pathname === "/v2/app_dns") {
            return answer(200, { code: 200, message: "", data: dnsFor(url.searchParams.get("app_id")) });
        }
        if (request.method === "POST" && url.pathname === "/token/user") {
            const { name, password } = JSON.parse(body);
            if (!PASSWORDS[name] || PASSWORDS[name] !== password) return answer(200, { code: 10004, message: "wrong" });
            return answer(200, { code: 200, data: { user_id: name, token: await tokenFor(null, null, name) } });
        }
        // The speed test of the Lanying web SDK.
        if (url.pathname === "/") return answer(200, { code: 200 });
        if (easemob?.[3] === `chatfiles/${OLD_FILE}`) return answer(200, "a file of the chat servers");
        // Token introspection (RFC 7662): which user a token of this backend stands for.
        if (request.method === "POST" && url.pathname === "/introspect") {
            if (request.headers.authorization !== `Basic ${btoa(`chatfiles:${INTROSPECTION_SECRET}`)}`)
                return answer(401, {});
            const user = opaque.get(new URLSearchParams(body).get("token"));
            return answer(
                200,
                user ? { active: true, sub: user, exp: Math.floor(Date.now() / 1000) + 600 } : { active: false },
            );
        }
        if (/\/chatfiles\/[^/]+$/.test(url.pathname)) return answer(404, { error: "entity_not_found" });
        if (/chatfiles|^\/file\//.test(url.pathname))
            return answer(500, { error: "a file request at the chat servers" });
        // Everything else that an SDK asks: an empty success.
        answer(200, { status: "ok", data: {}, entities: [], count: 0 });
    }

    server.on("upgrade", (request, socket, head) => {
        socket.unshift(head);
        requests.push(`WEBSOCKET ${new URL(request.url, "http://stub").pathname}`);
        const key = request.headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
        socket.write(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
                `Sec-WebSocket-Accept: ${crypto.createHash("sha1").update(key).digest("base64")}\r\n\r\n`,
        );
        const send = (payload) => socket.write(frame(2, payload));
        let user = null;
        const close = () => {
            if (sockets.get(user) === send) sockets.delete(user);
            socket.destroy();
        };
        readFrames(socket, (opcode, payload) => {
            if (opcode === 8) return close();
            if (opcode === 9) return socket.write(frame(10, payload));
            if (opcode === 2) user = msync(payload, send, user) ?? user;
        });
        socket.on("error", close);
        socket.on("close", close);
    });

    /// Answers one message of the protocol. Returns the user of a login.
    function msync(payload, send, user) {
        const message = decode(payload);
        const command = Number(message.get(8)?.[0] ?? 0n);
        const answer = (fields) => send(encode([8, BigInt(command)], [9, encode(...fields)]));
        const now = BigInt(Date.now());
        if (command === PROVISION) {
            const name = decode(message.get(2)[0]).get(2)[0].toString();
            logins.push({
                user: name,
                token: message
                    .get(3)[0]
                    .toString()
                    .replace(/^\$t\$/, ""),
            });
            sockets.set(name, send);
            answer([
                [8, OK],
                [13, Buffer.from("webim_stub")],
            ]);
            return name;
        }
        if (command === UNREAD)
            answer([
                [1, OK],
                [3, now],
            ]);
        if (command === SYNC) {
            const sync = decode(message.get(9)[0]);
            const meta = sync.get(1) && decode(sync.get(1)[0]);
            // A request for waiting messages: there are none.
            if (!meta)
                return answer([
                    [1, OK],
                    [6, sync.get(3)?.[0] ?? OK],
                    [7, 1n],
                    [8, now],
                ]);
            if (meta.get(5)?.[0] !== CHAT) return undefined;
            const id = crypto.randomBytes(6).readUIntBE(0, 6);
            const [from, to] = [encode([2, Buffer.from(user)]), meta.get(3)[0]];
            answer([
                [1, OK],
                [2, meta.get(1)[0]],
                [3, BigInt(id)],
                [8, now],
            ]);
            const copy = encode([1, BigInt(id)], [2, from], [3, to], [4, now], [5, CHAT], [6, meta.get(6)[0]]);
            sockets.get(decode(to).get(2)[0].toString())?.(
                encode([8, BigInt(SYNC)], [9, encode([1, OK], [4, copy], [6, from], [7, 1n], [8, now])]),
            );
        }
        return undefined;
    }

    await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
    /// A token that only this backend understands.
    const opaqueToken = (user) => {
        const token = crypto.randomBytes(24).toString("base64url");
        opaque.set(token, user);
        return token;
    };
    return {
        port: server.address().port,
        requests,
        logins,
        opaqueToken,
        oldFile: OLD_FILE,
        close: () => server.close(),
    };
}

// MSYNC commands, the name space of chat messages, and a status without an error.
const [SYNC, UNREAD, PROVISION] = [0, 1, 3];
const CHAT = 1n;
const OK = Buffer.alloc(0);

// Protocol Buffers, as far as the messages above need them.

/// Field number → values in order: BigInt for numbers, Buffer for everything else.
function decode(bytes) {
    const fields = new Map();
    let at = 0;
    const varint = () => {
        let value = 0n;
        for (let shift = 0n; ; shift += 7n) {
            const byte = bytes[at++];
            value |= BigInt(byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
    };
    while (at < bytes.length) {
        const tag = Number(varint());
        const value = tag & 7 ? bytes.subarray(0, 0) : varint();
        let read = value;
        if ((tag & 7) === 2) {
            const length = Number(varint());
            read = bytes.subarray(at, (at += length));
        } else if ((tag & 7) !== 0) {
            throw new Error(`wire type ${tag & 7}`);
        }
        fields.set(tag >> 3, [...(fields.get(tag >> 3) ?? []), read]);
    }
    return fields;
}

function encode(...fields) {
    const varint = (value) => {
        const bytes = [];
        for (; value > 0x7fn; value >>= 7n) bytes.push(Number(value & 0x7fn) | 0x80);
        return Buffer.from([...bytes, Number(value)]);
    };
    return Buffer.concat(
        fields.flatMap(([number, value]) =>
            typeof value === "bigint"
                ? [varint(BigInt(number << 3)), varint(value)]
                : [varint(BigInt((number << 3) | 2)), varint(BigInt(value.length)), value],
        ),
    );
}

// WebSocket frames (RFC 6455 §5.2).

function frame(opcode, payload) {
    const length = payload.length;
    const head =
        length < 126
            ? Buffer.from([0x80 | opcode, length])
            : length < 65536
              ? Buffer.from([0x80 | opcode, 126, length >> 8, length & 255])
              : Buffer.concat([Buffer.from([0x80 | opcode, 127]), bigEndian(length)]);
    return Buffer.concat([head, payload]);
}

function bigEndian(length) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(length));
    return bytes;
}

/// Calls `onFrame` for each frame of a client. The SDKs send none in fragments.
function readFrames(socket, onFrame) {
    let waiting = Buffer.alloc(0);
    socket.on("data", (piece) => {
        waiting = Buffer.concat([waiting, piece]);
        for (;;) {
            if (waiting.length < 2) return;
            let [length, at] = [waiting[1] & 0x7f, 2];
            if (length === 126) [length, at] = [waiting.length < 4 ? Infinity : waiting.readUInt16BE(2), 4];
            else if (length === 127)
                [length, at] = [waiting.length < 10 ? Infinity : Number(waiting.readBigUInt64BE(2)), 10];
            if (waiting.length < at + 4 + length) return;
            const mask = waiting.subarray(at, at + 4);
            const payload = Buffer.from(waiting.subarray(at + 4, at + 4 + length)).map(
                (byte, index) => byte ^ mask[index & 3],
            );
            const opcode = waiting[0] & 15;
            waiting = waiting.subarray(at + 4 + length);
            onFrame(opcode, payload);
        }
    });
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
    const tokenFor = async (org, app, user) => `stub token of ${user}`;
    const stub = await startStub({ tokenFor, port: Number(process.argv[2] ?? 0) });
    console.log(`the stub of the chat servers listens on http://127.0.0.1:${stub.port}`);
}
