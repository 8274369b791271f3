//! `spindex token`: on the index file, and through the server that has it open.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use spindex::api::desk::{Desk, DeskSettings};
use spindex::api::{Listener, ServeSettings, bind, serve};
use spindex::store::{Store, StoreOptions};
use spindex::watch::{Registry, Token};

use crate::support::index::options;
use crate::support::spindex::{command, stderr, stdout};

/// Runs `token` with a token in the environment, or without; gives the exit status, stdout and stderr.
fn token(home: &Path, given: Option<&str>, args: &[&str]) -> (Option<i32>, String, String) {
    let args: Vec<&str> = ["token"].into_iter().chain(args.iter().copied()).collect();
    let mut command = command(home, &args);
    command.env("SPINDEX_NETWORK", "regtest");
    if let Some(given) = given {
        command.env("SPINDEX_TOKEN", given);
    }
    let output = command.output().unwrap();
    (output.status.code(), stdout(&output), stderr(&output))
}

/// The token that was printed.
fn made(home: &Path, given: Option<&str>, args: &[&str], place: &str) -> String {
    let (status, printed, said) = token(home, given, args);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains(place), "{said}");
    let text = printed.trim().to_owned();
    assert!(Token::parse(&text).is_some(), "{printed}");
    assert!(!said.contains(&text));
    text
}

fn index(home: &Path) -> PathBuf {
    let path = home.join(".spindex/regtest/index.redb");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(Store::open(&path, &options()).unwrap());
    path
}

#[test]
fn tokens_are_made_in_the_file_while_nobody_has_it_open() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let path = index(home);
    let first = made(
        home,
        None,
        &["create", "--name=a relay"],
        "in the index file",
    );
    let (status, printed, _) = token(home, None, &["create", "--scope=admin", "--json"]);
    assert_eq!(status, Some(0));
    let second: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(second["number"], 2);
    let limits = [
        "create",
        "--owner=1",
        "--scope=read",
        "--watches=5",
        "--streams=1",
    ];
    made(home, None, &limits, "in the index file");
    let (_, listed, said) = token(home, None, &["list"]);
    assert!(said.contains("in the index file"), "{said}");
    assert_eq!(
        listed,
        "1 owner 1 watch,read watches 10000 streams 16 a relay\n\
         2 owner 2 admin watches 10000 streams 16 \n\
         3 owner 1 read watches 5 streams 1 \n"
    );
    let (status, _, _) = token(home, None, &["revoke", "2"]);
    assert_eq!(status, Some(0));
    let (status, _, said) = token(home, None, &["revoke", "2"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("no token 2"), "{said}");
    let (_, listed, _) = token(home, None, &["list", "--json"]);
    let numbers = listed.lines().map(|line| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["number"].as_u64().unwrap()
    });
    assert_eq!(numbers.collect::<Vec<_>>(), [1, 3]);
    // An index without blocks begins where it is asked to.
    let anywhere = StoreOptions {
        first_height: None,
        ..options()
    };
    let store = Store::open(&path, &anywhere).unwrap();
    let row = store.snapshot().unwrap();
    let row = row.token(&Token::parse(&first).unwrap().hash()).unwrap();
    assert_eq!(row.unwrap().name, "a relay");

    for wrong in [
        &["create", "--scope=all"][..],
        &["create", "--name=\u{7}"],
        &["create", "--watches=x"],
        &["revoke", "x"],
    ] {
        assert_eq!(token(home, None, wrong).0, Some(2), "{wrong:?}");
    }
    let other = tempfile::tempdir().unwrap();
    let (status, printed, _) = token(other.path(), None, &["create"]);
    assert_eq!(
        (status, printed.as_str()),
        (Some(1), ""),
        "there is no index"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_makes_them_while_it_has_the_file_open() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let path = index(home);
    let store = Arc::new(Store::open(&path, &options()).unwrap());
    let settings = DeskSettings {
        watches: Some(Registry::attach(store.clone()).unwrap()),
        ..DeskSettings::default()
    };
    let desk = Desk::new(store, None, None, settings);
    let socket = bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = socket.local_addr().unwrap();
    let listeners = vec![Listener::http(socket)];
    let forever = std::future::pending();
    tokio::spawn(serve(listeners, desk, forever, ServeSettings::default()));
    let config = format!("http_bind = '{address}'\n");
    fs::write(home.join(".spindex/spindex.toml"), config).unwrap();

    let home = home.to_owned();
    let work = move || {
        let place = format!("by the server at http://{address}");
        let admin = made(&home, None, &["create", "--scope=admin"], &place);
        // From now on it takes that one.
        let (status, printed, said) = token(&home, None, &["create"]);
        assert_eq!((status, printed.as_str()), (Some(1), ""));
        assert!(said.contains("this server has tokens"), "{said}");
        let relay = made(&home, Some(&admin), &["create", "--name=relay"], &place);
        let url = format!("--server=http://{address}");
        let (status, _, said) = token(&home, Some(&relay), &["list", &url]);
        assert_eq!(status, Some(1));
        assert!(
            said.contains("scope admin") && !said.contains(&relay),
            "{said}"
        );
        // Out of a file as well, if nobody else may read it.
        let file = home.join("admin.token");
        fs::write(&file, format!("{admin}\n")).unwrap();
        let flag = format!("--token-file={}", file.display());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let (status, _, said) = token(&home, None, &["list", &flag]);
            assert_eq!(status, Some(1), "{said}");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        }
        let (_, listed, _) = token(&home, None, &["list", &flag]);
        assert_eq!(listed.lines().count(), 2, "{listed}");
        let (status, _, said) = token(&home, None, &["revoke", "2", &flag]);
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains(&place), "{said}");
        let (status, _, said) = token(&home, Some("spx_secret"), &["list"]);
        assert_eq!(status, Some(1));
        assert!(!said.contains("secret"), "{said}");
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
