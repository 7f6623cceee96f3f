//! The async client of the shim protocol: spawn, connect, request, events.
