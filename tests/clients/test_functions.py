"""Functions, versions and aliases, as boto3 and awscli use them."""

import base64
import hashlib
import io
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
import zipfile

from endpoint import ACCOUNT, CODE, REGION, ROLE, STAND_IN, URL, Case, arn, awscli, zip_of


class Functions(Case):
    def test_created_read_and_deleted(self):
        name = f"create-{self.id()[-8:]}"
        made = self.without_metadata(
            self.client.create_function(
                FunctionName=name, Runtime="python3.12", Handler="app.handler",
                Code={"ZipFile": CODE}, Role=ROLE, Tags={"a": "1"},
            )
        )
        self.addCleanup(self.forget, name)
        digest = base64.b64encode(hashlib.sha256(CODE).digest()).decode()
        self.assertEqual(made["FunctionArn"], arn(name))
        self.assertEqual((made["CodeSha256"], made["CodeSize"]), (digest, len(CODE)))
        self.assertEqual((made["Timeout"], made["MemorySize"]), (3, 128))
        self.assertEqual((made["State"], made["LastUpdateStatus"]), ("Active", "Successful"))
        self.assertEqual(made["EphemeralStorage"], {"Size": 512})
        self.assertEqual(made["TracingConfig"], {"Mode": "PassThrough"})
        self.assertEqual(made["SnapStart"], {"ApplyOn": "None", "OptimizationStatus": "Off"})
        self.assertEqual((made["PackageType"], made["Architectures"]), ("Zip", ["x86_64"]))
        self.assertEqual(
            made["LoggingConfig"], {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"}
        )
        self.assertNotIn("Environment", made)
        self.assertNotIn("Layers", made)
        self.assertEqual(made["Version"], "$LATEST")
        self.assertRegex(made["LastModified"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+0000$")
        self.assertRegex(made["RevisionId"], r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
        self.client.get_waiter("function_active_v2").wait(FunctionName=name)
        self.client.get_waiter("function_active").wait(FunctionName=name)
        self.client.get_waiter("function_exists").wait(FunctionName=name)
        whole = self.client.get_function(FunctionName=name)
        self.assertEqual(whole["Configuration"], made)
        self.assertEqual(whole["Tags"], {"a": "1"})
        self.assertEqual(whole["Code"]["RepositoryType"], "S3")
        self.assertNotIn("Concurrency", whole)
        location = whole["Code"]["Location"]
        with urllib.request.urlopen(location) as download:
            self.assertEqual(download.read(), CODE)
        with self.assertRaises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(location[:-1] + ("0" if location[-1] != "0" else "1"))
        caught.exception.close()
        self.assertEqual(caught.exception.code, 403)
        for named in (name, arn(name), f"{ACCOUNT}:function:{name}", f"{name}:$LATEST"):
            answer = self.client.get_function_configuration(FunctionName=named)
            self.assertEqual(answer["RevisionId"], made["RevisionId"])
        self.refused(
            "ResourceConflictException", 409, f"Function already exist: {name}",
            self.client.create_function, FunctionName=name, Runtime="python3.12",
            Handler="app.handler", Code={"ZipFile": CODE}, Role=ROLE,
        )
        answer = self.client.delete_function(FunctionName=name)
        self.assertEqual(answer["ResponseMetadata"]["HTTPStatusCode"], 204)
        for call in (self.client.get_function, self.client.delete_function):
            self.refused(
                "ResourceNotFoundException", 404, f"Function not found: {arn(name)}", call,
                FunctionName=name,
            )

    def test_everything_that_is_said_is_told(self):
        said = {
            "Description": "does it",
            "Timeout": 900,
            "MemorySize": 10240,
            "EphemeralStorage": {"Size": 10240},
            "Environment": {"Variables": {"A": "1", "B_2": ""}},
            "KMSKeyArn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/k",
            "TracingConfig": {"Mode": "Active"},
            "DeadLetterConfig": {"TargetArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:q"},
            "LoggingConfig": {
                "LogFormat": "JSON", "ApplicationLogLevel": "DEBUG", "SystemLogLevel": "WARN",
                "LogGroup": "/g",
            },
            "FileSystemConfigs": [
                {
                    "Arn": f"arn:aws:elasticfilesystem:{REGION}:{ACCOUNT}:access-point/fsap-01",
                    "LocalMountPath": "/mnt/x",
                }
            ],
        }
        name = self.function(
            **said, VpcConfig={"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
        )
        told = self.client.get_function_configuration(FunctionName=name)
        self.assertEqual({key: told[key] for key in said}, said)
        self.assertEqual(told["VpcConfig"]["SubnetIds"], ["subnet-1"])
        update = {
            "Role": ROLE + "2", "Handler": "b.c", "Runtime": "nodejs22.x", "Timeout": 1,
            "Environment": {"Variables": {}}, "Description": "",
        }
        told = self.client.update_function_configuration(
            FunctionName=name, **update, VpcConfig={"SubnetIds": [], "SecurityGroupIds": []},
            DeadLetterConfig={"TargetArn": ""}, KMSKeyArn="",
        )
        for key in ("Environment", "VpcConfig", "DeadLetterConfig", "KMSKeyArn"):
            self.assertNotIn(key, told)
        for key in ("Role", "Handler", "Runtime", "Timeout", "Description"):
            self.assertEqual(told[key], update[key])
        self.assertEqual(told["MemorySize"], 10240)
        self.client.get_waiter("function_updated_v2").wait(FunctionName=name)
        self.client.get_waiter("function_updated").wait(FunctionName=name)

    def test_revisions_are_compared(self):
        name = self.function()
        first = self.client.get_function_configuration(FunctionName=name)["RevisionId"]
        second = self.client.update_function_configuration(
            FunctionName=name, Timeout=5, RevisionId=first
        )["RevisionId"]
        self.assertNotEqual(first, second)
        for call, more in (
            (self.client.update_function_configuration, {"Timeout": 6}),
            (self.client.update_function_code, {"ZipFile": CODE}),
            (self.client.publish_version, {}),
        ):
            self.refused(
                "PreconditionFailedException", 412, "does not match the latest Revision Id", call,
                FunctionName=name, RevisionId=first, **more,
            )

    def test_code_is_replaced(self):
        name = self.function()
        other = zip_of(app_py="# another")
        before = self.client.get_function_configuration(FunctionName=name)
        dry = self.client.update_function_code(FunctionName=name, ZipFile=other, DryRun=True)
        self.assertNotEqual(dry["CodeSha256"], before["CodeSha256"])
        self.assertEqual(
            self.client.get_function_configuration(FunctionName=name)["RevisionId"],
            before["RevisionId"],
        )
        done = self.client.update_function_code(FunctionName=name, ZipFile=other, Publish=True)
        self.assertEqual((done["Version"], done["CodeSha256"]), ("1", dry["CodeSha256"]))
        location = self.client.get_function(FunctionName=name)["Code"]["Location"]
        with urllib.request.urlopen(location) as download:
            self.assertEqual(download.read(), other)

    def test_images(self):
        name = self.function(
            PackageType="Image", Runtime=None, Handler=None,
            Code={"ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"},
            ImageConfig={"EntryPoint": ["/e"], "Command": ["c", "d"], "WorkingDirectory": "/w"},
        )
        told = self.client.get_function(FunctionName=name)
        self.assertEqual(told["Code"]["RepositoryType"], "ECR")
        self.assertEqual(
            told["Code"]["ImageUri"], "123456789012.dkr.ecr.us-east-1.amazonaws.com/app:1"
        )
        self.assertEqual(
            told["Configuration"]["ImageConfigResponse"]["ImageConfig"],
            {"EntryPoint": ["/e"], "Command": ["c", "d"], "WorkingDirectory": "/w"},
        )
        self.assertNotIn("Runtime", told["Configuration"])
        by_digest = "repository.example/app@sha256:" + "a" * 64
        done = self.client.update_function_code(FunctionName=name, ImageUri=by_digest)
        self.assertEqual(done["CodeSha256"], "a" * 64)
        told = self.client.get_function(FunctionName=name)
        self.assertEqual(told["Code"]["ResolvedImageUri"], by_digest)
        self.refused(
            "InvalidParameterValueException", 400, "PackageType is Image",
            self.client.update_function_code, FunctionName=name, ZipFile=CODE,
        )
        self.refused(
            "InvalidParameterValueException", 400, "PackageType is Image",
            self.client.update_function_configuration, FunctionName=name, Handler="x.y",
        )

    def test_what_makes_no_sense_is_refused(self):
        good = {
            "FunctionName": "refused", "Runtime": "python3.12", "Handler": "app.handler",
            "Code": {"ZipFile": CODE}, "Role": ROLE,
        }

        def create(error, words, status=400, **change):
            merged = {key: value for key, value in {**good, **change}.items() if value is not None}
            self.refused(error, status, words, self.client.create_function, **merged)

        invalid, validation = "InvalidParameterValueException", "ValidationException"
        create(validation, "Value 'nobody' at 'role' failed to satisfy constraint", Role="nobody")
        create(validation, "at 'functionName' failed to satisfy", FunctionName="a b")
        create(validation, "less than or equal to 64", FunctionName="a" * 65)
        create(validation, "2 validation errors detected: Value '901' at 'timeout' failed to "
               "satisfy constraint: Member must have value less than or equal to 900; Value "
               "'10241' at 'memorySize'", Timeout=901, MemorySize=10241)
        create(validation, "at 'ephemeralStorage.size'", EphemeralStorage={"Size": 10241})
        create(validation, "at 'environment.variables'", Environment={"Variables": {"1-A": "x"}})
        create(invalid, "Reserved keys used in this request: AWS_REGION, _HANDLER",
               Environment={"Variables": {"AWS_REGION": "x", "_HANDLER": "y", "A": "z"}})
        create(invalid, "exceeded the 4KB limit", Environment={"Variables": {"A": "x" * 4096}})
        create(invalid, "Value python2.7 at 'runtime' failed to satisfy", Runtime="python2.7")
        create(invalid, "Runtime and Handler are mandatory", Handler=None)
        create(invalid, "arm64 is not supported", Architectures=["arm64"])
        create(invalid, "Could not unzip uploaded file", Code={"ZipFile": b"no zip"})
        create(invalid, "non-empty zip", Code={"ZipFile": zip_of()})
        create(invalid, "S3", Code={"S3Bucket": "b" * 3, "S3Key": "k"})
        create(invalid, "source", Code={})
        create(invalid, "cannot reference more than 5 layers",
               Layers=[f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:l{n}:1" for n in range(6)])
        create(invalid, "does not exist", Layers=[f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:no:1"])
        create(invalid, "Durable functions are not supported",
               DurableConfig={"RetentionPeriodInDays": 1, "ExecutionTimeout": 60})
        create("ResourceNotFoundException", "code signing configuration", 404,
               CodeSigningConfigArn=f"arn:aws:lambda:{REGION}:{ACCOUNT}:code-signing-config:csc-" + "0" * 17)
        with self.assertRaises(self.client.exceptions.ResourceNotFoundException):
            self.client.get_function(FunctionName="refused")
        for elsewhere in (
            f"arn:aws:lambda:eu-west-1:{ACCOUNT}:function:f",
            f"arn:aws:lambda:{REGION}:999999999999:function:f",
        ):
            self.refused("ResourceNotFoundException", 404, f"Function not found: {elsewhere}",
                         self.client.get_function, FunctionName=elsewhere)
        name = self.function()
        self.refused("InvalidParameterValueException", 400, "derived qualifier",
                     self.client.get_function, FunctionName=f"{name}:1", Qualifier="2")

    def test_large_uploads(self):
        noise = os.urandom(49 << 20)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("noise", noise)
        name = self.function(Code={"ZipFile": packed.getvalue()})
        told = self.client.get_function(FunctionName=name)
        self.assertEqual(told["Configuration"]["CodeSize"], len(packed.getvalue()))
        with urllib.request.urlopen(told["Code"]["Location"]) as download:
            self.assertEqual(hashlib.sha256(download.read()).digest(),
                             hashlib.sha256(packed.getvalue()).digest())
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("more", noise[: 2 << 20])
        self.refused("RequestEntityTooLargeException", 413, "", self.client.update_function_code,
                     FunctionName=name, ZipFile=packed.getvalue())
        with zipfile.ZipFile(packed, "a") as archive:
            archive.writestr("still more", noise[: 4 << 20])
        self.refused("RequestEntityTooLargeException", 413, "Request must be smaller than",
                     self.client.update_function_code, FunctionName=name, ZipFile=packed.getvalue())

    def test_lists_go_page_by_page(self):
        names = sorted(self.function(FunctionName=f"page-{n:02}-{self.id()[-4:]}") for n in range(5))
        pages = self.client.get_paginator("list_functions").paginate(
            PaginationConfig={"PageSize": 2}
        )
        sizes, listed = [], []
        for page in pages:
            sizes.append(len(page["Functions"]))
            listed += [function["FunctionName"] for function in page["Functions"]]
        self.assertTrue(all(size <= 2 for size in sizes))
        self.assertEqual([name for name in listed if name in names], names)
        self.assertEqual(len(listed), len(set(listed)))
        self.client.publish_version(FunctionName=names[0])
        every = self.client.get_paginator("list_functions").paginate(
            FunctionVersion="ALL", PaginationConfig={"PageSize": 1}
        )
        arns = [one["FunctionArn"] for page in every for one in page["Functions"]]
        self.assertIn(arn(names[0]) + ":$LATEST", arns)
        self.assertIn(arn(names[0]) + ":1", arns)
        self.refused("ValidationException", 400, "at 'maxItems'", self.client.list_functions,
                     MaxItems=10001)
        self.refused("InvalidParameterValueException", 400, "Marker", self.client.list_functions,
                     Marker="%%%")
        with urllib.request.urlopen(f"{URL}/2015-03-31/functions/?MaxItems=1") as answer:
            self.assertEqual(answer.status, 200)


class Versions(Case):
    def test_published_once_a_change(self):
        name = self.function(Description="first")
        one = self.client.publish_version(FunctionName=name, Description="one")
        self.assertEqual((one["Version"], one["FunctionArn"]), ("1", arn(name) + ":1"))
        self.assertEqual((one["Description"], one["MasterArn"]), ("one", arn(name)))
        again = self.client.publish_version(FunctionName=name)
        self.assertEqual((again["Version"], again["RevisionId"]), ("1", one["RevisionId"]))
        self.client.update_function_configuration(FunctionName=name, Timeout=9)
        self.refused("InvalidParameterValueException", 400, "is different from current CodeSHA256",
                     self.client.publish_version, FunctionName=name, CodeSha256="x")
        two = self.client.publish_version(FunctionName=name, CodeSha256=one["CodeSha256"])
        self.assertEqual((two["Version"], two["Timeout"]), ("2", 9))
        self.client.get_waiter("published_version_active").wait(FunctionName=name, Qualifier="2")
        frozen = self.client.get_function_configuration(FunctionName=name, Qualifier="1")
        self.assertEqual((frozen["Timeout"], frozen["Description"]), (3, "one"))
        pages = self.client.get_paginator("list_versions_by_function").paginate(
            FunctionName=name, PaginationConfig={"PageSize": 1}
        )
        listed = [one["Version"] for page in pages for one in page["Versions"]]
        self.assertEqual(listed, ["$LATEST", "1", "2"])
        self.client.delete_function(FunctionName=name, Qualifier="2")
        self.refused("ResourceNotFoundException", 404, f"Function not found: {arn(name)}:2",
                     self.client.get_function, FunctionName=name, Qualifier="2")
        self.client.update_function_configuration(FunctionName=name, Timeout=10)
        self.assertEqual(self.client.publish_version(FunctionName=name)["Version"], "3")
        self.refused("InvalidParameterValueException", 400, "$LATEST version cannot be deleted",
                     self.client.delete_function, FunctionName=name, Qualifier="$LATEST")

    def test_snap_start_is_pending_until_the_snapshot_is_there(self):
        if not STAND_IN:
            self.skipTest("it would boot a machine")
        name = self.function(SnapStart={"ApplyOn": "PublishedVersions"})
        made = self.client.publish_version(FunctionName=name)
        self.assertEqual((made["State"], made["StateReasonCode"]), ("Pending", "Creating"))
        self.assertEqual(made["SnapStart"]["OptimizationStatus"], "Off")
        waiter = self.client.get_waiter("published_version_active")
        waiter.config.delay = 0.1
        waiter.wait(FunctionName=name, Qualifier="1")
        told = self.client.get_function_configuration(FunctionName=name, Qualifier="1")
        self.assertEqual(told["SnapStart"],
                         {"ApplyOn": "PublishedVersions", "OptimizationStatus": "On"})
        failing = self.function(SnapStart={"ApplyOn": "PublishedVersions"}, Description="fails")
        self.client.publish_version(FunctionName=failing)
        for _ in range(100):
            told = self.client.get_function_configuration(FunctionName=failing, Qualifier="1")
            if told["State"] != "Pending":
                break
            time.sleep(0.1)
        self.assertEqual((told["State"], told["StateReasonCode"]), ("Failed", "FunctionError"))


class Aliases(Case):
    def test_lead_to_versions(self):
        name = self.function()
        self.client.publish_version(FunctionName=name)
        self.client.update_function_configuration(FunctionName=name, Timeout=9)
        self.client.publish_version(FunctionName=name)
        made = self.without_metadata(self.client.create_alias(
            FunctionName=name, Name="live", FunctionVersion="1", Description="d"))
        self.assertEqual(made["AliasArn"], arn(name) + ":live")
        self.assertEqual(made["FunctionVersion"], "1")
        self.assertNotIn("RoutingConfig", made)
        self.assertEqual(
            self.without_metadata(self.client.get_alias(FunctionName=name, Name="live")), made)
        told = self.client.get_function_configuration(FunctionName=name, Qualifier="live")
        self.assertEqual((told["Version"], told["FunctionArn"]), ("1", arn(name) + ":live"))
        weighted = self.client.update_alias(
            FunctionName=name, Name="live", RevisionId=made["RevisionId"],
            RoutingConfig={"AdditionalVersionWeights": {"2": 0.25}})
        self.assertEqual(weighted["RoutingConfig"], {"AdditionalVersionWeights": {"2": 0.25}})
        self.assertEqual(weighted["Description"], "d")
        update, conflict = self.client.update_alias, "ResourceConflictException"
        self.refused("PreconditionFailedException", 412, "Revision Id", update, FunctionName=name,
                     Name="live", RevisionId=made["RevisionId"])
        self.refused(conflict, 409, "Alias already exists", self.client.create_alias,
                     FunctionName=name, Name="live", FunctionVersion="1")
        self.refused(conflict, 409, "[live]", self.client.delete_function,
                     FunctionName=name, Qualifier="2")
        for weights, words in (
            ({"1": 0.1}, "must differ"), ({"2": 0.1, "1": 0.1}, "cannot be greater than 1")):
            self.refused("InvalidParameterValueException", 400, words, update, FunctionName=name,
                         Name="live", RoutingConfig={"AdditionalVersionWeights": weights})
        self.refused("ValidationException", 400, "between", update, FunctionName=name,
                     Name="live", RoutingConfig={"AdditionalVersionWeights": {"2": 1.5}})
        self.refused("ResourceNotFoundException", 404, f"{arn(name)}:7", update,
                     FunctionName=name, Name="live", FunctionVersion="7")
        self.refused("ValidationException", 400, "at 'name'", self.client.create_alias,
                     FunctionName=name, Name="12", FunctionVersion="1")
        self.refused("ResourceNotFoundException", 404, "Cannot find alias arn",
                     self.client.get_alias, FunctionName=name, Name="no")
        self.client.create_alias(FunctionName=name, Name="next", FunctionVersion="$LATEST")
        pages = self.client.get_paginator("list_aliases").paginate(
            FunctionName=name, PaginationConfig={"PageSize": 1})
        self.assertEqual([a["Name"] for page in pages for a in page["Aliases"]], ["live", "next"])
        of_two = self.client.list_aliases(FunctionName=name, FunctionVersion="2")["Aliases"]
        self.assertEqual([alias["Name"] for alias in of_two], ["live"])
        for alias in ("live", "next", "never-was"):
            self.client.delete_alias(FunctionName=name, Name=alias)
        self.assertEqual(self.client.list_aliases(FunctionName=name)["Aliases"], [])


class Awscli(Case):
    def test_a_function_from_its_making_to_its_end(self):
        name = "awscli-function"
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "code.zip")
            with open(path, "wb") as file:
                file.write(CODE)
            named = ("--function-name", name)
            made = awscli("create-function", *named, "--runtime", "python3.12", "--handler",
                          "app.handler", "--role", ROLE, "--zip-file", f"fileb://{path}")
            self.addCleanup(self.forget, name)
            self.assertEqual(made["FunctionArn"], arn(name))
            awscli("wait", "function-active-v2", *named)
            self.assertIn(name, [f["FunctionName"] for f in awscli("list-functions")["Functions"]])
            awscli("update-function-code", *named, "--zip-file", f"fileb://{path}", "--publish")
            awscli("wait", "function-updated-v2", *named)
            awscli("update-function-configuration", *named, "--environment", "Variables={A=b}")
            told = awscli("get-function-configuration", "--function-name", arn(name))
            self.assertEqual(told["Environment"], {"Variables": {"A": "b"}})
            awscli("create-alias", *named, "--name", "live", "--function-version", "1")
            self.assertEqual(awscli("get-alias", *named, "--name", "live")["FunctionVersion"], "1")
            layer = awscli("publish-layer-version", "--layer-name", "awscli-layer", "--zip-file",
                           f"fileb://{path}", "--compatible-runtimes", "python3.12")
            found = awscli("get-layer-version-by-arn", "--arn", layer["LayerVersionArn"])
            self.assertEqual(found["Version"], layer["Version"])
            awscli("delete-layer-version", "--layer-name", "awscli-layer", "--version-number",
                   str(layer["Version"]))
            awscli("tag-resource", "--resource", arn(name), "--tags", "a=1,b=2")
            awscli("untag-resource", "--resource", arn(name), "--tag-keys", "a", "c")
            self.assertEqual(awscli("list-tags", "--resource", arn(name))["Tags"], {"b": "2"})
            awscli("put-function-concurrency", *named, "--reserved-concurrent-executions", "3")
            self.assertEqual(awscli("get-function", *named)["Concurrency"],
                             {"ReservedConcurrentExecutions": 3})
            url = awscli("create-function-url-config", *named, "--auth-type", "NONE")
            self.assertTrue(re.match(r"http://[0-9a-z]{32}\.lambda-url\.", url["FunctionUrl"]))
            awscli("delete-function", *named)
            said = awscli("get-function", *named, expect=255)
            self.assertIn(f"(ResourceNotFoundException) when calling the GetFunction operation: "
                          f"Function not found: {arn(name)}", said)
