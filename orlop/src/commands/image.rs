//! `orlop image`: the images of a CRI daemon, by its socket.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use orlop_proto::admin::images_client::ImagesClient;
use orlop_proto::admin::{ImportRequest, Progress, PullRequest, pull_response};
use orlop_proto::v1;
use orlop_proto::v1::image_service_client::ImageServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use super::socket;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The socket of the CRI daemon [default: the configuration's, /run/orlop/cri.sock]
    #[arg(long, global = true, value_name = "SOCKET")]
    socket: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Download an image from its registry
    Pull {
        /// Such as docker.io/library/nginx:1.27, or by digest: name@sha256:...
        image: String,
        /// For a registry that wants a password; it is read from the variable ORLOP_REGISTRY_PASSWORD
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
    },
    /// Take the images out of an OCI or Docker archive; needs orlop's own CRI daemon
    Import {
        /// A tar file, perhaps compressed, that the daemon can read
        archive: PathBuf,
        /// Mark the images as not to be removed by what cleans up unused ones (orlop itself removes none)
        #[arg(long)]
        pin: bool,
    },
    /// List the images
    Ls {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Remove images, with all their names
    Rm {
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

/// Where the password of `--user` comes from: a command line would show it to everybody.
const PASSWORD: &str = "ORLOP_REGISTRY_PASSWORD";

pub(crate) async fn run(args: Args, default_socket: PathBuf) -> Result<ExitCode> {
    let socket = args.socket.unwrap_or(default_socket);
    let channel = socket::connect(&socket).await?;
    match args.command {
        Command::Pull { image, user } => pull(channel, image, user).await?,
        Command::Import { archive, pin } => import(channel, &archive, pin).await?,
        Command::Ls { json } => list(channel, json).await?,
        Command::Rm { images } => return remove(channel, &images).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn pull(channel: Channel, image: String, user: Option<String>) -> Result<()> {
    let password = match &user {
        Some(_) => std::env::var(PASSWORD).with_context(|| format!("--user: read the password from ${PASSWORD}"))?,
        None => String::new(),
    };
    let request = PullRequest { image: image.clone(), username: user.unwrap_or_default(), password };
    let mut answers = match ImagesClient::new(channel.clone()).pull(request.clone()).await {
        Ok(answers) => answers.into_inner(),
        // Another CRI daemon: it pulls too, but does not say how far it is.
        Err(status) if status.code() == Code::Unimplemented => return pull_silently(channel, request).await,
        Err(status) => return Err(message(status)),
    };
    let mut bar = Bar::new();
    while let Some(answer) = answers.message().await.map_err(message)? {
        match answer.message {
            Some(pull_response::Message::Progress(progress)) => bar.show(&progress),
            Some(pull_response::Message::ImageId(id)) => {
                bar.clear();
                println!("{id}");
                return Ok(());
            }
            None => {}
        }
    }
    bail!("pull {image}: the daemon went away before it was done")
}

async fn pull_silently(channel: Channel, request: PullRequest) -> Result<()> {
    let auth = (!request.username.is_empty()).then(|| v1::AuthConfig {
        username: request.username,
        password: request.password,
        ..Default::default()
    });
    let image = request.image;
    let pull = v1::PullImageRequest { image: Some(spec(&image)), auth, ..Default::default() };
    let pulled = ImageServiceClient::new(channel).pull_image(pull).await;
    println!("{}", pulled.map_err(message)?.into_inner().image_ref);
    Ok(())
}

async fn import(channel: Channel, archive: &Path, pin: bool) -> Result<()> {
    // The daemon has another working directory.
    let path = std::fs::canonicalize(archive).with_context(|| format!("find {}", archive.display()))?;
    let Some(path) = path.to_str() else {
        bail!("import {}: the path is not UTF-8; rename it", path.display());
    };
    let imported = ImagesClient::new(channel).import(ImportRequest { path: path.to_owned(), pin }).await;
    let imported = imported.map_err(|status| match status.code() {
        Code::Unimplemented => anyhow::anyhow!("the daemon at the socket is not orlop's, and the CRI has no import"),
        _ => message(status),
    });
    let images = imported?.into_inner().images;
    for image in images {
        println!("{} {}", image.id, image.names.join(" "));
    }
    Ok(())
}

async fn list(channel: Channel, json: bool) -> Result<()> {
    let answer = ImageServiceClient::new(channel).list_images(v1::ListImagesRequest::default()).await;
    let mut images = answer.map_err(message).context("list the images")?.into_inner().images;
    images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags).then_with(|| a.id.cmp(&b.id)));
    if json {
        let images: Vec<_> = images
            .iter()
            .map(|image| {
                serde_json::json!({
                    "id": image.id,
                    "names": image.repo_tags,
                    "digests": image.repo_digests,
                    "bytes": image.size,
                    "pinned": image.pinned,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&images)?);
        return Ok(());
    }
    let rows: Vec<[String; 3]> = images.iter().flat_map(rows).collect();
    print!("{}", table(["IMAGE", "ID", "SIZE"], &rows));
    Ok(())
}

/// A line for each name of an image, or one for an image without a name.
fn rows(image: &v1::Image) -> Vec<[String; 3]> {
    let id = image.id.trim_start_matches("sha256:");
    let id = id.get(..12).unwrap_or(id);
    let names: &[String] = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    let row = |name: &str| [name.to_owned(), id.to_owned(), size(image.size)];
    if names.is_empty() { vec![row("<none>")] } else { names.iter().map(|name| row(name)).collect() }
}

/// Removes what can be removed, and tells what could not.
async fn remove(channel: Channel, images: &[String]) -> Result<ExitCode> {
    let mut client = ImageServiceClient::new(channel);
    let mut code = ExitCode::SUCCESS;
    for image in images {
        match remove_one(&mut client, image).await {
            Ok(()) => println!("{image}"),
            Err(error) => {
                eprintln!("error: remove {image}: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// For the CRI, removing what is not there is success; a person who mistyped a name wants to know.
async fn remove_one(client: &mut ImageServiceClient<Channel>, image: &str) -> Result<()> {
    let status = v1::ImageStatusRequest { image: Some(spec(image)), verbose: false };
    if client.image_status(status).await.map_err(message)?.into_inner().image.is_none() {
        bail!("no such image");
    }
    client.remove_image(v1::RemoveImageRequest { image: Some(spec(image)) }).await.map_err(message)?;
    Ok(())
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), ..Default::default() }
}

/// What a person needs of a gRPC status: its words.
fn message(status: tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow::anyhow!("{}", status.code()),
        text => anyhow::anyhow!("{text}"),
    }
}

/// How far a pull is, in one line of the terminal.
struct Bar {
    terminal: bool,
    shown: bool,
}

impl Bar {
    fn new() -> Bar {
        Bar { terminal: io::stderr().is_terminal(), shown: false }
    }

    fn show(&mut self, progress: &Progress) {
        self.line(&line(progress));
        self.shown = true;
    }

    fn clear(&mut self) {
        if self.shown {
            self.line("");
            self.shown = false;
        }
    }

    /// Replaces the line. A terminal that went away is no reason to stop the pull.
    fn line(&mut self, text: &str) {
        if self.terminal {
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(progress: &Progress) -> String {
    let Progress { bytes_done, bytes_total, layers_done, layers_total } = *progress;
    let percent = (bytes_done.min(bytes_total) * 100).checked_div(bytes_total).unwrap_or(0);
    format!("{percent:3}%  {} of {}  layer {layers_done} of {layers_total}", size(bytes_done), size(bytes_total))
}

/// Bytes in binary units, with three digits or so.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// Columns as wide as their longest cell.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).chain([head[column].len()]).max().unwrap_or(0)
    });
    let heads = head.map(str::to_owned);
    let mut text = String::new();
    for row in std::iter::once(&heads).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
    }

    #[test]
    fn progress_of_nothing_is_no_division_by_nothing() {
        assert!(line(&Progress::default()).starts_with("  0%"));
        let half = Progress { bytes_done: 1 << 20, bytes_total: 2 << 20, layers_done: 1, layers_total: 3 };
        assert_eq!(line(&half), " 50%  1.0 MiB of 2.0 MiB  layer 1 of 3");
    }

    #[test]
    fn a_table_is_aligned_and_has_a_line_for_each_name() {
        let image = v1::Image {
            id: format!("sha256:{}", "ab".repeat(32)),
            repo_tags: vec!["a:1".into(), "longer:2".into()],
            size: 10,
            ..Default::default()
        };
        let text = table(["IMAGE", "ID", "SIZE"], &rows(&image));
        let expected = "IMAGE     ID            SIZE\n\
                        a:1       abababababab  10 B\n\
                        longer:2  abababababab  10 B\n";
        assert_eq!(text, expected);
    }
}
