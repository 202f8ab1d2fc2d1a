//! What an answer of a server means, in one line without credentials.

use super::{StoreError, StoreErrorKind};
use std::error::Error;
use std::fmt;

/// A server's answer that says no. Of its body only what is for people is kept: others of its fields repeat the request,
/// with its signature.
#[derive(Debug)]
pub(super) struct Answered {
    pub host: String,
    pub status: u16,
    pub code: String,
    pub text: String,
    /// Where the bucket is, if it is elsewhere.
    pub region: Option<String>,
}

/// No answer, or half of one.
#[derive(Debug)]
pub(super) struct Lost {
    pub host: String,
    pub text: String,
}

impl Answered {
    pub fn new(host: String, status: u16, body: &[u8], region: Option<String>) -> Self {
        let body = String::from_utf8_lossy(body);
        let region = region.or_else(|| element(&body, "Region"));
        let code = element(&body, "Code").unwrap_or_default();
        Self { host, status, code, text: element(&body, "Message").unwrap_or_default(), region }
    }

    pub fn kind(&self) -> StoreErrorKind {
        match (self.status, self.code.as_str()) {
            (404, "NoSuchKey" | "BlobNotFound" | "NotFound" | "") => StoreErrorKind::NotFound,
            (404, _) => StoreErrorKind::Refused, // the bucket, or who asks
            (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken") => StoreErrorKind::Denied,
            (501 | 505, _) => StoreErrorKind::Refused,
            // 409 of S3: another conditional request for this key is under way, so nobody knows yet who wins.
            (408 | 409 | 429 | 500.., _) | (400, "RequestTimeout") => StoreErrorKind::Unavailable,
            _ => StoreErrorKind::Refused,
        }
    }
}

impl fmt::Display for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if !self.code.is_empty() {
            write!(f, " {}", self.code)?;
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text.trim_end_matches('.'))?;
        }
        if let Some(region) = &self.region {
            write!(f, " (the bucket is in {region}: set AWS_REGION)")?;
        }
        Ok(())
    }
}

impl Error for Answered {}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer from {}: {}", self.host, self.text)
    }
}

impl Error for Lost {}

/// What an error came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meaning {
    pub kind: StoreErrorKind,
    pub status: Option<u16>,
    /// The host that said no, or nothing.
    pub host: Option<String>,
    pub text: String,
}

/// What is at the bottom of an error.
pub(super) fn meaning(error: &(dyn Error + 'static)) -> Meaning {
    let mut at = Some(error);
    while let Some(this) = at {
        if let Some(answered) = this.downcast_ref::<Answered>() {
            let (kind, host) = (answered.kind(), Some(answered.host.clone()));
            return Meaning { kind, status: Some(answered.status), host, text: answered.to_string() };
        }
        if let Some(lost) = this.downcast_ref::<Lost>() {
            // A certificate does not get better.
            let certificate = lost.text.contains("certificate");
            let kind = if certificate { StoreErrorKind::Refused } else { StoreErrorKind::Unavailable };
            return Meaning { kind, status: None, host: Some(lost.host.clone()), text: lost.to_string() };
        }
        at = this.source();
    }
    Meaning { kind: StoreErrorKind::Refused, status: None, host: None, text: plain(&deepest(error)) }
}

/// The text of what an error comes from.
pub(super) fn deepest(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(this) = at {
        let inner = this.to_string();
        if !inner.is_empty() {
            text = inner;
        }
        at = this.source();
    }
    text
}

/// What the first element with this name holds.
fn element(body: &str, name: &str) -> Option<String> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once('<')?;
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'");
    let text = plain(&text.replace("&amp;", "&"));
    (!text.is_empty()).then_some(text)
}

/// One line of at most 200 characters.
fn plain(text: &str) -> String {
    let line = text.split(|char: char| char.is_control()).collect::<Vec<_>>().join(" ");
    line.trim().chars().take(200).collect()
}

/// The error for a caller, of an operation on something. What a server repeats of the secrets is left out.
pub(super) fn told(doing: &str, meaning: &Meaning, secrets: &[String]) -> StoreError {
    let mut text = meaning.text.clone();
    for secret in secrets {
        text = text.replace(secret, "[secret]");
    }
    StoreError::new(meaning.kind, format!("{doing}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Answered {
        Answered::new("host".into(), status, body.as_bytes(), None)
    }

    #[test]
    fn what_an_answer_means() {
        use StoreErrorKind::{Denied, NotFound, Refused, Unavailable};
        let error =
            |code: &str| format!("<?xml?><Error><Code>{code}</Code><Message>Why &amp; so.</Message></Error>");
        for (status, code, kind) in [
            (404, "NoSuchKey", NotFound),
            (404, "", NotFound),
            (404, "NoSuchBucket", Refused),
            (403, "AccessDenied", Denied),
            (403, "SignatureDoesNotMatch", Denied),
            (401, "", Denied),
            (400, "ExpiredToken", Denied),
            (400, "RequestTimeout", Unavailable),
            (400, "InvalidArgument", Refused),
            (409, "ConditionalRequestConflict", Unavailable),
            (429, "", Unavailable),
            (500, "InternalError", Unavailable),
            (503, "SlowDown", Unavailable),
            (501, "NotImplemented", Refused),
            (301, "PermanentRedirect", Refused),
        ] {
            assert_eq!(answered(status, &error(code)).kind(), kind, "{status} {code}");
        }
        assert_eq!(answered(503, &error("SlowDown")).to_string(), "503 SlowDown: Why & so");
        assert_eq!(answered(502, "<html>planted</html>").to_string(), "502");
        let elsewhere = Answered::new("host".into(), 301, b"", Some("eu-west-1".into()));
        assert_eq!(elsewhere.to_string(), "301 (the bucket is in eu-west-1: set AWS_REGION)");
    }

    #[test]
    fn only_what_is_for_people_is_said() {
        let body = "<Error><Code>SignatureDoesNotMatch</Code><Message>planted-1 is\nwrong</Message>\
                    <AWSAccessKeyId>planted-2</AWSAccessKeyId><CanonicalRequest>PUT x-amz-security-token:planted-3\
                    </CanonicalRequest></Error>";
        let error = object_store::Error::Generic { store: "S3", source: Box::new(answered(403, body)) };
        let told = told("PUT s3://disks/a", &meaning(&error), &["planted-1".into()]);
        assert_eq!(told.kind, StoreErrorKind::Denied);
        assert_eq!(told.message, "PUT s3://disks/a: 403 SignatureDoesNotMatch: [secret] is wrong");
    }

    #[test]
    fn a_lost_answer_may_pass_and_a_bad_certificate_does_not() {
        for (text, kind) in [
            ("Connection refused (os error 111)", StoreErrorKind::Unavailable),
            ("invalid peer certificate: UnknownIssuer", StoreErrorKind::Refused),
        ] {
            let lost = Lost { host: "127.0.0.1:7070".into(), text: text.into() };
            let error = object_store::Error::Generic { store: "S3", source: Box::new(lost) };
            let meaning = meaning(&error);
            assert_eq!((meaning.kind, meaning.status), (kind, None));
            assert_eq!(meaning.text, format!("no answer from 127.0.0.1:7070: {text}"));
        }
    }
}
