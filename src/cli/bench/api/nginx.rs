//! nginx over the same bytes as files, where it is installed.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::cores::pin;
use crate::private_file::PrivateFolder;

/// How long it may take to start.
const START: Duration = Duration::from_secs(10);

/// A running nginx, until it is dropped.
pub(super) struct Nginx {
    child: Child,
    port: u16,
    _folder: PrivateFolder,
}

impl Nginx {
    /// Copies answers of a server to files, plain and compressed by `gzip -6`'s level, and serves them; `None` where there is no nginx.
    pub(super) fn start(
        server: &str,
        paths: impl Iterator<Item = String>,
        threads: usize,
        cores: Option<&[usize]>,
    ) -> Result<Option<Self>> {
        let found = Command::new("nginx")
            .arg("-v")
            .stderr(Stdio::null())
            .status();
        if !found.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let folder = PrivateFolder::create(&std::env::temp_dir(), "spindex-nginx")?;
        for path in paths {
            let file = folder
                .path()
                .join("files")
                .join(path.trim_start_matches('/'));
            let parent = file.parent().context("a folder")?;
            fs::create_dir_all(parent)?;
            let body = fetch(server, &path)?;
            fs::write(&file, &body)?;
            fs::write(with_gz(&file), compressed(&body)?)?;
        }
        // The files of a folder that only its owner may enter are read by workers of another user.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        }
        // A port that is free now; nobody else takes it in this moment.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let configuration = folder.path().join("nginx.conf");
        fs::write(&configuration, configured(folder.path(), port, threads))?;
        let mut command = Command::new("nginx");
        command
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .arg("-c")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // A process keeps to the cores of the thread that starts it.
        let child = std::thread::scope(|scope| {
            let starting = scope.spawn(|| {
                if let Some(cores) = cores {
                    pin(cores);
                }
                command.spawn()
            });
            starting.join()
        });
        let child = child
            .map_err(|_| anyhow!("the thread that starts nginx panicked"))?
            .context("cannot start nginx")?;
        let mut nginx = Self {
            child,
            port,
            _folder: folder,
        };
        nginx.wait()?;
        Ok(Some(nginx))
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn wait(&mut self) -> Result<()> {
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.child.try_wait()? {
                bail!("nginx ended at once ({status})");
            }
            if started.elapsed() > START {
                bail!("nginx did not start");
            }
            // It says nothing when it is up.
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with the master only if that is asked to end.
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        if !asked.is_ok_and(|status| status.success()) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

fn configured(folder: &Path, port: u16, threads: usize) -> String {
    let folder = folder.display();
    format!(
        "daemon off;\nworker_processes {threads};\npid {folder}/pid;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n\
         access_log off;\nsendfile on;\ntcp_nopush on;\ntcp_nodelay on;\n\
         keepalive_requests 1000000000;\nopen_file_cache max=1000;\n\
         default_type application/json;\ngzip_static on;\n\
         client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\n\
         fastcgi_temp_path {folder}/fastcgi;\nuwsgi_temp_path {folder}/uwsgi;\nscgi_temp_path {folder}/scgi;\n\
         server {{ listen 127.0.0.1:{port}; root {folder}/files; }}\n\
         }}\n"
    )
}

fn with_gz(file: &Path) -> std::path::PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn compressed(body: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(body)?;
    Ok(encoder.finish()?)
}

/// One answer, over a connection that is closed behind it.
fn fetch(server: &str, path: &str) -> Result<Vec<u8>> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(server)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let head = head.context("an answer without a head")?;
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        bail!("{path} is not answered");
    }
    Ok(answer.split_off(head + 4))
}
