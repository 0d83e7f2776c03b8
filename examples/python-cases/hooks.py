"""Hooks before a snapshot and after a restore, which fail or hang as the variable HOOKS says."""

import json
import os
import time
import urllib.request

from snapshot_restore_py import register_after_restore, register_before_snapshot

CALLS = []


@register_before_snapshot
def before():
    CALLS.append("before")
    if os.environ.get("HOOKS") == "fail-before":
        raise RuntimeError("the hook before the snapshot failed as asked")


@register_after_restore
def after():
    CALLS.append("after")
    match os.environ.get("HOOKS"):
        case "fail-after":
            raise RuntimeError("the hook after the restore failed as asked")
        case "hang-after":
            time.sleep(60)


def handler(event, context):
    """Which hooks ran in this process, and what only SnapStart's environment has."""
    credentials = None
    if uri := os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        token = os.environ["AWS_CONTAINER_AUTHORIZATION_TOKEN"]
        request = urllib.request.Request(uri, headers={"Authorization": token})
        credentials = json.load(urllib.request.urlopen(request))
    names = ["AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_ACCESS_KEY_ID"]
    return {"calls": CALLS, "credentials": credentials, "environment": {name: os.environ.get(name) for name in names}}
