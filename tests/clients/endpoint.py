"""A server to talk to, and clients of it that note which operations they call."""

import io
import json
import os
import subprocess
import sys
import unittest
import uuid
import zipfile

import boto3
from botocore.config import Config

URL = os.environ["COSTREL_ENDPOINT"]
REGION = "us-east-1"
ACCOUNT = os.environ["COSTREL_ACCOUNT"]
ROLE = f"arn:aws:iam::{ACCOUNT}:role/test"
# Whether versions become ready without a machine: the server under test has a stand-in for it.
STAND_IN = os.environ.get("COSTREL_STAND_IN") == "1"

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": os.environ.get("COSTREL_TOKEN", "test"),
    "AWS_DEFAULT_REGION": REGION,
}
os.environ.update(CREDENTIALS, AWS_EC2_METADATA_DISABLED="true")

called = set()


def client():
    """A client that tries each call once."""
    made = boto3.client(
        "lambda",
        endpoint_url=URL,
        region_name=REGION,
        config=Config(retries={"total_max_attempts": 1}),
    )
    made.meta.events.register("before-call.lambda", lambda model, **_: called.add(model.name))
    return made


def awscli(*arguments, expect=0):
    """Runs `aws lambda …`. Returns its JSON, or what it says on standard error if it fails."""
    program = os.path.join(os.path.dirname(sys.executable), "aws")
    done = subprocess.run(
        [sys.executable, program, "lambda", *arguments, "--endpoint-url", URL, "--output", "json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == expect, (arguments, done.returncode, done.stdout, done.stderr)
    if expect:
        return done.stderr
    return json.loads(done.stdout) if done.stdout.strip() else None


def zip_of(**files):
    """A zip file: `zip_of(app_py="…")` has one file, `app.py`."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_", "."), text)
    return packed.getvalue()


CODE = zip_of(app_py="def handler(event, context):\n    return event\n")


def arn(name):
    return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"


class Case(unittest.TestCase):
    """Tests with a client, and functions that end with the test."""

    maxDiff = None

    def setUp(self):
        self.client = client()

    def function(self, **settings):
        """Makes a function. Returns its name."""
        name = settings.pop("FunctionName", f"{self._testMethodName[:40]}-{uuid.uuid4().hex[:8]}")
        settings = {
            "Runtime": "python3.12",
            "Handler": "app.handler",
            "Code": {"ZipFile": CODE},
            "Role": ROLE,
            **settings,
        }
        self.client.create_function(
            FunctionName=name, **{key: value for key, value in settings.items() if value is not None}
        )
        self.addCleanup(self.forget, name)
        return name

    def forget(self, name):
        try:
            self.client.delete_function(FunctionName=name)
        except self.client.exceptions.ResourceNotFoundException:
            pass

    def refused(self, error, status, words, call, **parameters):
        """Checks that a call is refused with this error."""
        with self.assertRaises(self.client.exceptions.ClientError) as caught:
            call(**parameters)
        response = caught.exception.response
        self.assertEqual(response["Error"]["Code"], error, response)
        self.assertEqual(response["ResponseMetadata"]["HTTPStatusCode"], status, response)
        self.assertIn(words, response["Error"]["Message"])
        if error in dir(self.client.exceptions):
            self.assertIsInstance(caught.exception, getattr(self.client.exceptions, error))

    def without_metadata(self, answer):
        answer.pop("ResponseMetadata")
        return answer
