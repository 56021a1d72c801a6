//! Kinds whose schema says which of their fields run images, and where.
//!
//! Each entry follows the kind's own API reference, which is named beside it.

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    /// A pod spec, each container of which names its image.
    PodSpec,
    /// A pod spec that is laid over one of the operator's: containers may lack their image.
    Overlay,
    /// A reference.
    Image,
    /// A reference that is offered and may never run.
    Offer,
    /// An object that names an image in one of the ways of the Prometheus operator: `image`, else
    /// `baseImage` with `sha`, `tag` or `version`, else the version of this default.
    Versioned(&'static str),
}

/// The fields of a kind.
pub(super) struct Kind {
    /// API groups.
    pub groups: &'static [&'static str],
    /// Kinds.
    pub kinds: &'static [&'static str],
    /// Paths below the object and what they hold. `[]` stands for every item of a list, `*` for
    /// every value of a mapping.
    pub fields: &'static [(&'static str, Holds)],
}

use Holds::{Image, Offer, Overlay, PodSpec, Versioned};

/// Kinds of Kubernetes itself (the API reference, "Workload Resources").
const BUILT_IN: &[Kind] = &[
    Kind { groups: &[""], kinds: &["Pod"], fields: &[("spec", PodSpec)] },
    Kind { groups: &[""], kinds: &["PodTemplate"], fields: &[("template.spec", PodSpec)] },
    Kind { groups: &[""], kinds: &["ReplicationController"], fields: &[("spec.template.spec", PodSpec)] },
    Kind {
        groups: &["apps", "extensions"],
        kinds: &["ReplicaSet", "Deployment", "DaemonSet", "StatefulSet"],
        fields: &[("spec.template.spec", PodSpec)],
    },
    Kind { groups: &["batch"], kinds: &["Job"], fields: &[("spec.template.spec", PodSpec)] },
    Kind {
        groups: &["batch"],
        kinds: &["CronJob"],
        fields: &[("spec.jobTemplate.spec.template.spec", PodSpec)],
    },
];

const TEMPLATE: &[(&str, Holds)] = &[("spec.template.spec", Overlay)];

const ANALYSIS: &[(&str, Holds)] = &[("spec.metrics[].provider.job.spec.template.spec", Overlay)];

/// Where a Tekton `TaskSpec` holds containers.
macro_rules! task_spec {
    ($($at:literal),*) => {
        &[$(
            (concat!($at, ".steps[].image"), Image),
            (concat!($at, ".sidecars[].image"), Image),
            (concat!($at, ".stepTemplate.image"), Image),
        )*]
    };
}

/// Where an Argo `WorkflowSpec` holds containers.
macro_rules! workflow_spec {
    ($at:literal) => {
        &[
            (concat!($at, ".templates[].container.image"), Image),
            (concat!($at, ".templates[].script.image"), Image),
            (concat!($at, ".templates[].initContainers[].image"), Image),
            (concat!($at, ".templates[].sidecars[].image"), Image),
            (concat!($at, ".templates[].containerSet.containers[].image"), Image),
            (concat!($at, ".templates[].data.source.artifactPaths.image"), Image),
            (concat!($at, ".templateDefaults.container.image"), Image),
            (concat!($at, ".templateDefaults.script.image"), Image),
            (concat!($at, ".templateDefaults.initContainers[].image"), Image),
            (concat!($at, ".templateDefaults.sidecars[].image"), Image),
        ]
    };
}

/// Where a `SparkApplicationSpec` holds images.
macro_rules! spark_spec {
    ($at:literal) => {
        &[
            (concat!($at, ".image"), Image),
            (concat!($at, ".driver.image"), Image),
            (concat!($at, ".executor.image"), Image),
            (concat!($at, ".driver.initContainers[].image"), Image),
            (concat!($at, ".executor.initContainers[].image"), Image),
            (concat!($at, ".driver.sidecars[].image"), Image),
            (concat!($at, ".executor.sidecars[].image"), Image),
            (concat!($at, ".driver.template.spec"), Overlay),
            (concat!($at, ".executor.template.spec"), Overlay),
        ]
    };
}

/// Where a `RayClusterSpec` holds pods.
macro_rules! ray_spec {
    ($at:literal) => {
        &[
            (concat!($at, ".headGroupSpec.template.spec"), Overlay),
            (concat!($at, ".workerGroupSpecs[].template.spec"), Overlay),
            ("spec.submitterPodTemplate.spec", Overlay),
        ]
    };
}

/// Where a `VirtualMachineInstanceSpec` holds images.
macro_rules! machine_spec {
    ($at:literal) => {
        &[
            (concat!($at, ".volumes[].containerDisk.image"), Image),
            (concat!($at, ".domain.firmware.kernelBoot.container.image"), Image),
        ]
    };
}

const PROMETHEUS: &str = "quay.io/prometheus/prometheus";
const ALERTMANAGER: &str = "quay.io/prometheus/alertmanager";
const THANOS: &str = "quay.io/thanos/thanos";

/// Kinds of others.
const CUSTOM: &[Kind] = &[
    // Argo Rollouts: argo-rollouts.readthedocs.io, features/specification, features/experiment, features/analysis.
    Kind { groups: &["argoproj.io"], kinds: &["Rollout"], fields: TEMPLATE },
    Kind {
        groups: &["argoproj.io"],
        kinds: &["Experiment"],
        fields: &[("spec.templates[].template.spec", Overlay)],
    },
    Kind {
        groups: &["argoproj.io"],
        kinds: &["AnalysisTemplate", "ClusterAnalysisTemplate", "AnalysisRun"],
        fields: ANALYSIS,
    },
    // Argo Workflows: argo-workflows.readthedocs.io, fields.
    Kind {
        groups: &["argoproj.io"],
        kinds: &["Workflow", "WorkflowTemplate", "ClusterWorkflowTemplate"],
        fields: workflow_spec!("spec"),
    },
    Kind { groups: &["argoproj.io"], kinds: &["CronWorkflow"], fields: workflow_spec!("spec.workflowSpec") },
    // Argo Events: argoproj.github.io/argo-events, APIs.
    Kind {
        groups: &["argoproj.io"],
        kinds: &["Sensor", "EventSource"],
        fields: &[("spec.template.container.image", Image)],
    },
    // Prometheus operator: prometheus-operator.dev, api-reference. `baseImage`, `tag` and `sha` are deprecated.
    Kind {
        groups: &["monitoring.coreos.com"],
        kinds: &["Prometheus", "PrometheusAgent"],
        fields: &[("spec", Versioned(PROMETHEUS)), ("spec", Overlay), ("spec.thanos", Versioned(THANOS))],
    },
    Kind {
        groups: &["monitoring.coreos.com"],
        kinds: &["Alertmanager"],
        fields: &[("spec", Versioned(ALERTMANAGER)), ("spec", Overlay)],
    },
    Kind {
        groups: &["monitoring.coreos.com"],
        kinds: &["ThanosRuler"],
        fields: &[("spec", Versioned(THANOS)), ("spec", Overlay)],
    },
    // Knative: knative.dev, Serving API, Eventing API.
    Kind { groups: &["serving.knative.dev"], kinds: &["Service", "Configuration"], fields: TEMPLATE },
    Kind { groups: &["serving.knative.dev"], kinds: &["Revision"], fields: &[("spec", Overlay)] },
    Kind { groups: &["sources.knative.dev"], kinds: &["ContainerSource"], fields: TEMPLATE },
    Kind {
        groups: &["sinks.knative.dev"],
        kinds: &["JobSink"],
        fields: &[("spec.job.spec.template.spec", Overlay)],
    },
    // Tekton: tekton.dev, Pipelines, pipeline-api.
    Kind { groups: &["tekton.dev"], kinds: &["Task", "ClusterTask"], fields: task_spec!("spec") },
    Kind { groups: &["tekton.dev"], kinds: &["TaskRun"], fields: task_spec!("spec.taskSpec") },
    Kind {
        groups: &["tekton.dev"],
        kinds: &["Pipeline"],
        fields: task_spec!("spec.tasks[].taskSpec", "spec.finally[].taskSpec"),
    },
    Kind {
        groups: &["tekton.dev"],
        kinds: &["PipelineRun"],
        fields: task_spec!("spec.pipelineSpec.tasks[].taskSpec", "spec.pipelineSpec.finally[].taskSpec"),
    },
    Kind { groups: &["tekton.dev"], kinds: &["StepAction"], fields: &[("spec.image", Image)] },
    // CloudNativePG: cloudnative-pg.io, API reference. A catalogue offers one image for each major version.
    Kind {
        groups: &["postgresql.cnpg.io"],
        kinds: &["Cluster"],
        fields: &[("spec.imageName", Image), ("spec.postgresql.extensions[].image.reference", Image)],
    },
    Kind { groups: &["postgresql.cnpg.io"], kinds: &["Pooler"], fields: TEMPLATE },
    Kind {
        groups: &["postgresql.cnpg.io"],
        kinds: &["ImageCatalog", "ClusterImageCatalog"],
        fields: &[("spec.images[].image", Offer)],
    },
    // KEDA: keda.sh, ScaledJob specification.
    Kind {
        groups: &["keda.sh"],
        kinds: &["ScaledJob"],
        fields: &[("spec.jobTargetRef.template.spec", Overlay)],
    },
    // Strimzi: strimzi.io, Custom Resource API reference, "image".
    Kind {
        groups: &["kafka.strimzi.io"],
        kinds: &["Kafka"],
        fields: &[
            ("spec.kafka.image", Image),
            ("spec.kafka.brokerRackInitImage", Image),
            ("spec.zookeeper.image", Image),
            ("spec.entityOperator.topicOperator.image", Image),
            ("spec.entityOperator.userOperator.image", Image),
            ("spec.entityOperator.tlsSidecar.image", Image),
            ("spec.cruiseControl.image", Image),
            ("spec.kafkaExporter.image", Image),
            ("spec.jmxTrans.image", Image),
        ],
    },
    Kind {
        groups: &["kafka.strimzi.io"],
        kinds: &["KafkaConnect", "KafkaMirrorMaker", "KafkaMirrorMaker2", "KafkaBridge"],
        fields: &[("spec.image", Image), ("spec.clientRackInitImage", Image)],
    },
    // OpenTelemetry operator: its repository, docs/api.
    Kind {
        groups: &["opentelemetry.io"],
        kinds: &["OpenTelemetryCollector", "OpAMPBridge", "TargetAllocator"],
        fields: &[
            ("spec.image", Image),
            ("spec.initContainers[].image", Image),
            ("spec.additionalContainers[].image", Image),
            ("spec.targetAllocator.image", Image),
        ],
    },
    Kind {
        groups: &["opentelemetry.io"],
        kinds: &["Instrumentation"],
        fields: &[
            ("spec.java.image", Image),
            ("spec.java.extensions[].image", Image),
            ("spec.nodejs.image", Image),
            ("spec.python.image", Image),
            ("spec.dotnet.image", Image),
            ("spec.go.image", Image),
            ("spec.apacheHttpd.image", Image),
            ("spec.nginx.image", Image),
        ],
    },
    // Elastic Cloud on Kubernetes: elastic.co, "Create custom images", API reference.
    Kind {
        groups: &["elasticsearch.k8s.elastic.co"],
        kinds: &["Elasticsearch"],
        fields: &[
            ("spec", Versioned("docker.elastic.co/elasticsearch/elasticsearch")),
            ("spec.nodeSets[].podTemplate.spec", Overlay),
        ],
    },
    Kind {
        groups: &["kibana.k8s.elastic.co"],
        kinds: &["Kibana"],
        fields: &[("spec", Versioned("docker.elastic.co/kibana/kibana")), ("spec.podTemplate.spec", Overlay)],
    },
    Kind {
        groups: &["logstash.k8s.elastic.co"],
        kinds: &["Logstash"],
        fields: &[
            ("spec", Versioned("docker.elastic.co/logstash/logstash")),
            ("spec.podTemplate.spec", Overlay),
        ],
    },
    Kind {
        groups: &["apm.k8s.elastic.co"],
        kinds: &["ApmServer"],
        fields: &[
            ("spec", Versioned("docker.elastic.co/apm/apm-server")),
            ("spec.podTemplate.spec", Overlay),
        ],
    },
    Kind {
        groups: &[
            "agent.k8s.elastic.co",
            "beat.k8s.elastic.co",
            "enterprisesearch.k8s.elastic.co",
            "maps.k8s.elastic.co",
        ],
        kinds: &["Agent", "Beat", "EnterpriseSearch", "ElasticMapsServer"],
        fields: &[
            ("spec.image", Image),
            ("spec.podTemplate.spec", Overlay),
            ("spec.daemonSet.podTemplate.spec", Overlay),
            ("spec.deployment.podTemplate.spec", Overlay),
            ("spec.statefulSet.podTemplate.spec", Overlay),
        ],
    },
    // Crossplane: docs.crossplane.io, Providers, Functions, Configuration Packages: packages are OCI images.
    Kind {
        groups: &["pkg.crossplane.io"],
        kinds: &["Provider", "Function", "Configuration"],
        fields: &[("spec.package", Image)],
    },
    Kind {
        groups: &["pkg.crossplane.io"],
        kinds: &["DeploymentRuntimeConfig"],
        fields: &[("spec.deploymentTemplate.spec.template.spec", Overlay)],
    },
    // KubeVirt: kubevirt.io, API reference, "containerDisk", "kernelBoot".
    Kind { groups: &["kubevirt.io"], kinds: &["VirtualMachineInstance"], fields: machine_spec!("spec") },
    Kind {
        groups: &["kubevirt.io"],
        kinds: &["VirtualMachine", "VirtualMachineInstanceReplicaSet"],
        fields: machine_spec!("spec.template.spec"),
    },
    Kind {
        groups: &["pool.kubevirt.io"],
        kinds: &["VirtualMachinePool"],
        fields: machine_spec!("spec.virtualMachineTemplate.spec.template.spec"),
    },
    Kind {
        groups: &["cdi.kubevirt.io"],
        kinds: &["DataVolume", "VolumeImportSource"],
        fields: &[("spec.source.registry.url", Image)],
    },
    // Operator Lifecycle Manager: olm.operatorframework.io, ClusterServiceVersion, CatalogSource.
    Kind {
        groups: &["operators.coreos.com"],
        kinds: &["ClusterServiceVersion"],
        fields: &[
            ("spec.install.spec.deployments[].spec.template.spec", PodSpec),
            ("spec.relatedImages[].image", Image),
        ],
    },
    Kind { groups: &["operators.coreos.com"], kinds: &["CatalogSource"], fields: &[("spec.image", Image)] },
    // Spark operator: kubeflow.org, Spark Operator, API reference.
    Kind {
        groups: &["sparkoperator.k8s.io"],
        kinds: &["SparkApplication", "SparkConnect"],
        fields: spark_spec!("spec"),
    },
    Kind {
        groups: &["sparkoperator.k8s.io"],
        kinds: &["ScheduledSparkApplication"],
        fields: spark_spec!("spec.template"),
    },
    // KubeRay: docs.ray.io, KubeRay API reference.
    Kind { groups: &["ray.io"], kinds: &["RayCluster"], fields: ray_spec!("spec") },
    Kind { groups: &["ray.io"], kinds: &["RayJob"], fields: ray_spec!("spec.rayClusterSpec") },
    Kind { groups: &["ray.io"], kinds: &["RayService"], fields: ray_spec!("spec.rayClusterConfig") },
    // KServe: kserve.github.io, Control Plane API.
    Kind {
        groups: &["serving.kserve.io"],
        kinds: &["InferenceService"],
        fields: &[
            ("spec.predictor", Overlay),
            ("spec.transformer", Overlay),
            ("spec.explainer", Overlay),
            ("spec.predictor.*.image", Image),
            ("spec.predictor.workerSpec", Overlay),
        ],
    },
    Kind {
        groups: &["serving.kserve.io"],
        kinds: &["ServingRuntime", "ClusterServingRuntime"],
        fields: &[("spec", Overlay), ("spec.workerSpec", Overlay)],
    },
    Kind {
        groups: &["serving.kserve.io"],
        kinds: &["ClusterStorageContainer"],
        fields: &[("spec.container.image", Image)],
    },
    // Kubeflow training and notebooks: kubeflow.org, Training Operator; Notebooks API.
    Kind {
        groups: &["kubeflow.org"],
        kinds: &["PyTorchJob", "TFJob", "MPIJob", "XGBoostJob", "PaddleJob", "JAXJob"],
        fields: &[
            ("spec.pytorchReplicaSpecs.*.template.spec", Overlay),
            ("spec.tfReplicaSpecs.*.template.spec", Overlay),
            ("spec.mpiReplicaSpecs.*.template.spec", Overlay),
            ("spec.xgbReplicaSpecs.*.template.spec", Overlay),
            ("spec.paddleReplicaSpecs.*.template.spec", Overlay),
            ("spec.jaxReplicaSpecs.*.template.spec", Overlay),
        ],
    },
    Kind { groups: &["kubeflow.org"], kinds: &["Notebook"], fields: TEMPLATE },
    // JobSet and LeaderWorkerSet: jobset.sigs.k8s.io, lws.sigs.k8s.io, API references.
    Kind {
        groups: &["jobset.x-k8s.io"],
        kinds: &["JobSet"],
        fields: &[("spec.replicatedJobs[].template.spec.template.spec", Overlay)],
    },
    Kind {
        groups: &["leaderworkerset.x-k8s.io"],
        kinds: &["LeaderWorkerSet"],
        fields: &[
            ("spec.leaderWorkerTemplate.leaderTemplate.spec", Overlay),
            ("spec.leaderWorkerTemplate.workerTemplate.spec", Overlay),
        ],
    },
    // OpenKruise: openkruise.io, user manuals.
    Kind {
        groups: &["apps.kruise.io"],
        kinds: &["CloneSet", "StatefulSet", "DaemonSet", "BroadcastJob"],
        fields: TEMPLATE,
    },
    Kind { groups: &["apps.kruise.io"], kinds: &["SidecarSet"], fields: &[("spec", Overlay)] },
    Kind {
        groups: &["apps.kruise.io"],
        kinds: &["AdvancedCronJob"],
        fields: &[
            ("spec.template.jobTemplate.spec.template.spec", Overlay),
            ("spec.template.broadcastJobTemplate.spec.template.spec", Overlay),
        ],
    },
    Kind { groups: &["apps.kruise.io"], kinds: &["ImagePullJob"], fields: &[("spec.image", Image)] },
    Kind { groups: &["apps.kruise.io"], kinds: &["ImageListPullJob"], fields: &[("spec.images[]", Image)] },
    // Volcano: volcano.sh, Job.
    Kind {
        groups: &["batch.volcano.sh"],
        kinds: &["Job"],
        fields: &[("spec.tasks[].template.spec", Overlay)],
    },
    // Flink operator: nightlies.apache.org/flink, FlinkDeployment reference.
    Kind {
        groups: &["flink.apache.org"],
        kinds: &["FlinkDeployment"],
        fields: &[
            ("spec.image", Image),
            ("spec.podTemplate.spec", Overlay),
            ("spec.jobManager.podTemplate.spec", Overlay),
            ("spec.taskManager.podTemplate.spec", Overlay),
        ],
    },
    // Agones: agones.dev, GameServer and Fleet.
    Kind { groups: &["agones.dev"], kinds: &["GameServer"], fields: TEMPLATE },
    Kind {
        groups: &["agones.dev"],
        kinds: &["Fleet", "GameServerSet"],
        fields: &[("spec.template.spec.template.spec", Overlay)],
    },
    // Actions Runner Controller: docs.github.com, AutoscalingRunnerSet.
    Kind { groups: &["actions.github.com"], kinds: &["AutoscalingRunnerSet"], fields: TEMPLATE },
    // Rook: rook.io, CephCluster CRD.
    Kind { groups: &["ceph.rook.io"], kinds: &["CephCluster"], fields: &[("spec.cephVersion.image", Image)] },
    // Postgres operator of Zalando: its documentation, cluster manifest reference.
    Kind {
        groups: &["acid.zalan.do"],
        kinds: &["postgresql"],
        fields: &[
            ("spec.dockerImage", Image),
            ("spec.sidecars[].image", Image),
            ("spec.initContainers[].image", Image),
            ("spec.connectionPooler.dockerImage", Image),
        ],
    },
    // RabbitMQ cluster operator: rabbitmq.com, Using Kubernetes Cluster Operator.
    Kind { groups: &["rabbitmq.com"], kinds: &["RabbitmqCluster"], fields: &[("spec.image", Image)] },
    // MinIO operator: its repository, docs/tenant_crd.
    Kind {
        groups: &["minio.min.io"],
        kinds: &["Tenant"],
        fields: &[("spec.image", Image), ("spec.sideCars.containers[].image", Image)],
    },
    // Istio: istio.io, WasmPlugin. Its `url` may name an OCI image, by scheme or without one.
    Kind { groups: &["extensions.istio.io"], kinds: &["WasmPlugin"], fields: &[("spec.url", Image)] },
    // Envoy Gateway: gateway.envoyproxy.io, API reference.
    Kind {
        groups: &["gateway.envoyproxy.io"],
        kinds: &["EnvoyProxy"],
        fields: &[
            ("spec.provider.kubernetes.envoyDeployment.container.image", Image),
            ("spec.provider.kubernetes.envoyDaemonSet.container.image", Image),
        ],
    },
];

/// What is known about a kind.
pub(super) enum Known {
    /// Its schema: pods and images of Kubernetes' own kinds.
    BuiltIn(&'static Kind),
    /// Its schema: that of others.
    Custom(&'static Kind),
    /// It runs nothing: it names images to watch, to mirror or to update, or it was rendered and
    /// its objects speak for it.
    Silent,
    /// It tells what other objects must look like, so nothing in it certainly runs.
    Policy,
    /// It describes kinds: their fields' defaults may be images.
    Definition,
    /// Nothing.
    Unknown,
}

/// Groups whose objects say what others must look like.
const POLICIES: &[&str] = &[
    "kyverno.io",
    "policies.kyverno.io",
    "constraints.gatekeeper.sh",
    "templates.gatekeeper.sh",
    "mutations.gatekeeper.sh",
    "admissionregistration.k8s.io",
    "policy.sigstore.dev",
];

/// Objects that run nothing themselves.
const SILENT: &[(&str, &[&str])] = &[
    ("image.toolkit.fluxcd.io", &["ImageRepository", "ImagePolicy", "ImageUpdateAutomation"]),
    // What these lead to is rendered, or decided, on its own.
    ("helm.toolkit.fluxcd.io", &["HelmRelease"]),
    ("kustomize.toolkit.fluxcd.io", &["Kustomization"]),
    ("argoproj.io", &["Application", "ApplicationSet", "AppProject"]),
    ("operator.openshift.io", &["ImageContentSourcePolicy"]),
    ("config.openshift.io", &["ImageContentPolicy", "ImageDigestMirrorSet", "ImageTagMirrorSet"]),
    ("", &["Node", "Event"]),
];

/// What is known about `kind` of `group`.
pub(super) fn known(group: &str, kind: &str) -> Known {
    let find = |table: &'static [Kind]| {
        table.iter().find(|entry| entry.groups.contains(&group) && entry.kinds.contains(&kind))
    };
    if group == "apiextensions.k8s.io" {
        return Known::Definition;
    }
    if let Some(entry) = find(BUILT_IN) {
        return Known::BuiltIn(entry);
    }
    if let Some(entry) = find(CUSTOM) {
        return Known::Custom(entry);
    }
    if SILENT.iter().any(|(name, kinds)| *name == group && kinds.contains(&kind)) {
        return Known::Silent;
    }
    if POLICIES.contains(&group) { Known::Policy } else { Known::Unknown }
}

/// Annotations whose values are images that are put into pods, with the annotation that holds the
/// tag, where it stands apart: istio.io, "Resource Annotations"; linkerd.io, "Proxy Configuration";
/// developer.hashicorp.com, Vault "Agent Sidecar Injector Annotations"; docs.dapr.io, "Dapr
/// arguments and annotations".
pub(super) const ANNOTATIONS: &[(&str, Option<&str>)] = &[
    ("sidecar.istio.io/proxyImage", None),
    ("config.linkerd.io/proxy-image", Some("config.linkerd.io/proxy-version")),
    ("config.linkerd.io/init-image", Some("config.linkerd.io/init-image-version")),
    ("config.linkerd.io/debug-image", Some("config.linkerd.io/debug-image-version")),
    ("vault.hashicorp.com/agent-image", None),
    ("dapr.io/sidecar-image", None),
];

/// Beginnings of annotations that tools keep for themselves: old states, sources, update rules.
const TOOL_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    "argocd-image-updater.argoproj.io/",
    "keel.sh/",
    "config.kubernetes.io/",
    "internal.config.kubernetes.io/",
    "deployment.kubernetes.io/",
    "meta.helm.sh/",
    "image.openshift.io/triggers",
    "kbld.k14s.io/",
];

/// Whether an annotation is a tool's own note.
pub(super) fn is_tool_annotation(key: &str) -> bool {
    TOOL_ANNOTATIONS.iter().any(|begin| key.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_can_be_read_and_no_kind_stands_twice() {
        let mut seen = std::collections::BTreeSet::new();
        for entry in BUILT_IN.iter().chain(CUSTOM) {
            for group in entry.groups {
                for kind in entry.kinds {
                    assert!(seen.insert((group, kind)), "{group} {kind}");
                }
            }
            assert!(!entry.fields.is_empty());
            for (path, _) in entry.fields {
                for part in path.split('.') {
                    let name = part.strip_suffix("[]").unwrap_or(part);
                    let word = name.bytes().all(|b| b.is_ascii_alphanumeric()) && !name.is_empty();
                    assert!(word || part == "*", "{path}");
                }
            }
        }
        assert!(seen.len() > 80, "{}", seen.len());
    }
}
