//! What applying a release would do to a cluster: a pure value, made before anything changes.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{Digest, ObjectId, Origin, ReleaseName, ReleaseVersion};

/// Version of the JSON form.
pub const FORMAT: u32 = 1;

/// What a release would do to a cluster, object by object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Version of this form: 1.
    pub format: u32,
    /// The release to be applied.
    pub release: PlanTarget,
    /// The release that the cluster says it runs, if one was applied before.
    pub from: Option<RunningRelease>,
    /// Version of the API server: `v1.36.1`.
    pub server: String,
    /// Objects that are not there yet.
    pub create: Vec<PlannedCreate>,
    /// Objects that are there and would differ after.
    pub change: Vec<PlannedChange>,
    /// Objects that are there and would stay as they are.
    pub unchanged: Vec<ObjectId>,
    /// Objects of an earlier release that this one no longer has: deleted once it is healthy.
    pub prune: Vec<ObjectId>,
    /// Objects of an earlier release that this one no longer has and that stay nevertheless.
    pub kept: Vec<KeptObject>,
    /// Objects of the release that cannot be changed back and must not be created anew, such as a
    /// claim that was enlarged: they are left as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<KeptObject>,
    /// Admission objects of an earlier release that stand in the way: withdrawn before all else.
    /// What of them the release has itself comes back with the last stage.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub withdraw: Vec<WithdrawnObject>,
    /// The order of work; an empty stage is left out.
    pub stages: Vec<Stage>,
    /// What a person should look at: the API server's warnings, defaulted namespaces.
    pub warnings: Vec<String>,
}

/// The release that a plan leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlanTarget {
    /// Name of the line of releases.
    pub name: ReleaseName,
    /// Its version.
    pub version: ReleaseVersion,
    /// Digest of its release manifest.
    pub digest: Digest,
}

/// The release that a cluster says it runs. Texts as found: a cluster is an outside source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningRelease {
    /// Digest of its release manifest; absent when no release ever became healthy.
    pub digest: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// The release that was being applied when the work was cut.
    pub applying: Option<String>,
}

/// An object that is not there yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedCreate {
    /// The object.
    pub object: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// Why the API server could not try it beforehand; absent when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchecked: Option<String>,
}

/// An object that would differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedChange {
    /// The object.
    pub object: ObjectId,
    /// Where it comes from.
    pub origin: Origin,
    /// The fields that differ, bounded.
    pub fields: Vec<FieldChange>,
    /// How many more fields differ.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_fields: usize,
    /// Fields that another manager set otherwise and that the release takes over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taken_over: Vec<TakenOver>,
    /// Why the object is deleted and created again, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recreate: Option<String>,
    /// Versions that leave a definition, and in which objects may be stored: those are written
    /// again before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub leaving_versions: Vec<String>,
    /// Why the API server could not try it beforehand; absent when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unchecked: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// One field that differs. A side that is absent has no such field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldChange {
    /// Path of the field: `spec.template.spec.containers[name=web].image`.
    pub path: String,
    /// What stands there now. Long values are cut, secret ones hidden.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<Value>,
    /// What would stand there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<Value>,
}

/// Fields of one object that another manager had set otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TakenOver {
    /// Who had set it, as the API server says.
    pub manager: String,
    /// The field, as the API server writes it: `.spec.replicas`.
    pub field: String,
}

/// An object that left the release and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptObject {
    /// The object.
    pub object: ObjectId,
    /// Why it stays.
    pub reason: String,
}

/// An admission object that stands in the way of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WithdrawnObject {
    /// The object.
    pub object: ObjectId,
    /// What it does, and why it may be withdrawn.
    pub reason: String,
}

/// One stage of the work; the next one begins when this one is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stage {
    /// Its number, 1 to 4, by the kinds that it holds.
    pub number: u8,
    /// The wave that it belongs to (`wave:-1`, `pre:0`, `post:5`); none is the wave 0 of a release.
    /// A wave begins when the one before it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wave: Option<String>,
    /// Objects of one stage that depend on others of it stand at a higher level.
    #[serde(skip_serializing_if = "is_level_0")]
    pub level: u32,
    /// What it holds, as people say it.
    pub title: String,
    /// Its objects, in order.
    pub objects: Vec<ObjectId>,
}

impl Stage {
    /// The name of the stage in the ledger: `stage:3`, `wave:1/stage:3`, `stage:3/1`.
    #[must_use]
    pub fn step(&self) -> String {
        let wave = self.wave.as_ref().map_or(String::new(), |wave| format!("{wave}/"));
        let level = if self.level == 0 { String::new() } else { format!("/{}", self.level) };
        format!("{wave}stage:{}{level}", self.number)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_level_0(level: &u32) -> bool {
    *level == 0
}

impl Plan {
    /// Whether applying the release would leave every object as it is.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        self.create.is_empty() && self.change.is_empty() && self.prune.is_empty() && self.withdraw.is_empty()
    }

    /// What differed from the release although the cluster says that this very release ran there,
    /// a line each: what applying it again heals. Empty where another release ran before.
    #[must_use]
    pub fn healed(&self) -> Vec<String> {
        let ran = self.from.as_ref().and_then(|from| from.digest.as_deref());
        if ran != Some(&self.release.digest.to_string()) {
            return Vec::new();
        }
        let created = self.create.iter().map(|create| format!("{} was missing", create.object));
        let changed = self.change.iter().map(|change| {
            let fields: Vec<_> = change.fields.iter().take(5).map(ToString::to_string).collect();
            let more = (change.fields.len() + change.more_fields).saturating_sub(fields.len());
            let more = if more > 0 { format!("; and {more} more fields") } else { String::new() };
            format!("{} differed: {}{more}", change.object, fields.join("; "))
        });
        let pruned = self.prune.iter().map(|object| format!("{object} was not of the release"));
        created.chain(changed).chain(pruned).collect()
    }

    /// One line: `2 to create, 1 to change, 9 unchanged, 1 to prune`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = vec![
            format!("{} to create", self.create.len()),
            format!("{} to change", self.change.len()),
            format!("{} unchanged", self.unchanged.len()),
            format!("{} to prune", self.prune.len()),
        ];
        if !self.kept.is_empty() {
            parts.push(format!("{} kept", self.kept.len()));
        }
        parts.join(", ")
    }
}

impl fmt::Display for Plan {
    /// The plan as people read it, several lines, no colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = &self.release;
        write!(f, "plan for {} {} ({})", target.name, target.version, target.digest.short())?;
        writeln!(f, " on Kubernetes {}: {}", self.server, self.summary())?;
        for withdrawn in &self.withdraw {
            writeln!(f, "  - withdraw  {}  {}", withdrawn.object, withdrawn.reason)?;
        }
        for create in &self.create {
            write!(f, "  + create  {}  {}", create.object, create.origin)?;
            unchecked(f, create.unchecked.as_deref())?;
        }
        for change in &self.change {
            write!(f, "  ~ change  {}  {}", change.object, change.origin)?;
            unchecked(f, change.unchecked.as_deref())?;
            if let Some(why) = &change.recreate {
                writeln!(f, "      deleted and created again: {why}")?;
            }
            if !change.leaving_versions.is_empty() {
                let versions = change.leaving_versions.join("`, `");
                writeln!(f, "      objects that may be stored as `{versions}` are written again before")?;
            }
            for field in &change.fields {
                writeln!(f, "      {field}")?;
            }
            if change.more_fields > 0 {
                writeln!(f, "      and {} more fields", change.more_fields)?;
            }
            for taken in &change.taken_over {
                writeln!(f, "      taken over from `{}`: {}", taken.manager, taken.field)?;
            }
        }
        for object in &self.prune {
            writeln!(f, "  - prune   {object}  left the release; deleted once the release is healthy")?;
        }
        for left in &self.left {
            writeln!(f, "  = leave   {}  {}", left.object, left.reason)?;
        }
        for kept in &self.kept {
            writeln!(f, "  = keep    {}  left the release; {}", kept.object, kept.reason)?;
        }
        if self.stages.iter().any(|stage| stage.wave.is_some() || stage.level > 0) {
            for (number, stage) in (1..).zip(&self.stages) {
                let mut objects: Vec<_> = stage.objects.iter().take(NAMED).map(ToString::to_string).collect();
                if stage.objects.len() > NAMED {
                    objects.push(format!("and {} more", stage.objects.len() - NAMED));
                }
                writeln!(f, "  {number}. {}: {}", stage.title, objects.join(", "))?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "  ! {warning}")?;
        }
        Ok(())
    }
}

/// Objects of a stage that the text names.
const NAMED: usize = 5;

fn unchecked(f: &mut fmt::Formatter<'_>, why: Option<&str>) -> fmt::Result {
    match why {
        Some(why) => writeln!(f, "  (not tried on the server: {why})"),
        None => writeln!(f),
    }
}

impl fmt::Display for FieldChange {
    /// `data.GREETING: "hello" -> "hi"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |value: &Option<Value>| value.as_ref().map_or("(absent)".to_owned(), Value::to_string);
        write!(f, "{}: {} -> {}", self.path, side(&self.old), side(&self.new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(kind: &str, name: &str) -> ObjectId {
        ObjectId {
            api_version: "v1".into(),
            kind: kind.into(),
            namespace: Some("shop".into()),
            name: name.into(),
        }
    }

    #[test]
    fn a_plan_reads_well() {
        let plan = Plan {
            format: FORMAT,
            release: PlanTarget {
                name: "shop".parse().unwrap(),
                version: "1.4.2".parse().unwrap(),
                digest: Digest::of(b""),
            },
            from: None,
            server: "v1.36.0".into(),
            create: vec![PlannedCreate {
                object: id("Service", "web"),
                origin: Origin { file: "web.yaml".into(), line: Some(3), ..Origin::default() },
                unchecked: Some("namespace `shop` is created by this release".into()),
            }],
            change: vec![PlannedChange {
                object: id("ConfigMap", "web"),
                origin: Origin { file: "web.yaml".into(), ..Origin::default() },
                fields: vec![FieldChange {
                    path: "data.GREETING".into(),
                    old: Some("hello".into()),
                    new: None,
                }],
                more_fields: 2,
                taken_over: vec![TakenOver {
                    manager: "kubectl-edit".into(),
                    field: ".data.GREETING".into(),
                }],
                recreate: None,
                leaving_versions: vec![],
                unchecked: None,
            }],
            unchanged: vec![],
            prune: vec![id("Service", "old")],
            kept: vec![],
            left: vec![],
            withdraw: vec![],
            stages: vec![],
            warnings: vec![],
        };
        let want = "\
plan for shop 1.4.2 (e3b0c44298fc) on Kubernetes v1.36.0: 1 to create, 1 to change, 0 unchanged, 1 to prune
  + create  Service shop/web  web.yaml:3  (not tried on the server: namespace `shop` is created by this release)
  ~ change  ConfigMap shop/web  web.yaml
      data.GREETING: \"hello\" -> (absent)
      and 2 more fields
      taken over from `kubectl-edit`: .data.GREETING
  - prune   Service shop/old  left the release; deleted once the release is healthy
";
        assert_eq!(plan.to_string(), want);
        assert!(plan.healed().is_empty(), "no release ran before");
        let again = Plan {
            from: Some(RunningRelease {
                digest: Some(Digest::of(b"").to_string()),
                version: None,
                applying: None,
            }),
            ..plan.clone()
        };
        assert_eq!(
            again.healed(),
            [
                "Service shop/web was missing",
                "ConfigMap shop/web differed: data.GREETING: \"hello\" -> (absent); and 2 more fields",
                "Service shop/old was not of the release",
            ]
        );
        let json = serde_json::to_value(&plan).unwrap();
        assert_eq!(json["change"][0]["moreFields"], 2);
        assert!(json["change"][0].get("recreate").is_none());
    }
}
