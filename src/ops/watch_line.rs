//! What a watch says: one line a change.

use std::fmt;

use jiff::Timestamp;
use serde::Serialize;

use crate::apply::{FieldDrift, ObjectDrift};
use crate::model::{Digest, ObjectId, ReleaseName, ReleaseVersion};

/// Fields that a line of text tells.
const TOLD: usize = 5;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When.
    pub time: Timestamp,
    /// The line of releases; absent where it is about all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ReleaseName>,
    /// The version of the active release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<ReleaseVersion>,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "event")]
pub enum What {
    /// A release is looked after from now on: the watch began, or another one became active.
    Watching {
        /// Its digest.
        release: Digest,
    },
    /// Nothing is done, for a reason that others have to end.
    Waiting {
        /// The reason.
        why: String,
    },
    /// An object says again what the release says.
    Healed {
        /// The object.
        object: ObjectId,
        /// Whether it was gone.
        missing: bool,
        /// What differed.
        fields: Vec<FieldDrift>,
        /// Who had changed it.
        changed_by: Vec<String>,
    },
    /// An object differs, or could not be compared, and cannot be brought back.
    NotHealed {
        /// The object.
        object: ObjectId,
        /// Why not.
        why: String,
    },
    /// Somebody sets fields of an object otherwise again and again: they are left as they are.
    Contested {
        /// The object.
        object: ObjectId,
        /// Whether it is deleted again and again.
        missing: bool,
        /// The fields.
        fields: Vec<FieldDrift>,
        /// Who sets them.
        changed_by: Vec<String>,
    },
    /// What was contested has been as the release says for a good while.
    Settled {
        /// The object.
        object: ObjectId,
    },
    /// The cluster cannot be asked, or does not let itself be changed; it is tried again.
    Unreachable {
        /// Why.
        why: String,
    },
    /// The cluster answers again.
    Reachable,
    /// The watch ends, as it was told to.
    Stopped,
}

impl What {
    /// An object was healed.
    pub(super) fn healed(drift: &ObjectDrift) -> Self {
        Self::Healed {
            object: drift.object.clone(),
            missing: drift.missing,
            fields: drift.fields.clone(),
            changed_by: drift.changed_by.clone(),
        }
    }
}

/// `data.value: wanted "1", found "2"; and 3 more fields (changed by kubectl-edit)`.
fn details(
    f: &mut fmt::Formatter<'_>,
    missing: bool,
    fields: &[FieldDrift],
    changed_by: &[String],
) -> fmt::Result {
    if missing {
        return f.write_str(" was missing");
    }
    let told: Vec<_> = fields.iter().take(TOLD).map(ToString::to_string).collect();
    write!(f, ": {}", told.join("; "))?;
    if fields.len() > TOLD {
        write!(f, "; and {} more fields", fields.len() - TOLD)?;
    }
    if !changed_by.is_empty() {
        write!(f, " (changed by {})", changed_by.join(", "))?;
    }
    Ok(())
}

impl fmt::Display for Line {
    /// One line of text, whatever the cluster says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.write(&mut text)?;
        f.write_str(&text.replace(['\n', '\r'], " "))
    }
}

impl Line {
    fn write(&self, text: &mut String) -> fmt::Result {
        struct Of<'a>(&'a What);
        impl fmt::Display for Of<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.0 {
                    What::Watching { release } => write!(f, "watching {}", release.short()),
                    What::Waiting { why } => write!(f, "waiting: {why}"),
                    What::Healed { object, missing, fields, changed_by } => {
                        write!(f, "healed {object}")?;
                        details(f, *missing, fields, changed_by)
                    }
                    What::NotHealed { object, why } => write!(f, "cannot heal {object}: {why}"),
                    What::Contested { object, missing: true, .. } => {
                        write!(f, "contested: {object} is deleted again and again; it is left as it is")
                    }
                    What::Contested { object, fields, changed_by, .. } => {
                        write!(f, "contested, and left as it is: {object}")?;
                        details(f, false, fields, changed_by)?;
                        f.write_str("; leave these fields out of the release, or end the other manager")
                    }
                    What::Settled { object } => write!(f, "settled: {object} is looked after again"),
                    What::Unreachable { why } => write!(f, "the cluster cannot be looked after: {why}"),
                    What::Reachable => f.write_str("the cluster answers again"),
                    What::Stopped => f.write_str("stopped"),
                }
            }
        }
        use fmt::Write as _;
        write!(text, "{}", self.time.strftime("%Y-%m-%dT%H:%M:%SZ"))?;
        if let Some(name) = &self.name {
            write!(text, " {name}")?;
        }
        if let Some(version) = &self.version {
            write!(text, " {version}")?;
        }
        if self.name.is_some() {
            text.push(':');
        }
        write!(text, " {}", Of(&self.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_well() {
        let line = |what| Line {
            time: Timestamp::UNIX_EPOCH,
            name: Some("shop".parse().unwrap()),
            version: Some("2".parse().unwrap()),
            what,
        };
        let object = ObjectId {
            api_version: "v1".into(),
            kind: "ConfigMap".into(),
            namespace: Some("shop".into()),
            name: "web".into(),
        };
        let field = |path: &str| FieldDrift { path: path.into(), wanted: Some("a\nb".into()), found: None };
        let healed = line(What::Healed {
            object: object.clone(),
            missing: false,
            fields: vec![field("data.x")],
            changed_by: vec!["kubectl-edit".into()],
        });
        assert_eq!(
            healed.to_string(),
            "1970-01-01T00:00:00Z shop 2: healed ConfigMap shop/web: data.x: wanted \"a\\nb\", found nothing \
             (changed by kubectl-edit)"
        );
        let json = serde_json::to_value(&healed).unwrap();
        assert_eq!(json["event"], "healed");
        assert_eq!(json["changedBy"][0], "kubectl-edit");
        assert_eq!(json["object"]["name"], "web");
        let refused = line(What::NotHealed { object, why: "no\nreally".into() });
        assert_eq!(
            refused.to_string(),
            "1970-01-01T00:00:00Z shop 2: cannot heal ConfigMap shop/web: no really"
        );
    }
}
