//! The lite engine of the same authors in place of their large one. Nothing here matches anything on a hot path:
//! oci-spec checks one field of a configuration (`execCPUAffinity`), and the large engine with its Unicode
//! tables made up a third of `orlop-runtime`.

pub use regex_lite::*;
