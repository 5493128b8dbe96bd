"""Sends a picture through chatfiles and opens it again, with the Easemob API or the Lanying API. Python 3.8 or later,
no packages. examples/README.md lists the settings.

    python3 examples/python/chatfiles.py easemob client-credentials photo.jpg
    python3 examples/python/chatfiles.py lanying jwt photo.jpg
"""

import base64
import filecmp
import hashlib
import hmac
import http.client
import json
import mimetypes
import os
import shutil
import sys
import time
import urllib.parse
import uuid

URL = os.environ.get("FILES_URL", "http://127.0.0.1:8080")
TENANT = os.environ.get("FILES_TENANT", "easemob-demo/chatdemoui")
APP_ID = os.environ.get("FILES_APP_ID", "welovemaxim")
CLIENT_ID = os.environ.get("FILES_CLIENT_ID", TENANT.replace("/", "."))
USER = os.environ.get("FILES_USER", "alice")
TRIES_MAX = 5
WAIT_SECONDS_MAX = 30


class Failure(Exception):
    """What the user of this program is told."""


def required(name):
    if name not in os.environ:
        raise Failure("set " + name)
    return os.environ[name]


# --- Tokens: one of these three. A client never has the secrets: this is the part of your backend. ---


def client_credentials():
    """chatfiles issues the token: one of the application, then one of the user. Keep the former for its lifetime."""

    def grant(body, headers=()):
        url = "%s/%s/token" % (URL, TENANT)
        answer = waiting("POST", url, dict(headers), body=json.dumps(body).encode())
        if answer.status != 200:
            raise Failure("no token: %d %s" % (answer.status, answer.text))
        return json.loads(answer.text)["access_token"]

    secret = required("FILES_CLIENT_SECRET")
    app = grant({"grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": secret})
    user = {"grant_type": "inherit", "username": USER, "ttl": 3600}
    return grant(user, {"Authorization": "Bearer " + app})


def dynamic():
    """Easemob's dynamic token: no request. dynamic_token_ttl_seconds of the tenant must contain this ttl."""
    secret = required("FILES_CLIENT_SECRET")
    appkey, now, ttl = TENANT.replace("/", "#"), int(time.time()), 600
    signed = "%s%s%s%d%d%s" % (CLIENT_ID, appkey, USER, now, ttl, secret)
    signature = hashlib.sha256(signed.encode()).hexdigest()
    token = {"signature": signature, "appkey": appkey, "userId": USER, "curTime": now, "ttl": ttl}
    return base64url(b"dt-" + json.dumps(token).encode())


def jwt():
    """A JWT of your own backend: no request. [tenant.auth.jwt] of the tenant has the same key, issuer and audience."""
    now = int(time.time())
    claims = {
        "iss": os.environ.get("FILES_JWT_ISSUER", "https://chat.example.com"),
        "aud": os.environ.get("FILES_JWT_AUDIENCE", "chatfiles"),
        "sub": USER,
        "app": TENANT,
        "iat": now,
        "exp": now + 600,
    }
    parts = [{"alg": "HS256", "typ": "JWT"}, claims]
    signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    key = required("FILES_JWT_SECRET").encode()
    return signed + "." + base64url(hmac.new(key, signed.encode(), "sha256").digest())


def base64url(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


TOKENS = {"client-credentials": client_credentials, "dynamic": dynamic, "jwt": jwt}


# --- One HTTP request ---


class Answer:
    def __init__(self, response, save_to):
        self.status = response.status
        self.retry_after = response.getheader("Retry-After", "1")
        self.location = response.getheader("Location")
        self.text, self.saved = "", None
        is_json = response.getheader("Content-Type", "").startswith("application/json")
        if save_to and self.status == 200 and not is_json:
            with open(save_to, "wb") as file:
                shutil.copyfileobj(response, file)
            self.saved = os.path.getsize(save_to)
        else:
            self.text = response.read().decode("utf-8", "replace")


def exchange(method, url, headers, body=None, form=None, save_to=None):
    """Sends a request once. `form` is (fields, path): the file is streamed with a Content-Length. If the response is a
    file, it is written to `save_to`. Redirects (download_auth = "signed") are followed without the credentials."""
    parts = urllib.parse.urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=60)
    headers = dict(headers)
    if body is not None:
        headers["Content-Type"] = "application/json"
    if form is not None:
        boundary = "chatfiles-" + uuid.uuid4().hex
        head, end = form_head(boundary, *form), ("\r\n--%s--\r\n" % boundary).encode()
        headers["Content-Type"] = "multipart/form-data; boundary=" + boundary
        headers["Content-Length"] = str(len(head) + os.path.getsize(form[1]) + len(end))
        body = pieces(head, form[1], end)
    try:
        target = parts.path + ("?" + parts.query if parts.query else "")
        try:
            connection.request(method, target, body, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # The server has answered before the end of the body, for example with 413.
        answer = Answer(connection.getresponse(), save_to)
    finally:
        connection.close()
    return exchange("GET", answer.location, {}, save_to=save_to) if answer.status == 302 else answer


def form_head(boundary, fields, path):
    kind = mimetypes.guess_type(path)[0] or "application/octet-stream"
    name = os.path.basename(path).replace('"', "_")
    lines = []
    for field, value in fields.items():
        lines += ["--" + boundary, 'Content-Disposition: form-data; name="%s"' % field, "", value]
    lines += ["--" + boundary, 'Content-Disposition: form-data; name="file"; filename="%s"' % name]
    lines += ["Content-Type: " + kind, "", ""]
    return "\r\n".join(lines).encode()


def pieces(head, path, end):
    """The form in pieces. Each tenth of the file is printed."""
    size, sent, printed = os.path.getsize(path), 0, 0
    yield head
    with open(path, "rb") as file:
        while True:
            piece = file.read(65536)
            if not piece:
                break
            yield piece
            sent += len(piece)
            if sent * 10 // size > printed:
                printed = sent * 10 // size
                print("sent %d0 %%" % printed, file=sys.stderr)
    yield end


# --- Errors that a client should handle ---


def waiting(method, url, headers, **options):
    """Repeats a request that was refused for now: 429 and 503 say in Retry-After when to come back. Nothing was
    stored."""
    for attempt in range(1, TRIES_MAX + 1):
        answer = exchange(method, url, headers, **options)
        if answer.status not in (429, 503):
            return answer
        seconds = int(answer.retry_after)
        # A daily quota ends at midnight: tell the user instead of waiting.
        if attempt == TRIES_MAX or seconds > WAIT_SECONDS_MAX:
            raise Failure("refused for %d s: %d %s" % (seconds, answer.status, answer.text))
        print("%d: trying again in %d s" % (answer.status, seconds), file=sys.stderr)
        time.sleep(seconds)


class Session:
    """Requests with a token. A refused token is replaced once; a second refusal is an error."""

    def __init__(self, mint):
        self.mint, self.token = mint, mint()

    def call(self, method, url, headers, is_expired, **options):
        answer = waiting(method, url, headers(self.token), **options)
        if is_expired(answer):
            print("the token was refused: obtaining a new one", file=sys.stderr)
            self.token = self.mint()
            answer = waiting(method, url, headers(self.token), **options)
        if answer.status == 413:
            raise Failure("the file is too large: " + answer.text)
        return answer


# --- The Easemob API ---


def easemob(mint, path):
    session = Session(mint)

    def call(method, url, headers, **options):
        def authenticated(token):
            return {"Authorization": "Bearer " + token, **headers}

        answer = session.call(method, url, authenticated, lambda answer: answer.status == 401, **options)
        if answer.status != 200:
            raise Failure("%d %s" % (answer.status, answer.text))
        return answer

    base = "%s/%s/chatfiles" % (URL, TENANT)
    # With restrict-access, a download needs the share-secret: put it into the message, with the URL.
    uploaded = call("POST", base, {"restrict-access": "true"}, form=({}, path))
    entity = json.loads(uploaded.text)["entities"][0]
    url, headers = base + "/" + entity["uuid"], {"share-secret": entity["share-secret"]}
    print("uploaded: " + url)
    copy, thumbnail = outputs(path)
    downloaded(path, copy, call("GET", url, headers, save_to=copy))
    small = call("GET", url, {"thumbnail": "true", **headers}, save_to=thumbnail)
    print("thumbnail: %d bytes" % small.saved)


# --- The Lanying API ---


def lanying(mint, path):
    session = Session(mint)

    # Errors have status 200 and a code; 402 and 10008 are tokens that are no longer valid.
    def code(answer):
        return json.loads(answer.text)["code"] if answer.text.startswith("{") else None

    def call(url, save_to=None):
        def headers(token):
            return {"access-token": token, "app_id": APP_ID}

        answer = session.call("GET", url, headers, lambda answer: code(answer) in (402, 10008), save_to=save_to)
        if answer.saved is None and code(answer) != 200:
            raise Failure("%d %s" % (answer.status, answer.text))
        return answer

    # 102: a picture in a chat. to_type 1: a user.
    ticket = json.loads(call(URL + "/file/upload/chat?file_type=102&to_type=1&to_id=bob").text)["data"]
    # The upload has no token: the ticket is its permission. Its errors are XML, as those of OSS.
    uploaded = waiting("POST", ticket["upload_url"], {}, form=(ticket["oss_body_param"], path))
    if "EntityTooLarge" in uploaded.text:
        raise Failure("the file is too large: " + uploaded.text)
    if uploaded.status != 200:
        raise Failure("%d %s" % (uploaded.status, uploaded.text))
    # The message to bob has this URL. He needs a token of his own to open it.
    url = ticket["download_url"]
    print("uploaded: " + url)
    copy, thumbnail = outputs(path)
    downloaded(path, copy, call(url, copy))
    print("thumbnail: %d bytes" % call(url + "&image_type=2", thumbnail).saved)


def outputs(path):
    return "copy-of-" + os.path.basename(path), "thumbnail-of-" + os.path.basename(path)


def downloaded(path, copy, answer):
    if not filecmp.cmp(path, copy, shallow=False):
        raise Failure("the copy differs")
    print("downloaded: %d bytes" % answer.saved)


def main():
    apis = {"easemob": easemob, "lanying": lanying}
    if len(sys.argv) != 4 or sys.argv[1] not in apis or sys.argv[2] not in TOKENS:
        raise Failure("usage: chatfiles.py easemob|lanying client-credentials|dynamic|jwt FILE")
    apis[sys.argv[1]](TOKENS[sys.argv[2]], sys.argv[3])


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError, http.client.HTTPException) as error:
        sys.exit("error: %s" % error)
