//! What `ONLY` and `FULL` choose.

/// Names of sections, of comparisons, or what several of them begin with; everything when empty.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    only: Vec<String>,
    full: bool,
}

impl Selection {
    pub fn of(only: &[String], full: bool) -> Self {
        let only = only.iter().map(|name| name.trim().replace('-', "_"));
        Self {
            only: only.filter(|name| !name.is_empty()).collect(),
            full,
        }
    }

    /// Whether the sizes are wanted that do not fit into the everyday run.
    pub fn full(&self) -> bool {
        self.full
    }

    /// Whether `name` is chosen, or something in it, or something that it is part of: with
    /// `dindd_start`, the section `dindd` and the comparison `dindd_start_16` are.
    pub fn wants(&self, name: &str) -> bool {
        let wanted = |only: &String| within(only, name) || within(name, only);
        self.only.is_empty() || self.only.iter().any(wanted)
    }

    /// What is asked for and in none of `sections`.
    pub fn unknown<'a>(&'a self, sections: &[&str]) -> Option<&'a str> {
        let known = |only: &&String| !sections.iter().any(|section| within(only, section));
        self.only.iter().find(known).map(String::as_str)
    }
}

/// Whether `name` is `whole` or a part of it, by the words between underscores.
fn within(name: &str, whole: &str) -> bool {
    name.strip_prefix(whole)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_chosen_means_everything() {
        assert!(Selection::of(&[], false).wants("cache_restore"));
        assert!(Selection::of(&[String::new()], false).wants("cache_restore"));
    }

    #[test]
    fn a_choice_takes_what_is_in_it_and_what_it_is_in() {
        let only = Selection::of(&["dindd_start".into()], false);
        assert!(only.wants("dindd") && only.wants("dindd_start") && only.wants("dindd_start_16"));
        assert!(!only.wants("dindd_stop") && !only.wants("dindd_started") && !only.wants("cache"));
    }

    #[test]
    fn a_choice_that_no_section_has_is_told() {
        let only = Selection::of(&["cache_restore".into(), "cash".into()], false);
        assert_eq!(only.unknown(&["cache", "dindd"]), Some("cash"));
    }
}
