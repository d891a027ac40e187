//! The containers of `images/compose.yaml` together: a job, the mirror, the collector.

use anyhow::{Context, Result, ensure};
use chain::Stage;
use chain::driver::Case;
use github_double::JobSpec;

use crate::project::Project;

pub(crate) const CASES: [Case; 2] = [
    (
        "a_job_is_green_and_its_containers_logs_arrive_with_their_names",
        a_job_is_green_and_its_containers_logs_arrive_with_their_names,
    ),
    (
        "images_come_through_the_mirror_and_without_it",
        images_come_through_the_mirror_and_without_it,
    ),
];

/// What a job does: its container's image is in no Docker yet.
const STEP: &str = r#"
docker run --name job-container --volume "$GITHUB_WORKSPACE:/workspace" probe:1 \
  sh -c 'echo a line of the container; echo seen >/workspace/seen'
grep seen seen
docker compose version"#;

fn a_job_is_green_and_its_containers_logs_arrive_with_their_names(stage: &Stage) -> Result<()> {
    let project = Project::new(stage, "green", 5443)?;
    project.up(&["hub", "log-host"])?;
    // It ends when it cannot reach Docker Hub at its start.
    project.up(&["mirror"])?;
    project.publish_probe(5443)?;
    let mut job = JobSpec::new("acme/widgets", "in the stack").step("Run a container", STEP);
    job.runs_on = vec!["green".into()];
    let job = stage.github().queue(stage.host(), &job)?;
    project.compose(&["up", "--detach", "dind", "runner"])?;
    let code = project.wait("runner")?;
    let conclusion = stage.github().conclusion(stage.host(), &job)?;
    ensure!(
        (code, conclusion.as_deref()) == (0, Some("succeeded")),
        "supervisor ended with {code}, the job as {conclusion:?}:\n{}\n{}",
        project.said("runner")?,
        project.said("dind")?
    );
    let line = [
        r#""container":"job-container""#,
        r#""task":"green""#,
        "a line of the container",
    ];
    project.hears("log-host", &line)?;
    project.hears("mirror", &["GET /v2/library/probe/blobs/"])?;
    project.down()
}

/// The requests of Docker Hub's log, as `METHOD path`.
fn asked(project: &Project<'_>) -> Result<Vec<String>> {
    let said = project.said("hub")?;
    let requests = said.lines().filter_map(|line| {
        let (_, rest) = line.split_once("] \"")?;
        let mut words = rest.split(' ');
        Some(format!("{} {}", words.next()?, words.next()?))
    });
    // Whether it is a registry at all is asked now and then.
    Ok(requests
        .filter(|request| !request.ends_with(" /v2/"))
        .collect())
}

const PULL: &str = "docker pull probe:1";
const SHOW: &str = "docker run --rm probe:1 echo it runs";

fn images_come_through_the_mirror_and_without_it(stage: &Stage) -> Result<()> {
    let project = Project::new(stage, "mirrored", 5444)?;
    project.up(&["hub", "log-host"])?;
    // It ends when it cannot reach Docker Hub at its start.
    project.up(&["mirror"])?;
    project.publish_probe(5444)?;
    let pushed = asked(&project)?.len();
    project.up(&["dind"])?;
    let digest = project.docker(&format!(
        "{PULL} >&2; docker image inspect --format '{{{{index .RepoDigests 0}}}}' probe:1"
    ))?;
    let digest = digest.trim();
    let first = asked(&project)?;
    ensure!(
        first[pushed..]
            .iter()
            .any(|request| request.contains("/blobs/")),
        "nothing came from Docker Hub: {first:?}"
    );

    project.next_dind()?;
    project.docker(&format!("docker pull {digest} && {PULL} && {SHOW}"))?;
    let second = asked(&project)?;
    // The mirror asks whether the tag still means the same; it fetches nothing.
    let fetched: Vec<_> = second[first.len()..]
        .iter()
        .filter(|request| *request != "HEAD /v2/library/probe/manifests/1")
        .collect();
    ensure!(fetched.is_empty(), "Docker Hub was asked for {fetched:?}");

    project.compose(&["stop", "hub"])?;
    project.next_dind()?;
    project
        .docker(&format!("{PULL} && {SHOW}"))
        .context("pull while Docker Hub is down")?;

    project.compose(&["start", "hub"])?;
    project.compose(&["stop", "--timeout=1", "mirror"])?;
    project.next_dind()?;
    let warning = ["registry mirror is left out", "DINDD_REGISTRY_MIRRORS"];
    project.hears("dind", &warning)?;
    project
        .docker(&format!("{PULL} && {SHOW}"))
        .context("pull while the mirror is down")?;
    let last = asked(&project)?;
    ensure!(
        last.iter()
            .filter(|request| request.contains("/blobs/"))
            .count()
            > second
                .iter()
                .filter(|request| request.contains("/blobs/"))
                .count(),
        "nobody asked Docker Hub: {last:?}"
    );
    project.down()
}
