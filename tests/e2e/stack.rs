//! What every case uses: one node, one registry, the images in it.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use orlop_tests::images::{self, Recipe};
use orlop_tests::inventory::Inventory;
use orlop_tests::kubectl::Kubectl;
use orlop_tests::node::Node;
use orlop_tests::registry::Registry;
use orlop_tests::{programs, residue, wait};

static STACK: OnceLock<Result<Stack, String>> = OnceLock::new();

/// The shared node and the registry it pulls from.
pub(crate) struct Stack {
    node: Mutex<Node>,
    kubectl: Kubectl,
    registry: Mutex<Option<Registry>>,
    before: Inventory,
    host: String,
    /// References of the images.
    pub(crate) busybox: String,
    pub(crate) nginx: String,
    pub(crate) redis: String,
    pub(crate) postgres: String,
}

/// A namespace for one case, with kubectl in it.
pub(crate) type Namespace = Kubectl;

/// The stack: started by whoever asks first.
pub(crate) fn get() -> Result<&'static Stack> {
    STACK
        .get_or_init(|| Stack::start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("{error}"))
}

/// Ends what was started, and compares the host with how it was found.
pub(crate) fn finish() -> Result<()> {
    let Some(Ok(stack)) = STACK.get() else { return Ok(()) };
    let mut node = stack.node();
    let (state, run) = (node.state(), node.run());
    // Every case has deleted its pods: they are gone without a trace before the reset sweeps.
    let residue = without_residue(&node).with_context(|| format!("the log is kept at {:?}", node.keep_log()));
    node.reset().with_context(|| format!("the log is kept at {:?}", node.keep_log()))?;
    drop(stack.registry.lock().unwrap_or_else(PoisonError::into_inner).take());
    for folder in [&state, &run] {
        if folder.exists() {
            bail!("{} is still there after the reset", folder.display());
        }
    }
    // A static is never dropped: the node's folder, with its configuration and log, goes here.
    if let Some(folder) = state.parent() {
        std::fs::remove_dir_all(folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    residue?;
    // The kernel takes down namespaces behind our back; what belongs to nobody stays.
    wait::until("the host to be as it was found", || {
        let left = Inventory::take(&programs::folder()?)?.beyond(&stack.before);
        if left.is_empty() { Ok(Some(())) } else { bail!("left behind:\n{left}") }
    })
}

/// Waits until nothing of any pod is left on the node.
pub(crate) fn without_residue(node: &Node) -> Result<()> {
    wait::until("the pods' last traces to go", || {
        let left = residue::of_pods(node)?;
        if left.is_empty() { Ok(Some(())) } else { bail!("left behind:\n{left}") }
    })
}

impl Stack {
    fn start() -> Result<Stack> {
        let before = Inventory::take(&programs::folder()?)?;
        let registry = Registry::start()?;
        let push = |recipe: &Recipe| registry.push(&images::image(recipe)?);
        let (busybox, nginx) = (push(&images::busybox())?, push(&images::nginx())?);
        let (redis, postgres) = (push(&images::redis())?, push(&images::postgres())?);
        let node = Node::start()?;
        Ok(Stack {
            kubectl: node.kubectl(),
            host: registry.host(),
            node: Mutex::new(node),
            registry: Mutex::new(Some(registry)),
            before,
            busybox,
            nginx,
            redis,
            postgres,
        })
    }

    /// The node itself, for cases that end it.
    pub(crate) fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The registry's host and port.
    pub(crate) fn registry(&self) -> &str {
        &self.host
    }

    /// Runs a case in a fresh namespace, and deletes that afterwards, with all that is in it.
    pub(crate) fn within_namespace(&self, case: &str, run: fn(&Stack, &Namespace) -> Result<()>) -> Result<()> {
        let name = case.replace('_', "-");
        self.kubectl.run(&["create", "namespace", &name])?;
        let namespace = self.kubectl.within(&name);
        wait::until("the default service account", || namespace.get("serviceaccount", "default").map(Some))?;
        let result = run(self, &namespace).map_err(|error| {
            let pods = namespace.run(&["get", "pods", "-o", "wide"]).unwrap_or_default();
            let events = namespace.run(&["get", "events"]).unwrap_or_default();
            error.context(format!("\n{pods}\n{events}"))
        });
        let deleted = self.kubectl.run(&["delete", "namespace", &name, "--timeout=120s"]);
        result?;
        deleted.map(drop)
    }
}
