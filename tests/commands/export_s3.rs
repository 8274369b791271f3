//! `spindex export` to an S3 server, over a connection that breaks.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use spindex::wire::native::manifest::Manifest;

use super::export::{Home, command_of};
use super::python_decoder::TIP;
use super::support::spindex::{stderr, stdout};

/// Of whomever: the server only looks whether somebody has signed.
const SIGNED: &str = "AWS4-HMAC-SHA256 Credential=bob/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

const SECRET: &str = "hunter2-is-no-good-secret";

/// A server that speaks S3, and keeps all in memory.
pub(crate) struct S3 {
    server: Child,
    pub(crate) address: SocketAddr,
    client: reqwest::Client,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl S3 {
    /// `None`, said on stderr, where there is none to be had.
    pub(crate) async fn start(what: &str) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/get-from-pypi.sh");
        let found = Command::new(script).arg("s3").output().unwrap();
        if found.status.code() == Some(75) {
            let why = stderr(&found);
            let mut stderr = std::io::stderr();
            let _ = writeln!(stderr, "SKIPPED {what} an S3 server: {why}");
            return None;
        }
        assert!(found.status.success(), "{}", stderr(&found));
        // Free a moment ago: a server that cannot have it says so and ends.
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut server = Command::new(stdout(&found).trim())
            .args(["-H", "127.0.0.1", "-p", &port.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        let line = lines.by_ref().map_while(Result::ok);
        let mut before_it_serves = line.take_while(|line| !line.contains("Running on"));
        assert_eq!(before_it_serves.find(|line| line.contains("in use")), None);
        // Its log of requests is taken, so that it does not wait.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let s3 = Self {
            server,
            address: port,
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
        };
        let made = s3.client.put(s3.url("bucket")).send().await.unwrap();
        assert_eq!(made.status(), 200);
        Some(s3)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// What has been exported to it.
    pub(crate) async fn manifest(&self) -> Manifest {
        let manifest = self.get("manifest.json").await.unwrap();
        Manifest::decode(&manifest).unwrap()
    }

    /// Lets anybody read a file.
    pub(crate) async fn publish(&self, name: &str) {
        let url = self.url(&format!("bucket/of/spindex/spindex/v1/{name}?acl"));
        let request = self.client.put(url).header("authorization", SIGNED);
        let answer = request.header("x-amz-acl", "public-read").send().await;
        assert_eq!(answer.unwrap().status(), 200, "{name}");
    }

    async fn get(&self, name: &str) -> Option<Vec<u8>> {
        let url = self.url(&format!("bucket/of/spindex/spindex/v1/{name}"));
        let answer = self
            .client
            .get(url)
            .header("authorization", SIGNED)
            .send()
            .await
            .unwrap();
        match answer.status().as_u16() {
            200 => Some(answer.bytes().await.unwrap().to_vec()),
            404 => None,
            status => panic!("{name}: {status}"),
        }
    }
}

/// What a way to the server does after so many bytes have gone to it.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    /// Breaks the connection, and lets as many through on the next one.
    Cut { times: u32 },
    /// Lets no more through, and says so.
    Stall,
}

struct Way {
    left: u64,
    bytes: u64,
    trouble: Trouble,
}

/// A way to a server, that makes trouble; and word of it.
fn way_to(server: SocketAddr, bytes: u64, trouble: Trouble) -> (SocketAddr, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let left = bytes;
    let way = Arc::new(Mutex::new(Way {
        left,
        bytes,
        trouble,
    }));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let upstream = TcpStream::connect(server).unwrap();
            let (way, tell) = (way.clone(), tell.clone());
            let (mut from, mut to) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            std::thread::spawn(move || pass(client, upstream, &way, &tell));
        }
    });
    (address, told)
}

fn pass(mut client: TcpStream, mut upstream: TcpStream, way: &Mutex<Way>, tell: &Sender<()>) {
    let mut buffer = [0; 4096];
    loop {
        let read = match client.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let mut way = way.lock().unwrap();
        let through = (read as u64).min(way.left);
        way.left -= through;
        if upstream.write_all(&buffer[..through as usize]).is_err() {
            break;
        }
        if through == read as u64 {
            continue;
        }
        let _ = tell.send(());
        match way.trouble {
            Trouble::Cut { times } => {
                way.left = if times > 1 { way.bytes } else { u64::MAX };
                way.trouble = Trouble::Cut {
                    times: times.saturating_sub(1),
                };
                break;
            }
            Trouble::Stall => {
                drop(way);
                // Until whoever sends has gone.
                while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
                break;
            }
        }
    }
    let _ = client.shutdown(Shutdown::Both);
    let _ = upstream.shutdown(Shutdown::Both);
}

fn export_to(home: &Home, place: &str, server: SocketAddr) -> Command {
    let mut command = command_of(home, place);
    command.arg("--json");
    let_in(&mut command, server);
    command
}

/// Gives a command what it takes to get into a bucket.
pub(crate) fn let_in(command: &mut Command, server: SocketAddr) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
        .env("AWS_ENDPOINT", format!("http://{server}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "bob")
        .env("AWS_SECRET_ACCESS_KEY", SECRET);
}

pub(crate) fn report(output: &Output) -> Value {
    let log = stderr(output);
    assert!(output.status.success(), "{log}");
    assert!(
        !log.contains(SECRET) && !stdout(output).contains(SECRET),
        "{log}"
    );
    serde_json::from_str(&stdout(output)).unwrap()
}

#[tokio::test]
async fn an_upload_that_is_cut_off_is_gone_on_with() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(s3) = S3::start("the export to").await else {
        return;
    };
    let place = "s3://bucket/of/spindex";
    let home = Home::new();
    home.fill(TIP);
    let folder = home.home.path().join("folder");
    let expected = report(&home.run(folder.to_str().unwrap(), &["--json"]));
    let bytes = expected["bytes_written"].as_u64().unwrap();

    // Killed within an object of the second chunk: what is there is whole, and no manifest names it yet.
    let (way, stalled) = way_to(s3.address, bytes * 3 / 4, Trouble::Stall);
    let mut killed = export_to(&home, place, way)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    stalled.recv_timeout(Duration::from_secs(60)).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert_eq!(s3.get("manifest.json").await, None);

    // Connections that break are the business of the client.
    let (way, cut) = way_to(s3.address, bytes / 5, Trouble::Cut { times: 3 });
    let again = report(&export_to(&home, place, way).output().unwrap());
    assert_eq!(again["head"], expected["head"]);
    assert_eq!(cut.try_iter().count(), 3);
    let same = report(&export_to(&home, place, s3.address).output().unwrap());
    assert_eq!(
        (&same["files_written"], &same["files_kept"]),
        (&0.into(), &14.into())
    );
    for name in [
        "manifest.json",
        "chunk/0/headers",
        "chunk/1/spends",
        "chunk/1/outputs",
    ] {
        let file = std::fs::read(folder.join("spindex/v1").join(name)).unwrap();
        assert_eq!(s3.get(name).await, Some(file), "{name}");
    }

    // Without a bucket there is nothing to write to; nobody is told how one would get in.
    let nowhere = export_to(&home, "s3://no-such-bucket", s3.address)
        .output()
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(1));
    let log = stderr(&nowhere);
    assert!(
        log.contains("no-such-bucket") && !log.contains(SECRET),
        "{log}"
    );
}
