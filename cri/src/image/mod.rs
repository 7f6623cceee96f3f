//! Images and their layers on disk: pull, import, list, remove; knows nothing of CRI messages.
