"""Starts a server over a temporary store, requests every endpoint, and writes each exchange to a file in a directory,
in HTTPolice's "combined" format.

    python3 scripts/httpolice.py target/debug/chatfiles DIRECTORY

Fails if a response has an unexpected status, so that HTTPolice checks the intended responses.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import urllib.parse

PROGRAM, OUTPUT = sys.argv[1:]
BASE = "/easemob-demo/chatdemoui"
NEVER = "0190a5c4-5a7b-7000-8000-000000000000"
# A value that the Fetch standard added after HTTPolice 0.9, which reports it as a syntax error.
UNKNOWN = re.compile(rb"cross-origin-resource-policy: cross-origin\r\n")
ORIGIN = {"Origin": "https://chat.example.com"}


class Answer:
    def __init__(self, raw):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split(" ")[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()

    def json(self):
        return json.loads(self.body)


class Caller:
    """Sends requests over new connections and records the bytes of both directions."""

    def __init__(self, address):
        self.address = address
        self.count = 0

    def call(self, what, status, method, path, headers=None, body=b""):
        all_headers = {"Host": "%s:%d" % self.address, "User-Agent": "exchanges/1", **(headers or {})}
        all_headers = {name: value for name, value in all_headers.items() if value is not None}
        if body or method in ("POST", "PUT"):
            all_headers.setdefault("Content-Length", str(len(body)))
        lines = ["%s %s HTTP/1.1" % (method, path)]
        lines += ["%s: %s" % header for header in all_headers.items()]
        lines += ["Connection: close", "", ""]
        sent = "\r\n".join(lines).encode() + body
        with socket.create_connection(self.address, timeout=30) as connection:
            try:
                connection.sendall(sent)
            except ConnectionError:
                pass  # refused before everything was sent
            received = b""
            try:
                while piece := connection.recv(1 << 20):
                    received += piece
            except ConnectionError:
                pass
        self.count += 1
        name = "%03d %s" % (self.count, re.sub("[^a-z0-9]+", "-", what.lower()))
        with open(os.path.join(OUTPUT, name.replace(" ", "-") + ".http"), "wb") as file:
            file.write(what.encode() + b"\r\n======== BEGIN INBOUND STREAM ========\r\n" + sent)
            file.write(b"======== BEGIN OUTBOUND STREAM ========\r\n" + UNKNOWN.sub(b"", received))
        if not received:
            raise SystemExit("%s: no answer" % what)
        answer = Answer(received)
        if answer.status != status:
            raise SystemExit("%s: %d instead of %d: %r" % (what, answer.status, status, received[:600]))
        return answer


def form(fields, filename="photo.jpg", kind="image/jpeg", data=b"", name="file"):
    body = b""
    for field, value in fields.items():
        body += ('--b1\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (field, value)).encode()
    body += ('--b1\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n' % (name, filename)).encode()
    body += ("Content-Type: %s\r\n\r\n" % kind).encode() + data + b"\r\n--b1--\r\n"
    return {"Content-Type": "multipart/form-data; boundary=b1"}, body


def easemob(caller, token, secret):
    bearer = {"Authorization": "Bearer " + token}
    files = BASE + "/chatfiles"
    with open("tests/data/photo.jpg", "rb") as file:
        photo = file.read()

    def upload(what, status, more=None, data=photo, **kinds):
        headers, body = form({}, data=data, **kinds)
        return caller.call(what, status, "POST", files, {**bearer, **headers, **(more or {})}, body)

    entity = upload("upload", 200, ORIGIN).json()["entities"][0]
    secured = upload("upload, restricted", 200, {"restrict-access": "true"}).json()["entities"][0]
    text = upload("upload of a text", 200, data=b"0123456789" * 100, filename="a.txt", kind="text/plain")
    text = text.json()["entities"][0]
    upload("upload without a token", 401, {"Authorization": None})
    upload("upload with a bad token", 401, {"Authorization": "Bearer x"})
    upload("upload of nothing", 400, data=b"")
    upload("upload of another type", 415, {"Content-Type": "application/x-y"})
    upload("upload of too much", 413, data=b"x" * (1 << 20))

    photo_path, text_path = files + "/" + entity["uuid"], files + "/" + text["uuid"]
    for method in ("GET", "HEAD"):
        def get(what, status, path, more=None, method=method):
            return caller.call("%s %s" % (method, what), status, method, path, {**bearer, **(more or {})})

        whole = get("a file", 200, photo_path, ORIGIN)
        etag, modified = whole.headers["etag"], whole.headers["last-modified"]
        written = get("a text", 200, text_path).headers["last-modified"]
        thumbnail = get("a thumbnail by header", 200, photo_path, {"thumbnail": "true"})
        get("a thumbnail by query", 200, photo_path + "?thumbnail=true")
        get("a thumbnail not modified", 304, photo_path,
            {"thumbnail": "true", "If-None-Match": thumbnail.headers["etag"]})
        get("a thumbnail of a text", 404, text_path, {"thumbnail": "true"})
        # RFC 9110 section 14.2: Range applies only to GET.
        partial, unsatisfiable = (206, 416) if method == "GET" else (200, 200)
        get("a range", partial, text_path, {"Range": "bytes=5-9"})
        get("a suffix", partial, text_path, {"Range": "bytes=-5"})
        get("an open range", partial, text_path, {"Range": "bytes=990-"})
        get("several ranges", partial, text_path, {"Range": "bytes=0-9,500-509,-1"})
        get("a range if unchanged", partial, photo_path, {"Range": "bytes=0-9", "If-Range": etag})
        get("a range if unchanged, and it is not", 200, photo_path, {"Range": "bytes=0-9", "If-Range": '"x"'})
        get("no such range", unsatisfiable, text_path, {"Range": "bytes=5000-"})
        get("not modified by tag", 304, photo_path, {"If-None-Match": etag})
        # The photo's thumbnail has the same date, so the date does not identify the photo.
        get("a photo not modified since", 200, photo_path, {"If-Modified-Since": modified})
        get("a text not modified since", 304, text_path, {"If-Modified-Since": written})
        get("another one by tag", 412, photo_path, {"If-Match": '"x"'})
        get("modified since", 412, photo_path, {"If-Unmodified-Since": "Thu, 01 Jan 2015 00:00:00 GMT"})
        get("without a token", 401, photo_path, {"Authorization": None})
        get("with a bad token", 401, photo_path, {"Authorization": "Bearer x"})
        get("without the secret", 403, files + "/" + secured["uuid"])
        get("with the secret", 200, files + "/" + secured["uuid"], {"share-secret": secured["share-secret"]})
        get("what is not there", 404, files + "/" + NEVER)
        get("no route", 404, "/nothing")
        get("no such tenant", 404, "/a/b/chatfiles/" + NEVER)
        get("healthz", 200, "/healthz", {"Authorization": None})
        get("the landing page", 200, "/", {"Authorization": None, "Accept": "text/html"})
        get("the root as JSON", 404, "/", {"Authorization": None, "Accept": "application/json"})
        get("an unknown voice format", 400, photo_path + "?voice=ogg")

    caller.call("method not allowed", 405, "PUT", files, bearer)
    caller.call("method not allowed of a file", 405, "DELETE", photo_path, bearer)
    caller.call("method not allowed of healthz", 405, "POST", "/healthz")
    caller.call("no method", 404, "BREW", "/nothing")
    caller.call("two hosts", 400, "GET", "/healthz", {"host": "b"})
    caller.call("options", 204, "OPTIONS", files)
    caller.call("preflight", 204, "OPTIONS", files, {
        **ORIGIN, "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "restrict-access, authorization"})

    def token_call(what, status, body):
        headers = {"Content-Type": "application/json"}
        caller.call("token, " + what, status, "POST", BASE + "/token", headers, json.dumps(body).encode())

    credentials = {"grant_type": "client_credentials", "client_id": "easemob-demo.chatdemoui"}
    token_call("of the application", 200, {**credentials, "client_secret": secret})
    token_call("with a wrong secret", 400, {**credentials, "client_secret": "x"})
    token_call("of an unknown grant", 400, {"grant_type": "x"})
    token_call("of nobody", 404, {"grant_type": "password", "username": "x", "password": "y"})
    caller.call("token, not JSON", 400, "POST", BASE + "/token", {"Content-Type": "text/plain"}, b"{")
    caller.call("token, GET", 405, "GET", BASE + "/token")

    parts = BASE + "/sdk/chatfiles/part-upload"

    def begin():
        begun = caller.call("parts, begin", 200, "POST", parts, bearer)
        return parts + "/" + begun.json()["entities"][0]["uuid"]

    this = begin()
    caller.call("parts, begin without a token", 401, "POST", parts)
    headers, body = form({"part_number": 1}, "blob", "application/octet-stream", photo, "part_file")
    caller.call("parts, one", 200, "PUT", this, {**bearer, **headers}, body)
    caller.call("parts, list", 200, "GET", this + "/parts", bearer)
    caller.call("parts, complete", 200, "POST", this, bearer)
    caller.call("parts, complete again", 404, "POST", this.replace(this[-36:], NEVER), bearer)
    caller.call("parts, abort", 200, "DELETE", begin(), bearer)
    caller.call("parts, method not allowed", 405, "GET", this, bearer)


def lanying(caller, token):
    who = {"access-token": token, "app_id": "welovemaxim"}

    def get(what, status, path, more=None, method="GET"):
        return caller.call("lanying, %s" % what, status, method, path, {**who, **(more or {})})

    def path_of(url):
        parts = urllib.parse.urlsplit(url)
        return parts.path + ("?" + parts.query if parts.query else "")

    chat = "/file/upload/chat?file_type=102&to_id=bob"
    ticket = get("ticket", 200, chat, ORIGIN).json()["data"]
    get("ticket without a token", 200, chat, {"access-token": None})
    get("ticket with a bad token", 200, chat, {"access-token": "x"})
    get("ticket of a bad type", 200, "/file/upload/chat?file_type=99&to_id=bob")
    avatar = get("ticket of an avatar", 200, "/file/upload/avatar/user").json()["data"]
    get("ticket of a group's avatar", 200, "/file/upload/avatar/group?group_id=7")
    get("method not allowed", 405, chat, method="POST")
    get("no route", 404, "/file/nothing")

    with open("tests/data/photo.jpg", "rb") as file:
        photo = file.read()

    def post(what, status, ticket, data=photo, change=None):
        fields = {**ticket["oss_body_param"], **(change or {})}
        headers, body = form(fields, data=data)
        caller.call("lanying, form, " + what, status, "POST", path_of(ticket["upload_url"]),
                    {**ORIGIN, **headers}, body)

    post("with a bad signature", 403, ticket, change={"signature": "eA=="})
    post("too small", 400, ticket, data=b"")
    post("success", 200, ticket)
    post("again", 409, ticket)
    post("of an avatar", 200, avatar)
    upload_path = path_of(ticket["upload_url"])
    caller.call("lanying, form, GET", 405, "GET", upload_path)
    caller.call("lanying, form, no form", 400, "POST", upload_path, {"Content-Type": "text/plain"}, b"x")
    caller.call("lanying, form, preflight", 204, "OPTIONS", upload_path, {
        **ORIGIN, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "app_id,access-token"})

    download = path_of(ticket["download_url"])
    for method in ("GET", "HEAD"):
        whole = get(method + " download", 200, download, ORIGIN, method)
        get(method + " download, not modified", 304, download, {"If-None-Match": whole.headers["etag"]}, method)
        get(method + " thumbnail", 200, download + "&image_type=2", None, method)
        get(method + " avatar", 200, path_of(avatar["download_url"]), None, method)
        get(method + " download without a token", 200, download, {"access-token": None}, method)
        get(method + " download of a bad link", 200, "/file/download/chat?file_sign=x", None, method)
    get("range", 206, download, {"Range": "bytes=0-9"})
    get("several ranges", 206, download, {"Range": "bytes=0-9,20-29"})
    get("no such range", 416, download, {"Range": "bytes=99999999-"})
    get("precondition failed", 412, download, {"If-Match": '"x"'})
    sign = download.split("sign=")[1]
    get("forward", 200, "/file/upload/forward?file_sign=%s&to_id=carol" % sign)
    get("forward of a bad link", 200, "/file/upload/forward?file_sign=x&to_id=carol")


def operator(caller):
    for method in ("GET", "HEAD"):
        for path in ("/metrics", "/livez", "/readyz"):
            caller.call("operator, %s %s" % (method, path), 200, method, path)
        caller.call("operator, %s nothing" % method, 404, method, "/nothing")
    caller.call("operator, method not allowed", 405, "POST", "/metrics")
    caller.call("operator, options", 405, "OPTIONS", "/metrics")


class Server:
    def __init__(self, store, *flags):
        self.process = subprocess.Popen(
            [PROGRAM, "--store-path", store, "--listen", "127.0.0.1:0", "--operator-listen", "127.0.0.1:0",
             "--durability", "none", "--free-space-min-bytes", "0", "--upload-bytes-max", "1000000", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = [self.process.stdout.readline() for _ in range(2)]
        self.address, self.operator = (
            ("127.0.0.1", int(re.search(r"http://127\.0\.0\.1:(\d+)", line).group(1))) for line in said)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def main():
    with tempfile.TemporaryDirectory() as directory:
        store = os.path.join(directory, "store")
        with Server(store, "--calls-per-second", "0") as server:
            command = [PROGRAM, "token", "--user", "alice", "--store-path", store]
            token = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            with open(os.path.join(store, "keys/client-secret.easemob-demo.chatdemoui")) as file:
                secret = file.read().strip()
            caller = Caller(server.address)
            easemob(caller, token, secret)
            lanying(caller, token)
            caller.address = server.operator
            operator(caller)
        with Server(store, "--calls-per-second", "1", "--calls-burst", "2") as server:
            caller.address = server.address
            for path in (BASE + "/chatfiles/" + NEVER, "/file/upload/avatar/user"):
                bearer = {"Authorization": "Bearer " + token, "app_id": "welovemaxim", "access-token": token}
                for _ in range(2):
                    caller.call("before the limit", 404 if "chatfiles" in path else 200, "GET", path, bearer)
                caller.call("over the limit", 503, "GET", path, {**bearer, **ORIGIN})
    print("%d exchanges" % caller.count)


main()
