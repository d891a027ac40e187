"""What images/ecs/ says, checked without AWS: against AWS's own models, and by running it in moto.

Sources of truth: botocore's service model of RegisterTaskDefinition for the task definitions; the
resource schemas of CloudFormation that cfn-lint brings for the template. Neither knows all that AWS
refuses, so the rules of this project that AWS would not check are checked here, too.
"""

import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

os.environ.update(
    AWS_ACCESS_KEY_ID="moto", AWS_SECRET_ACCESS_KEY="moto", AWS_DEFAULT_REGION="eu-central-1"
)

import boto3
import botocore.session
import botocore.validate
import cfnlint.decode
import cfnlint.template
import cfnlint.template.transforms._language_extensions as language_extensions
import moto
import moto.efs.models
import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
ECS = TOP / "images" / "ecs"
STACK = ECS / "stack.yaml"
TASKS = sorted(ECS.glob("task-*.yaml"))
EC2_TASKS = [path for path in TASKS if "ec2" in path.name]
POOLS = ["X64Spot", "X64", "Arm64Spot", "X64Fargate", "Arm64FargateSpot"]
REGISTER = botocore.session.get_session().get_service_model("ecs").operation_model(
    "RegisterTaskDefinition"
)


# moto makes file systems and access points, but does not know their attribute Arn.
for made in moto.efs.models.FileSystem, moto.efs.models.AccessPoint:
    made.get_cfn_attribute = lambda self, name: {
        "Arn": getattr(self, "file_system_arn", None) or getattr(self, "access_point_arn", None)
    }[name]


def for_moto(value):
    """Without references to what moto does not make (AWS::ServiceDiscovery)."""
    if isinstance(value, dict):
        if value == {"Fn::GetAtt": ["MirrorName", "Arn"]}:
            return "arn:aws:servicediscovery:eu-central-1:123456789012:service/srv-mirror"
        return {key: for_moto(inner) for key, inner in value.items()}
    return [for_moto(inner) for inner in value] if isinstance(value, list) else value


def task(path):
    return yaml.safe_load(path.read_text())


def expanded(pools):
    """The template as CloudFormation expands it for these pools."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as copy:
        copy.write(STACK.read_text().replace("Default: X64Spot", f"Default: {','.join(pools)}", 1))
        copy.flush()
        template, matches = cfnlint.decode.decode(copy.name)
    assert not matches, matches
    cfn = cfnlint.template.Template(str(STACK), template, ["eu-central-1"])
    matches, plain = language_extensions.language_extension(cfn)
    assert not matches, matches
    plain = json.loads(json.dumps(plain))
    del plain["Transform"]
    return plain


def containers(definition):
    return {container["name"]: container for container in definition["containerDefinitions"]}


def camel(value):
    """CloudFormation's names as the API has them."""
    if isinstance(value, dict):
        return {
            (key[0].lower() + key[1:]) if not key.startswith("Fn::") else key: camel(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [camel(inner) for inner in value]
    return value


class TaskDefinitions(unittest.TestCase):
    def test_each_is_what_the_api_accepts(self):
        self.assertEqual(len(TASKS), 3)
        for path in TASKS:
            with self.subTest(path.name):
                report = botocore.validate.ParamValidator().validate(task(path), REGISTER.input_shape)
                self.assertFalse(report.has_errors(), report.generate_report())

    def test_the_model_refuses_what_the_api_does_not_know(self):
        wrong = task(TASKS[0]) | {"privilegedTask": True}
        report = botocore.validate.ParamValidator().validate(wrong, REGISTER.input_shape)
        self.assertIn("privilegedTask", report.generate_report())

    def test_each_can_be_registered(self):
        with moto.mock_aws():
            client = boto3.client("ecs")
            for path in TASKS:
                registered = client.register_task_definition(**task(path))["taskDefinition"]
                self.assertEqual(
                    [container["name"] for container in registered["containerDefinitions"]],
                    [container["name"] for container in task(path)["containerDefinitions"]],
                )

    def test_dind_has_two_capabilities_and_no_privilege(self):
        for path in EC2_TASKS:
            dind = containers(task(path))["dind"]
            self.assertEqual(dind["linuxParameters"]["capabilities"], {"add": ["SYS_ADMIN", "NET_ADMIN"]})
            self.assertNotIn("privileged", dind)
            self.assertTrue(dind["essential"])
            self.assertNotIn("restartPolicy", dind)

    def test_volumes_of_both_containers_are_at_the_same_path(self):
        for path in EC2_TASKS:
            runner, dind = (
                {mount["sourceVolume"]: mount["containerPath"] for mount in containers(task(path))[name]["mountPoints"]}
                for name in ("runner", "dind")
            )
            shared = runner.keys() & dind.keys()
            self.assertEqual(shared, {"socket", "work", "externals", "tools"})
            self.assertEqual({name: runner[name] for name in shared}, {name: dind[name] for name in shared})

    def test_every_mounted_volume_is_declared_and_used(self):
        for path in TASKS:
            definition = task(path)
            declared = {volume["name"] for volume in definition["volumes"]}
            used = {
                mount["sourceVolume"]
                for container in definition["containerDefinitions"]
                for mount in container["mountPoints"]
            }
            self.assertEqual(declared, used, path.name)

    def test_each_waits_for_the_health_of_what_it_needs(self):
        for path in EC2_TASKS:
            all_of_it = containers(task(path))
            waits = {
                name: [(on["containerName"], on["condition"]) for on in container.get("dependsOn", [])]
                for name, container in all_of_it.items()
            }
            self.assertEqual(waits["runner"], [("dind", "HEALTHY")])
            if "log-router" in all_of_it:
                self.assertEqual(waits["dind"], [("log-router", "HEALTHY")])
            for container in all_of_it.values():
                self.assertIn(container["healthCheck"]["command"][0], ("CMD", "CMD-SHELL"))

    def test_the_stop_timeout_is_told_to_the_program(self):
        names = {"runner": "STOP_TIMEOUT", "dind": "DINDD_STOP_TIMEOUT"}
        for path in TASKS:
            for name, container in containers(task(path)).items():
                if name in names:
                    said = {entry["name"]: entry["value"] for entry in container["environment"]}
                    self.assertEqual(said[names[name]], str(container["stopTimeout"]))
                    if "fargate" in path.name:
                        self.assertLessEqual(container["stopTimeout"], 120)

    def test_no_secret_is_in_a_definition(self):
        secret = re.compile("PAT|TOKEN|PRIVATE_KEY|JITCONFIG")
        for path in TASKS:
            for container in task(path)["containerDefinitions"]:
                said = [entry["name"] for entry in container.get("environment", [])]
                self.assertEqual([name for name in said if secret.search(name)], [])
                for entry in container.get("secrets", []):
                    self.assertTrue(entry["valueFrom"].startswith("arn:"), entry)

    def test_every_setting_exists(self):
        known = set(re.findall(r"^\| `([A-Z_]+)`", (TOP / "supervisor/README.md").read_text(), re.M))
        known |= set(re.findall(r"^\| `([A-Z_]+)`", (TOP / "dindd/README.md").read_text(), re.M))
        for path in TASKS:
            for name, container in containers(task(path)).items():
                if name in ("runner", "dind"):
                    said = {entry["name"] for entry in container["environment"] + container.get("secrets", [])}
                    self.assertEqual(said - known, set())

    def test_the_log_options_fit_fluent_bits_configuration(self):
        conf = (TOP / "images/fluent-bit/task.conf").read_text()
        host = (TOP / "images/fluent-bit/host.conf").read_text()
        parsers = (TOP / "images/fluent-bit/parsers.conf").read_text()
        field = lambda text, name: re.search(rf"^\s*{name}\s+(\S.*)$", text, re.M).group(1)
        self.assertEqual(field(conf, "Mode"), "unix_udp")
        self.assertEqual(field(conf, "Parser"), field(parsers, "Name"))
        self.assertEqual(field(conf, "Unix_Path"), field(host, "Unix_Path"))
        options = (
            f"syslog-address=unixgram://{field(conf, 'Path')},"
            "syslog-format=rfc5424micro,tag={{.Name}},mode=non-blocking"
        )
        compose = (TOP / "images/compose.yaml").read_text()
        for text in (conf, compose, STACK.read_text(), (ECS / "task-ec2-logs.yaml").read_text()):
            self.assertIn(options, text)
        # What moby's daemon/logger/syslog writes in that format (rfc5424microformatterWithAppNameAsTag).
        line = "<30>1 2026-01-02T03:04:05.678901Z host job-1_web 42 job-1_web - GET / 200 - 0.1 s"
        regex = field(parsers, "Regex").replace("(?<", "(?P<")
        found = re.match(regex, line).groupdict()
        self.assertEqual((found["container"], found["message"]), ("job-1_web", "GET / 200 - 0.1 s"))


class Stack(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.template = expanded(POOLS)
        cls.resources = cls.template["Resources"]

    def of_type(self, kind):
        return {
            name: resource["Properties"]
            for name, resource in self.resources.items()
            if resource["Type"] == kind
        }

    def test_the_map_is_what_is_tested(self):
        self.assertEqual(sorted(self.template["Mappings"]["Pools"]), sorted(POOLS))

    def test_a_linter_finds_nothing(self):
        for pools in ["X64Spot"], ["X64Fargate"], POOLS:
            with self.subTest(pools), tempfile.NamedTemporaryFile("w", suffix=".yaml") as copy:
                copy.write(STACK.read_text().replace("Default: X64Spot", f"Default: {','.join(pools)}", 1))
                copy.flush()
                lint = subprocess.run(
                    [pathlib.Path(sys.executable).parent / "cfn-lint", copy.name], capture_output=True, text=True
                )
                self.assertEqual(lint.returncode, 0, lint.stdout + lint.stderr)

    def test_there_are_no_yaml_aliases_which_cloudformation_refuses(self):
        events = yaml.parse(STACK.read_text())
        self.assertFalse(any(isinstance(event, yaml.AliasEvent) for event in events))

    def test_its_tasks_are_those_of_the_files(self):
        pairs = [("TaskX64Spot", "task-ec2-logs.yaml"), ("FargateTaskX64Fargate", "task-fargate.yaml")]
        for name, path in pairs:
            ours = camel(self.resources[name]["Properties"])
            file = task(ECS / path)
            with self.subTest(name):
                self.assertEqual(
                    [volume["name"] for volume in ours["volumes"]], [volume["name"] for volume in file["volumes"]]
                )
                self.assertEqual(containers(ours).keys(), containers(file).keys())
                for container, theirs in containers(file).items():
                    self.compare(containers(ours)[container], theirs)

    def compare(self, ours, theirs):
        same = ["essential", "healthCheck", "dependsOn", "mountPoints", "stopTimeout", "ulimits", "linuxParameters"]
        for key in same:
            self.assertEqual(ours.get(key), theirs.get(key), f"{theirs['name']}: {key}")
        for key in "environment", "secrets":
            names = [[entry["name"] for entry in side.get(key, [])] for side in (ours, theirs)]
            if key == "environment":
                self.assertEqual(*map(sorted, names))

    def test_hosts_come_before_runners_and_go_after_them(self):
        parameters = self.template["Parameters"]
        unix = lambda name: [int(field) for field in parameters[name]["Default"].split()[:2]][::-1]
        aws = lambda name: [int(field) for field in parameters[name]["Default"][5:].split()[:2]][::-1]
        self.assertLess(unix("HostsOut"), aws("RunnersOut"))
        self.assertLess(aws("RunnersOut"), aws("RunnersIn"))
        self.assertLess(aws("RunnersIn"), unix("HostsIn"))
        for name, action in self.of_type("AWS::AutoScaling::ScheduledAction").items():
            self.assertEqual(action["Recurrence"], {"Ref": re.match("HostsOut|HostsIn", name).group()})
        for target in self.of_type("AWS::ApplicationAutoScaling::ScalableTarget").values():
            schedules = {action["ScheduledActionName"]: action["Schedule"] for action in target["ScheduledActions"]}
            self.assertEqual(schedules, {"out": {"Ref": "RunnersOut"}, "in": {"Ref": "RunnersIn"}})

    def test_each_architecture_has_one_store_and_its_tasks_mount_it_by_an_access_point(self):
        self.assertEqual(sorted(self.of_type("AWS::EFS::FileSystem")), ["StoreArm64", "StoreX64"])
        self.assertEqual(sorted(self.of_type("AWS::EFS::AccessPoint")), ["StoreAccessArm64", "StoreAccessX64"])

    def test_a_task_and_its_store_have_the_architecture_of_the_pool(self):
        for pool in POOLS:
            name = ("FargateTask" if "Fargate" in pool else "Task") + pool
            properties = self.resources[name]["Properties"]
            arm = "Arm64" in pool
            platform = properties["RuntimePlatform"]["CpuArchitecture"]
            self.assertEqual(platform, "ARM64" if arm else "X86_64")
            store = next(volume for volume in properties["Volumes"] if volume["Name"] == "cache")["EFSVolumeConfiguration"]
            select = store["FilesystemId"]["Fn::Select"]
            self.assertEqual(select[1][int(select[0])], {"Ref": "StoreArm64" if arm else "StoreX64"})

    def test_no_permission_is_wider_than_its_service_allows(self):
        # These know no resource (service authorization reference of ECS and ECR).
        anywhere = {
            "ecr:GetAuthorizationToken", "ecs:DiscoverPollEndpoint", "ecs:SubmitTaskStateChange",
            "ecs:SubmitContainerStateChange", "ecs:SubmitAttachmentStateChanges",
        }
        for name, role in self.of_type("AWS::IAM::Role").items():
            self.assertNotIn("ManagedPolicyArns", role, name)
            for policy in role["Policies"]:
                for statement in policy["PolicyDocument"]["Statement"]:
                    actions = statement["Action"]
                    actions = {actions} if isinstance(actions, str) else set(actions)
                    self.assertFalse([action for action in actions if "*" in action], name)
                    if statement["Resource"] == "*":
                        self.assertEqual(actions - anywhere, set(), name)

    def test_each_permission_has_its_reason(self):
        lines = STACK.read_text().splitlines()
        for number, line in enumerate(lines):
            if re.match(r"\s+- (\{ )?Effect: Allow", line) and "Principal" not in lines[number + 1]:
                self.assertRegex(lines[number - 1], r"^\s+# ", f"line {number + 1}")

    def test_it_can_be_made(self):
        with moto.mock_aws():
            self.make(POOLS)

    def test_it_can_be_made_with_one_pool(self):
        with moto.mock_aws():
            self.make(["X64Fargate"])

    def make(self, pools):
        ec2 = boto3.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        subnets = [
            ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"eu-central-1{zone}")["Subnet"]["SubnetId"]
            for i, zone in enumerate("ab")
        ]
        secret = boto3.client("secretsmanager").create_secret(Name="runner-github", SecretString="x")["ARN"]
        given = {
            "Pools": ",".join(pools), "VpcId": vpc, "SubnetA": subnets[0], "SubnetB": subnets[1],
            "GitHubUrl": "https://github.com/acme", "GitHubAppId": "1", "GitHubSecretArn": secret,
            "RunnerImage": "r", "FargateImage": "f", "DindImage": "d", "FluentBitImage": "l", "MirrorImage": "m",
        }
        cloudformation = boto3.client("cloudformation")
        cloudformation.create_stack(
            StackName="runners",
            TemplateBody=json.dumps(for_moto(expanded(pools))),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        )
        self.assertEqual(
            cloudformation.describe_stacks(StackName="runners")["Stacks"][0]["StackStatus"], "CREATE_COMPLETE"
        )
        ecs = boto3.client("ecs")
        clusters = {arn.split("/")[1] for arn in ecs.list_clusters()["clusterArns"]}
        self.assertEqual(clusters, {f"runners-{pool}" for pool in pools} | {"runners-mirror"})
        for pool in pools:
            fargate = "Fargate" in pool
            names = {arn.split("/")[-1] for arn in ecs.list_services(cluster=f"runners-{pool}")["serviceArns"]}
            self.assertIn("runners", names)
            definition = ecs.describe_task_definition(taskDefinition=f"runners-{pool}")["taskDefinition"]
            self.assertEqual("dind" in containers(definition), not fargate)
        groups = boto3.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
        self.assertEqual(len(groups), sum("Fargate" not in pool for pool in pools))


if __name__ == "__main__":
    unittest.main()
