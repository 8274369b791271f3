//! Exported files in a folder, and a server of files that knows nothing of what is in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use spindex::export::{ExportSettings, export};
use spindex::exported::Place;
use spindex::store::Store;
use spindex::wire::native::column::Column;
use spindex::wire::native::manifest::{FileSum, List, ListName, MANIFEST, Manifest, chunk_file};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Exported files.
pub(crate) struct Files {
    folder: TempDir,
}

impl Files {
    /// All whole chunks of an index but those of the last blocks.
    pub(crate) async fn of(store: &Store, horizon: u32) -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        files.export(store, horizon).await;
        files
    }

    /// Goes on with what the index has by now.
    pub(crate) async fn export(&self, store: &Store, horizon: u32) {
        let settings = ExportSettings {
            horizon,
            verify: false,
            in_flight: 2,
        };
        let snapshot = store.snapshot().unwrap();
        let exported = export(&snapshot, &self.place(), settings, |_, _| ()).await;
        assert!(exported.unwrap().chunks.is_some());
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn place(&self) -> Place {
        Place::Folder(self.path().to_owned())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join("spindex/v1").join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.file(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.file(name), bytes).unwrap();
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.file(name)).unwrap();
    }

    pub(crate) fn manifest(&self) -> Manifest {
        Manifest::decode(&self.read(MANIFEST)).unwrap()
    }

    /// Lists other bytes for a column of a chunk, whatever there is, in a list and a manifest that fit; and has more said in
    /// that manifest.
    pub(crate) fn list_instead(
        &self,
        chunk: u32,
        column: Column,
        bytes: &[u8],
        more: impl FnOnce(&mut Manifest),
    ) {
        let mut manifest = self.manifest();
        let at = manifest.lists.iter();
        let at = at
            .clone()
            .position(|list| (list.first..=list.last).contains(&chunk));
        let name = &mut manifest.lists[at.unwrap()];
        let text = self.read(&name.file());
        let mut list = List::decode(&text, name, manifest.columns.len()).unwrap();
        let index = manifest.columns.iter().position(|own| *own == column);
        let listed = &mut list.chunks[(chunk - name.first) as usize];
        listed.files[index.unwrap()] = FileSum::of(bytes);
        let text = list.encode().unwrap();
        *name = ListName::of(name.first, name.last, &text);
        self.write(&name.file(), &text);
        more(&mut manifest);
        self.write(MANIFEST, &manifest.encode().unwrap());
    }

    /// Writes such bytes too.
    pub(crate) fn lie(&self, chunk: u32, column: Column, bytes: &[u8]) {
        self.write(&chunk_file(chunk, column), bytes);
        self.list_instead(chunk, column, bytes, |_| ());
    }

    /// A server of these files.
    pub(crate) async fn serve(&self) -> FileServer {
        FileServer::start(self.path().to_owned()).await
    }
}

/// A server of files.
pub(crate) struct FileServer {
    pub(crate) url: String,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    log: Mutex<Vec<String>>,
    stalls: Mutex<BTreeSet<String>>,
    stalled: Notify,
    /// From which file on nothing is answered any more; nothing at all if that was asked for.
    fails_from: Mutex<Option<String>>,
    fails: AtomicBool,
}

impl FileServer {
    async fn start(folder: PathBuf) -> Self {
        let inner = Arc::new(Inner::default());
        let of_server = inner.clone();
        let router = Router::new().fallback(move |request: Request| {
            let (inner, folder) = (of_server.clone(), folder.clone());
            async move { inner.answer(&folder, request.uri().path()).await }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, inner }
    }

    /// What was asked since the last call.
    pub(crate) fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.inner.log.lock().unwrap())
    }

    /// Has no answer for whoever asks for a file from now on.
    pub(crate) fn stall_at(&self, name: &str) {
        let mut stalls = self.inner.stalls.lock().unwrap();
        stalls.insert(format!("/spindex/v1/{name}"));
    }

    /// Answers nobody from when somebody asks for that file on.
    pub(crate) fn fail_from(&self, name: &str) {
        *self.inner.fails_from.lock().unwrap() = Some(format!("/spindex/v1/{name}"));
    }

    /// Waits until somebody asks for such a file, and answers again from then on.
    pub(crate) async fn stalled(&self) {
        self.inner.stalled.notified().await;
        self.inner.stalls.lock().unwrap().clear();
    }
}

impl Inner {
    async fn answer(&self, folder: &Path, path: &str) -> Response {
        self.log.lock().unwrap().push(path.to_owned());
        if self.stalls.lock().unwrap().contains(path) {
            self.stalled.notify_one();
            std::future::pending::<()>().await;
        }
        if self.fails_from.lock().unwrap().as_deref() == Some(path) {
            self.fails.store(true, Ordering::Relaxed);
        }
        if self.fails.load(Ordering::Relaxed) {
            let response = Response::builder().status(StatusCode::BAD_GATEWAY);
            return response.body(Body::from("nobody is there")).unwrap();
        }
        let (status, body) = match fs::read(folder.join(path.trim_start_matches('/'))) {
            Ok(bytes) => (StatusCode::OK, bytes),
            Err(_) => (
                StatusCode::NOT_FOUND,
                b"<html>there is no such file</html>".to_vec(),
            ),
        };
        let response = Response::builder().status(status);
        response.body(Body::from(body)).unwrap()
    }
}
