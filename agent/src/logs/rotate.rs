//! Log rotation: rename, tell the runtime to open a new file, drop the oldest.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use orlop_proto::v1;

use crate::context::Context;

const INTERVAL: Duration = Duration::from_secs(10);

/// Looks at all running containers' logs every ten seconds, for ever.
pub(crate) async fn run(ctx: Arc<Context>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let state = v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() };
        let request = v1::ListContainersRequest {
            filter: Some(v1::ContainerFilter { state: Some(state), ..v1::ContainerFilter::default() }),
        };
        let Ok(running) = ctx.cri.list_containers(request).await else {
            continue;
        };
        for container in running.containers {
            if let Some(path) = super::follow::log_path(&ctx, &container) {
                rotate_if_large(&ctx, &container.id, &path).await;
            }
        }
    }
}

async fn rotate_if_large(ctx: &Context, id: &str, path: &Path) {
    let limit = ctx.config.log_rotation;
    match fs::metadata(path) {
        Ok(meta) if meta.len() < limit.max_size => return,
        Ok(_) => {
            let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%6f");
            let mut renamed = path.as_os_str().to_owned();
            renamed.push(format!(".{stamp}"));
            if let Err(error) = fs::rename(path, &renamed) {
                tracing::warn!(log = %path.display(), %error, "cannot rotate a log");
                return;
            }
        }
        // An earlier rotation came no further than the rename: the runtime still writes to the renamed file.
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(log = %path.display(), %error, "cannot look at a log");
            return;
        }
    }
    let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
    if let Err(error) = ctx.cri.reopen_container_log(request).await {
        // Without a file of the log's name the next look comes here again.
        tracing::warn!(log = %path.display(), %error, "the runtime did not open a new log yet");
        return;
    }
    let old = super::rotated(path);
    let excess = (old.len() + 1).saturating_sub(limit.max_files.max(2));
    for file in old.iter().take(excess) {
        // Tried again at the next rotation.
        let _ = fs::remove_file(file);
    }
}
