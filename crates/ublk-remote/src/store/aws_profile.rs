//! Credentials in the files of AWS's tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Of a profile counts what is in it: keys, or a `credential_process` that prints some, and `region` and `endpoint_url`.
//! Other ways, such as single sign-on, AWS's own tool knows: `credential_process = aws configure export-credentials
//! --profile NAME` reaches them all.

use super::{Settings, StoreError, StoreErrorKind};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;

/// After how long the files are read again, or the process is asked again: what is in them may be for an hour only.
const FRESH: Duration = Duration::from_secs(60);

/// How long before credentials expire others are asked for.
const BEFORE: Duration = Duration::from_secs(300);

/// Where profiles are, and which one counts.
#[derive(Debug, Clone)]
pub(super) struct Profiles {
    credentials: Option<PathBuf>,
    config: Option<PathBuf>,
    name: String,
    /// Whether somebody asked for this one.
    named: bool,
}

/// What a profile says.
pub(super) type Profile = HashMap<String, String>;

impl Profiles {
    pub fn of(settings: &Settings) -> Self {
        let file = |variable: &str, name: &str| {
            let home = || settings.variable("HOME").map(|home| PathBuf::from(home).join(".aws").join(name));
            settings.variable(variable).map(PathBuf::from).or_else(home)
        };
        let name = settings.variable("AWS_PROFILE").or(settings.variable("AWS_DEFAULT_PROFILE"));
        Self {
            credentials: file("AWS_SHARED_CREDENTIALS_FILE", "credentials"),
            config: file("AWS_CONFIG_FILE", "config"),
            name: name.unwrap_or("default").to_owned(),
            named: name.is_some(),
        }
    }

    /// What the files say now. What stands in `credentials` counts more. An error if the profile was asked for and is in
    /// neither.
    pub fn read(&self) -> Result<Profile, StoreError> {
        let read = |path: &Option<PathBuf>| {
            path.as_ref().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
        };
        let in_config =
            if self.name == "default" { "default".to_owned() } else { format!("profile {}", self.name) };
        let config = section(&read(&self.config), &in_config);
        let credentials = section(&read(&self.credentials), &self.name);
        if self.named && config.is_none() && credentials.is_none() {
            let message =
                format!("there is no profile {:?} in ~/.aws/credentials or ~/.aws/config", self.name);
            return Err(StoreError::new(StoreErrorKind::Denied, message));
        }
        let mut profile = config.unwrap_or_default();
        profile.extend(credentials.unwrap_or_default());
        Ok(profile)
    }

    /// Gives the profile's credentials, as they are when they are needed; `None` if it has none that this can read.
    pub fn credentials(&self, profile: &Profile) -> Result<Option<FromProfile>, StoreError> {
        if profile.contains_key("credential_process") || profile.contains_key("aws_access_key_id") {
            return Ok(Some(FromProfile { profiles: self.clone(), last: Mutex::default() }));
        }
        let other = ["sso_session", "sso_start_url", "role_arn", "login_session"];
        match other.iter().find(|name| profile.contains_key(**name)) {
            None => Ok(None),
            Some(way) => {
                let message = format!(
                    "the profile {:?} has {way}, which AWS's own tool understands: put credential_process = aws configure \
                     export-credentials --profile {} into another profile, and name that in AWS_PROFILE",
                    self.name, self.name
                );
                Err(StoreError::new(StoreErrorKind::Denied, message))
            }
        }
    }
}

/// The lines of a section.
fn section(text: &str, wanted: &str) -> Option<Profile> {
    let mut found: Option<Profile> = None;
    let mut inside = false;
    for line in text.lines() {
        let nested = line.starts_with([' ', '\t']);
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let words: Vec<_> = name.split_whitespace().collect();
            inside = words.join(" ").replace(['"', '\''], "") == wanted;
            if inside {
                found.get_or_insert_default();
            }
        } else if let (true, false, Some((name, value))) = (inside, nested, line.split_once('=')) {
            let value = value.split(" #").next().unwrap_or_default().split(" ;").next().unwrap_or_default();
            found.get_or_insert_default().insert(name.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

/// Credentials of a profile, read again after a while.
pub(super) struct FromProfile {
    profiles: Profiles,
    last: Mutex<Option<Last>>,
}

struct Last {
    credential: Arc<AwsCredential>,
    until: Instant,
}

/// Secrets stay secret.
impl std::fmt::Debug for FromProfile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FromProfile").field("name", &self.profiles.name).finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl CredentialProvider for FromProfile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.until > Instant::now()) {
            return Ok(last.credential.clone());
        }
        let profiles = self.profiles.clone();
        let read = tokio::task::spawn_blocking(move || load(&profiles)).await;
        let read = read.unwrap_or_else(|_| Err("reading credentials ended with a panic".into()));
        let read =
            read.map_err(|message| object_store::Error::Generic { store: "S3", source: message.into() })?;
        let credential = read.credential.clone();
        *last = Some(read);
        Ok(credential)
    }
}

fn load(profiles: &Profiles) -> Result<Last, String> {
    let profile = profiles.read().map_err(|error| error.message)?;
    let field = |name: &str| profile.get(name).filter(|value| !value.is_empty()).cloned();
    if let (Some(key_id), Some(secret_key)) = (field("aws_access_key_id"), field("aws_secret_access_key")) {
        let credential = AwsCredential { key_id, secret_key, token: field("aws_session_token") };
        return Ok(Last { credential: Arc::new(credential), until: Instant::now() + FRESH });
    }
    match field("credential_process") {
        Some(command) => run(&command),
        None => Err(format!(
            "the profile {:?} has no aws_access_key_id with an aws_secret_access_key",
            profiles.name
        )),
    }
}

/// Runs a `credential_process`. What it prints appears nowhere.
fn run(command: &str) -> Result<Last, String> {
    let failed = |why: &str| format!("the profile's credential_process {why}");
    let ran =
        Command::new("/bin/sh").arg("-c").arg(command).stdin(Stdio::null()).stderr(Stdio::null()).output();
    let ran = ran.map_err(|error| failed(&format!("cannot be run: {error}")))?;
    if !ran.status.success() {
        return Err(failed(&format!("failed: {}", ran.status)));
    }
    let printed: serde_json::Value =
        serde_json::from_slice(&ran.stdout).map_err(|_| failed("printed no credentials"))?;
    let field = |name: &str| printed.get(name).and_then(|value| value.as_str()).map(str::to_owned);
    let (Some(key_id), Some(secret_key)) = (field("AccessKeyId"), field("SecretAccessKey")) else {
        return Err(failed("printed no credentials"));
    };
    let credential = Arc::new(AwsCredential { key_id, secret_key, token: field("SessionToken") });
    let left = match field("Expiration").as_deref().and_then(seconds) {
        Some(at) => (UNIX_EPOCH + at).duration_since(SystemTime::now()).unwrap_or_default(),
        None => BEFORE + FRESH,
    };
    Ok(Last { credential, until: Instant::now() + left.saturating_sub(BEFORE).max(Duration::from_secs(1)) })
}

/// The time since 1970 of `2026-11-30T13:05:00Z`, as AWS's tools print it. With another offset it is taken for UTC's, which
/// is at worst some hours off: then credentials are asked for too often, or once too late.
fn seconds(text: &str) -> Option<Duration> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let leap = |year: u64| {
        u64::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)))
    };
    let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let years: u64 = (1970..year).map(|year| 365 + leap(year)).sum();
    let days =
        years + before[usize::try_from(month).ok()? - 1] + if month > 2 { leap(year) } else { 0 } + day - 1;
    Some(Duration::from_secs(((days * 24 + hour) * 60 + minute) * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREDENTIALS: &str = "\
# A comment
[default]
aws_access_key_id = AK-default
aws_secret_access_key=sec=ret # with an equals sign

[work]
aws_access_key_id = AK-work
aws_secret_access_key = work-secret
aws_session_token = work-token
";
    const CONFIG: &str = "\
[default]
region = eu-central-1
s3 =
  region = not-this-one
[profile work]
Region = us-west-2
endpoint_url = http://127.0.0.1:7070
[profile 'tool']
credential_process = printf '{\"Version\":1,\"AccessKeyId\":\"AK-tool\",\"SecretAccessKey\":\"tool-secret\"}'
[profile broken]
credential_process = echo planted-secret; exit 3
[profile sso]
sso_session = mine
";

    fn profiles(name: Option<&str>) -> (tempfile::TempDir, Profiles) {
        let home = tempfile::tempdir().unwrap();
        let files = home.path().join(".aws");
        std::fs::create_dir(&files).unwrap();
        std::fs::write(files.join("credentials"), CREDENTIALS).unwrap();
        std::fs::write(files.join("config"), CONFIG).unwrap();
        let mut environment = vec![("HOME".to_owned(), home.path().to_str().unwrap().to_owned())];
        environment.extend(name.map(|name| ("AWS_PROFILE".to_owned(), name.to_owned())));
        let profiles = Profiles::of(&Settings { environment, ..Settings::default() });
        (home, profiles)
    }

    async fn credential(name: Option<&str>) -> Result<Arc<AwsCredential>, String> {
        let (_home, profiles) = profiles(name);
        let profile = profiles.read().map_err(|error| error.message)?;
        let from = profiles.credentials(&profile).map_err(|error| error.message)?.ok_or("has none")?;
        from.get_credential().await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_profile_has_its_keys_in_one_file_and_its_region_in_the_other() {
        let default = credential(None).await.unwrap();
        assert_eq!((default.key_id.as_str(), default.secret_key.as_str()), ("AK-default", "sec=ret"));
        let work = credential(Some("work")).await.unwrap();
        assert_eq!(work.token.as_deref(), Some("work-token"));
        let (_home, named) = profiles(Some("work"));
        let profile = named.read().unwrap();
        assert_eq!(
            (profile["region"].as_str(), profile["endpoint_url"].as_str()),
            ("us-west-2", "http://127.0.0.1:7070")
        );
        let (_home, default) = profiles(None);
        assert_eq!(default.read().unwrap()["region"], "eu-central-1");
    }

    #[tokio::test]
    async fn a_process_gives_credentials_and_what_it_prints_appears_nowhere() {
        let tool = credential(Some("tool")).await.unwrap();
        assert_eq!((tool.key_id.as_str(), tool.secret_key.as_str()), ("AK-tool", "tool-secret"));
        let error = credential(Some("broken")).await.unwrap_err();
        assert!(error.contains("exit status: 3") && !error.contains("planted"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_there_or_not_understood_is_said() {
        let error = credential(Some("nobody")).await.unwrap_err();
        assert!(error.contains("no profile \"nobody\""), "{error}");
        let error = credential(Some("sso")).await.unwrap_err();
        assert!(error.contains("aws configure export-credentials --profile sso"), "{error}");
        // Nobody asked for one, and there is none: then there are other ways.
        let nowhere = Profiles::of(&Settings::default());
        assert!(nowhere.read().unwrap().is_empty());
    }

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("1970-01-01T00:00:00Z"), Some(Duration::ZERO));
        assert_eq!(seconds("2026-11-30T13:05:01+00:00"), Some(Duration::from_secs(1_796_043_901)));
        assert_eq!(seconds("2024-03-01T00:00:00Z"), Some(Duration::from_secs(1_709_251_200)));
        assert_eq!(seconds("soon"), None);
    }
}
