//! Deployers that wait for one another: Flux's `spec.dependsOn`, as the turn of each object.
//!
//! A `Kustomization` or `HelmRelease` that depends on others is applied once they are ready. What
//! they deploy carries that on as a number: objects of turn 1 come when all of turn 0 is healthy.
//! What a deployer deploys comes no earlier than the deployer would; what depends on it comes after
//! all that it deploys, however deep.

use std::collections::HashMap;

use serde_json::Value;

use super::Part;
use super::error::{DeployError, Trouble};
use crate::model::{ObjectId, Progress, RenderedObject};

/// Gives each object its turn.
///
/// # Errors
///
/// When deployers wait for each other, or a dependency cannot be read.
pub(super) fn assign(objects: &mut [RenderedObject], progress: &dyn Progress) -> Result<(), DeployError> {
    let deployers: Vec<usize> =
        (0..objects.len()).filter(|at| Part::of(&objects[*at].id).is_some_and(Part::is_deployer)).collect();
    let number: HashMap<String, usize> =
        deployers.iter().enumerate().map(|(number, at)| (objects[*at].id.to_string(), number)).collect();
    let mut above: Vec<Vec<usize>> = Vec::with_capacity(deployers.len());
    let mut needs: Vec<Vec<usize>> = Vec::with_capacity(deployers.len());
    for (own, at) in deployers.iter().enumerate() {
        let object = &objects[*at];
        let chain = object.origin.deployers.iter().filter_map(|name| number.get(name).copied());
        let chain: Vec<usize> = chain.filter(|other| *other != own).collect();
        let mut found = Vec::new();
        for name in depends_on(object)? {
            match number.get(&name).copied() {
                // What deploys it is there before it by nature.
                Some(other) if other == own || chain.contains(&other) => {}
                Some(other) => found.push(other),
                None => progress.warn(format!(
                    "{} ({}) depends on {name}, which is not in the revision: it is not waited for",
                    object.id, object.origin
                )),
            }
        }
        above.push(chain);
        needs.push(found);
    }
    if needs.iter().all(Vec::is_empty) {
        return Ok(());
    }
    let turns = turns(&above, &needs).map_err(|ring| DeployError::Waits {
        deployers: ring.into_iter().map(|number| objects[deployers[number]].id.to_string()).collect(),
    })?;
    for object in objects {
        let by = object.origin.deployers.last().and_then(|name| number.get(name));
        object.turn = by.map_or(0, |number| turns[*number]);
    }
    Ok(())
}

/// What a deployer says that it depends on, as people say it: `Kustomization flux-system/infra`.
fn depends_on(object: &RenderedObject) -> Result<Vec<String>, DeployError> {
    if !matches!(Part::of(&object.id), Some(Part::Kustomization | Part::HelmRelease)) {
        return Ok(Vec::new());
    }
    let invalid = |why: &str| super::named(object, Trouble::invalid("spec.dependsOn", why));
    let list = match &object.value["spec"]["dependsOn"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(invalid("is not a list")),
    };
    let mut names = Vec::with_capacity(list.len());
    for entry in list {
        let Some(name) = entry["name"].as_str().filter(|name| !name.is_empty()) else {
            return Err(invalid("has an entry without a name"));
        };
        let namespace = entry["namespace"].as_str().filter(|namespace| !namespace.is_empty());
        let id = ObjectId {
            namespace: namespace.map(str::to_owned).or_else(|| object.id.namespace.clone()),
            name: name.to_owned(),
            ..object.id.clone()
        };
        names.push(id.to_string());
    }
    Ok(names)
}

/// The turn of each deployer: no earlier than those `above` it, and after the end of those that it
/// `needs`. Answers with deployers that wait for each other where there are such.
fn turns(above: &[Vec<usize>], needs: &[Vec<usize>]) -> Result<Vec<u32>, Vec<usize>> {
    let mut turns = vec![0_u32; above.len()];
    loop {
        let mut ends = turns.clone();
        for (own, chain) in above.iter().enumerate() {
            for other in chain {
                ends[*other] = ends[*other].max(turns[own]);
            }
        }
        let mut changed = false;
        for own in 0..turns.len() {
            let after = needs[own].iter().map(|other| ends[*other] + 1);
            let turn = above[own].iter().map(|other| turns[*other]).chain(after).max().unwrap_or(0);
            if turn > turns[own] {
                turns[own] = turn;
                changed = true;
            }
        }
        if !changed {
            return Ok(turns);
        }
        // Without a ring no chain of waits is longer than there are deployers.
        let most = u32::try_from(turns.len()).unwrap_or(u32::MAX);
        if turns.iter().any(|turn| *turn > most) {
            let top = turns.iter().copied().max().unwrap_or(0);
            let ring = (0..turns.len()).filter(|own| turns[*own] + most > top && turns[*own] > 0);
            return Err(ring.collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Origin;
    use crate::model::progress::Silent;

    fn deployer(name: &str, by: &[&str], needs: &[&str]) -> RenderedObject {
        let needs: Vec<_> = needs.iter().map(|name| json!({"name": name})).collect();
        let value = json!({
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": {"name": name, "namespace": "flux-system"}, "spec": {"dependsOn": needs},
        });
        of(value, by)
    }

    fn of(value: Value, by: &[&str]) -> RenderedObject {
        let deployers = by.iter().map(|name| format!("Kustomization flux-system/{name}")).collect();
        let origin = Origin { file: "flux.yaml".into(), deployers, ..Origin::default() };
        RenderedObject::new(ObjectId::of(&value).unwrap(), origin, value)
    }

    fn config(name: &str, by: &[&str]) -> RenderedObject {
        of(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}), by)
    }

    #[test]
    fn what_depends_on_a_deployer_comes_after_all_that_it_deploys() {
        let mut objects = [
            config("own", &[]),
            deployer("all", &["all"], &[]),
            deployer("infra", &["all"], &[]),
            deployer("apps", &["all"], &["infra", "elsewhere"]),
            // Deployed by `infra`, and waits for its neighbour there.
            deployer("crds", &["all", "infra"], &["all"]),
            deployer("issuers", &["all", "infra"], &["crds"]),
            config("a", &["all", "infra", "crds"]),
            config("b", &["all", "infra", "issuers"]),
            config("c", &["all", "apps"]),
            config("d", &["all"]),
        ];
        assign(&mut objects, &Silent).unwrap();
        let turn = |name: &str| objects.iter().find(|object| object.id.name == name).unwrap().turn;
        assert_eq!(["own", "d", "a", "b", "c"].map(turn), [0, 0, 0, 1, 2]);
    }

    #[test]
    fn deployers_that_wait_for_each_other_are_refused() {
        let mut objects = [deployer("a", &[], &["b"]), deployer("b", &[], &["a"]), deployer("c", &[], &[])];
        let error = assign(&mut objects, &Silent).unwrap_err();
        assert_eq!(
            error.to_string(),
            "deployers that wait for each other (`spec.dependsOn`): Kustomization flux-system/a, \
             Kustomization flux-system/b"
        );
        // One that waits for what deploys it, through another.
        let mut objects = [
            deployer("a", &[], &["b"]),
            deployer("b", &["a"], &[]),
            deployer("c", &["a"], &["d"]),
            deployer("d", &[], &["a"]),
        ];
        assert!(assign(&mut objects, &Silent).is_err());
    }
}
