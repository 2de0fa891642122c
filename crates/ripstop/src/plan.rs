//! A mesh file → what `up` has to run: the control plane's sources and each replica of each workload.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use ripstop_control::api::message;
use ripstop_host::workload::User;
use ripstop_model::analyze::{Analysis, analyze};
use ripstop_model::diagnostic::{self, Diagnostic};
use ripstop_model::intent::mesh::{Mesh, MeshService, Readiness, Restart, Workload};
use ripstop_model::intent::{Spec, registry};
use ripstop_model::seam::Producer;

use crate::sidecar::Probe;

/// Unless the mesh file says otherwise.
const PROBE: Duration = Duration::from_secs(1);

/// A mesh file that can be run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// The mesh's name.
    pub(crate) name: String,
    pub(crate) mesh: Mesh,
    /// For the control plane: the file itself and what its `config` names, absolute.
    pub(crate) sources: Vec<PathBuf>,
    /// By id, `<workload>-<replica>.<namespace>`.
    pub(crate) replicas: BTreeMap<String, Wanted>,
}

/// One replica, as the file wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) register: message::Register,
    pub(crate) command: Vec<String>,
    /// Over the environment of the caller.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: PathBuf,
    pub(crate) user: Option<String>,
    pub(crate) host_ports: Vec<u16>,
    pub(crate) probe: Option<Probe>,
    pub(crate) restart: Restart,
    /// Tracing hooks; unset: the mesh's.
    pub(crate) hooks: Option<Vec<Producer>>,
}

impl Wanted {
    /// What its replicas have in common.
    pub(crate) fn workload(&self) -> String {
        format!("{}.{}", self.register.workload, self.register.namespace)
    }

    pub(crate) fn id(&self) -> String {
        let register = &self.register;
        format!(
            "{}-{}.{}",
            register.workload,
            register.replica.unwrap_or_default(),
            register.namespace
        )
    }
}

/// Why a file cannot be run, with everything there is to say about it.
#[derive(Debug)]
pub(crate) struct Faults {
    analysis: Analysis,
    summary: String,
}

impl Faults {
    /// For the terminal: each fault in rustc's manner.
    pub(crate) fn render(&self, styled: bool) -> String {
        diagnostic::render(&self.analysis.diagnostics, &self.analysis.sources, styled)
    }
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.summary)
    }
}

impl std::error::Error for Faults {}

/// Reads and checks `file`. Also answers what is worth a warning.
///
/// # Errors
/// Files that cannot be read; [`Faults`] if there is an error in the file, whatever the kind of the resource.
pub(crate) fn read(file: &Path) -> anyhow::Result<(Plan, Vec<Diagnostic>)> {
    let shown = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the mesh file {shown}"))?;
    let folder = std::path::absolute(file)?;
    let folder = folder.parent().unwrap_or(Path::new("/")).to_owned();
    let own = analyze(&[(&shown, &text)]);
    let mesh = match meshes(&own).as_slice() {
        [(name, mesh)] => Some(((*name).to_owned(), (*mesh).clone())),
        _ => None,
    };
    // What this host says of it, also where the file has errors: all is told at once.
    let readable = own.rejected.iter().filter_map(|rejected| {
        let spec = rejected.spec.as_ref()?;
        of_mesh(spec)
    });
    let typed: Vec<&Mesh> = readable.chain(mesh.iter().map(|(_, mesh)| mesh)).collect();
    let mut missing = unknown_users(&typed);
    // Together with what it names, for references between them.
    let named = typed.iter().flat_map(|mesh| &mesh.config);
    let config: Vec<PathBuf> = named
        .map(|path| folder.join(path).components().collect())
        .collect();
    let mut files = vec![(shown.clone(), text)];
    match crate::command::configuration(&config) {
        Ok(found) => files.extend(found),
        Err(error) => missing.push(format!("`config` of {shown}: {error:#}")),
    }
    let missing = missing.join("\n");
    let analysis = analyze(&files);
    let fatal = analysis
        .diagnostics
        .iter()
        .any(|d| d.is_error() && *d.file == *shown && !d.code.is_reference());
    let Some((name, mesh)) = mesh.filter(|_| !fatal) else {
        if fatal {
            let mut summary = format!(
                "{shown} cannot be run: {}",
                diagnostic::summary(&analysis.diagnostics)
            );
            if !missing.is_empty() {
                summary = format!("{summary}\n{missing}");
            }
            return Err(Faults { analysis, summary }.into());
        }
        match meshes(&own).len() {
            0 => bail!(
                "{shown} holds no Mesh: add a document with `apiVersion: ripstop.dev/v1alpha1` and `kind: Mesh`"
            ),
            n => bail!("{shown} holds {n} meshes: run each from a file of its own"),
        }
    };
    if !missing.is_empty() {
        bail!("{missing}");
    }
    let mut sources = vec![std::path::absolute(file)?];
    sources.extend(config);
    let replicas = replicas(&mesh, &folder)
        .map(|wanted| (wanted.id(), wanted))
        .collect();
    Ok((
        Plan {
            name,
            mesh,
            sources,
            replicas,
        },
        analysis.diagnostics,
    ))
}

fn of_mesh(spec: &Spec) -> Option<&Mesh> {
    match spec {
        Spec::Mesh(mesh) => Some(mesh),
        _ => None,
    }
}

fn meshes(analysis: &Analysis) -> Vec<(&str, &Mesh)> {
    let objects = analysis.objects.iter();
    objects
        .filter_map(|object| Some((object.name.as_str(), of_mesh(&object.spec)?)))
        .collect()
}

/// What is wrong with `user:` on this host, a line for each.
fn unknown_users(meshes: &[&Mesh]) -> Vec<String> {
    let workloads = meshes.iter().flat_map(|mesh| registry::workloads(mesh));
    let users: BTreeMap<&str, &str> = workloads
        .filter_map(|(service, workload)| {
            let user = workload.user.as_deref().filter(|user| !user.is_empty())?;
            Some((user, workload.name(service)))
        })
        .collect();
    users
        .into_iter()
        .filter_map(|(user, workload)| {
            let error = User::lookup(user).err()?;
            Some(format!("workload {workload}: {error}"))
        })
        .collect()
}

fn replicas<'a>(mesh: &'a Mesh, folder: &'a Path) -> impl Iterator<Item = Wanted> + use<'a> {
    let hooks = mesh
        .tracing
        .as_ref()
        .and_then(|tracing| tracing.hooks.clone());
    let hooks = hooks.unwrap_or_default();
    mesh.services.iter().flat_map(move |service| {
        let hooks = hooks.clone();
        service.workloads.iter().flat_map(move |workload| {
            let own = workload.hooks.as_ref();
            let hooks = own.map(|own| own.over(&hooks).producers());
            (0..workload.replicas()).map(move |replica| Wanted {
                hooks: hooks.clone(),
                ..wanted(service, workload, replica, folder)
            })
        })
    })
}

fn wanted(service: &MeshService, workload: &Workload, replica: u32, folder: &Path) -> Wanted {
    let ports = service.ports.iter().map(|port| message::Port {
        name: port.name.clone().unwrap_or_default(),
        port: port.port,
        target_port: port.target_port,
        protocol: Some(port.protocol()),
        publish: port
            .publish
            .map(|publish| (publish.address, publish.port).into()),
    });
    Wanted {
        register: message::Register {
            namespace: service.namespace().to_owned(),
            service: service.name.clone(),
            service_account: workload.service_account(service).to_owned(),
            workload: workload.name(service).to_owned(),
            labels: workload.labels(service),
            ports: ports.collect(),
            replica: Some(replica),
            host: String::new(),
            advertise: None,
            headless: service.headless.unwrap_or_default(),
            ready: false,
        },
        command: workload.command.0.clone(),
        env: workload
            .env
            .iter()
            .map(|(name, value)| (name.clone(), value.0.clone()))
            .collect(),
        cwd: folder.to_owned(),
        user: workload.user.clone(),
        host_ports: workload.host_ports.clone(),
        probe: probe(service, workload.readiness.as_ref()),
        restart: workload.restart.unwrap_or(Restart::OnFailure),
        hooks: None,
    }
}

/// `None` for a service without ports: there is nothing to ask.
fn probe(service: &MeshService, readiness: Option<&Readiness>) -> Option<Probe> {
    let first = service.ports.first().map(|port| port.target());
    let http = readiness.and_then(|readiness| readiness.http.as_ref());
    let tcp = readiness.and_then(|readiness| readiness.tcp.as_ref());
    Some(Probe {
        port: http
            .and_then(|http| http.port)
            .or(tcp.and_then(|tcp| tcp.port))
            .or(first)?,
        path: http.map(|http| http.path.clone()),
        interval: readiness
            .and_then(|readiness| readiness.interval)
            .unwrap_or(PROBE),
        timeout: readiness
            .and_then(|readiness| readiness.timeout)
            .unwrap_or(PROBE),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mesh.yaml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    const MESH: &str = "
apiVersion: ripstop.dev/v1alpha1
kind: Mesh
metadata: {name: small}
spec:
  services:
  - name: users
    ports: [{name: http, port: 80, targetPort: 8080, publish: 9000}]
    workloads:
    - name: users-v1
      replicas: 2
      command: [python3, users.py]
      env: {RETRIES: 3}
      readiness: {http: {path: /healthz}, interval: 2s}
  - name: clock
    workloads: [{command: [date], restart: never}]
";

    #[test]
    fn a_file_becomes_replicas() {
        let (folder, path) = file(MESH);
        let (plan, diagnostics) = read(&path).unwrap();
        assert_eq!(plan.name, "small");
        assert!(
            !diagnostics.iter().any(Diagnostic::is_error),
            "{diagnostics:?}"
        );
        let ids: Vec<&str> = plan.replicas.keys().map(String::as_str).collect();
        assert_eq!(
            ids,
            [
                "clock-0.default",
                "users-v1-0.default",
                "users-v1-1.default"
            ]
        );
        let users = &plan.replicas["users-v1-1.default"];
        assert_eq!(users.register.service_account, "users");
        assert_eq!(users.env["RETRIES"], "3");
        assert_eq!(users.cwd, folder.path());
        let probe = users.probe.as_ref().unwrap();
        assert_eq!(
            (probe.port, probe.path.as_deref()),
            (8080, Some("/healthz"))
        );
        assert_eq!(
            (probe.interval, probe.timeout),
            (Duration::from_secs(2), PROBE)
        );
        assert_eq!(
            users.register.ports[0].publish,
            Some("127.0.0.1:9000".parse().unwrap())
        );
        assert_eq!(plan.replicas["clock-0.default"].probe, None);
        assert_eq!(plan.sources, [path]);
    }

    #[test]
    fn every_fault_is_told_and_nothing_is_run() {
        let (_folder, path) = file(
            &MESH
                .replace("replicas: 2", "replcas: 2")
                .replace("port: 80,", "port: eighty,"),
        );
        let error = read(&path).unwrap_err();
        let faults = error.downcast_ref::<Faults>().unwrap();
        assert!(
            faults
                .to_string()
                .ends_with("mesh.yaml cannot be run: 2 errors"),
            "{faults}"
        );
        let text = faults.render(false);
        assert!(
            text.contains("replcas") && text.contains("eighty") && text.contains("mesh.yaml:8"),
            "{text}"
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = format!("{:#}", read(Path::new("/no/such/mesh.yaml")).unwrap_err());
        assert!(
            error.contains("cannot read the mesh file /no/such/mesh.yaml"),
            "{error}"
        );
        let (_folder, path) = file(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}\n",
        );
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("holds no Mesh"), "{error}");
        let (_folder, path) =
            file(&MESH.replace("spec:\n  services", "spec:\n  config: [./gone]\n  services"));
        let error = format!("{:#}", read(&path).unwrap_err());
        assert!(
            error.contains("`config` of") && error.contains("gone"),
            "{error}"
        );
    }

    #[test]
    fn all_that_is_missing_is_named_beside_what_is_wrong() {
        let absent = MESH
            .replace(
                "spec:\n  services",
                "spec:\n  config: [./gone, nor.yaml]\n  services",
            )
            .replace("command: [date]", "command: [date], user: no-such-user");
        for (text, wrong) in [
            (absent.clone(), None),
            (absent.replace("port: 80,", "port: 0,"), Some("1 error")),
            (
                absent.replace("replicas: 2", "replicas: many"),
                Some("1 error"),
            ),
        ] {
            let (_folder, path) = file(&text);
            let error = format!("{:#}", read(&path).unwrap_err());
            let missing = ["gone", "nor.yaml", "workload clock: user `no-such-user`"];
            for told in missing.into_iter().chain(wrong) {
                assert!(error.contains(told), "no {told} in {error}");
            }
        }
    }
}
