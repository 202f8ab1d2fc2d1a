//! Where a server is, and which of its exports is meant: the URIs that libnbd, nbdkit and QEMU take, too.

use super::negotiate::LONGEST_NAME;
use crate::error::{Error, Result};
use std::fmt;
use std::path::PathBuf;

/// The port that NBD has at IANA.
const PORT: u16 = 10809;

/// The address of an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    pub place: Place,
    /// The export's name; empty: the server's default.
    pub export: String,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name or an address, and a port.
    Tcp(String, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

impl Uri {
    /// Reads `nbd://host[:port]/[export]` or `nbd+unix:///[export]?socket=path`, with `%` before bytes in hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self> {
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("it begins with nbd:// or nbd+unix://"))?;
        let unix = match scheme {
            "nbd" => false,
            "nbd+unix" => true,
            "nbds" | "nbds+unix" => {
                return Err(Error::invalid("nbds:// needs TLS, which is not supported")
                    .hint("let a program such as stunnel do it, and connect with that"));
            }
            _ => return Err(wrong("it begins with nbd:// or nbd+unix://")),
        };
        if rest.contains('#') {
            return Err(wrong("it has no part that begins with #"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            // Not said what it is: it may be secret.
            return Err(wrong("it has no user: that needs TLS, which is not supported"));
        }
        let export = decode(path)?;
        if export.len() > LONGEST_NAME {
            return Err(wrong("the name of its export is too long"));
        }
        let place = if unix { Place::Unix(socket(authority, query)?) } else { tcp(authority, query)? };
        Ok(Self { place, export })
    }
}

fn socket(authority: &str, query: &str) -> Result<PathBuf> {
    let wants = || wrong("it names the socket: nbd+unix:///export?socket=/path");
    if !authority.is_empty() {
        return Err(wants());
    }
    let path = query.strip_prefix("socket=").filter(|path| !path.contains(['&', '='])).ok_or_else(wants)?;
    let path = decode(path)?;
    // sockaddr_un has 108 bytes, the last of which is 0.
    if path.is_empty() || path.len() > 107 {
        return Err(wrong("the path of its socket has 1 to 107 bytes"));
    }
    Ok(path.into())
}

fn tcp(authority: &str, query: &str) -> Result<Place> {
    if !query.is_empty() {
        return Err(wrong("it has nothing behind a ?"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| wrong("a [ has its ]"))?;
            (host.to_owned(), if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (decode(host)?, Some(port)),
            None => (decode(authority)?, None),
        },
    };
    let digits = |port: &&str| port.bytes().all(|byte| byte.is_ascii_digit());
    let port = match port {
        None => PORT,
        Some(port) => (Some(port).filter(digits))
            .and_then(|port| port.parse().ok())
            .filter(|port| *port > 0)
            .ok_or_else(|| wrong("its port is a number from 1 to 65535"))?,
    };
    if host.is_empty() {
        return Err(wrong("it names a host"));
    }
    Ok(Place::Tcp(host, port))
}

fn wrong(rule: &str) -> Error {
    Error::invalid(format!("this is no NBD URI: {rule}"))
        .hint("for example nbd://server:10809/disk or nbd+unix:///disk?socket=/run/nbd.sock")
}

fn decode(text: &str) -> Result<String> {
    let bad =
        || wrong("behind % are two hexadecimal digits, and what they make is UTF-8 without a zero byte");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let (digits, more) = rest.split_at_checked(2).ok_or_else(bad)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let (Some(high), Some(low)) = (digit(digits[0]), digit(digits[1])) else { return Err(bad()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| bad())?);
        rest = more;
    }
    let text = String::from_utf8(bytes).map_err(|_| bad())?;
    if text.contains('\0') { Err(bad()) } else { Ok(text) }
}

/// For people: the name of an export is not shown, since servers use it as a password, too.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_uri_names_a_server_and_an_export() {
        let tcp = |host: &str, port, export: &str| Uri {
            place: Place::Tcp(host.into(), port),
            export: export.into(),
        };
        let unix = |path: &str, export: &str| Uri { place: Place::Unix(path.into()), export: export.into() };
        for (text, uri) in [
            ("nbd://server", tcp("server", 10809, "")),
            ("nbd://server/", tcp("server", 10809, "")),
            ("nbd://server:1234/a/b", tcp("server", 1234, "a/b")),
            ("nbd://[::1]/x", tcp("::1", 10809, "x")),
            ("nbd://[::1]:7/x", tcp("::1", 7, "x")),
            ("nbd://10.0.0.1/disk%20one", tcp("10.0.0.1", 10809, "disk one")),
            ("nbd+unix:///?socket=/run/a.sock", unix("/run/a.sock", "")),
            ("nbd+unix:///disk?socket=/run/a%3db.sock", unix("/run/a=b.sock", "disk")),
        ] {
            assert_eq!(Uri::parse(text).unwrap(), uri, "{text}");
        }
    }

    #[test]
    fn what_is_no_uri_is_refused_in_one_line_that_does_not_repeat_it() {
        for text in [
            "",
            "server",
            "http://server/",
            "nbds://server/",
            "nbd://",
            "nbd:///x",
            "nbd://:1/",
            "nbd://a:0/",
            "nbd://a:65536/",
            "nbd://a:+1/",
            "nbd://a:/",
            "nbd://[::1/",
            "nbd://[::1]x/",
            "nbd://user:secret@a/",
            "nbd://a/%",
            "nbd://a/%4",
            "nbd://a/%zz",
            "nbd://a/%00",
            "nbd://a/%ff",
            "nbd://a/?x=1",
            "nbd://a/#x",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix://host/x?socket=/a",
            "nbd+unix:///x?socket=/a&b=c",
        ] {
            let error = Uri::parse(text).unwrap_err().to_string();
            assert!(!error.contains('\n') && !error.contains("secret"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "(nbd|nbd\\+unix|nbds)?(://)?[ -~é%\\[\\]]{0,40}(\\?socket=[ -~]{0,9})?") {
            let _ = Uri::parse(&text);
        }
    }
}
