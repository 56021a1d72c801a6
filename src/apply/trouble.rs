//! Why an object is not ready: its pods, their containers, events and last log lines. All bounded.

use std::time::Duration;

use serde_json::Value;

use super::Cluster;
use super::client::{Call, encode, shorten};

/// Pods of one workload that are looked at.
const PODS: &str = "50";
/// Lines and bytes of a crashed container's log.
const LOG_LINES: usize = 10;
const LOG_BYTES: &str = "8192";
/// Events of one object that are told.
const EVENTS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(3);

/// What one container or pod says about why it does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) container: Option<String>,
    /// `ImagePullBackOff: Back-off pulling image "x"`.
    pub(super) why: String,
    /// Whether the container ran and ended badly, so that its log may say why.
    pub(super) crashed: bool,
    /// Whether the container runs again already, so that the log is that of the run before.
    pub(super) restarted: bool,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pod {}/{}", self.namespace, self.pod)?;
        self.container.iter().try_for_each(|container| write!(f, " container {container}"))?;
        write!(f, ": {}", self.why)
    }
}

/// The worst trouble of a pod, if it has any.
pub(super) fn of_pod(pod: &Value) -> Option<Trouble> {
    let trouble = |container: Option<&str>, why: String, crashed| {
        Some(Trouble {
            namespace: pod["metadata"]["namespace"].as_str().unwrap_or_default().to_owned(),
            pod: pod["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            container: container.map(str::to_owned),
            why,
            crashed,
            restarted: false,
        })
    };
    let says = |state: &Value| {
        let reason = state["reason"].as_str().unwrap_or_default();
        let message = shorten(state["message"].as_str().unwrap_or_default());
        match (reason.is_empty(), message.is_empty()) {
            (false, false) => format!("{reason}: {message}"),
            _ => format!("{reason}{message}"),
        }
    };
    let ended = |state: &Value| format!("ended with exit code {} ({})", state["exitCode"], says(state));
    let statuses = ["initContainerStatuses", "containerStatuses"];
    for status in statuses.iter().flat_map(|key| pod["status"][key].as_array().into_iter().flatten()) {
        let name = status["name"].as_str();
        let (waiting, terminated) = (&status["state"]["waiting"], &status["state"]["terminated"]);
        let last = &status["lastState"]["terminated"];
        if let Some(reason) = waiting["reason"].as_str()
            && !matches!(reason, "ContainerCreating" | "PodInitializing")
        {
            let crashed = last.is_object();
            let why = if crashed { format!("{}; {}", says(waiting), ended(last)) } else { says(waiting) };
            return trouble(name, why, crashed);
        }
        if terminated["exitCode"].as_i64().is_some_and(|code| code != 0) {
            return trouble(name, ended(terminated), true);
        }
        if last["exitCode"].as_i64().is_some_and(|code| code != 0) && status["ready"] == false {
            let ended = trouble(name, format!("last {}", ended(last)), true);
            return ended.map(|trouble| Trouble { restarted: true, ..trouble });
        }
    }
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    for condition in conditions {
        if condition["type"] == "PodScheduled" && condition["status"] == "False" {
            return trouble(None, says(condition), false);
        }
    }
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    for status in statuses {
        if status["state"]["running"].is_object() && status["ready"] == false {
            // Its events hold what the probe says.
            return trouble(status["name"].as_str(), "runs, and is not ready".to_owned(), false);
        }
    }
    (pod["status"]["phase"] == "Failed").then(|| trouble(None, says(&pod["status"]), false)).flatten()
}

/// The troubles of the pods behind an object, the newest pod first.
pub(super) async fn of_object(cluster: &Cluster, group: &str, kind: &str, object: &Value) -> Vec<Trouble> {
    if (group, kind) == ("", "Pod") {
        return of_pod(object).into_iter().collect();
    }
    let (Some(selector), Some(namespace)) =
        (selector(&object["spec"]["selector"]), object["metadata"]["namespace"].as_str())
    else {
        return Vec::new();
    };
    let call = Call::get(format!("/api/v1/namespaces/{}/pods", encode(namespace)))
        .query("labelSelector", selector)
        .query("limit", PODS);
    let Ok(answer) = cluster.call(&call, PATIENCE).await else { return Vec::new() };
    let mut pods: Vec<&Value> = answer.value["items"].as_array().into_iter().flatten().collect();
    let created = |pod: &&Value| pod["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned();
    pods.sort_by_key(|pod| std::cmp::Reverse(created(pod)));
    pods.into_iter().filter_map(of_pod).collect()
}

/// A label selector as text; of a workload's `spec.selector`, which is a map or has the two parts.
fn selector(spec: &Value) -> Option<String> {
    let map = spec.as_object()?;
    let labels = match map.get("matchLabels") {
        Some(labels) => labels.as_object(),
        None if map.contains_key("matchExpressions") => None,
        None => Some(map),
    };
    let mut parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)))
        .collect();
    for expression in spec["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str()?;
        let values: Vec<_> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        parts.push(match expression["operator"].as_str()? {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return None,
        });
    }
    (!parts.is_empty()).then(|| parts.join(","))
}

/// The last lines that a container wrote before it ended.
pub(super) async fn last_lines(cluster: &Cluster, trouble: &Trouble) -> Vec<String> {
    let Some(container) = &trouble.container else { return Vec::new() };
    let path = format!("/api/v1/namespaces/{}/pods/{}/log", encode(&trouble.namespace), encode(&trouble.pod));
    // In a back-off the server takes the last run for the current one.
    let order = if trouble.restarted { ["true", "false"] } else { ["false", "true"] };
    for previous in order {
        let call = Call::get(path.clone())
            .accept("text/plain, */*")
            .query("container", container.clone())
            .query("previous", previous)
            .query("tailLines", LOG_LINES.to_string())
            .query("limitBytes", LOG_BYTES);
        if let Ok(text) = cluster.text(&call, PATIENCE).await
            && !text.trim().is_empty()
            // The kubelet's word for a container whose files are gone, with status 200.
            && !text.starts_with("unable to retrieve container logs for ")
        {
            return text.lines().map(shorten).take(LOG_LINES).collect();
        }
    }
    Vec::new()
}

/// The last warnings about an object.
pub(super) async fn events(
    cluster: &Cluster,
    namespace: Option<&str>,
    kind: &str,
    name: &str,
) -> Vec<String> {
    let namespace = namespace.unwrap_or("default");
    let call = Call::get(format!("/api/v1/namespaces/{}/events", encode(namespace)))
        .query("fieldSelector", format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning"))
        .query("limit", "50");
    let Ok(answer) = cluster.call(&call, PATIENCE).await else { return Vec::new() };
    let mut events: Vec<&Value> = answer.value["items"].as_array().into_iter().flatten().collect();
    let time = |event: &&Value| {
        let times = [&event["lastTimestamp"], &event["eventTime"], &event["metadata"]["creationTimestamp"]];
        times.iter().find_map(|time| time.as_str()).unwrap_or_default().to_owned()
    };
    events.sort_by_key(|event| std::cmp::Reverse(time(event)));
    let told = events.into_iter().take(EVENTS).map(|event| {
        let (reason, message) = (event["reason"].as_str().unwrap_or_default(), event["message"].as_str());
        format!("{reason}: {}", shorten(message.unwrap_or_default()))
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &Value) -> Value {
        json!({"metadata": {"namespace": "shop", "name": "web-1"}, "status": status})
    }

    #[test]
    fn images_that_cannot_be_pulled_are_named() {
        let status = json!({"containerStatuses": [
            {"name": "web", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}}}]});
        let trouble = of_pod(&pod(&status)).unwrap();
        assert_eq!(
            trouble.to_string(),
            "Pod shop/web-1 container web: ImagePullBackOff: Back-off pulling image \"x\""
        );
        assert!(!trouble.crashed);
    }

    #[test]
    fn crashes_say_how_they_ended() {
        let status = json!({"containerStatuses": [
            {"name": "ok", "ready": true, "state": {"running": {}}},
            {"name": "web", "state": {"waiting": {"reason": "CrashLoopBackOff"}},
             "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]});
        let trouble = of_pod(&pod(&status)).unwrap();
        assert!(trouble.crashed);
        assert_eq!(trouble.why, "CrashLoopBackOff; ended with exit code 3 (Error)");
        assert_eq!(
            of_pod(&pod(&json!({"containerStatuses": [
            {"name": "web", "state": {"waiting": {"reason": "ContainerCreating"}}}]}))),
            None
        );
        let unschedulable = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no nodes"}]});
        assert_eq!(of_pod(&pod(&unschedulable)).unwrap().why, "Unschedulable: no nodes");
    }

    #[test]
    fn what_runs_and_is_not_ready_is_named() {
        let status = |ready: bool| json!({"containerStatuses": [{"name": "web", "ready": ready, "state": {"running": {}}}]});
        assert_eq!(
            of_pod(&pod(&status(false))).unwrap().to_string(),
            "Pod shop/web-1 container web: runs, and is not ready"
        );
        assert_eq!(of_pod(&pod(&status(true))), None);
    }

    #[test]
    fn selectors_are_written_as_the_server_reads_them() {
        assert_eq!(selector(&json!({"app": "web"})).as_deref(), Some("app=web"));
        let both = json!({"matchLabels": {"app": "web"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "DoesNotExist"}]});
        assert_eq!(selector(&both).as_deref(), Some("app=web,tier in (a,b),!x"));
        assert_eq!(selector(&json!({})), None);
        assert_eq!(selector(&Value::Null), None);
    }
}
