"""Holds the examples of `gateway/API.md`, and what a gateway answers to them, against `gateway/openapi.json`.

Prints the method of each example that fits.
"""

import json
import os
import re
import sys
import urllib.error
import urllib.request

import jsonschema_rs


def examples(page):
    """The method, the request and the response of every example."""
    for section in re.split(r"^(?=##)", page, flags=re.M):
        heading = re.match(r"### (\w+)\n", section)
        if heading is None:
            continue
        blocks = re.findall(r"^```json\n(.*?)^```", section, flags=re.M | re.S)
        assert blocks, f"{heading[1]} has no example"
        for block in blocks:
            request, response = block.splitlines()
            yield heading[1], json.loads(request), json.loads(response)


class Description:
    """The description as the gateway serves it."""

    def __init__(self, description):
        self.description = description

    def check(self, schema, value, what):
        # References in it begin at the root of the description.
        whole = {**schema, "components": self.description["components"]}
        validator = jsonschema_rs.Draft202012Validator(whole, validate_formats=True)
        errors = [f"{error.instance_path}: {error.message}" for error in validator.iter_errors(value)]
        assert not errors, f"{what}: {json.dumps(value)} does not fit: {errors}"

    def request(self, method, value):
        content = self.operation(method)["requestBody"]["content"]
        self.check(content["application/json"]["schema"], value, f"the request of {method}")

    def response(self, method, value, status=200):
        response = self.operation(method)["responses"][str(status)]
        if "$ref" in response:
            response = self.description["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
        self.check(response["content"]["application/json"]["schema"], value, f"the response of {method}")

    def operation(self, method):
        return self.description["paths"][f"/api/{method}"]["post"]


def ask(path, body=None):
    headers = {"X-API-Key": os.environ["API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{os.environ['ADMIN']}/api/{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def main():
    _, served = ask("openapi.json")
    description = Description(served)
    with open(sys.argv[1], encoding="utf-8") as page:
        for method, request, response in examples(page.read()):
            description.request(method, request)
            description.response(method, response)
            status, answer = ask(method, json.dumps(request).encode())
            description.response(method, answer, status)
            status, answer = ask(method, b"[]")
            assert status == 400, (method, status)
            description.response(method, answer, status)
            print(method)


main()
