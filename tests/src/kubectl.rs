//! The unmodified kubectl, against one node.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::command::{self, Outcome};
use crate::wait;

/// kubectl with a kubeconfig, a namespace and a cache of its own.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    home: PathBuf,
    namespace: String,
}

impl Kubectl {
    /// kubectl in the namespace `default`. `home` holds its discovery cache.
    #[must_use]
    pub fn new(kubeconfig: &Path, home: &Path) -> Kubectl {
        Kubectl { kubeconfig: kubeconfig.into(), home: home.into(), namespace: "default".into() }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Kubectl {
        Kubectl { namespace: namespace.into(), ..self.clone() }
    }

    /// The same, known to the API server by a bearer token alone.
    pub fn with_token(&self, token: &str) -> Result<Kubectl> {
        let mut config: Value = serde_json::from_str(&self.run(&["config", "view", "--raw", "-o", "json"])?)?;
        for user in config["users"].as_array_mut().into_iter().flatten() {
            user["user"] = json!({"token": token});
        }
        let kubeconfig = self.home.join(format!("{}.kubeconfig", self.namespace));
        fs::write(&kubeconfig, config.to_string())?;
        Ok(Kubectl { kubeconfig, ..self.clone() })
    }

    /// The namespace that commands go to.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command that is not started yet.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig);
        command.arg("--namespace").arg(&self.namespace).args(args);
        command
    }

    /// Standard output of a command that succeeds.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        command::stdout(&mut self.command(args))
    }

    /// Exit code and output of a command, however it ends.
    pub fn outcome(&self, args: &[&str]) -> Result<Outcome> {
        command::outcome(&mut self.command(args))
    }

    /// Exit code and output of a command that reads `input`.
    pub fn outcome_with_input(&self, args: &[&str], input: &str) -> Result<Outcome> {
        let mut child = self.spawn(args)?;
        let mut stdin = child.stdin.take().context("kubectl's stdin")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        Ok(Outcome::of(&child.wait_with_output()?))
    }

    /// A command in the background with pipes for its stdio.
    pub fn spawn(&self, args: &[&str]) -> Result<Child> {
        self.command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start kubectl {args:?}"))
    }

    /// `kubectl apply` of manifests, however it ends.
    pub fn try_apply(&self, manifests: &str) -> Result<Outcome> {
        // kubectl takes what begins with a brace for JSON, which YAML's flow style is not.
        self.outcome_with_input(&["apply", "-f", "-"], &format!("---\n{manifests}"))
    }

    /// `kubectl apply` of manifests; what it printed.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let outcome = self.try_apply(manifests)?;
        if outcome.code != 0 {
            bail!("kubectl apply ended with {}: {}{}", outcome.code, outcome.stdout, outcome.stderr);
        }
        Ok(outcome.stdout)
    }

    /// An object as JSON.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&["get", kind, name, "-o", "json"])?)?)
    }

    /// What a JSON pointer leads to in an object; null where it leads nowhere.
    pub fn field(&self, kind: &str, name: &str, pointer: &str) -> Result<Value> {
        Ok(self.get(kind, name)?.pointer(pointer).cloned().unwrap_or(Value::Null))
    }

    /// Waits until a pod has a condition, such as Ready.
    pub fn wait_for(&self, condition: &str, pod: &str) -> Result<()> {
        let (condition, pod) = (format!("--for=condition={condition}"), format!("pod/{pod}"));
        match self.run(&["wait", &condition, &pod, "--timeout=120s"]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let described = self.run(&["describe", &pod]).unwrap_or_default();
                Err(error.context(described))
            }
        }
    }

    /// Waits until a pod's phase is `phase`.
    pub fn wait_for_phase(&self, pod: &str, phase: &str) -> Result<()> {
        let wanted = Value::from(phase);
        wait::until_equal(&format!("pod {pod} to be {phase}"), &wanted, || self.field("pod", pod, "/status/phase"))
            .map_err(|error| error.context(self.run(&["describe", "pod", pod]).unwrap_or_default()))
    }

    /// The pod's first address.
    pub fn pod_ip(&self, pod: &str) -> Result<String> {
        let ip = self.field("pod", pod, "/status/podIP")?;
        Ok(ip.as_str().with_context(|| format!("pod {pod} has no address"))?.to_owned())
    }
}
