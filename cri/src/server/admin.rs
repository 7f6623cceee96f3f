//! The service `orlop.v1.Images`: pulls that show their progress, and imports.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use orlop_proto::admin::images_server::Images;
use orlop_proto::admin::{
    self, ImportRequest, ImportResponse, ImportedImage, PullRequest, PullResponse, pull_response,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::answer;
use super::images::refused;
use super::services::{Messages, Services};
use crate::engine::Shared;
use crate::error::{Error, Result};
use crate::image::{Credentials, ImageId, ImportOptions, Progress, Reference};

/// How often a client is told of progress, at most.
const PACE: Duration = Duration::from_millis(100);

#[tonic::async_trait]
impl Images for Services {
    type PullStream = Messages<PullResponse>;

    async fn pull(&self, request: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let engine = self.engine.clone();
        answer::answer(&self.engine, "orlop.v1.Pull", async move { pull(&engine, request.into_inner()) }).await
    }

    async fn import(&self, request: Request<ImportRequest>) -> Result<Response<ImportResponse>, Status> {
        answer::answer(&self.engine, "orlop.v1.Import", import(self.engine.clone(), request.into_inner())).await
    }
}

/// Starts the pull; the answer's messages tell of it.
fn pull(engine: &Shared, request: PullRequest) -> Result<Messages<PullResponse>> {
    let name = request.image;
    let reference = Reference::parse(&name).map_err(|error| refused(format!("pull image {name}"), error))?;
    let credentials = (!request.username.is_empty()).then(|| Credentials::password(request.username, request.password));
    let (messages, receiver) = mpsc::channel(1);
    let work = {
        let engine = engine.clone();
        async move {
            let (sender, progress) = watch::channel(Progress::default());
            let outcome = tokio::select! {
                pulled = engine.images.pull(&reference, credentials, Some(sender)) => pulled,
                () = report(progress, &messages) => return,
            };
            let last = match outcome {
                Ok(id) => Ok(PullResponse { message: Some(pull_response::Message::ImageId(id.to_string())) }),
                Err(error) => Err(answer::status(&refused(format!("pull image {name}"), error))),
            };
            // Nobody may be listening any more.
            let _ = messages.send(last).await;
        }
    };
    let stop = engine.stop.clone();
    engine.tasks.spawn(async move { stop.run_until_cancelled(work).await });
    Ok(ReceiverStream::new(receiver).boxed())
}

/// Passes on how far the pull is, and returns when the client has gone: that ends the pull.
async fn report(mut progress: watch::Receiver<Progress>, messages: &mpsc::Sender<Result<PullResponse, Status>>) {
    let changes = async {
        while progress.changed().await.is_ok() {
            let now = *progress.borrow_and_update();
            if messages.send(Ok(PullResponse { message: Some(message(now)) })).await.is_err() {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
        // The pull is about to end by itself.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = changes => {}
        () = messages.closed() => {}
    }
}

fn message(progress: Progress) -> pull_response::Message {
    pull_response::Message::Progress(admin::Progress {
        bytes_done: progress.bytes_done,
        bytes_total: progress.bytes_total,
        layers_done: progress.layers_done as u64,
        layers_total: progress.layers_total as u64,
    })
}

async fn import(engine: Shared, request: ImportRequest) -> Result<ImportResponse> {
    let path = PathBuf::from(request.path);
    if !path.is_absolute() {
        return Err(Error::invalid(format!("import {}: give an absolute path", path.display())));
    }
    let imported = engine.images.import(&path, ImportOptions { pin: request.pin }).await;
    let ids = imported.map_err(|error| refused(format!("import {}", path.display()), error))?;
    Ok(ImportResponse { images: ids.iter().map(|id| imported_image(&engine, id, &path)).collect::<Result<_>>()? })
}

fn imported_image(engine: &Shared, id: &ImageId, path: &Path) -> Result<ImportedImage> {
    let found = engine.images.find(&id.to_string());
    let image = found.map_err(|error| refused(format!("look for an image of {}", path.display()), error))?;
    // Removed meanwhile by somebody else: it was imported all the same.
    let names = image.map_or_else(Vec::new, |image| image.tags.clone());
    Ok(ImportedImage { id: id.to_string(), names })
}
