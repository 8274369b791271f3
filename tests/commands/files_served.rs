//! Exported files behind servers of other people: nginx, where it is installed, and one that speaks S3.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use spindex::store::{FILE_NAME, Store};
use spindex::wire::native::column::Column;
use spindex::wire::native::manifest::{MANIFEST, chunk_file};
use tempfile::TempDir;

use super::export::Home;
use super::export_s3::{S3, let_in, report};
use super::files::{Source, content_in, content_up_to, found, sync_from};
use crate::scan::{scan, scan_command};
use crate::support::index::{fill, options};
use crate::support::spindex::{command, run, stderr, stdout};

/// A running nginx.
struct Nginx {
    child: Child,
    url: String,
    _folder: TempDir,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with the master only if that is asked to end.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill").arg(pid).status();
        let _ = self.child.wait();
    }
}

impl Nginx {
    /// Over a folder; `None`, said on stderr, where there is no nginx.
    fn start(root: &Path) -> Option<Self> {
        let found = Command::new("nginx")
            .arg("-v")
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            let mut stderr = std::io::stderr();
            let _ = writeln!(
                stderr,
                "SKIPPED exported files behind nginx: it is not installed"
            );
            return None;
        }
        // Its workers may be another user's.
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let (own, root) = (folder.path().display(), root.display());
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp = temp
            .map(|kind| format!("{kind}_temp_path {own}/{kind};"))
            .concat();
        let text = format!(
            "daemon off; pid {own}/pid; error_log {own}/error.log; events {{}} http {{ access_log off; {temp} \
             gzip on; gzip_types *; server {{ listen 127.0.0.1:{port}; location /some/prefix/ {{ alias {root}/; }} }} }}"
        );
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, text).unwrap();
        let mut child = Command::new("nginx")
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .arg("-c")
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "nginx ended at once");
            // It says nothing when it is up.
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self {
            child,
            url: format!("http://127.0.0.1:{port}/some/prefix"),
            _folder: folder,
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_behind_nginx_are_an_oracle_and_an_upstream() {
    let source = Source::new(40).await;
    let Some(nginx) = Nginx::start(source.files.path()) else {
        return;
    };
    let end = source.files.manifest().last_block.height;
    let (truth, whole) = (source.truth(end).await, source.truth(230).await);
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &nginx.url, true, &["--json", "--from=0"]).await;
    assert_eq!(found(&stdout(&output)), truth, "{}", stderr(&output));
    let (path, args) = (home.path().to_owned(), sync_from(&[&nginx.url]));
    let output = tokio::task::spawn_blocking(move || run(&path, &args))
        .await
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        content_in(home.path()),
        content_up_to(&source.chain, end).await
    );

    // One that is missing, one that is cut, a manifest that is missing.
    let live = format!("--oracle={}", source.url);
    let (gone, cut) = (chunk_file(1, Column::Spent), chunk_file(2, Column::Tweaks));
    source.files.remove(&gone);
    let was = source.files.read(&cut);
    source.files.write(&cut, &was[..was.len() / 2]);
    let home = tempfile::tempdir().unwrap();
    let more = ["--json", "--from=0", &live];
    let output = scan(home.path(), &nginx.url, true, &more).await;
    let log = stderr(&output);
    assert_eq!(found(&stdout(&output)), whole, "{log}");
    assert!(
        log.contains(&format!("{}/spindex/v1/{gone} is missing", nginx.url)),
        "{log}"
    );
    assert!(
        log.contains(&format!("{}/spindex/v1/{cut} has ", nginx.url)),
        "{log}"
    );
    source.files.remove(MANIFEST);
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &nginx.url, true, &more).await;
    let log = stderr(&output);
    assert_eq!(found(&stdout(&output)), whole, "{log}");
    assert!(log.contains("manifest.json is missing"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_a_bucket_are_an_oracle_and_an_upstream() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let Some(s3) = S3::start("files in").await else {
        return;
    };
    let place = "s3://bucket/of/spindex";
    let source = Source::new(41).await;
    let exporter = Home::new();
    let folder = exporter.home.path().join(".spindex/regtest");
    fs::create_dir_all(&folder).unwrap();
    let index = Store::open(&folder.join(FILE_NAME), &options()).unwrap();
    drop(fill(index.into(), source.chain.clone()).await);
    let mut export = super::export::command_of(&exporter, place);
    export.arg("--json");
    let_in(&mut export, s3.address);
    let exported = report(&export.output().unwrap());
    let end = u32::try_from(exported["last_block"]["height"].as_u64().unwrap()).unwrap();
    let (truth, whole) = (source.truth(end).await, source.truth(230).await);

    // Whoever has credentials reads the bucket, with a server behind it or without.
    let live = format!("--oracle={}", source.url);
    for (more, expected) in [(&[][..], &truth), (&[&live[..]], &whole)] {
        let home = tempfile::tempdir().unwrap();
        let more = [&["--json", "--from=0"], more].concat();
        let mut command = scan_command(home.path(), place, true, &more);
        let_in(&mut command, s3.address);
        let document = report(&command.output().unwrap());
        assert_eq!(found(&document.to_string()), *expected);
    }
    let home = tempfile::tempdir().unwrap();
    let mut sync = command(home.path(), &sync_from(&[place]));
    let_in(&mut sync, s3.address);
    let output = sync.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        content_in(home.path()),
        content_up_to(&source.chain, end).await
    );

    // And anybody once it is public; of what is not, the server says no more than that.
    let url = s3.url("bucket/of/spindex");
    let chunks = 0..=end / 64;
    let files = chunks.flat_map(|chunk| Column::ALL.map(|column| chunk_file(chunk, column)));
    let hidden = chunk_file(1, Column::Prefixes);
    for file in files.filter(|file| *file != hidden) {
        s3.publish(&file).await;
    }
    s3.publish(MANIFEST).await;
    for list in s3.manifest().await.lists {
        s3.publish(&list.file()).await;
    }
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &url, true, &["--from=0"]).await;
    crate::scan::fails(&output, 1, &[&hidden, "403"]);
    let output = scan(home.path(), &url, true, &["--json", "--from=0", &live]).await;
    let log = stderr(&output);
    assert_eq!(found(&stdout(&output)), whole, "{log}");
    assert!(log.contains(&hidden), "{log}");
    s3.publish(&hidden).await;
    let home = tempfile::tempdir().unwrap();
    let output = scan(home.path(), &url, true, &["--json", "--from=0"]).await;
    assert_eq!(found(&stdout(&output)), truth, "{}", stderr(&output));
}
