use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_new_file_is_its_owners_and_takes_nothing_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wallet");
    create(&path, b"keys").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(read(&path).unwrap().as_slice(), b"keys");
    assert!(matches!(create(&path, b"others"), Err(Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"keys");

    // Neither through a link, whether it leads somewhere or not.
    for target in ["wallet", "nowhere"] {
        let link = folder.path().join(format!("link to {target}"));
        symlink(folder.path().join(target), &link).unwrap();
        assert!(matches!(create(&link, b"others"), Err(Link { .. })));
        assert!(matches!(open_or_create(&link), Err(Link { .. })));
        assert!(matches!(read(&link), Err(Link { .. })));
        assert!(matches!(protect(&link), Err(Link { .. })));
        assert!(matches!(Locked::wait_for(&link), Err(Link { .. })));
    }
    assert!(!folder.path().join("nowhere").exists());
    assert_eq!(fs::read(&path).unwrap(), b"keys");
    // A folder that is not there leaves nothing.
    let lost = folder.path().join("no folder/wallet");
    assert!(matches!(create(&lost, b"keys"), Err(Io { .. })));
}

#[test]
fn what_others_can_read_or_write_is_refused_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wallet");
    create(&path, b"keys").unwrap();
    assert!(!protect(&path).unwrap());
    for exposed in [0o644, 0o640, 0o602, 0o666, 0o610] {
        set_mode(&path, exposed);
        for refused in [
            read(&path).map(drop),
            open_or_create(&path).map(drop),
            Locked::wait_for(&path).map(drop),
        ] {
            let error = refused.unwrap_err();
            assert!(matches!(error, Exposed { mode, .. } if mode == exposed));
            let cure = format!("`chmod 600 {}`", path.display());
            assert!(error.to_string().contains(&cure), "{error}");
            assert!(error.to_string().contains(&format!("mode {exposed:o}")));
        }
        assert!(protect(&path).unwrap());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read(&path).unwrap().as_slice(), b"keys");
    }
    // Fewer rights than a new file has are its owner's choice.
    set_mode(&path, 0o400);
    assert_eq!(read(&path).unwrap().as_slice(), b"keys");
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(&pipe)
        .status();
    assert!(made.unwrap().success());
    assert!(matches!(read(&pipe), Err(NotAFile { .. })));
    assert!(matches!(open_or_create(&pipe), Err(NotAFile { .. })));
    assert!(matches!(read(folder.path()), Err(NotAFile { .. })));
    let large = folder.path().join("large");
    let file = open_or_create(&large).unwrap();
    file.set_len(MOST_BYTES + 1).unwrap();
    assert!(
        matches!(read(&large), Err(PrivateFileError::TooLarge { bytes, .. }) if bytes == MOST_BYTES + 1)
    );
}

#[test]
fn a_change_is_a_new_file_in_place_of_the_old_one_and_touches_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("savings.wallet");
    create(&path, b"old").unwrap();
    // What earlier versions wrote to.
    let neighbour = folder.path().join("savings.new");
    fs::write(&neighbour, "another wallet").unwrap();
    set_mode(&neighbour, 0o666);
    let inode = fs::metadata(&path).unwrap().ino();
    let reader = File::open(&path).unwrap();

    let locked = Locked::wait_for(&path).unwrap();
    assert_eq!(locked.read().unwrap().as_slice(), b"old");
    locked.replace(b"new").unwrap();

    assert_eq!(read(&path).unwrap().as_slice(), b"new");
    assert_ne!(fs::metadata(&path).unwrap().ino(), inode);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read(&neighbour).unwrap(), b"another wallet");
    assert_eq!(names(folder.path()), ["savings.new", "savings.wallet"]);
    // Whoever was reading goes on with what was there.
    assert_eq!(content(&path, &reader).unwrap().as_slice(), b"old");
}

#[test]
fn a_change_that_fails_leaves_the_old_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wallet");
    create(&path, b"old").unwrap();
    let locked = Locked::wait_for(&path).unwrap();
    // A folder under the name makes the renaming fail.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        locked.replace(b"new"),
        Err(Io {
            action: "replace",
            ..
        })
    ));
    assert_eq!(names(folder.path()), ["wallet"]);
}

#[test]
fn changes_at_the_same_time_come_one_after_the_other() {
    const WRITERS: u8 = 8;
    const CHANGES: usize = 20;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wallet");
    create(&path, b"").unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..CHANGES {
                    let locked = Locked::wait_for(path).unwrap();
                    let mut content = locked.read().unwrap();
                    content.push(writer);
                    locked.replace(&content).unwrap();
                }
            });
        }
    });
    let mut content = read(&path).unwrap().to_vec();
    content.sort_unstable();
    let all = (0..WRITERS).flat_map(|writer| [writer; CHANGES]);
    assert_eq!(content, all.collect::<Vec<_>>());
    assert_eq!(names(folder.path()), ["wallet"]);
}

#[test]
fn a_private_folder_has_a_name_of_its_own_and_goes_with_what_is_in_it() {
    let parent = tempfile::tempdir().unwrap();
    let one = PrivateFolder::create(parent.path(), "demo").unwrap();
    let other = PrivateFolder::create(parent.path(), "demo").unwrap();
    assert_ne!(one.path(), other.path());
    assert_eq!(mode(one.path()), 0o700);
    fs::write(one.path().join("file"), "x").unwrap();
    drop(one);
    assert_eq!(names(parent.path()).len(), 1);
    drop(other);
    assert!(names(parent.path()).is_empty());
    assert!(PrivateFolder::create(&parent.path().join("gone"), "demo").is_err());
}

#[test]
fn what_could_not_be_read_again_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wallet");
    let much = vec![b'1'; MOST_BYTES as usize + 1];
    assert!(matches!(create(&path, &much), Err(TooLarge { .. })));
    assert_eq!(names(folder.path()), [""; 0]);
    create(&path, b"keys").unwrap();
    let replaced = Locked::wait_for(&path).unwrap().replace(&much);
    assert!(matches!(replaced, Err(TooLarge { .. })));
    assert_eq!(names(folder.path()), ["wallet"]);
    assert_eq!(read(&path).unwrap().as_slice(), b"keys");
}
