"""Validates the OpenAPI documents: against the specification, and their examples against their schemas. Requires an
example of every JSON and XML response. Imported by schemathesis.py."""

import os

import jsonschema
import openapi_spec_validator
import yaml

NEEDS_EXAMPLE = {"application/json", "application/xml"}


def validate(directory, name):
    """Validates one document. Returns the number of examples and a list of problems."""
    with open(os.path.join(directory, name + ".yaml")) as file:
        document = yaml.safe_load(file)
    openapi_spec_validator.validate(document)
    examples, problems = 0, []
    for place, node in nodes(document, name):
        if not isinstance(node, dict):
            continue
        for kind in NEEDS_EXAMPLE & set(node.get("content") or {}):
            if "/responses/" in place and not any(key in node["content"][kind] for key in ("example", "examples")):
                problems.append("%s: %s has no example" % (place, kind))
        if "schema" not in node:
            continue
        schema = resolved(document, node["schema"])
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        shown = [node["example"]] if "example" in node else []
        shown += [resolved(document, example)["value"] for example in node.get("examples", {}).values()]
        for example in shown:
            examples += 1
            problems += ["%s: %s" % (place, error.message) for error in validator.iter_errors(example)]
    return examples, problems


def nodes(value, place):
    """All values below this one, with their places."""
    yield place, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, "%s/%s" % (place, key))


def resolved(document, value):
    """The value with references replaced by their targets."""
    if isinstance(value, list):
        return [resolved(document, child) for child in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target = document
        for name in value["$ref"].removeprefix("#/").split("/"):
            target = target[name.replace("~1", "/").replace("~0", "~")]
        return resolved(document, target)
    return {key: resolved(document, child) for key, child in value.items()}
