"""Loaded by schemathesis for scripts/schemathesis.py: replaces generated values by ones that the server knows, so that
not only errors are tested, and checks what the documents cannot say."""

import json
import os
import random
import urllib.request
import xml.etree.ElementTree

import schemathesis

with open(os.environ["CHATFILES_VALUES"]) as file:
    VALUES = json.load(file)
# The same choices in every run.
RANDOM = random.Random(VALUES["seed"])
# How often: a known value instead of a generated one; valid credentials, wrong ones or, in the rest, none.
KNOWN, VALID, WRONG = 0.75, 0.8, 0.1
WRONG_TOKEN = "no-token-of-this-server"
TICKETS = []
# At most one of them, so that they do not fail each other.
CONDITIONS = ("range", "if-none-match", "if-match", "if-modified-since", "if-unmodified-since")


@schemathesis.hook
def before_call(context, case, kwargs):
    if VALUES["document"] == "operator":
        return
    case.headers = case.headers if case.headers is not None else {}
    case.query = case.query if isinstance(case.query, dict) else {}
    if RANDOM.random() < KNOWN:
        set_known(case)
    set_credentials(case)


def set_known(case):
    """Replaces parameters and the body by values with which the call may succeed."""
    parameters = case.path_parameters or {}
    for name, values in VALUES["path"].items():
        if name in parameters:
            parameters[name] = values
    if "id" in parameters:
        parameters["id"] = RANDOM.choice(VALUES["parts" if "part-upload" in case.path else "files"])
    for name, values in VALUES["query"].items():
        if name in case.query:
            case.query[name] = RANDOM.choice(values)
    if case.method in ("GET", "HEAD"):
        for name in (*CONDITIONS, "if-range"):
            case.headers.pop(name, None)
        if RANDOM.random() < KNOWN:
            kept = RANDOM.choice(("range", "if-none-match", RANDOM.choice(CONDITIONS)))
            case.headers[kept] = RANDOM.choice(VALUES["conditions"][kept])
    if case.path.endswith("/token"):
        case.body = RANDOM.choice(VALUES["grants"])
    if case.path.startswith("/file/oss/") and case.method == "POST" and isinstance(case.body, dict):
        # Some are used twice.
        if not TICKETS or RANDOM.random() < KNOWN:
            TICKETS.append(ticket())
        case.body.update(TICKETS[-1]["oss_body_param"])


def ticket():
    url = VALUES["url"] + "/file/upload/chat?to_id=bob&file_type=100"
    headers = {"access-token": VALUES["token"], "app_id": VALUES["path"]["app_id"]}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
        return json.load(response)["data"]


def set_credentials(case):
    """Sets valid or wrong credentials, or removes them."""
    chosen = RANDOM.random()
    name = "access-token" if case.path.startswith("/file/") else "Authorization"
    for place in (case.headers, case.query):
        for given in list(place):
            if given.lower() == name.lower():
                del place[given]
    if chosen < VALID + WRONG:
        token = VALUES["token"] if chosen < VALID else WRONG_TOKEN
        case.headers[name] = token if name == "access-token" else "Bearer " + token
    if case.path.startswith("/file/"):
        case.query.pop("app_id", None)
        case.headers["app_id"] = VALUES["path"]["app_id"]


@schemathesis.deserializer("application/xml")
def xml_document(context, response):
    """An element with text children, as an object; nothing of a HEAD."""
    if not response.content:
        return {}
    root = xml.etree.ElementTree.fromstring(response.content)
    return {child.tag: child.text or "" for child in root}


@schemathesis.check
def no_server_error(context, response, case):
    """503 is documented: too many wrong logins, or too many unfinished uploads. Nothing else may fail."""
    assert response.status_code < 500 or response.status_code == 503, "status %d" % response.status_code


@schemathesis.check
def refused_without_credentials(context, response, case):
    """Without a valid token, only paths without authentication succeed. A form and a token request have their
    credentials in the body."""
    sent = {name.lower(): value for name, value in response.request.headers.items()}
    token = sent.get("access-token", sent.get("authorization", "").removeprefix("Bearer "))
    is_open = case.method == "OPTIONS" or case.path in VALUES["open_paths"] or case.path.startswith("/file/oss/")
    if token == VALUES["token"] or is_open or VALUES["document"] == "operator":
        return
    if case.path.endswith("/token") and case.body in VALUES["grants"]:
        return
    is_refused = response.status_code >= 400
    if case.path.startswith("/file/") and response.status_code == 200:
        kind = response.headers.get("content-type", [""])[0]
        is_refused = kind.startswith("application/json")
        if is_refused and case.method == "GET":
            is_refused = response.json()["code"] != 200
    assert is_refused, "status %d without credentials" % response.status_code
