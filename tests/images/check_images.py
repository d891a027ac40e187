"""The Dockerfiles by hadolint's rules, the compose file's settings, and what images/runner/latest.sh
tells, with GitHub's answers as files."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import yaml

TOP = pathlib.Path(__file__).resolve().parents[2]
IMAGES = TOP / "images"
DOCKERFILES = sorted([*IMAGES.glob("*/Dockerfile"), *TOP.glob("tests/stack/*/Dockerfile")])
RUNNER = IMAGES / "runner"
DAY = 86400


class Dockerfiles(unittest.TestCase):
    def test_hadolint_finds_nothing(self):
        self.assertGreaterEqual(len(DOCKERFILES), 6)
        hadolint = pathlib.Path(sys.executable).parent / "hadolint"
        config = TOP / ".hadolint.yaml"
        lint = subprocess.run([hadolint, "--config", config, *DOCKERFILES], capture_output=True, text=True)
        self.assertEqual(lint.returncode, 0, lint.stdout + lint.stderr)

    def test_both_images_compile_in_the_same_stage(self):
        stages = []
        for name in "dind", "runner":
            text = (IMAGES / name / "Dockerfile").read_text()
            stages.append(re.search(r"ARG RUST_IMAGE=.*\n", text).group())
            stages.append(re.search(r"FROM \$\{RUST_IMAGE\} AS build\n(?:.+\n)+", text).group())
        self.assertEqual(stages[:2], stages[2:])

    def test_the_toolchain_is_the_workspaces(self):
        channel = re.search(r'channel = "(\d+\.\d+)', (TOP / "rust-toolchain.toml").read_text()).group(1)
        self.assertIn(f"ARG RUST_IMAGE=rust:{channel}-", (RUNNER / "Dockerfile").read_text())


class Compose(unittest.TestCase):
    def setUp(self):
        self.text = (IMAGES / "compose.yaml").read_text()
        self.services = yaml.safe_load(self.text)["services"]

    def test_every_setting_exists(self):
        for service, manual in ("runner", "supervisor"), ("dind", "dindd"):
            known = set(re.findall(r"^\| `([A-Z_]+)`", (TOP / manual / "README.md").read_text(), re.M))
            self.assertEqual(set(self.services[service]["environment"]) - known, set())

    def test_the_example_has_what_the_file_reads_and_nothing_else(self):
        example = set(re.findall(r"^([A-Z_]+)=", (IMAGES / ".env.example").read_text(), re.M))
        read = set(re.findall(r"\$\{([A-Z_]+)", self.text))
        # Names of images, and what has a default that fits the rest of the file.
        internal = {"CACHE"}
        internal |= {name for name in read if name.endswith("_IMAGE")}
        self.assertEqual(example, read - internal)

    def test_containers_are_as_in_a_task(self):
        dind, runner = self.services["dind"], self.services["runner"]
        self.assertEqual(dind["cap_add"], ["SYS_ADMIN", "NET_ADMIN"])
        self.assertNotIn("privileged", dind)
        paths = lambda service: dict(volume.rsplit(":", 1) for volume in service["volumes"])
        task = yaml.safe_load((IMAGES / "ecs/task-ec2-logs.yaml").read_text())
        for container in task["containerDefinitions"]:
            if container["name"] in ("dind", "runner"):
                theirs = {mount["containerPath"] for mount in container["mountPoints"]}
                self.assertEqual(set(paths(self.services[container["name"]]).values()), theirs)


class Documents(unittest.TestCase):
    def test_every_link_leads_to_a_file(self):
        documents = [TOP / "docs/deploy.md", TOP / "docs/troubleshooting.md", *IMAGES.glob("*/README.md")]
        self.assertGreaterEqual(len(documents), 5)
        for document in documents:
            for link in re.findall(r"\]\(([^)]+)\)", document.read_text()):
                if not link.startswith("http"):
                    path = document.parent / link.split("#")[0]
                    self.assertTrue(path.exists(), f"{document.name} links to {link}")

    def test_what_troubleshooting_quotes_from_our_programs_is_what_they_print(self):
        sources = "".join(
            path.read_text() for top in ("init/src", "supervisor/src", "dindd/src") for path in (TOP / top).rglob("*.rs")
        )
        # As they stand in the sources: lines joined, values taken out.
        sources = re.sub(r"\\\n\s*", "", sources)
        sources = re.sub(r"\{[a-z_.:?#0-9]*\}|\\\"", "…", sources)
        text = (TOP / "docs/troubleshooting.md").read_text()
        for cell in re.findall(r"^\| (.+?) \|", text, re.M):
            if re.search(r"\[(supervisor|dindd)", cell):
                for quoted in re.findall(r"`([^`]+)`", cell):
                    for part in re.split(r"…|bin/Runner.Listener|: \"…\"|\"|: |/var/docker-storage|127\.0\.0\.1:2375", quoted):
                        part = part.strip(" .,:(/")
                        if len(part) > 12:
                            self.assertTrue(part in sources, f"nobody prints {part!r} of {quoted!r}")


class Latest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.top = pathlib.Path(self.folder.name)
        for name in "latest.sh", "Dockerfile":
            shutil.copy(RUNNER / name, self.top)
        self.present = re.search(r"^ARG RUNNER_VERSION=(.+)$", (self.top / "Dockerfile").read_text(), re.M).group(1)

    def release(self, version, day, **more):
        assets = [
            {"name": f"actions-runner-linux-{arch}-{version}.tar.gz", "digest": f"sha256:{mark * 64}"}
            for arch, mark in (("x64", "a"), ("arm64", "b"))
        ]
        date = f"2026-01-{day:02}T12:00:00Z"
        return {"tag_name": f"v{version}", "published_at": date, "draft": False, "prerelease": False, "assets": assets} | more

    def run_with(self, releases, *arguments, day=20):
        answer = self.top / "repos/actions/runner"
        answer.mkdir(parents=True, exist_ok=True)
        # curl takes what follows the question mark of a file URL as part of its name.
        (answer / "releases?per_page=20").write_text(json.dumps(releases))
        (answer / "releases").write_text(json.dumps(releases))
        environment = {
            "PATH": os.environ["PATH"],
            "GITHUB_API_URL": f"file://{self.top}",
            # At noon of that day.
            "NOW": str(1767268800 + (day - 1) * DAY),
        }
        return subprocess.run([self.top / "latest.sh", *arguments], env=environment, capture_output=True, text=True)

    def test_the_newest_needs_nothing(self):
        ran = self.run_with([self.release(self.present, 1)])
        self.assertEqual((ran.returncode, ran.stderr), (0, ""))
        self.assertIn("is the newest", ran.stdout)

    def test_days_count_from_the_next_release_and_not_from_the_newest(self):
        releases = [self.release("9.2.0", 19), self.release("9.1.0", 10), self.release(self.present, 1)]
        ran = self.run_with(releases, day=20)
        self.assertEqual(ran.returncode, 3, ran.stderr)
        self.assertEqual(ran.stdout, f"runner 9.2.0 is there; {self.present} may run for 20 more days\n")

    def test_previews_are_no_releases(self):
        releases = [self.release("9.9.0", 19, prerelease=True), self.release(self.present, 1)]
        self.assertEqual(self.run_with(releases).returncode, 0)

    def test_one_that_is_too_old_is_said_to_be(self):
        releases = [self.release("9.1.0", 1), self.release(self.present, 1, published_at="2025-12-01T00:00:00Z")]
        ran = self.run_with(releases, day=41)
        self.assertIn("too old for 10 days", ran.stdout)

    def test_an_update_writes_the_version_and_both_sums(self):
        ran = self.run_with([self.release("9.1.0", 10), self.release(self.present, 1)], "--update")
        self.assertEqual(ran.returncode, 0, ran.stderr)
        text = (self.top / "Dockerfile").read_text()
        self.assertIn("ARG RUNNER_VERSION=9.1.0\n", text)
        self.assertIn(f"ARG RUNNER_SHA256_AMD64={'a' * 64}\n", text)
        self.assertIn(f"ARG RUNNER_SHA256_ARM64={'b' * 64}\n", text)
        self.assertNotIn(self.present + "\n", text.replace("2.338.0", ""))

    def test_a_release_without_sums_changes_nothing(self):
        before = (self.top / "Dockerfile").read_text()
        newest = self.release("9.1.0", 10)
        newest["assets"][1]["digest"] = None
        ran = self.run_with([newest, self.release(self.present, 1)], "--update")
        self.assertEqual(ran.returncode, 1)
        self.assertIn("arm64", ran.stderr)
        self.assertEqual((self.top / "Dockerfile").read_text(), before)

    def test_a_github_that_does_not_answer_is_told(self):
        environment = {"PATH": os.environ["PATH"], "GITHUB_API_URL": "file:///nowhere"}
        ran = subprocess.run([self.top / "latest.sh"], env=environment, capture_output=True, text=True)
        self.assertEqual(ran.returncode, 1)
        self.assertIn("GitHub does not tell", ran.stderr)


if __name__ == "__main__":
    unittest.main()
