//! Signals by the names that images and requests use.

use nix::libc;
use nix::sys::signal::Signal;
use orlop_proto::v1;

use crate::error::{Error, Result};

/// What StopContainer sends first: the request's signal, else the image's, else SIGTERM.
pub(crate) fn stop_signal(config: &v1::ContainerConfig, image: Option<&str>) -> Result<i32> {
    if config.stop_signal != v1::Signal::RuntimeDefault as i32 {
        let name = config.stop_signal().as_str_name();
        return parse(name).ok_or_else(|| Error::invalid(format!("unknown stop signal {name}")));
    }
    match image.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => parse(text).ok_or_else(|| Error::invalid(format!("the image's stop signal {text:?} is unknown"))),
        None => Ok(libc::SIGTERM),
    }
}

/// The number of a signal: `15`, `TERM`, `SIGTERM`, `SIGRTMIN+3`, and the protocol's `SIGRTMINPLUS3`.
fn parse(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    if let Ok(number) = upper.parse::<i32>() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(number) = real_time(bare) {
        return Some(number);
    }
    match bare {
        "CLD" => Some(libc::SIGCHLD),
        "IOT" => Some(libc::SIGABRT),
        "POLL" => Some(libc::SIGIO),
        _ => format!("SIG{bare}").parse::<Signal>().ok().map(|signal| signal as i32),
    }
}

/// RTMIN is what the C libraries leave to programs, 34: the number that other runtimes mean too.
fn real_time(bare: &str) -> Option<i32> {
    let (base, sign, rest) =
        if let Some(rest) = bare.strip_prefix("RTMIN") { (34, 1, rest) } else { (64, -1, bare.strip_prefix("RTMAX")?) };
    let digits = rest.trim_start_matches("PLUS").trim_start_matches("MINUS").trim_start_matches(['+', '-']);
    let offset = if rest.is_empty() { 0 } else { digits.parse::<i32>().ok()? };
    let number = base + sign * offset;
    (34..=64).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{parse, stop_signal};
    use orlop_proto::v1;

    #[test]
    fn signals_are_known_by_all_their_names() {
        for (text, number) in [
            ("SIGTERM", 15),
            ("term", 15),
            ("15", 15),
            ("SIGQUIT", 3),
            ("SIGCLD", 17),
            ("SIGPOLL", 29),
            ("SIGRTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("SIGRTMINPLUS3", 37),
            ("RTMAX-1", 63),
            ("SIGRTMAXMINUS14", 50),
            ("SIGRTMAX", 64),
            ("SIGWINCH", 28),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIGNOPE", "RTMIN+31", "RTMIN+x"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_request_goes_before_the_image() {
        let mut config = v1::ContainerConfig::default();
        assert_eq!(stop_signal(&config, None).unwrap(), 15);
        assert_eq!(stop_signal(&config, Some("SIGQUIT")).unwrap(), 3);
        assert!(stop_signal(&config, Some("bogus")).is_err());
        config.set_stop_signal(v1::Signal::Sigusr1);
        assert_eq!(stop_signal(&config, Some("SIGQUIT")).unwrap(), 10);
    }
}
