//! The environment that every program starts with.
//!
//! It begins as what the runtime gave and can be changed by the server for
//! what starts later. It is kept here alone: a sandbox that was stopped begins
//! again with what the runtime gives.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::{Mutex, MutexGuard, PoisonError},
};

use agent_protocol::Failure;

use crate::failure::invalid;

/// Most bytes of names and values together. The kernel refuses programs with
/// much more, and every one of them is sent all of it.
const BYTES_MAX: usize = 512 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Environment {
    variables: Mutex<BTreeMap<OsString, OsString>>,
}

impl Environment {
    /// Begins with these variables.
    pub(crate) fn new(variables: BTreeMap<OsString, OsString>) -> Self {
        Self {
            variables: Mutex::new(variables),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OsString, OsString>> {
        self.variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// All variables.
    pub(crate) fn all(&self) -> BTreeMap<OsString, OsString> {
        self.lock().clone()
    }

    /// Sets and removes variables, all or none.
    ///
    /// # Errors
    /// When a name or value is impossible, or all are too long together.
    pub(crate) fn change(
        &self,
        set: &BTreeMap<String, String>,
        unset: &[String],
    ) -> Result<(), Failure> {
        check(set)?;
        let mut variables = self.lock();
        let mut changed = variables.clone();
        for name in unset {
            changed.remove(std::ffi::OsStr::new(name));
        }
        changed.extend(set.iter().map(|(name, value)| (name.into(), value.into())));
        let bytes: usize = changed.iter().map(|(n, v)| n.len() + v.len() + 2).sum();
        if bytes > BYTES_MAX {
            return Err(invalid(format!(
                "the environment would have {bytes} bytes, over the limit of {BYTES_MAX}; write large values to a file"
            )));
        }
        *variables = changed;
        Ok(())
    }
}

/// Fails for variables that cannot exist.
pub(crate) fn check(variables: &BTreeMap<String, String>) -> Result<(), Failure> {
    for (name, value) in variables {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(invalid(format!(
                "environment variable {name:?}: a name must not be empty or contain `=`, and neither name nor value a NUL"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn changes_are_made_whole_or_not_at_all() {
        let environment = Environment::new(BTreeMap::new());
        let set = variables(&[("A", "1"), ("B", "2")]);
        environment.change(&set, &[]).unwrap();
        let unset = ["A".to_owned(), "Z".to_owned()];
        environment
            .change(&variables(&[("C", "")]), &unset)
            .unwrap();
        let names: Vec<_> = environment.all().into_keys().collect();
        assert_eq!(names, ["B", "C"]);
        let long = "x".repeat(BYTES_MAX);
        for wrong in [("", "1"), ("D=", "1"), ("D", "\0"), ("D", &long)] {
            let failed = environment.change(&variables(&[("E", "1"), wrong]), &[]);
            assert!(failed.is_err());
        }
        assert_eq!(environment.all().len(), 2);
    }
}
