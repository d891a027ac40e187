//! A job that does what jobs do: it uses a tool of the tool cache, builds an image, runs a
//! container that sees its workspace by path, and adds a tool.

use github_double::JobSpec;

/// `<tool>/<version>/<architecture>` of the tool that is in the store before the job: busybox.
pub const KEPT_TOOL: &str = "busybox/1.37.0/x64";
/// The tool that the job adds.
pub const ADDED_TOOL: &str = "widget/2.0.0/x64";

const STEPS: [(&str, &str); 5] = [
    (
        "Use a tool of the tool cache",
        r#"tool=$RUNNER_TOOL_CACHE/busybox/1.37.0/x64
test -e "$tool.complete"
"$tool/bin/busybox" | sed -n 1p
echo "BUSYBOX=$tool/bin/busybox" >>"$GITHUB_ENV""#,
    ),
    (
        "Build an image",
        r#"mkdir -p image && cp "$BUSYBOX" image/busybox
cat >image/Dockerfile <<'DOCKERFILE'
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc && echo "built in a task" >/etc/motd
DOCKERFILE
docker build --tag job-image image"#,
    ),
    (
        "Run a container that sees the workspace",
        r#"echo "from the workspace" >seen
docker run --rm --volume "$GITHUB_WORKSPACE:/workspace" job-image \
  sh -c 'cat /etc/motd /workspace/seen && echo "from the container" >/workspace/answer'
grep "from the container" answer"#,
    ),
    (
        "Add a tool to the tool cache",
        r#"tool=$RUNNER_TOOL_CACHE/widget/2.0.0/x64
mkdir -p "$tool/bin"
printf '#!/bin/sh\necho widget 2.0.0\n' >"$tool/bin/widget"
chmod 755 "$tool/bin/widget"
touch "$tool.complete"
"$tool/bin/widget""#,
    ),
    (
        "Show what the job may know",
        r#"id
test "$(id -u)" != 0
for name in GITHUB_PAT ACCESS_TOKEN RUNNER_TOKEN RUNNER_JITCONFIG GITHUB_APP_PRIVATE_KEY; do
  test -z "${!name+set}"
done
grep -E '^(NoNewPrivs|CapEff|CapBnd)' /proc/self/status"#,
    ),
];

/// The job for a repository.
#[must_use]
pub fn everyday_job(repository: &str) -> JobSpec {
    STEPS.iter().fold(
        JobSpec::new(repository, "build and run"),
        |job, (name, run)| job.step(name, run),
    )
}
