//! What is in the images, and what is not.

use anyhow::{Result, ensure};
use chain::Stage;
use chain::driver::Case;

use crate::build::{PROGRAMS, TASK_IMAGES, top};
use crate::project::lay_out;

pub(crate) const CASES: [Case; 4] = [
    (
        "the_programs_are_static_stripped_and_know_no_folder_of_their_build",
        the_programs_are_static_stripped_and_know_no_folder_of_their_build,
    ),
    (
        "the_dockerfiles_compile_the_checkout_by_themselves",
        the_dockerfiles_compile_the_checkout_by_themselves,
    ),
    (
        "no_image_has_a_secret_or_a_package_list_in_its_history",
        no_image_has_a_secret_or_a_package_list_in_its_history,
    ),
    (
        "the_image_for_fargate_has_no_docker_and_the_other_has",
        the_image_for_fargate_has_no_docker_and_the_other_has,
    ),
];

fn shell(stage: &Stage, image: &str, script: &str) -> Result<String> {
    let docker = [
        "docker",
        "run",
        "--rm",
        "--entrypoint=bash",
        image,
        "-ec",
        script,
    ];
    stage.host().run(docker)
}

fn the_programs_are_static_stripped_and_know_no_folder_of_their_build(stage: &Stage) -> Result<()> {
    lay_out(stage)?;
    let programs = [("ecs-runner", "supervisor"), ("ecs-dind", "dindd")];
    for (image, program) in programs {
        let path = format!("/usr/local/bin/{program}");
        // ldd says it of static programs, and of none that has an interpreter.
        let said = shell(stage, image, &format!("ldd {path} 2>&1 || true"))?;
        ensure!(
            said.contains("statically linked") || said.contains("not a dynamic executable"),
            "{program}: {said}"
        );
        let version = stage
            .host()
            .run(["docker", "run", "--rm", image, "--version"])?;
        ensure!(version.starts_with(program), "{program} says {version}");
    }
    let file = shell(stage, "ecs-runner", "file /usr/local/bin/supervisor")?;
    ensure!(file.contains(", stripped"), "{file}");
    let top = top().display().to_string();
    let found = shell(
        stage,
        "ecs-runner",
        &format!("grep --count --text --fixed-strings '{top}/' /usr/local/bin/supervisor || true"),
    )?;
    ensure!(found.trim() == "0", "supervisor knows {top}");
    Ok(())
}

/// Nothing is replaced but the image `rust`, whose stand-in knows what the compiler has to be told.
fn the_dockerfiles_compile_the_checkout_by_themselves(stage: &Stage) -> Result<()> {
    const CHECKOUT: &str = "/run/stack/checkout";
    lay_out(stage)?;
    let host = stage.host();
    host.bind(top(), CHECKOUT, true)?;
    let rust = format!(
        "docker build --tag rust:1.95-trixie --build-context build={PROGRAMS} {CHECKOUT}/tests/stack/rust"
    );
    host.run(["sh", "-c", &rust])?;
    for (folder, program) in [("dind", "dindd"), ("runner", "supervisor")] {
        let script = format!(
            "docker build --quiet --target build --tag compiled \
             --file {CHECKOUT}/images/{folder}/Dockerfile {CHECKOUT}; \
             docker run --rm compiled /out/{program} --version"
        );
        let version = host.run(["sh", "-ec", &script])?;
        ensure!(version.contains(program), "{folder}: {version}");
    }
    Ok(())
}

fn no_image_has_a_secret_or_a_package_list_in_its_history(stage: &Stage) -> Result<()> {
    lay_out(stage)?;
    for image in TASK_IMAGES {
        let tag = image.tag;
        let host = stage.host();
        let history = host.run([
            "docker",
            "history",
            "--no-trunc",
            "--format={{.CreatedBy}}",
            tag,
        ])?;
        let config = host.run([
            "docker",
            "image",
            "inspect",
            "--format={{json .Config}}",
            tag,
        ])?;
        for word in [
            "GITHUB_",
            "TOKEN",
            "PRIVATE_KEY",
            "PASSWORD",
            "ghp_",
            "BEGIN ",
        ] {
            ensure!(!history.contains(word), "{tag}: {word} in {history}");
            ensure!(!config.contains(word), "{tag}: {word} in {config}");
        }
        for label in [
            "title",
            "description",
            "licenses",
            "version",
            "revision",
            "created",
        ] {
            let label = format!("org.opencontainers.image.{label}");
            ensure!(
                config.contains(&label),
                "{tag} has no label {label}: {config}"
            );
        }
        ensure!(
            config.contains("0123abc"),
            "{tag} does not tell its commit: {config}"
        );
        let caches = "(ls -A /var/lib/apt/lists /var/cache/apt/archives /root /tmp; ls /var/cache/apt/*.bin 2>/dev/null) | grep -v -e : -e '^$' -e '^\\.bashrc$' -e '^\\.profile$' -e '^lock$' -e '^partial$' || true";
        let caches = shell(stage, tag, caches)?;
        ensure!(caches.is_empty(), "{tag} has caches: {caches}");
    }
    Ok(())
}

fn the_image_for_fargate_has_no_docker_and_the_other_has(stage: &Stage) -> Result<()> {
    lay_out(stage)?;
    shell(
        stage,
        "ecs-runner",
        "docker --version; docker buildx version; docker compose version",
    )?;
    let script = "! command -v docker; id runner; test -d /opt/hostedtoolcache; git --version; \
        test $(stat -c %U /home/runner/bin/Runner.Listener) = runner; test -d /home/runner/externals.dist; \
        getent group 123 | grep -q runner";
    for image in ["ecs-runner:fargate", "ecs-runner"] {
        let script = if image == "ecs-runner" {
            script.replace("! command -v docker; ", "")
        } else {
            script.to_owned()
        };
        shell(stage, image, &script)?;
    }
    // It asks for nothing that Fargate does not give.
    let check = stage.host().run([
        "sh",
        "-c",
        "docker run --rm --cap-drop=ALL --cap-add=CHOWN --cap-add=DAC_OVERRIDE --cap-add=FOWNER \
         --cap-add=KILL --cap-add=SETGID --cap-add=SETUID --env=GITHUB_URL=https://github.com/acme \
         --env=GITHUB_PAT=x ecs-runner:fargate check 2>&1 || true",
    ])?;
    ensure!(!check.contains("Docker does not"), "{check}");
    Ok(())
}
