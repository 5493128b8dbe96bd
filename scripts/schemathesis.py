"""Starts a server over a temporary store and runs schemathesis against it: both APIs and the operator listener, with
valid credentials, with wrong ones and without any.

    python3 scripts/schemathesis.py target/debug/chatfiles SCHEMATHESIS

SCHEMATHESIS is its command line tool. Prints the number of test cases. Fails on a response that the OpenAPI documents
(docs/openapi) do not describe: its status, type, headers or content; on a server error; and on a success without
credentials. The seed is fixed, so that a failure is caused by a change and not by chance. schemathesis_hooks.py is the
part that runs within schemathesis.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import openapi

PROGRAM, SCHEMATHESIS = (os.path.abspath(path) for path in sys.argv[1:])
SCRIPTS = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(SCRIPTS)
DOCUMENTS = os.path.join(ROOT, "docs", "openapi")
SEED = 20261130
ORG, APP, APP_ID = "easemob-demo", "chatdemoui", "welovemaxim"
BASE = "/%s/%s" % (ORG, APP)
CHECKS = [
    "status_code_conformance", "content_type_conformance", "response_headers_conformance",
    "response_schema_conformance", "unsupported_method", "allow_header_conformance",
    # schemathesis_hooks.py
    "no_server_error", "refused_without_credentials",
]
# The most random test cases of each operation. The phase `coverage` adds cases at the bounds of each parameter.
CASES_MAX = {"easemob": 20, "lanying": 20, "operator": 10}
# Preflights are the same everywhere. Downloads have the most forms of responses. `/` is an unknown path for other
# methods than those of the page, so they get 404 instead of 405.
CONFIGURATION = """
hooks = "%s"
[[operations]]
include-method = "OPTIONS"
phases.coverage.enabled = false
generation.max-examples = 2
[[operations]]
include-path = "/"
phases.coverage.unexpected-methods = []
[[operations]]
include-operation-id-regex = "_download"
generation.max-examples = 50
"""
# Statuses that the test cases must have met, so that they are not all refused.
EXPECTED = {
    "easemob": {200, 204, 206, 304, 400, 401, 403, 404, 405, 412, 415, 416},
    "lanying": {200, 204, 206, 304, 400, 403, 405, 409, 412, 416},
    "operator": {200, 404, 405},
}


class Server:
    """The server, and calls to it."""

    def __init__(self, directory):
        self.store = os.path.join(directory, "store")
        settings = os.path.join(directory, "chatfiles.toml")
        with open(settings, "w") as file:
            file.write("limits.calls_per_second = 0\nlimits.upload_bytes_max = 1000000\n"
                       "store.durability = 'none'\nstore.free_space_min_bytes = 0\n")
        self.flags = ["--config", settings, "--store-path", self.store]
        self.process = subprocess.Popen(
            [PROGRAM, *self.flags, "--listen", "127.0.0.1:0", "--operator-listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        said = [self.process.stdout.readline() for _ in range(2)]
        self.url, self.operator_url = (re.search(r"http://127\.0\.0\.1:\d+", line).group() for line in said)
        self.token = self.command("token", "--user", "alice")
        with open(os.path.join(self.store, "keys", "client-secret.%s.%s" % (ORG, APP))) as file:
            self.client_secret = file.read().strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def command(self, *arguments):
        said = subprocess.run([PROGRAM, *arguments, *self.flags], capture_output=True, text=True, check=True)
        return said.stdout.strip()

    def call(self, method, url, headers=None, body=None):
        request = urllib.request.Request(url, body, headers or {}, method=method)
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def easemob(self, method, path, headers=None, body=None):
        bearer = {"Authorization": "Bearer " + self.token, **(headers or {})}
        return self.call(method, self.url + BASE + path, bearer, body)["entities"][0]

    def easemob_file(self, name, kind, headers=None):
        form = multipart({}, name, kind)
        return self.easemob("POST", "/chatfiles", {**form[0], **(headers or {})}, form[1])

    def lanying_file(self, path, name, kind):
        """The value of the only parameter of a new file's download URL."""
        ticket = self.call("GET", self.url + path, {"access-token": self.token, "app_id": APP_ID})["data"]
        headers, body = multipart(ticket["oss_body_param"], name, kind)
        self.call("POST", ticket["upload_url"], headers, body)
        return ticket["download_url"].split("=", 1)[1]


def multipart(fields, name, kind):
    body = b""
    for field, value in fields.items():
        body += ('--b1\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (field, value)).encode()
    with open(os.path.join(ROOT, name), "rb") as file:
        data = file.read()
    name = os.path.basename(name)
    body += ('--b1\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n' % name).encode()
    body += ("Content-Type: %s\r\n\r\n" % kind).encode() + data + b"\r\n--b1--\r\n"
    return {"Content-Type": "multipart/form-data; boundary=b1"}, body


def values(server):
    """What schemathesis_hooks.py puts into requests: files that exist, conditions that hold or do not, logins."""
    photo = server.easemob_file("tests/data/photo.jpg", "image/jpeg")["uuid"]
    text = server.easemob_file("README.md", "text/plain")["uuid"]
    restricted = server.easemob_file("tests/data/photo.jpg", "image/jpeg", {"restrict-access": "true"})
    parts = [server.easemob("POST", "/sdk/chatfiles/part-upload")["uuid"] for _ in range(8)]
    for upload in parts[:6]:
        path = "/sdk/chatfiles/part-upload/%s?part_number=1" % upload
        server.easemob("PUT", path, {"Content-Type": "application/octet-stream"}, b"x" * 100)
    chat = "/file/upload/chat?to_id=bob&file_type="
    links = [server.lanying_file(chat + "102", "tests/data/photo.jpg", "image/jpeg"),
             server.lanying_file(chat + "100", "README.md", "text/plain")]
    dates = ["Sun, 06 Nov 1994 08:49:37 GMT", "Fri, 06 Nov 2076 08:49:37 GMT", "yesterday"]
    application = {"grant_type": "client_credentials", "client_id": "%s.%s" % (ORG, APP)}
    return {
        "seed": SEED,
        "url": server.url,
        "token": server.token,
        "open_paths": ["/", "/healthz"],
        "path": {"org": ORG, "app": APP, "app_id": APP_ID},
        "files": [photo, text, restricted["uuid"]],
        "parts": parts,
        "query": {
            "share-secret": [restricted["share-secret"], "undefined"],
            "thumbnail": ["true", "false"], "vframe": ["true", "false"], "voice": ["mp3", "amr"],
            "file_sign": links,
            "object_name": [server.lanying_file("/file/upload/avatar/user", "tests/data/photo.jpg", "image/jpeg")],
            "to_id": ["bob", "carol"], "group_id": ["6597"], "image_type": ["1", "2"], "thumbnail_strategy": ["2"],
            "to_type": ["1", "2"], "file_type": ["100", "102"], "format": ["mp3"], "w": ["64"], "h": ["64"],
        },
        "conditions": {
            "range": ["bytes=0-99", "bytes=-5", "bytes=0-1,5-9", "bytes=99999999-", "bytes=5-1", "lines=1"],
            "if-none-match": ['"%s"' % photo, "*", "*", '"x"'],
            "if-match": ['"%s"' % photo, "*", '"x"'],
            "if-modified-since": dates,
            "if-unmodified-since": dates,
        },
        "grants": [{**application, "client_secret": server.client_secret},
                   {**application, "client_secret": server.client_secret, "ttl": "60"}],
    }


def statuses(report):
    """How often each status was answered."""
    counts = collections.Counter()
    with open(report) as file:
        for line in file:
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for interaction in recorder.get("interactions", {}).values():
                counts[(interaction.get("response") or {}).get("status_code")] += 1
    return counts


def run(server, directory, document, known):
    """Runs schemathesis over one document. Returns the number of test cases, and the problems found."""
    config, data, report = (os.path.join(directory, name) for name in ("schemathesis.toml", "values.json", "report"))
    with open(config, "w") as file:
        file.write(CONFIGURATION % os.path.join(SCRIPTS, "schemathesis_hooks.py"))
    with open(data, "w") as file:
        json.dump({**known, "document": document}, file)
    started = time.monotonic()
    result = subprocess.run(
        [SCHEMATHESIS, "--no-color", "--config-file", config, "run",
         os.path.join(DOCUMENTS, document + ".yaml"),
         "--url", server.operator_url if document == "operator" else server.url,
         "--checks", ",".join(CHECKS), "--seed", str(SEED), "--max-examples", str(CASES_MAX[document]),
         "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--generation-database", "none",
         "--no-shrink", "--request-timeout", "30", "--max-redirects", "0", "--suppress-health-check", "all",
         "--warnings", "off", "--report", "ndjson", "--report-ndjson-path", report],
        # It writes a cache into the current directory.
        cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "CHATFILES_VALUES": data})
    cases = re.search(r"(\d+) generated", result.stdout)
    if result.returncode or not cases or "Exception in thread" in result.stdout:
        print(result.stdout)
        return 0, ["%s: see above" % document]
    met = statuses(report)
    shown = " ".join("%s: %d" % pair for pair in sorted(met.items(), key=str))
    print("%s: %s test cases in %.0f s. Statuses %s"
          % (document, cases.group(1), time.monotonic() - started, shown), flush=True)
    missing = sorted(EXPECTED[document] - set(met))
    return int(cases.group(1)), ["%s: no response had the status %d" % (document, status) for status in missing]


def main():
    cases, problems = 0, []
    for document in CASES_MAX:
        examples, found = openapi.validate(DOCUMENTS, document)
        print("%s.yaml is valid, with %d examples" % (document, examples))
        problems += found
    print("seed %d" % SEED, flush=True)
    with tempfile.TemporaryDirectory() as directory, Server(directory) as server:
        known = values(server)
        for document in CASES_MAX:
            found = run(server, directory, document, known)
            cases, problems = cases + found[0], problems + found[1]
    print("%d test cases, %d failures" % (cases, len(problems)))
    if problems:
        raise SystemExit("\n".join(problems))


main()
