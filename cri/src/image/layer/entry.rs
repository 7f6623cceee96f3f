//! The names in a layer: cleaned paths, and the whiteouts that they may be (OCI image spec, layer.md, "Whiteouts").

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// aufs kept its own files under these names; they mean nothing in a layer.
const AUFS: &[u8] = b".wh..wh.";

/// What the last component of an entry's name asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    Plain,
    /// Hide this name of the layers below.
    Whiteout(&'a [u8]),
    /// Hide all that the layers below have in the entry's folder.
    Opaque,
    Ignored,
}

/// The path without empty and `.` components and without a leading slash; the root is empty. A `..` is refused: no
/// tool writes one, and what it would mean depends on symlinks.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if part == b".." {
            return Err("its path climbs with \"..\"");
        }
        if part.contains(&0) {
            return Err("its path has a NUL");
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    Ok(out)
}

/// Folder and last component of a clean path; the root's are both empty.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Clean path of `name` in `folder`.
pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// The components of a path, last first.
pub(super) fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|b| *b == b'/').rev().filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec).collect()
}

pub(super) fn classify(name: &[u8]) -> Result<Name<'_>, &'static str> {
    if name == OPAQUE {
        return Ok(Name::Opaque);
    }
    if name.starts_with(AUFS) {
        return Ok(Name::Ignored);
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(Name::Plain),
        Some(b"" | b"." | b"..") => Err("a whiteout must hide a name"),
        Some(hidden) => Ok(Name::Whiteout(hidden)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_never_climb() {
        assert_eq!(clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(clean(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(clean(b"./").unwrap(), b"");
        for bad in [&b".."[..], b"../a", b"a/../b", b"a/..", b"a\0b"] {
            assert!(clean(bad).is_err());
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b""), (&b""[..], &b""[..]));
        assert_eq!(join(b"", b"a"), b"a");
    }

    #[test]
    fn whiteouts_are_told_from_names() {
        assert_eq!(classify(b"file").unwrap(), Name::Plain);
        assert_eq!(classify(b".wh.file").unwrap(), Name::Whiteout(b"file"));
        assert_eq!(classify(b".wh..wh..opq").unwrap(), Name::Opaque);
        assert_eq!(classify(b".wh..wh.plnk").unwrap(), Name::Ignored);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert!(classify(bad).is_err());
        }
    }
}
