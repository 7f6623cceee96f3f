//! Layers: tar archives that strangers wrote, turned into folders for overlayfs.

mod decompress;
mod entry;
mod merged;
mod root;
mod settle;
mod tar;
mod unpack;

pub(crate) use decompress::Decompressor;
pub(crate) use entry::clean;
pub(crate) use settle::settle;
pub(crate) use tar::{Kind as TarKind, TarReader};
pub(crate) use unpack::{Unpacked, unpack};
