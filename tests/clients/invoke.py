"""boto3 and awscli against `costrel serve` and functions that run.

`invoke.py ENDPOINT RUST_ZIP SINK`: raises where the server does not do as Lambda does.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

import boto3
import botocore.config
from botocore.exceptions import ClientError

endpoint, archive, sink = sys.argv[1:4]
code = pathlib.Path(archive).read_bytes()
account = dict(
    region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test",
    config=botocore.config.Config(retries={"max_attempts": 1}, read_timeout=120),
)
client = boto3.client("lambda", endpoint_url=endpoint, **account)


def create(name, **more):
    client.create_function(
        FunctionName=name, Runtime="provided.al2023", Handler="bootstrap", MemorySize=128, Timeout=30,
        Role="arn:aws:iam::000000000000:role/r", Code={"ZipFile": code}, **more,
    )
    client.get_waiter("function_active_v2").wait(FunctionName=name)


def raises(error, call, **arguments):
    try:
        call(**arguments)
    except ClientError as caught:
        assert caught.response["Error"]["Code"] == error, caught.response
        return caught.response
    raise AssertionError(f"no {error}")


def answer_of(response):
    return json.loads(response["Payload"].read())


def synchronous():
    create("greeter", Environment={"Variables": {"COLOUR": "green"}})
    context = base64.b64encode(json.dumps({"custom": {"a": "b"}}).encode()).decode()
    response = client.invoke(
        FunctionName="greeter", Payload=b'{"name":"Ada"}', LogType="Tail", ClientContext=context,
    )
    answer = answer_of(response)
    assert response["StatusCode"] == 200 and response["ExecutedVersion"] == "$LATEST", response
    assert "FunctionError" not in response, response
    assert answer["greeting"] == "Hello Ada" and answer["environment"]["COLOUR"] == "green", answer
    request = response["ResponseMetadata"]["RequestId"]
    assert answer["request_id"] == request, (answer, request)
    log = base64.b64decode(response["LogResult"]).decode()
    assert f"START RequestId: {request} Version: $LATEST\n" in log, log
    assert f"\nREPORT RequestId: {request}\tDuration: " in log and f"END RequestId: {request}" in log, log

    response = client.invoke(FunctionName="greeter", Payload=b'{"case":"raise"}')
    assert response["StatusCode"] == 200 and response["FunctionError"] == "Unhandled", response
    assert answer_of(response)["errorMessage"] == "no stock left"
    response = client.invoke(FunctionName="greeter", Payload=b'{"case":"exit"}')
    assert answer_of(response)["errorType"] == "Runtime.ExitError"
    response = client.invoke(FunctionName="greeter", Payload=b'{"case":"big"}')
    assert answer_of(response)["errorType"] == "Function.ResponseSizeTooLarge"
    assert client.invoke(FunctionName="greeter", InvocationType="DryRun")["StatusCode"] == 204
    arn = client.get_function(FunctionName="greeter")["Configuration"]["FunctionArn"]
    assert answer_of(client.invoke(FunctionName=arn))["greeting"] == "Hello world"
    raises("ResourceNotFoundException", client.invoke, FunctionName="nobody")
    raises("InvalidRequestContentException", client.invoke, FunctionName="greeter", Payload=b"{")
    raises("RequestTooLargeException", client.invoke, FunctionName="greeter", Payload=b'"' + b"x" * 6_291_456 + b'"')


def streamed():
    stream = client.invoke_with_response_stream(FunctionName="greeter", Payload=b'{"name":"Ada"}')["EventStream"]
    events = list(stream)
    body = b"".join(event["PayloadChunk"]["Payload"] for event in events if "PayloadChunk" in event)
    assert json.loads(body)["greeting"] == "Hello Ada", body
    assert "ErrorCode" not in events[-1]["InvokeComplete"], events[-1]
    events = list(client.invoke_with_response_stream(FunctionName="greeter", Payload=b'{"case":"raise"}')["EventStream"])
    assert events[-1]["InvokeComplete"]["ErrorCode"], events[-1]


def versions_and_aliases():
    first = client.publish_version(FunctionName="greeter")["Version"]
    client.update_function_configuration(FunctionName="greeter", Environment={"Variables": {"COLOUR": "blue"}})
    client.get_waiter("function_updated_v2").wait(FunctionName="greeter")
    second = client.publish_version(FunctionName="greeter")["Version"]
    client.create_alias(FunctionName="greeter", Name="live", FunctionVersion=first)
    colour = lambda qualifier: answer_of(client.invoke(FunctionName="greeter", Qualifier=qualifier))["environment"]["COLOUR"]
    assert [colour("live"), colour("$LATEST"), colour(second)] == ["green", "blue", "blue"]
    client.update_alias(FunctionName="greeter", Name="live", RoutingConfig={"AdditionalVersionWeights": {second: 0.5}})
    drawn = {client.invoke(FunctionName="greeter:live")["ExecutedVersion"] for _ in range(40)}
    assert drawn == {first, second}, drawn


def snap_start():
    create("snapped", SnapStart={"ApplyOn": "PublishedVersions"})
    version = client.publish_version(FunctionName="snapped")["Version"]
    client.get_waiter("published_version_active").wait(FunctionName="snapped", Qualifier=version)
    response = client.invoke(FunctionName="snapped", Qualifier=version, LogType="Tail")
    assert answer_of(response)["environment"]["AWS_LAMBDA_INITIALIZATION_TYPE"] == "snap-start"
    assert "Restore Duration: " in base64.b64decode(response["LogResult"]).decode()


def concurrency():
    client.put_function_concurrency(FunctionName="greeter", ReservedConcurrentExecutions=0)
    response = raises("TooManyRequestsException", client.invoke, FunctionName="greeter")
    assert response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded", response
    client.delete_function_concurrency(FunctionName="greeter")
    assert client.invoke(FunctionName="greeter")["StatusCode"] == 200


def asynchronous():
    client.put_function_event_invoke_config(
        FunctionName="greeter", MaximumRetryAttempts=0,
        DestinationConfig={"OnSuccess": {"Destination": f"file://{sink}"}, "OnFailure": {"Destination": f"file://{sink}"}},
    )
    for event in (b'{"name":"later"}', b'{"case":"raise"}'):
        assert client.invoke(FunctionName="greeter", InvocationType="Event", Payload=event)["StatusCode"] == 202
    deadline = time.monotonic() + 60
    records = []
    while len(records) < 2:
        assert time.monotonic() < deadline, records
        time.sleep(0.1)
        if os.path.exists(sink):
            records = [json.loads(line) for line in pathlib.Path(sink).read_text().splitlines()]
    conditions = {record["requestContext"]["condition"]: record for record in records}
    assert conditions["Success"]["responsePayload"]["greeting"] == "Hello later", records
    assert conditions["RetriesExhausted"]["responseContext"]["functionError"] == "Unhandled", records


def function_url():
    url = client.create_function_url_config(FunctionName="greeter", AuthType="NONE")["FunctionUrl"]
    # Below .localhost names are this host's, but not every resolver knows that.
    host = url.split("/")[2]
    request = urllib.request.Request(endpoint + "/a/b?c=d", data=b'{"case":"hello"}', headers={"Host": host})
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.status == 200, response.status
        answer = json.loads(response.read())
    # The event is the request: it names no case of its own, so it is greeted.
    assert answer["greeting"] == "Hello world", answer


def command_line():
    aws = pathlib.Path(sys.executable).with_name("aws")
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    run = lambda *arguments: subprocess.run(
        [sys.executable, aws, "--endpoint-url", endpoint, "lambda", *arguments],
        env=environment, capture_output=True, text=True, timeout=120,
    )
    out = f"{sink}.out"
    done = run("invoke", "--function-name", "greeter", "--payload", '{"name":"Ada"}', "--log-type", "Tail", out)
    assert done.returncode == 0, done
    assert json.loads(done.stdout)["StatusCode"] == 200, done
    assert json.loads(pathlib.Path(out).read_text())["greeting"] == "Hello Ada"
    done = run("invoke", "--function-name", "nobody", out)
    assert done.returncode != 0 and "(ResourceNotFoundException)" in done.stderr and "Function not found: arn:aws:lambda:us-east-1:" in done.stderr, done


for step in (synchronous, streamed, versions_and_aliases, snap_start, concurrency, asynchronous, function_url, command_line):
    began = time.monotonic()
    step()
    print(f"{step.__name__}: {time.monotonic() - began:.1f} s", flush=True)
