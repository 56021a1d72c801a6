//! Brings objects of the release that runs back to what the release says, one by one.
//!
//! Not a small [`super::execute`]: nothing but the named objects is touched, one that cannot be
//! healed keeps none of the others, and nothing is ever deleted. What depends on an object that
//! has just come back (a kind on its definition) may fail in this round and heals in the next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::client::Call;
use super::inventory::{Parent, namespace_object};
use super::observe::{Observation, key, namespace_path, parent_path};
use super::{ApplyError, Cluster};
use crate::model::ObjectId;

/// How long one change is tried again: the next round tries anyway.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of one object.
#[derive(Debug)]
pub struct Healed {
    /// The object.
    pub object: ObjectId,
    /// Whether it says again what the release says.
    pub outcome: Result<(), ApplyError>,
}

/// Applies each of `objects` as the release has it, in the order of an apply, and the inventory
/// where it is missing or does not list the release. Begins nothing new after `deadline`, or once
/// `stop` says so.
///
/// # Errors
///
/// When the inventory cannot be written: without it no object is touched. What goes wrong with one
/// object is its own outcome.
pub async fn heal(
    cluster: &Cluster,
    seen: &Observation,
    objects: &[ObjectId],
    deadline: Instant,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Healed>, ApplyError> {
    heal_inventory(cluster, seen).await?;
    let wanted: BTreeSet<_> = objects.iter().map(key).collect();
    let mut healed = Vec::new();
    // Observations are in the order of work.
    for observed in seen.objects.iter().filter(|observed| wanted.contains(&key(&observed.desired.id))) {
        if stop() || Instant::now() >= deadline {
            break;
        }
        let desired = &observed.desired;
        let call = Call::apply(desired.path(), &desired.value, true, false);
        let outcome = match cluster.call(&call, PATIENCE).await {
            Ok(_) => Ok(()),
            Err(error) => Err(cluster.explain(&format!("apply {}", desired.id), error)),
        };
        healed.push(Healed { object: desired.id.clone(), outcome });
    }
    Ok(healed)
}

/// Writes the inventory anew where it does not list all of the release; what it lists beside that
/// stays listed, so that no member is lost.
async fn heal_inventory(cluster: &Cluster, seen: &Observation) -> Result<(), ApplyError> {
    let contents = seen.contents();
    let contents = match &seen.parent {
        Some(parent) if parent.contents.union(&contents) == parent.contents => return Ok(()),
        Some(parent) => parent.contents.union(&contents),
        None => contents,
    };
    let call = Call::apply(namespace_path(), &namespace_object(), true, false);
    cluster
        .call(&call, PATIENCE)
        .await
        .map_err(|error| cluster.explain("create the namespace of inventories", error))?;
    let parent = Parent::done(&seen.release, contents, &seen.default_namespace);
    let call = Call::apply(parent_path(&seen.release), &parent.object(&seen.release.name), true, false);
    cluster.call(&call, PATIENCE).await.map_err(|error| cluster.explain("write the inventory", error))?;
    Ok(())
}
