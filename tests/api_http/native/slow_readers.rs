//! A crowd of readers that take a few bytes now and then, and the memory of a server that has them all.
//!
//! The server is this program once more, so that its memory is its own. `SPINDEX_SLOW_READERS` says how many there are (96
//! unless it does), `SPINDEX_SLOW_SECONDS` for how long they take five bytes a second, beside those few at the beginning.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bitcoin::Network;
use spindex::api::ServeSettings;
use spindex::api::desk::{Desk, DeskSettings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::super::fixture::{Server, TestChain, TestStore, pays};
use super::columns::COLUMNS;

/// In the environment of the server.
const IS_SERVER: &str = "SPINDEX_TEST_IS_SERVER";

/// What stands before the address on the server's output.
const SERVES: &str = "serves at ";

const MIB: u64 = 1 << 20;

/// Room for answers under way, with that for each reader; and for those that are kept.
const OUTGOING: u64 = 4 * MIB;
const OUTGOING_EACH: u64 = 96 << 10;
const KEPT: u64 = MIB;

/// What making answers takes, two at a time.
const WORK: u64 = 8 * MIB;

/// What a connection takes.
const CONNECTION: u64 = 64 << 10;

/// What a network lets a server send ahead; over the loopback interface it would be megabytes.
const SENT_AHEAD: u32 = 32 << 10;

fn number(name: &str, default: usize) -> usize {
    let text = std::env::var(name);
    text.map_or(default, |text| text.parse().expect("a number"))
}

/// Two chunks, each of which takes some 700 kB with all columns.
fn chain() -> TestChain {
    let mut chain = TestChain::new(64);
    let plans = vec![pays(&[546, 70_000]); 70];
    for _ in 0..128 {
        chain.mine(&plans);
    }
    chain
}

/// Nothing by itself: the server of the test below.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_slow_readers() {
    let Ok(readers) = std::env::var(IS_SERVER) else {
        return;
    };
    let readers: usize = readers.parse().expect("a number");
    let store = TestStore::new(Network::Regtest, 64);
    store.connect(&chain().records());
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_send_buffer_size(SENT_AHEAD).expect("a size");
    socket
        .bind(([127, 0, 0, 1], 0).into())
        .expect("a free port");
    let listener = socket.listen(1024).expect("listens");
    let address = listener.local_addr().expect("bound");
    let settings = ServeSettings {
        max_connections: readers + 64,
        reserved_connections: 32,
        max_waiting_connections: 32,
        kept_answer_bytes: KEPT,
        outgoing_bytes: OUTGOING + readers as u64 * OUTGOING_EACH,
        outgoing_patience: Duration::from_secs(2),
        ..ServeSettings::default()
    };
    let desk = DeskSettings {
        max_reading: 2,
        ..DeskSettings::default()
    };
    let desk = Desk::new(store.store.clone(), None, None, desk);
    let _server = Server::start_at(listener, address, desk, settings);
    println!("\n{SERVES}{address}");
    // Until the test has gone.
    let ended = || std::io::stdin().read_to_end(&mut Vec::new());
    tokio::task::spawn_blocking(ended)
        .await
        .expect("joins")
        .expect("reads");
}

/// The server; killed with the value.
struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    fn start(readers: usize) -> Self {
        let program = std::env::current_exe().expect("this program");
        let name = "native::slow_readers::the_server_of_slow_readers";
        let mut child = Command::new(program)
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(IS_SERVER, readers.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut lines = lines.map(|line| line.expect("text"));
        let address = lines.find_map(|line| line.strip_prefix(SERVES).map(str::to_owned));
        let address = address.expect("it says where it serves");
        Self {
            child,
            address: address.parse().expect("an address"),
        }
    }

    /// A line of its status, in bytes.
    fn memory(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.expect("a line of it").parse::<u64>().expect("a number") << 10
    }

    /// From now on the most that it takes is that of what it does from now on.
    fn forget_most(&self) {
        let path = format!("/proc/{}/clear_refs", self.child.id());
        std::fs::write(path, "5").expect("its own user may");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn connect(address: SocketAddr, last: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    // So that what is not taken stays at the server.
    socket.set_recv_buffer_size(4096).expect("a size");
    socket
        .bind(SocketAddr::from(([127, 0, 0, last], 0)))
        .expect("an address of the loopback");
    socket.connect(address).await.expect("connects")
}

/// The whole answer to somebody else: status line and headers, and the body as it is framed.
async fn ask(address: SocketAddr, path: &str) -> (String, Vec<u8>) {
    let mut stream = connect(address, 2).await;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let read = tokio::time::timeout(Duration::from_secs(60), read).await;
    read.expect("it is answered meanwhile").expect("reads");
    split(&bytes).expect("a whole head")
}

fn split(bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).expect("text");
    Some((head.to_lowercase(), bytes[end + 4..].to_vec()))
}

/// The body of an answer; `None` if it does not end as it says that it will.
fn body(head: &str, framed: &[u8]) -> Option<Vec<u8>> {
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    if let Some(length) = length {
        let length: usize = length.parse().expect("a number");
        assert!(framed.len() <= length);
        return (framed.len() == length).then(|| framed.to_vec());
    }
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let (mut rest, mut body) = (framed, Vec::new());
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let length = std::str::from_utf8(&rest[..end]).expect("a length");
        let length = usize::from_str_radix(length, 16).expect("hex");
        rest = &rest[end + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend(rest.get(..length)?);
        rest = rest.get(length + 2..)?;
    }
}

/// The sections of parts by column and height, however they are grouped, and the mark behind them.
type Parts = (BTreeMap<(u8, u32), Vec<u8>>, Option<Vec<u8>>);

fn read(mut bytes: &[u8]) -> Parts {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let mut sections = BTreeMap::new();
    while !bytes.is_empty() {
        let (head, mut rest) = bytes.split_at(60);
        if head[5] == 0 {
            assert!(rest.is_empty(), "nothing is behind the mark");
            return (sections, Some(head.to_vec()));
        }
        let (first, blocks) = (number(&head[12..16]), number(&head[16..20]));
        let lengths = rest.split_off(..4 * blocks as usize).expect("lengths");
        for (height, length) in (first..).zip(lengths.chunks(4)) {
            let section = rest.split_off(..number(length) as usize);
            let section = section.expect("a section").to_vec();
            let before = sections.insert((head[5], height), section);
            assert_eq!(before, None, "one of each block");
        }
        bytes = rest;
    }
    (sections, None)
}

/// What a reader came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Outcome {
    Whole,
    /// Told to come back.
    Refused,
    /// Broken off, as everybody sees.
    Cut,
}

/// Asks, takes a few bytes, says so, and takes the rest when it is let go; `expected` is all that the body has.
async fn read_slowly(
    address: SocketAddr,
    path: String,
    expected: Vec<u8>,
    begun: tokio::sync::mpsc::Sender<()>,
    mut is_let_go: watch::Receiver<bool>,
) -> Outcome {
    let mut stream = connect(address, 1).await;
    let request = format!("GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut bytes = vec![0; 25];
    stream.read_exact(&mut bytes).await.expect("an answer");
    drop(begun);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        let let_go = async { is_let_go.wait_for(|let_go| *let_go).await.is_ok() };
        tokio::select! {
            goes_on = let_go => {
                assert!(goes_on, "the test goes on");
                break;
            }
            _ = second.tick() => {
                let mut few = [0; 5];
                let count = stream.read(&mut few).await.unwrap_or_default();
                bytes.extend(&few[..count]);
            }
        }
    }
    // An error is an end like another.
    let _ = stream.read_to_end(&mut bytes).await;
    let (head, framed) = split(&bytes).expect("a whole head");
    let whole = body(&head, &framed);
    if head.starts_with("http/1.1 503 ") {
        let text = String::from_utf8(whole.expect("a whole refusal")).expect("text");
        assert!(text.contains(r#""code":"busy""#), "{text}");
        assert!(head.contains("retry-after: "), "{head}");
        return Outcome::Refused;
    }
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    match whole {
        Some(whole) => {
            let is_right = read(&whole) == read(&expected);
            assert!(is_right, "{path}: another list than there is");
            Outcome::Whole
        }
        None => Outcome::Cut,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_use_up_neither_the_memory_nor_the_room_of_others() {
    let readers = number("SPINDEX_SLOW_READERS", 96);
    let files = spindex::runtime::open_files_limit();
    if files.is_some_and(|files| files < readers as u64 + 256) {
        // Not by `eprintln!`, which shows nothing of a test that passes.
        let line = format!("SKIPPED {readers} slow readers: few files may be open (ulimit -n)");
        writeln!(std::io::stderr(), "{line}").expect("stderr takes it");
        return;
    }
    let served = Served::start(readers);
    let address = served.address;
    let mut parts: HashMap<(u32, &str), Vec<u8>> = HashMap::new();
    for chunk in [1, 2] {
        for column in COLUMNS {
            let (head, framed) = ask(address, &format!("spindex/v1/chunk/{chunk}/{column}")).await;
            let part = body(&head, &framed).expect("a whole answer");
            parts.insert((chunk, column), part);
        }
    }
    let (head, framed) = ask(address, "spindex/v1/range/headers?from=191").await;
    let range = body(&head, &framed).expect("a whole answer");
    let mark = &range[range.len() - 60..];
    let chunk_bytes: usize = COLUMNS.map(|column| parts[&(1, column)].len()).iter().sum();
    let each = OUTGOING_EACH + CONNECTION;
    let most = OUTGOING + KEPT + WORK + readers as u64 * each;
    assert!(
        chunk_bytes as u64 * readers as u64 > 2 * most,
        "{chunk_bytes}"
    );
    served.forget_most();
    let before = served.memory("VmRSS");

    // Columns in another order for each, so that nothing is shared.
    let (let_go, is_let_go) = watch::channel(false);
    let (begun, mut all_begun) = tokio::sync::mpsc::channel::<()>(1);
    let mut tasks = Vec::new();
    for reader in 0..readers {
        let mut columns = COLUMNS.to_vec();
        let mut rest = reader / 2;
        for left in (1..=columns.len()).rev() {
            let column = columns.remove(rest % left);
            columns.push(column);
            rest /= left;
        }
        let names = columns.join(",");
        let chunks: &[u32] = if reader % 2 == 0 { &[1] } else { &[1, 2] };
        let parts_of = |chunk: &u32| {
            let parts = columns.iter().map(|column| &parts[&(*chunk, *column)][..]);
            parts.collect::<Vec<_>>().concat()
        };
        let mut expected: Vec<u8> = chunks.iter().flat_map(parts_of).collect();
        let path = match reader % 2 {
            0 => format!("spindex/v1/chunk/1/{names}"),
            _ => {
                expected.extend(mark);
                format!("spindex/v1/range/{names}?from=64")
            }
        };
        let (begun, is_let_go) = (begun.clone(), is_let_go.clone());
        tasks.push(tokio::spawn(read_slowly(
            address, path, expected, begun, is_let_go,
        )));
    }
    drop(begun);
    assert_eq!(
        all_begun.recv().await,
        None,
        "all have begun, or been refused"
    );

    // Others are answered, also with what takes room.
    for path in [
        "info",
        "spindex/v1/info",
        "tweak-index/100",
        "block-hash/70",
    ] {
        let (head, framed) = ask(address, path).await;
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(body(&head, &framed).is_some());
    }
    let (head, framed) = ask(address, "spindex/v1/chunk/2/tweaks,outputs").await;
    let whole = ["tweaks", "outputs"].map(|column| &parts[&(2, column)][..]);
    assert!(body(&head, &framed).expect("a whole answer") == whole.concat());
    let (head, framed) = ask(address, "spindex/v1/range/tweaks?from=64").await;
    let whole = [&parts[&(1, "tweaks")], &parts[&(2, "tweaks")], mark];
    let found = body(&head, &framed).expect("a whole answer");
    assert!(read(&found) == read(&whole.concat()));

    let seconds = number("SPINDEX_SLOW_SECONDS", 0);
    tokio::time::sleep(Duration::from_secs(seconds as u64)).await;
    let_go.send(true).expect("readers wait");
    let mut outcomes: HashMap<Outcome, usize> = HashMap::new();
    for task in tasks {
        let outcome = task.await.expect("no list was short");
        *outcomes.entry(outcome).or_default() += 1;
    }
    let grown = served.memory("VmHWM").saturating_sub(before);
    let line = format!(
        "{readers} slow readers: {outcomes:?}, {} MiB more memory, {} at most",
        grown / MIB,
        most / MIB
    );
    writeln!(std::io::stderr(), "{line}").expect("stderr takes it");
    assert!(grown <= most, "{line}");
    let count = |outcome| outcomes.get(&outcome).copied().unwrap_or_default();
    // Chunks are served to as many as there is room for, and others are told; ranges to all, in smaller groups.
    let chunks = readers.div_ceil(2);
    assert!(count(Outcome::Refused) < chunks, "{line}");
    assert!(count(Outcome::Whole) > readers / 2, "{line}");
    assert_eq!(count(Outcome::Cut), 0, "{line}");
}
