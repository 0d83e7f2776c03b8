"""What hangs on functions, and what stands beside them, as boto3 uses it."""

import json
import urllib.request

from endpoint import ACCOUNT, CODE, REGION, ROLE, STAND_IN, Case, arn, client, zip_of

MISSING = "ResourceNotFoundException"
INVALID = "InvalidParameterValueException"
CONFLICT = "ResourceConflictException"


class Layers(Case):
    def test_published_used_and_deleted(self):
        name = "layer-" + self.id()[-8:]
        publish = self.client.publish_layer_version
        made = publish(LayerName=name, Content={"ZipFile": CODE}, Description="d",
                       CompatibleRuntimes=["python3.12"], CompatibleArchitectures=["x86_64"],
                       LicenseInfo="MIT")
        layer = f"arn:aws:lambda:{REGION}:{ACCOUNT}:layer:{name}"
        first = made["Version"]
        self.assertEqual(made["LayerArn"], layer)
        self.assertEqual(made["LayerVersionArn"], f"{layer}:{first}")
        self.assertEqual(made["Content"]["CodeSize"], len(CODE))
        second = publish(LayerName=layer, Content={"ZipFile": zip_of(b_py="")})
        self.assertEqual(second["Version"], first + 1)
        told = self.client.get_layer_version(LayerName=name, VersionNumber=first)
        with urllib.request.urlopen(told["Content"]["Location"]) as download:
            self.assertEqual(download.read(), CODE)
        by_arn = self.client.get_layer_version_by_arn(Arn=f"{layer}:{first}")
        for key in ("Description", "LicenseInfo", "CompatibleRuntimes", "CreatedDate", "Version"):
            self.assertEqual(by_arn[key], told[key])
        pages = self.client.get_paginator("list_layer_versions").paginate(
            LayerName=name, PaginationConfig={"PageSize": 1})
        listed = [one["Version"] for page in pages for one in page["LayerVersions"]]
        self.assertEqual(listed, [first + 1, first])
        fitting = [page["Layers"] for page in self.client.get_paginator("list_layers").paginate(
            CompatibleRuntime="python3.12", CompatibleArchitecture="x86_64")]
        fitting = {one["LayerName"]: one for page in fitting for one in page}
        self.assertEqual(fitting[name]["LatestMatchingVersion"]["Version"], first)
        function = self.function(Layers=[f"{layer}:{first}"])
        told = self.client.get_function_configuration(FunctionName=function)
        self.assertEqual(told["Layers"], [{"Arn": f"{layer}:{first}", "CodeSize": len(CODE)}])
        self.refused(INVALID, 400, "Two different versions of the same layer",
                     self.client.update_function_configuration, FunctionName=function,
                     Layers=[f"{layer}:{first}", f"{layer}:{first + 1}"])
        permit = {"LayerName": name, "VersionNumber": first, "StatementId": "s",
                  "Action": "lambda:GetLayerVersion", "Principal": "*"}
        added = self.client.add_layer_version_permission(**permit)
        self.assertEqual(json.loads(added["Statement"])["Resource"], f"{layer}:{first}")
        self.refused(CONFLICT, 409, "already exists", self.client.add_layer_version_permission,
                     **permit)
        policy = self.client.get_layer_version_policy(LayerName=name, VersionNumber=first)
        self.assertEqual(json.loads(policy["Policy"])["Statement"][0]["Sid"], "s")
        self.refused("PreconditionFailedException", 412, "Revision Id",
                     self.client.remove_layer_version_permission, LayerName=name,
                     VersionNumber=first, StatementId="s", RevisionId="x")
        self.client.remove_layer_version_permission(
            LayerName=name, VersionNumber=first, StatementId="s", RevisionId=policy["RevisionId"])
        self.refused(MISSING, 404, "No policy", self.client.get_layer_version_policy,
                     LayerName=name, VersionNumber=first)
        self.client.delete_layer_version(LayerName=name, VersionNumber=first)
        self.client.delete_layer_version(LayerName=name, VersionNumber=first)
        self.refused(MISSING, 404, "", self.client.get_layer_version, LayerName=name,
                     VersionNumber=first)
        self.client.update_function_configuration(FunctionName=function, Timeout=4)
        told = self.client.update_function_configuration(FunctionName=function, Layers=[])
        self.assertNotIn("Layers", told)
        self.assertEqual(publish(LayerName=name, Content={"ZipFile": CODE})["Version"], first + 2)


class Permissions(Case):
    def test_statements_come_and_go(self):
        name = self.function()
        self.refused(MISSING, 404, "", self.client.get_policy, FunctionName=name)
        added = self.client.add_permission(
            FunctionName=name, StatementId="s3", Action="lambda:InvokeFunction",
            Principal="s3.amazonaws.com", SourceArn="arn:aws:s3:::bucket", SourceAccount=ACCOUNT)
        self.assertEqual(json.loads(added["Statement"]), {
            "Sid": "s3", "Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"},
            "Action": "lambda:InvokeFunction", "Resource": arn(name),
            "Condition": {"StringEquals": {"AWS:SourceAccount": ACCOUNT},
                          "ArnLike": {"AWS:SourceArn": "arn:aws:s3:::bucket"}}})
        url = self.client.add_permission(
            FunctionName=name, StatementId="url", Action="lambda:InvokeFunctionUrl",
            Principal="*", FunctionUrlAuthType="NONE")
        self.assertEqual(json.loads(url["Statement"])["Principal"], "*")
        self.refused(CONFLICT, 409, "statement id (s3) provided already exists",
                     self.client.add_permission, FunctionName=name, StatementId="s3",
                     Action="lambda:InvokeFunction", Principal=ACCOUNT)
        self.refused("ValidationException", 400, "at 'action'", self.client.add_permission,
                     FunctionName=name, StatementId="x", Action="s3:Get", Principal="*")
        policy = self.client.get_policy(FunctionName=name)
        sids = [one["Sid"] for one in json.loads(policy["Policy"])["Statement"]]
        self.assertEqual(sids, ["s3", "url"])
        self.refused("PreconditionFailedException", 412, "GetPolicy", self.client.remove_permission,
                     FunctionName=name, StatementId="s3", RevisionId="x")
        self.client.remove_permission(FunctionName=name, StatementId="s3",
                                      RevisionId=policy["RevisionId"])
        self.refused(MISSING, 404, "Statement s3 is not found", self.client.remove_permission,
                     FunctionName=name, StatementId="s3")
        self.client.publish_version(FunctionName=name)
        self.client.add_permission(FunctionName=name, Qualifier="1", StatementId="v",
                                   Action="lambda:*", Principal=ACCOUNT)
        of_version = json.loads(self.client.get_policy(FunctionName=name, Qualifier="1")["Policy"])
        self.assertEqual(of_version["Statement"][0]["Resource"], arn(name) + ":1")
        self.refused(MISSING, 404, ":9", self.client.add_permission, FunctionName=name,
                     Qualifier="9", StatementId="v", Action="lambda:*", Principal=ACCOUNT)
        self.refused("PolicyLengthExceededException", 400, "bigger than the limit",
                     self.client.add_permission, FunctionName=name, StatementId="long",
                     Action="lambda:InvokeFunction", Principal="a.amazonaws.com",
                     SourceArn="arn:aws:s3:::" + "x" * 20480)

    def test_whole_policies(self):
        name = self.function()
        document = {"Version": "2012-10-17", "Statement": [
            {"Sid": "a", "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunction",
             "Resource": arn(name)}]}
        put = self.client.put_resource_policy(ResourceArn=arn(name), Policy=json.dumps(document))
        got = self.client.get_resource_policy(ResourceArn=arn(name))
        self.assertEqual(got["RevisionId"], put["RevisionId"])
        self.assertEqual(json.loads(got["Policy"])["Statement"], document["Statement"])
        self.client.delete_resource_policy(ResourceArn=arn(name))
        self.refused(MISSING, 404, "", self.client.get_resource_policy, ResourceArn=arn(name))


class Settings(Case):
    def test_tags(self):
        name = self.function(Tags={"a": "1"})
        self.client.tag_resource(Resource=arn(name), Tags={"b": "2", "a": "3"})
        self.assertEqual(self.client.list_tags(Resource=arn(name))["Tags"], {"a": "3", "b": "2"})
        self.client.untag_resource(Resource=arn(name), TagKeys=["a", "b"])
        self.assertEqual(self.client.list_tags(Resource=arn(name))["Tags"], {})
        self.assertNotIn("Tags", self.client.get_function(FunctionName=name))
        self.refused(INVALID, 400, "aliases and versions", self.client.tag_resource,
                     Resource=arn(name) + ":1", Tags={"a": "1"})
        self.refused(MISSING, 404, "Function not found", self.client.list_tags,
                     Resource=arn("no-such"))
        self.refused(INVALID, 400, "tag limit", self.client.tag_resource, Resource=arn(name),
                     Tags={f"k{n}": "" for n in range(51)})

    def test_reserved_concurrency(self):
        name = self.function()
        told = self.without_metadata(self.client.get_function_concurrency(FunctionName=name))
        self.assertEqual(told, {})
        before = self.client.get_account_settings()["AccountLimit"]
        put = self.client.put_function_concurrency(FunctionName=name,
                                                   ReservedConcurrentExecutions=7)
        self.assertEqual(put["ReservedConcurrentExecutions"], 7)
        told = self.client.get_function_concurrency(FunctionName=name)
        self.assertEqual(told["ReservedConcurrentExecutions"], 7)
        after = self.client.get_account_settings()
        self.assertEqual(after["AccountLimit"]["UnreservedConcurrentExecutions"],
                         before["UnreservedConcurrentExecutions"] - 7)
        self.assertGreaterEqual(after["AccountUsage"]["FunctionCount"], 1)
        self.assertGreaterEqual(after["AccountUsage"]["TotalCodeSize"], len(CODE))
        self.refused(INVALID, 400, "minimum value of [100]", self.client.put_function_concurrency,
                     FunctionName=name, ReservedConcurrentExecutions=901)
        self.client.delete_function_concurrency(FunctionName=name)
        told = self.without_metadata(self.client.get_function_concurrency(FunctionName=name))
        self.assertEqual(told, {})

    def test_provisioned_concurrency(self):
        if not STAND_IN:
            self.skipTest("it would boot machines")
        name = self.function()
        self.client.publish_version(FunctionName=name)
        self.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
        put = self.client.put_provisioned_concurrency_config
        of_alias = {"FunctionName": name, "Qualifier": "live"}
        made = put(**of_alias, ProvisionedConcurrentExecutions=2)
        self.assertEqual(made["ResponseMetadata"]["HTTPStatusCode"], 202)
        self.assertEqual(made["RequestedProvisionedConcurrentExecutions"], 2)
        for _ in range(100):
            told = self.client.get_provisioned_concurrency_config(**of_alias)
            if told["Status"] != "IN_PROGRESS":
                break
        self.assertEqual(told["Status"], "READY")
        self.assertEqual(told["AvailableProvisionedConcurrentExecutions"], 2)
        pages = self.client.get_paginator("list_provisioned_concurrency_configs").paginate(
            FunctionName=name)
        listed = [one for page in pages for one in page["ProvisionedConcurrencyConfigs"]]
        self.assertEqual([one["FunctionArn"] for one in listed], [arn(name) + ":live"])
        self.refused(CONFLICT, 409, "already Provisioned", put, FunctionName=name, Qualifier="1",
                     ProvisionedConcurrentExecutions=1)
        self.refused(INVALID, 400, "unpublished", put, FunctionName=name, Qualifier="$LATEST",
                     ProvisionedConcurrentExecutions=1)
        self.client.delete_provisioned_concurrency_config(**of_alias)
        self.refused("ProvisionedConcurrencyConfigNotFoundException", 404,
                     "No Provisioned Concurrency Config found for this function",
                     self.client.get_provisioned_concurrency_config, **of_alias)

    def test_urls(self):
        name = self.function()
        self.refused(MISSING, 404, "", self.client.get_function_url_config, FunctionName=name)
        cors = {"AllowCredentials": True, "AllowHeaders": ["x-a"], "AllowMethods": ["GET"],
                "AllowOrigins": ["https://a.example"], "ExposeHeaders": ["x-b"], "MaxAge": 60}
        made = self.client.create_function_url_config(
            FunctionName=name, AuthType="AWS_IAM", Cors=cors, InvokeMode="RESPONSE_STREAM")
        self.assertEqual(made["Cors"], cors)
        self.assertEqual(made["FunctionArn"], arn(name))
        self.assertRegex(made["FunctionUrl"],
                         rf"^http://[0-9a-z]{{32}}\.lambda-url\.{REGION}\.localhost:\d+/$")
        self.refused(CONFLICT, 409, "FunctionUrlConfig exists",
                     self.client.create_function_url_config, FunctionName=name, AuthType="NONE")
        told = self.client.update_function_url_config(FunctionName=name, AuthType="NONE", Cors={})
        self.assertEqual((told["AuthType"], told["InvokeMode"]), ("NONE", "RESPONSE_STREAM"))
        self.assertNotIn("Cors", told)
        self.assertEqual(told["FunctionUrl"], made["FunctionUrl"])
        self.client.publish_version(FunctionName=name)
        self.client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
        of_alias = self.client.create_function_url_config(
            FunctionName=name, Qualifier="live", AuthType="NONE")
        self.assertEqual(of_alias["FunctionArn"], arn(name) + ":live")
        self.refused("ValidationException", 400, "at 'qualifier'",
                     self.client.create_function_url_config, FunctionName=name, Qualifier="1",
                     AuthType="NONE")
        pages = self.client.get_paginator("list_function_url_configs").paginate(
            FunctionName=name, PaginationConfig={"PageSize": 1})
        urls = [one["FunctionUrl"] for page in pages for one in page["FunctionUrlConfigs"]]
        self.assertEqual(urls, [made["FunctionUrl"], of_alias["FunctionUrl"]])
        self.client.delete_function_url_config(FunctionName=name)
        self.refused(MISSING, 404, "", self.client.delete_function_url_config, FunctionName=name)

    def test_event_invoke_configs(self):
        name = self.function()
        self.refused(MISSING, 404, "doesn't have an EventInvokeConfig",
                     self.client.get_function_event_invoke_config, FunctionName=name)
        destination = {"OnFailure": {"Destination": arn("other")}}
        put = self.client.put_function_event_invoke_config(
            FunctionName=name, MaximumRetryAttempts=1, DestinationConfig=destination)
        self.assertEqual(put["FunctionArn"], arn(name) + ":$LATEST")
        self.assertEqual(put["DestinationConfig"], {"OnSuccess": {}, **destination})
        told = self.client.update_function_event_invoke_config(
            FunctionName=name, MaximumEventAgeInSeconds=60)
        self.assertEqual((told["MaximumRetryAttempts"], told["MaximumEventAgeInSeconds"]), (1, 60))
        self.assertEqual(told["LastModified"].year, __import__("datetime").datetime.now().year)
        told = self.client.put_function_event_invoke_config(FunctionName=name,
                                                            MaximumEventAgeInSeconds=61)
        self.assertNotIn("MaximumRetryAttempts", told)
        got = self.client.get_function_event_invoke_config(FunctionName=name, Qualifier="$LATEST")
        self.assertEqual(got["MaximumEventAgeInSeconds"], 61)
        pages = self.client.get_paginator("list_function_event_invoke_configs").paginate(
            FunctionName=name)
        listed = [one for page in pages for one in page["FunctionEventInvokeConfigs"]]
        self.assertEqual(len(listed), 1)
        for words, change in (
            ("at 'maximumRetryAttempts'", {"MaximumRetryAttempts": 3}),
            ("at 'maximumEventAgeInSeconds'", {"MaximumEventAgeInSeconds": 21601})):
            self.refused("ValidationException", 400, words,
                         self.client.put_function_event_invoke_config, FunctionName=name, **change)
        self.refused(INVALID, 400, "destination",
                     self.client.put_function_event_invoke_config, FunctionName=name,
                     DestinationConfig={"OnSuccess": {"Destination": "nowhere"}})
        self.client.delete_function_event_invoke_config(FunctionName=name)
        self.refused(MISSING, 404, "", self.client.delete_function_event_invoke_config,
                     FunctionName=name)

    def test_what_terraform_reads(self):
        name = self.function()
        told = self.client.get_function_code_signing_config(FunctionName=name)
        self.assertEqual(told["FunctionName"], name)
        self.assertNotIn("CodeSigningConfigArn", told)
        told = self.client.get_runtime_management_config(FunctionName=name)
        self.assertEqual(told["UpdateRuntimeOn"], "Auto")
        version = f"arn:aws:lambda:{REGION}::runtime:abc"
        put = self.client.put_runtime_management_config(
            FunctionName=name, UpdateRuntimeOn="Manual", RuntimeVersionArn=version)
        self.assertEqual(put["RuntimeVersionArn"], version)
        told = self.client.get_runtime_management_config(FunctionName=name)
        self.assertEqual((told["UpdateRuntimeOn"], told["RuntimeVersionArn"]), ("Manual", version))
        self.refused(INVALID, 400, "Manual", self.client.put_runtime_management_config,
                     FunctionName=name, UpdateRuntimeOn="Manual")
        told = self.client.get_function_recursion_config(FunctionName=name)
        self.assertEqual(told["RecursiveLoop"], "Terminate")
        self.client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
        told = self.client.get_function_recursion_config(FunctionName=name)
        self.assertEqual(told["RecursiveLoop"], "Allow")
        told = self.client.get_function_scaling_config(FunctionName=name, Qualifier="$LATEST")
        self.assertNotIn("AppliedFunctionScalingConfig", told)
        self.refused(INVALID, 400, "not supported", self.client.put_function_scaling_config,
                     FunctionName=name, Qualifier="$LATEST",
                     FunctionScalingConfig={"MinExecutionEnvironments": 1})

    def test_code_signing(self):
        publishers = {"SigningProfileVersionArns": [
            f"arn:aws:signer:{REGION}:{ACCOUNT}:/signing-profiles/p/v"]}
        made = self.client.create_code_signing_config(
            AllowedPublishers=publishers, Description="d", Tags={"a": "1"})["CodeSigningConfig"]
        signing = made["CodeSigningConfigArn"]
        self.assertRegex(made["CodeSigningConfigId"], "^csc-[0-9a-z]{17}$")
        self.assertEqual(made["CodeSigningPolicies"], {"UntrustedArtifactOnDeployment": "Warn"})
        self.assertEqual(self.client.list_tags(Resource=signing)["Tags"], {"a": "1"})
        self.client.update_code_signing_config(
            CodeSigningConfigArn=signing,
            CodeSigningPolicies={"UntrustedArtifactOnDeployment": "Enforce"})
        got = self.client.get_code_signing_config(CodeSigningConfigArn=signing)["CodeSigningConfig"]
        self.assertEqual(got["CodeSigningPolicies"], {"UntrustedArtifactOnDeployment": "Enforce"})
        self.assertEqual((got["Description"], got["AllowedPublishers"]), ("d", publishers))
        pages = self.client.get_paginator("list_code_signing_configs").paginate()
        arns = [one["CodeSigningConfigArn"] for page in pages for one in page["CodeSigningConfigs"]]
        self.assertIn(signing, arns)
        name = self.function()
        self.client.put_function_code_signing_config(FunctionName=name,
                                                     CodeSigningConfigArn=signing)
        told = self.client.get_function_code_signing_config(FunctionName=name)
        self.assertEqual(told["CodeSigningConfigArn"], signing)
        used = self.client.list_functions_by_code_signing_config(CodeSigningConfigArn=signing)
        self.assertEqual(used["FunctionArns"], [arn(name)])
        self.refused(CONFLICT, 409, "is used", self.client.delete_code_signing_config,
                     CodeSigningConfigArn=signing)
        self.client.delete_function_code_signing_config(FunctionName=name)
        self.client.delete_code_signing_config(CodeSigningConfigArn=signing)
        self.refused(MISSING, 404, "", self.client.get_code_signing_config,
                     CodeSigningConfigArn=signing)
        self.refused("CodeSigningConfigNotFoundException", 404, "",
                     self.client.put_function_code_signing_config, FunctionName=name,
                     CodeSigningConfigArn=signing)


class Unsupported(Case):
    """What cannot be had is listed as nothing and refused in words, and never a fault."""

    def test_event_source_mappings(self):
        self.assertEqual(self.client.list_event_source_mappings()["EventSourceMappings"], [])
        self.refused(INVALID, 400, "not supported", self.client.create_event_source_mapping,
                     FunctionName="f", EventSourceArn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:q")
        some = {"UUID": "00000000-0000-0000-0000-000000000000"}
        for call in (self.client.get_event_source_mapping, self.client.update_event_source_mapping,
                     self.client.delete_event_source_mapping):
            self.refused(MISSING, 404, "", call, **some)

    def test_capacity_providers(self):
        self.assertEqual(self.client.list_capacity_providers()["CapacityProviders"], [])
        self.refused(INVALID, 400, "not supported", self.client.create_capacity_provider,
                     CapacityProviderName="p",
                     VpcConfig={"SubnetIds": ["s"], "SecurityGroupIds": ["g"]},
                     PermissionsConfig={"CapacityProviderOperatorRoleArn": ROLE})
        named = {"CapacityProviderName": "p"}
        for call in (self.client.get_capacity_provider, self.client.update_capacity_provider,
                     self.client.delete_capacity_provider,
                     self.client.list_function_versions_by_capacity_provider):
            self.refused(MISSING, 404, "", call, **named)

    def test_durable_executions(self):
        name = self.function()
        told = self.client.list_durable_executions_by_function(FunctionName=name)
        self.assertEqual(told["DurableExecutions"], [])
        execution = {"DurableExecutionArn": f"{arn(name)}:1/durable-execution/a/b"}
        calls = self.client
        for call, more in (
            (calls.get_durable_execution, {}),
            (calls.get_durable_execution_history, {}),
            (calls.get_durable_execution_state, {"CheckpointToken": "dA=="}),
            (calls.checkpoint_durable_execution, {"CheckpointToken": "dA=="}),
            (calls.pause_durable_execution, {}),
            (calls.resume_durable_execution, {}),
            (calls.stop_durable_execution, {}),
            (calls.delete_durable_execution, {}),
        ):
            self.refused(MISSING, 404, "", call, **execution, **more)
        for call in (calls.send_durable_execution_callback_success,
                     calls.send_durable_execution_callback_failure,
                     calls.send_durable_execution_callback_heartbeat):
            self.refused(MISSING, 404, "", call, CallbackId="dA==")


class Everywhere(Case):
    def test_functions_that_are_not_there_are_missed_by_every_operation(self):
        """Each operation about a function, made up from botocore's model, says 404."""
        model = client().meta.service_model
        needed = {
            "Qualifier": "1", "Name": "live", "FunctionVersion": "1", "StatementId": "s",
            "Action": "lambda:InvokeFunction", "Principal": "*", "AuthType": "NONE",
            "ReservedConcurrentExecutions": 1, "ProvisionedConcurrentExecutions": 1,
            "UpdateRuntimeOn": "Auto", "RecursiveLoop": "Allow", "MaximumRetryAttempts": 1,
            "CodeSigningConfigArn":
                f"arn:aws:lambda:{REGION}:{ACCOUNT}:code-signing-config:csc-" + "0" * 17,
        }
        skipped = {"CreateFunction", "Invoke", "InvokeAsync", "InvokeWithResponseStream",
                   "CreateEventSourceMapping", "ListEventSourceMappings",
                   "UpdateEventSourceMapping"}
        tried = 0
        for operation in sorted(set(model.operation_names) - skipped):
            shape = model.operation_model(operation).input_shape
            if shape is None or "FunctionName" not in shape.members:
                continue
            members = {"FunctionName": "not-there"}
            for member in shape.members:
                if member in shape.required_members and member in needed:
                    members[member] = needed[member]
            if operation == "UpdateFunctionCode":
                members["ZipFile"] = CODE
            if operation == "PutFunctionEventInvokeConfig":
                members["MaximumRetryAttempts"] = 1
            call = getattr(self.client, __import__("botocore").xform_name(operation))
            with self.subTest(operation):
                self.refused(MISSING, 404, "not-there", call, **members)
                tried += 1
        self.assertGreater(tried, 30)
