"""A function with an internal extension: a thread of it that takes part in its invocations."""

import json
import os
import pathlib
import threading
import time
import urllib.request

API = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2020-01-01/extension/"
LEFT = pathlib.Path("/tmp/left")
EVENTS = []


def _call(path, body=None, **headers):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(API + path, data)
    for name, value in headers.items():
        request.add_header("Lambda-Extension-" + name, value)
    with urllib.request.urlopen(request) as reply:
        return reply.headers, json.loads(reply.read())


def _take_part(identifier):
    while True:
        EVENTS.append(_call("event/next", Identifier=identifier)[1])


_headers, _ = _call("register", {"events": ["INVOKE"]}, Name="inside")
threading.Thread(
    target=_take_part, args=[_headers["Lambda-Extension-Identifier"]], daemon=True
).start()


def handler(event, context):
    print("handling")
    left = LEFT.exists()
    LEFT.touch()
    time.sleep(event.get("seconds", 0.05))
    invoked = [event["requestId"] for event in EVENTS]
    return {"invoked": context.aws_request_id in invoked, "events": len(invoked), "left": left}
