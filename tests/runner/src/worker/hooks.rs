//! The job hooks: scripts of the runner's operator before and after all steps.

use std::path::Path;

use crate::environment::Environment;

#[derive(Clone, Copy)]
pub(crate) enum Hook {
    Started,
    Completed,
}

impl Hook {
    pub(crate) fn step_name(self) -> &'static str {
        match self {
            Self::Started => "Set up runner",
            Self::Completed => "Complete runner",
        }
    }

    /// The script, if there is one. `Err` says what is wrong with it.
    pub(crate) fn script(self, environment: &Environment) -> Option<Result<String, String>> {
        let variable = match self {
            Self::Started => "ACTIONS_RUNNER_HOOK_JOB_STARTED",
            Self::Completed => "ACTIONS_RUNNER_HOOK_JOB_COMPLETED",
        };
        let path = environment.text(variable).filter(|path| !path.is_empty())?;
        let file = Path::new(&path);
        let problem = if !file.is_absolute() {
            Some("is not an absolute path")
        } else if file.extension().is_none_or(|extension| extension != "sh") {
            Some("does not end in .sh")
        } else if !file.is_file() {
            Some("does not exist")
        } else {
            None
        };
        Some(match problem {
            Some(problem) => Err(format!("{variable}: '{path}' {problem}")),
            None => Ok(path),
        })
    }
}
